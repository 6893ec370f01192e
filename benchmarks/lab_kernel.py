"""How fast the lab simulates Algorithm 1: the kernel, NumPy twice, and C as the limit.

    python benchmarks/lab_kernel.py [--quick]

One core, one process; see README.md beside this file for what is measured and what is not.
"""

import argparse
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before NumPy

import numpy as np

from subnetwork.deals import Perm
from subnetwork.keys import key
from subnetwork.theory.plans import CACHE, Plan
from subnetwork.theory.problems import Quadratics
from subnetwork.theory.simulation import BandedSimulation, Simulation
from subnetwork.theory.sketches import Dealt
from subnetwork.theory.work import GradientSteps

FLAGS = ["-O3", "-march=native", "-mprefer-vector-width=512", "-shared", "-fPIC"]
Run = Callable[[np.ndarray, np.ndarray, int], None]  # (X, keys, rounds): X in place


@dataclass(frozen=True)
class Shape:
    """One line of the benchmark."""

    d: int
    n: int
    seeds: int
    kind: str  # dense, sparse (as the PermK papers make it), or sparse with all numbers different

    @property
    def name(self) -> str:
        """As the RESULT lines say it."""
        q = self.d // self.n
        return f"{self.kind} d={self.d} n={self.n} q={q} seeds={self.seeds}"


SHAPES = [
    Shape(10, 10, 100, "dense"),
    Shape(100, 10, 100, "dense"),
    Shape(1000, 10, 100, "dense"),
    Shape(1000, 100, 1, "dense"),
    Shape(1000, 1000, 100, "sparse"),  # Perm-1: of the bands, only the diagonals take part
    Shape(1000, 100, 100, "sparse"),
    Shape(1000, 10, 100, "sparse"),
    Shape(1000, 1000, 100, "all different"),  # Perm-1 with a table of 16 MB
]


def problem(shape: Shape) -> Quadratics:
    """Diagonally dominant: all runs stay bounded, and speed does not depend on the values."""
    rng = np.random.default_rng(0)
    n, d = shape.n, shape.d
    L = np.empty((n, d, d))
    for i in range(n):
        A = rng.random((d, d)) / (2 * d)
        L[i] = A + A.T + np.diag(np.full(d, 1.0 + i % 3))
    return Quadratics(L, rng.standard_normal((n, d)))


def dense_loop(shape: Shape, L: np.ndarray, b: np.ndarray) -> Run:
    """What a paper's author writes: every C_i a d x d matrix, a Python loop over workers."""
    n, d, gamma = shape.n, shape.d, 0.1 / shape.n

    def run(X: np.ndarray, keys: np.ndarray, rounds: int) -> None:
        for x, start in zip(X, keys, strict=True):
            rng = np.random.default_rng(start)
            for _ in range(rounds):
                hands = rng.permutation(d).reshape(n, -1)
                total = np.zeros(d)
                for i in range(n):
                    C = np.zeros((d, d))
                    C[hands[i], hands[i]] = n
                    w = C @ x
                    total += w - gamma * C @ (L[i] @ w - b[i])
                x[:] = total / n

    return run


def masked_loop(shape: Shape, L: np.ndarray, b: np.ndarray) -> Run:
    """The same with C_i as a vector, which an author in a hurry writes: O(d^2) a worker still."""
    n, d, gamma = shape.n, shape.d, 0.1 / shape.n

    def run(X: np.ndarray, keys: np.ndarray, rounds: int) -> None:
        for x, start in zip(X, keys, strict=True):
            rng = np.random.default_rng(start)
            for _ in range(rounds):
                hands = rng.permutation(d).reshape(n, -1)
                total = np.zeros(d)
                for i in range(n):
                    c = np.zeros(d)
                    c[hands[i]] = n
                    w = c * x
                    total += w - gamma * c * (L[i] @ w - b[i])
                x[:] = total / n

    return run


def vectorised(shape: Shape, L: np.ndarray, b: np.ndarray) -> Run:
    """NumPy over workers and seeds at once: blocks by one flat `take`, then a batched product."""
    n, d, gamma, q = shape.n, shape.d, 0.1 / shape.n, shape.d // shape.n
    at = np.arange(n)[None, :, None, None] * d * d
    worker, flat = np.arange(n)[None, :, None], L.reshape(-1)

    def run(X: np.ndarray, keys: np.ndarray, rounds: int) -> None:
        rng = np.random.default_rng(keys)
        decks = np.tile(np.arange(d), (len(X), 1))
        for _ in range(rounds):
            hands = rng.permuted(decks, axis=1).reshape(len(X), n, q)
            w = np.take_along_axis(X, hands.reshape(len(X), d), axis=1).reshape(hands.shape)
            blocks = flat.take(at + hands[..., :, None] * d + hands[..., None, :])
            gradient = n * (blocks @ w[..., None])[..., 0] - b[worker, hands]
            moved = (w - gamma * gradient).reshape(len(X), d)
            np.put_along_axis(X, hands.reshape(len(X), d), moved, axis=1)

    return run


def vectorised_perm1(shape: Shape, a: np.ndarray, c: np.ndarray) -> Run:
    """Perm-1 in NumPy over seeds: x_j <- a_ij x_j + c_ij."""
    coordinate = np.arange(shape.d)

    def run(X: np.ndarray, keys: np.ndarray, rounds: int) -> None:
        rng = np.random.default_rng(keys)
        decks = np.tile(coordinate, (len(X), 1))
        for _ in range(rounds):
            own = rng.permuted(decks, axis=1)
            X[:] = a[own, coordinate] * X + c[own, coordinate]

    return run


def vectorised_banded(shape: Shape, diag: np.ndarray, off: np.ndarray, b: np.ndarray) -> Run:
    """Tridiagonal L_i in NumPy over seeds."""
    n, d, gamma = shape.n, shape.d, 0.1 / shape.n
    coordinate = np.arange(d)

    def run(X: np.ndarray, keys: np.ndarray, rounds: int) -> None:
        rng = np.random.default_rng(keys)
        positions = np.tile(np.arange(d) // (d // n), (len(X), 1))
        for _ in range(rounds):
            own = rng.permuted(positions, axis=1)
            same = own[:, 1:] == own[:, :-1]
            sides = np.where(same, off[own[:, :-1], coordinate[:-1]], 0.0)
            product = diag[own, coordinate] * X
            product[:, :-1] += sides * X[:, 1:]
            product[:, 1:] += sides * X[:, :-1]
            X -= gamma * (n * product - b[own, coordinate])

    return run


def kernel(plan: Plan) -> Run:
    """The package, past its checks."""
    return lambda X, keys, rounds: plan.advance(X, keys, np.array([0, rounds]))


@contextmanager
def c_library() -> Iterator[ctypes.CDLL | None]:
    """lab_kernel.c, compiled; None without a compiler, and loudly."""
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        print("NO C COMPILER FOUND (cc, gcc, clang): the C limit is SKIPPED, its goals not judged")
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "lab_kernel.so"
        source = Path(__file__).with_suffix(".c")
        subprocess.run([compiler, *FLAGS, str(source), "-o", str(target)], check=True)
        version = subprocess.run(
            [compiler, "--version"], capture_output=True, text=True, check=True
        )
        print("C:", version.stdout.splitlines()[0], *FLAGS)
        yield ctypes.CDLL(str(target))


def call_c(function: object, *arguments: object) -> None:
    """Arrays by address, integers as long."""

    def given(value: object) -> object:
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            return ctypes.c_void_p(value.ctypes.data)
        return ctypes.c_double(value) if isinstance(value, float) else ctypes.c_long(int(value))

    function(*map(given, arguments))


def contenders(shape: Shape, library: ctypes.CDLL | None) -> dict[str, Run]:
    """What runs at this shape, by name."""
    if shape.kind != "dense":
        return banded_contenders(shape, library)
    quadratics = problem(shape)
    L, b, gamma = quadratics.L, quadratics.b, 0.1 / shape.n
    sketch = Dealt(Perm(shape.n), shape.d, "paper")
    plan = Simulation(sketch, GradientSteps(quadratics, gamma), "update").plan
    runs = {"kernel": kernel(plan)}
    if library and shape.n == shape.d:
        runs["C"] = single_in_c(library, 1 - gamma * shape.n * quadratics.diagonals, gamma * b)
    elif library:
        tile = max(4, CACHE // (8 * shape.d)) if shape.seeds > 8 else shape.d
        runs["C"] = lambda X, keys, rounds: call_c(
            library.dense_rounds, L, b, gamma, X, keys, len(X), shape.d, shape.n, 0, rounds, tile
        )
    runs["vectorised NumPy"] = vectorised(shape, L, b)
    runs["masked loop"] = masked_loop(shape, L, b)
    runs["dense loop"] = dense_loop(shape, L, b)
    return runs


def by_coordinate(a: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The table of C, (rows, n, 2), and where the row of each coordinate begins in it."""
    both, rows = np.unique(np.stack([a.T, c.T], axis=-1), axis=0, return_inverse=True)
    return np.ascontiguousarray(both), 2 * len(a) * rows.reshape(-1)


def single_in_c(library: ctypes.CDLL, a: np.ndarray, c: np.ndarray) -> Run:
    """Perm-1 in C."""
    (n, d), (table, rows) = a.shape, by_coordinate(a, c)
    tile = max(16, CACHE // (64 * n))
    return lambda X, keys, k: call_c(
        library.single_rounds, table, rows, X, keys, len(X), d, 0, k, tile
    )


def banded_contenders(shape: Shape, library: ctypes.CDLL | None) -> dict[str, Run]:
    """The quadratics of the PermK papers; or with b_i and shifts that differ everywhere."""
    rng, n, d = np.random.default_rng(0), shape.n, shape.d
    nu, gamma = 1 + rng.random((n, 1)), 0.1 / shape.n
    diag, off, b = nu * np.full(d, 0.5) + 0.01, -nu * np.full(d - 1, 0.25), np.zeros((n, d))
    b[:, 0] = nu[:, 0] / 4 * (-1 + rng.standard_normal(n))
    if shape.kind == "all different":
        diag, b = diag + rng.random((n, d)), rng.random((n, d))
    scales = np.full((1, 1), float(n))
    plan = BandedSimulation(diag, off, b, scales, Perm(n), gamma, "update").plan
    runs = {"kernel": kernel(plan)}
    if n == d:
        slope = 1 - gamma * n * diag
        if library:
            runs["C"] = single_in_c(library, slope, gamma * b)
        return runs | {"vectorised NumPy": vectorised_perm1(shape, slope, gamma * b)}
    if library:
        table, rows = by_coordinate(diag, b)
        tile = max(16, CACHE // (64 * n))
        runs["C"] = lambda X, keys, rounds: call_c(
            library.bands_rounds, table, rows, off, gamma, X, keys, len(X), d, n, 0, rounds, tile
        )
    runs["vectorised NumPy"] = vectorised_banded(shape, diag, off, b)
    return runs


@dataclass(frozen=True)
class Timing:
    """Seconds of CPU a step and seed: the best, and every repeat."""

    every: list[float]

    @property
    def rate(self) -> float:
        """Steps x seeds per second, at its best."""
        return 1 / min(self.every)


def measure(shape: Shape, runs: dict[str, Run], seconds: float, repeats: int) -> dict[str, Timing]:
    """Interleaved: A B C A B C ..., so that a busy neighbour hits all of them."""
    keys = np.array([key(seed) for seed in range(shape.seeds)], dtype=np.uint64)
    plan = {name: calibrate(shape, run, keys, seconds) for name, run in runs.items()}
    spent: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            rounds, seeds = plan[name]
            X = np.ones((seeds, shape.d))
            began = time.thread_time()
            run(X, keys[:seeds], rounds)
            spent[name].append((time.thread_time() - began) / (rounds * seeds))
    return {name: Timing(times) for name, times in spent.items()}


def calibrate(shape: Shape, run: Run, keys: np.ndarray, seconds: float) -> tuple[int, int]:
    """(rounds, seeds) that take about `seconds`; one seed where one round of all takes longer."""
    run(np.ones((1, shape.d)), keys[:1], 1)  # compiles
    rounds, seeds, once = 1, shape.seeds, 0.0
    while once < seconds / 4:
        X = np.ones((seeds, shape.d))
        began = time.thread_time()
        run(X, keys[:seeds], rounds)
        once = max(time.thread_time() - began, 1e-6)
        if once > 2 * seconds and rounds == 1:
            return 1, 1
        rounds = max(1, min(rounds * 16, round(rounds * seconds / once)))
    return rounds, seeds


def same_work(shape: Shape, runs: dict[str, Run]) -> float:
    """Largest difference between the kernel's x^3 and C's: they draw the same hands."""
    keys = np.array([key(seed) for seed in range(shape.seeds)], dtype=np.uint64)
    ends = []
    for name in ("kernel", "C"):
        X = np.ones((shape.seeds, shape.d))
        runs[name](X, keys, 3)
        ends.append(X)
    return float(np.abs(ends[0] - ends[1]).max())


def result(name: str, value: float, goal: float | None) -> str:
    """A RESULT line; without a goal there is nothing to meet."""
    met = None if goal is None else bool(value >= goal)
    rounded = float(f"{value:.4g}")
    return "RESULT " + json.dumps({"name": name, "value": rounded, "goal": goal, "met": met})


def judge(shape: Shape, timings: dict[str, Timing]) -> Iterator[str]:
    """The RESULT lines of a shape."""
    rate = timings["kernel"].rate
    goal = 80_000.0 if shape.kind == "sparse" else None
    yield result(f"kernel steps x seeds / s, {shape.name}", rate, goal)
    if "C" in timings:
        pairs = zip(timings["C"].every, timings["kernel"].every, strict=True)
        goal = 0.9 if shape.kind == "dense" and shape.seeds == 100 else None
        best = min(timings["C"].every) / min(timings["kernel"].every)
        yield result(f"share of the C limit, best repeats, {shape.name}", best, goal)
        middle = median(c / ours for c, ours in pairs)
        yield result(f"share of the C limit, median of ratios, {shape.name}", middle, None)
    for loop in ("dense loop", "masked loop"):
        if loop in timings and shape.seeds == 100:
            goals = {100: 100.0, 1000: 70.0} if loop == "dense loop" else {}
            goal = goals.get(shape.d)
            yield result(f"times the {loop}, {shape.name}", rate / timings[loop].rate, goal)


def main() -> int:
    """Print rates and results; the exit status says whether all goals were met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="shorter, fewer repeats, noisier")
    parser.add_argument("--only", default="", help="shapes whose name contains this")
    arguments = parser.parse_args()
    seconds, repeats = (0.05, 5) if arguments.quick else (0.2, 11)
    print(f"one core, {repeats} interleaved repeats of {seconds} s CPU; best repeat of each")
    lines: list[str] = []
    with c_library() as library:
        for shape in (s for s in SHAPES if arguments.only in s.name):
            runs = contenders(shape, library)
            gap = f", kernel and C differ by {same_work(shape, runs):.1e}" if library else ""
            print(f"\n{shape.name}{gap}", flush=True)
            timings = measure(shape, runs, seconds, repeats)
            for name, timing in timings.items():
                worst = timing.rate * max(timing.every)
                print(f"  {name:18s}{timing.rate:14,.0f} steps x seeds / s   (worst {worst:.2f} x)")
            lines += judge(shape, timings)
    print("\n" + "\n".join(lines))
    return 0 if all('"met": false' not in line for line in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
