"""What the race makes of what its workers wrote down; and its real rows on two hosts."""

import json
import sys

import pytest
from test_net import needs_rights

net = pytest.importorskip("net")
race = pytest.importorskip("race")
field = pytest.importorskip("race_field")
race_parts = pytest.importorskip("race_parts")


def row(wall, compute, handling, sent):
    return {
        "wall": wall,
        "compute_wall": compute,
        "compute_cpu": compute / 2,
        "handling_wall": handling,
        "handling_cpu": handling,
        "process_cpu": compute,
        "received": 10,
        "sent": sent,
    }


def test_a_round_is_taken_apart_by_the_slowest_worker(monkeypatch):
    """The first round warms up and is left out; bytes are those of the busiest interface."""
    found = [
        {"rows": [row(99, 99, 99, 99), row(10, 4, 1, 500)]},
        {"rows": [row(99, 99, 99, 99), row(9, 6, 0, 300)]},
    ]
    monkeypatch.setattr(race_parts, "cores", lambda: 1)
    parts = race_parts.parts(found, {"method": "ist"})
    assert (parts.wall, parts.compute, parts.handling) == (10, 6, 1)
    assert parts.exchange == 10 - 6 - 1
    assert parts.waiting == 6 - 5
    assert parts.wire == 500
    assert parts.replay == 3 + 1 + 3  # processor time of the slowest, handling, exchange
    free = race_parts.parts(found, {"method": "ist"}, limited=False)
    assert free.replay == 6  # all that the busiest worker's threads did
    monkeypatch.setattr(race_parts, "cores", lambda: 2)
    each = race_parts.parts(found, {"method": "ist"})
    assert each.replay == 10  # a core each: the round itself


def test_a_replay_is_the_round_of_workers_that_sleep(monkeypatch):
    """As long as computing took each; what they waited for a core to handle on is not in it."""
    monkeypatch.setattr(race_parts, "cores", lambda: 1)
    found = [
        {"rows": [row(99, 99, 99, 99), row(10, 4, 1, 500), row(9, 2, 1, 500)]},
        {"rows": [row(99, 99, 99, 99), row(9, 6, 0, 300), row(9, 8, 0, 300)]},
    ]
    assert race_parts.sleeps(found) == [[2, 1], [3, 4]]
    slow = {**row(7, 3, 2, 500), "handling_cpu": 1.5}
    asleep = [{"rows": [row(99, 99, 99, 99), slow]}, {"rows": [row(99, 99, 99, 99), slow]}]
    assert race_parts.parts(found, {"method": "ist"}, asleep=asleep).replay == 7 - 0.5
    free = race_parts.parts(found, {"method": "ist"}, asleep=asleep, limited=False)
    assert free.replay == 7  # a link without a limit: all that the busiest worker's threads did


def test_the_first_round_at_a_target_counts_and_none_is_none():
    course = field.Course([(2, 0.5), (4, 0.86), (6, 0.84)])
    assert (course.rounds_to(0.85), course.rounds_to(0.9), course.best) == (4, None, 0.86)


def test_ratios_are_of_the_best_of_each_side():
    values = {"ist 50": 4.0, "ist bf16": 2.0, "local_sgd 20": 6.0, "diloco int8": 5.0}
    assert race.times(values, field.AVERAGING) == 2.5
    assert race.times(values, ("ddp",)) is None
    assert race.times({"ddp": 1.0}, ("ddp",)) is None


def test_a_result_says_whether_its_goal_is_met():
    assert race.Result("a", 2.5, 2.5).met is True
    assert race.Result("a", 0.3, 0.2, at_least=False).met is False
    assert race.Result("a", None, 2.5).met is False
    line = str(race.Result("a", 1.0))
    assert json.loads(line.removeprefix("RESULT ")) == {
        "name": "a",
        "value": 1.0,
        "goal": None,
        "met": None,
    }


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """Fashion-MNIST's file in small: noise around ten patterns."""
    import numpy as np

    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (10, 28, 28))

    def part(n):
        labels = rng.integers(0, 10, n)
        noise = rng.integers(-60, 60, (n, 28, 28))
        return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels.astype(np.uint8)

    (tmp_path / "fashion_mnist").mkdir()
    (x, y), (u, v) = part(1024), part(256)
    np.savez(
        tmp_path / "fashion_mnist" / "fashion_mnist.npz", x_train=x, y_train=y, x_test=u, y_test=v
    )
    monkeypatch.setenv("SUBNETWORK_DATA", str(tmp_path))


@pytest.mark.slow
@needs_rights
@pytest.mark.usefixtures("pictures")
def test_real_workers_learn_and_send_the_bytes_that_are_predicted():
    """Each method on two hosts; wire bytes are payload and at most 7 % of headers.

    DDP sends its small gradients in many small pieces, and answers to them: 20 % were seen.
    """
    small = {"n_workers": 2, "n_rounds": 3, "n_steps": 4, "hidden": [64, 64], "evaluate_every": 1}
    specs = [
        {**field.ROWS[name], "step_size": 0.1, **small}
        for name in ("ist coordinator", "ist 50", "local_sgd 20", "ddp")
    ]
    found = field.run_all(2, net.Link(1e8), specs)
    whole = 4 * (784 * 64 + 64 * 64 + 64 * 10 + 6 * 64 + 10)
    part = 4 * (784 * 32 + 32 * 32 + 32 * 10 + 6 * 32 + 10)
    payload = {"ist": part, "ist_direct": part / 2, "local_sgd": whole, "ddp": 4 * whole}
    for spec, run in zip(specs, found, strict=True):
        measured = race_parts.parts([run], spec)
        assert run[0]["accuracies"][-1][1] > 0.9
        assert run[0]["accuracies"] == run[1]["accuracies"]
        sent = payload[spec["method"]]
        headers = 1.3 if spec["method"] == "ddp" else 1.07
        assert sent < measured.wire < headers * sent + 2000, spec["method"]


def test_without_the_data_it_says_which_variable_to_set(monkeypatch, capsys):
    monkeypatch.delenv("SUBNETWORK_DATA", raising=False)
    monkeypatch.setattr(sys, "argv", ["race.py"])
    assert race.main() == 2
    assert "SUBNETWORK_DATA" in capsys.readouterr().err
