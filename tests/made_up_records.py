"""Records as a demo would write them, made up: figures and pages are tested on these."""

from pathlib import Path

import numpy as np

from subnetwork.record import writing

MODEL = 10_280  # bytes of the whole model
LOCAL_STEPS, BATCH = 8, 32


def training(
    folder: Path, name: str, *, n_workers=4, n_rounds=60, rate=1 / 60, top=0.97, share=1.0
):
    config = {
        "method": name,
        "data": "digits",
        "hidden": [32],
        "workers": n_workers,
        "local_steps": LOCAL_STEPS,
        "batch_size": BATCH,
        "step_size": 0.1,
        "seed": 0,
    }
    noise = np.random.default_rng(len(name)).normal(0, 0.004, n_rounds)
    with writing(folder / f"{name}.jsonl", kind="train", name=name, config=config) as write:
        for k in range(n_rounds):
            steps = (k + 1) * LOCAL_STEPS
            accuracy = top - (top - 0.1) * np.exp(-steps * rate) + noise[k]
            write(
                {
                    "k": k,
                    "steps": steps,
                    "samples": steps * BATCH * n_workers,
                    "loss": float(2.3 * np.exp(-steps * rate)),
                    "accuracy": float(accuracy) if k % 2 or k == n_rounds - 1 else None,
                    "bytes_down": [int(MODEL * share)] * n_workers,
                    "bytes_up": [int(MODEL * share)] * n_workers,
                    "compute_seconds": [0.02, 0.03] * (n_workers // 2) + [0.025] * (n_workers % 2),
                    "exchange_seconds": [0.004] * n_workers,
                    "wait_seconds": [0.011, 0.001] * (n_workers // 2) + [0.006] * (n_workers % 2),
                    "merge_seconds": 0.005,
                    "test_seconds": 0.01,
                    "seconds": 0.05 * (k + 1),
                }
            )


def deal(folder: Path, *, n_workers=4, size=32, axes=("hidden.0",), layers=None):
    config = {
        "layers": layers or [64, *[size] * len(axes), 10],
        "axes": list(axes),
        "workers": n_workers,
        "seed": 0,
    }
    rng = np.random.default_rng(7)
    with writing(folder / "deal.jsonl", kind="deal", name="deal", config=config) as write:
        for k in (0, 1):
            for axis in axes:
                hands = np.array_split(rng.permutation(size), n_workers)
                hands = [sorted(hand.tolist()) for hand in hands]
                write({"k": k, "axis": axis, "size": size, "hands": hands})


def lab(folder: Path, name: str, *, floor=0.0, bound=True, longest=2000):
    config = {
        "equation": "(24)" if name == "interpolation" else "(19)",
        "left_side": "mean over k < K of ‖∇f(xᵏ)‖², norm L⁻¹WL⁻¹"
        if name == "interpolation"
        else "mean over k < K of ‖∇f(xᵏ)‖², norm L⁻¹",
        "problem": "breast_cancer, ridge least squares",
        "n_workers": 10,
        "dim": 30,
        "step_size": 0.0131,
        "n_seeds": 200,
        "seed": 0,
    }
    rng = np.random.default_rng(3)
    with writing(folder / f"{name}.jsonl", kind="lab", name=name, config=config) as write:
        for k in sorted({int(k) for k in np.geomspace(1, longest, 60)}):
            exact = 12 * (1 - 0.93**k) / k + floor
            measured = exact * (1 + rng.normal(0, 0.01))
            row = {"k": k, "measured": measured, "low": 0.6 * measured, "high": 1.5 * measured}
            row |= {"exact": exact, "bound": 40 / k + 3 * floor if bound else None}
            if name == "neighbourhood":
                row["tightened"] = 25 / k + 1.6 * floor
            write(row)


CLAIMS = (
    ("The left side of (24) is at most its bound", "(24)", 0.02, 0.00612, "", "holds"),
    (
        "The measured mean lies within 3 standard errors of the exact expectation",
        "(24)",
        0.006,
        0.00612,
        "",
        "holds",
    ),
    (
        "Even for quadratics naive IST may not converge to the exact solution: the distance to the "
        "minimiser stays above zero, whatever the horizon",
        "",
        0.0,
        0.41,
        "",
        "holds",
    ),
    ("The left side of (19) is at most its bound", "(19)", None, 0.311, "", "silent"),
    ("IST is within 2 points of synchronous SGD at equal samples", "", 2.0, 2.6, "points", "fails"),
    ("IST moves a quarter of the payload of Local SGD", "", 616800.0, 619123.0, "bytes", "holds"),
)


def claims(folder: Path, rows=CLAIMS):
    with writing(
        folder / "claims.jsonl", kind="claims", name="claims", config={"seed": 0}
    ) as write:
        for claim, equation, claimed, measured, unit, verdict in rows:
            name = {"(24)": "interpolation", "(19)": "neighbourhood"}.get(equation, "ist")
            row = {"claim": claim, "equation": equation, "claimed": claimed}
            row |= {"measured": measured, "unit": unit, "verdict": verdict, "record": name}
            write(row)


def demo(folder: Path, *, n_workers=4):
    """A whole demo."""
    training(folder, "ist", n_workers=n_workers, top=0.962, rate=1 / 75, share=0.2607)
    training(folder, "local_sgd", n_workers=n_workers, top=0.968, rate=1 / 45)
    training(folder, "diloco", n_workers=n_workers, top=0.971, rate=1 / 60)
    training(folder, "synchronous_sgd", n_workers=n_workers, top=0.973, rate=1 / 40, share=8)
    deal(folder, n_workers=n_workers)
    lab(folder, "interpolation")
    lab(folder, "neighbourhood", floor=0.3)
    claims(folder)
    return folder
