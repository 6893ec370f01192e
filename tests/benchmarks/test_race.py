"""What the race makes of what its workers wrote down; and its real rows on two hosts."""

import json
import sys

import pytest
from test_net import needs_rights

net = pytest.importorskip("net")
race = pytest.importorskip("race")
field = pytest.importorskip("race_field")
race_parts = pytest.importorskip("race_parts")
timing = pytest.importorskip("race_timing")


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
    slower = {**slow, "handling_cpu": 1.25}
    asleep = [{"rows": [row(99, 99, 99, 99), slow]}, {"rows": [row(99, 99, 99, 99), slower]}]
    assert race_parts.parts(found, {"method": "ist"}, asleep=asleep).replay == 7 - 0.75
    free = race_parts.parts(found, {"method": "ist"}, asleep=asleep, limited=False)
    assert free.replay == 7  # a link without a limit: all that the busiest worker's threads did


def test_the_fastest_pass_is_that_with_the_shortest_rounds():
    """By their median, the first left out."""
    quick, slow, odd = (
        [{"rows": [row(wall, 4, 1, 500) for wall in walls]}]
        for walls in ((99, 10, 11, 30), (1, 12, 13, 14), (1, 12, 12, 9))
    )
    assert race_parts.fastest([slow, quick, odd]) is quick


def test_processes_go_through_each_kind_of_row_before_rows_are_timed(monkeypatch):
    """In two rounds of a step; DDP, which is slow, in one. Their words are not returned."""
    asked = []

    def run_all(n_workers, link, specs):
        asked.append((n_workers, link, list(specs)))
        return [[{"of": spec["number"]}] for spec in specs]

    monkeypatch.setattr(timing, "run_all", run_all)
    kinds = (
        {"method": "ist_direct"},
        {"method": "ist_direct", "wire": "int8", "asleep": [[1.0], [2.0]]},
        {"method": "ist_direct", "period": 4},
        {"method": "ddp"},
    )
    specs = [{"n_steps": 50, "n_rounds": 3, **of, "number": i} for i, of in enumerate(kinds)]
    found = timing.warmed(2, "link", specs)
    assert [run[0]["of"] for run in found] == [0, 1, 2, 3]
    ((n_workers, link, ran),) = asked
    assert (n_workers, link) == (2, "link")
    assert ran[3:] == specs
    warm = [(of["number"], of["n_steps"], of["n_rounds"], of["asleep"]) for of in ran[:3]]
    assert warm == [(0, 1, 2, ()), (1, 1, 2, ()), (3, 1, 1, ())]


def pace(whole, part):
    from subnetwork.runtime.costs import Pace

    return Pace(whole, part, handling=0.01, averaging=0.01, message=0.001)


def test_all_that_is_timed_is_kept_and_read_again(monkeypatch, tmp_path):
    """Passes forth and back, a calibration around each, and replays of the fastest pass."""
    ran, paces = [], iter([(3.0, 1.0), (2.0, 0.5), (1.0, 2.0)])

    def run_all(_n_workers, _link, specs):
        ran.append(list(specs))
        walls = {100: 7.0 + len(ran), 20: 9.0 - len(ran)}  # the second pass is slower, and faster
        return [
            [{"rows": [row(walls.get(of["n_steps"], 50.0), 4 + len(ran), 1, 500)] * of["n_rounds"]}]
            for of in specs
        ]

    def calibrate(*_args, **_given):
        return pace(*next(paces))

    rows = {
        "ist 100": {**field.ROWS["ist 100"], "network": "mlp", "step_size": 0.1},
        "local_sgd 20": {**field.ROWS["local_sgd 20"], "network": "mlp", "step_size": 0.1},
        "ddp": {**field.ROWS["ddp"], "network": "mlp", "step_size": 0.1},
    }
    monkeypatch.setattr(timing, "run_all", run_all)
    monkeypatch.setattr(timing, "calibrate", calibrate)
    monkeypatch.setattr(timing, "planned", lambda *_: (narrow(), None))
    for of in (timing, race_parts):
        monkeypatch.setattr(of, "cores", lambda: 1)
    timed = timing.Timed("1gbit", 1e9, 0.0, "mlp", 2, rows, 5)
    timing.time_rounds(timed, 2, 3, tmp_path / "kept")
    assert [list(of) for of in timed.passes] == [list(rows), list(rows)[::-1]]
    assert len(timed.calibrations) == 3
    assert [of["n_steps"] for of in ran[0][-3:]] == [100, 20, 5]  # DDP is timed over fewer
    assert [[of["asleep"] for of in specs[-2:]] for specs in ran[2:]] == [
        [[[2.5] * 3], [[3.0] * 3]],  # of the first pass, and of the second one
        [[[2.5] * 3], [[3.0] * 3]],
    ]
    assert timing.kept(tmp_path / "kept") == [timed]

    found = timing.measured(timed)
    assert [found[name].wall for name in rows] == [8.0, 7.0, 200.0]
    assert [found[name].usual for name in rows] == [8.5, 7.5, 200.0]
    here, _ = timing.foretold(timed)
    computes = [here[name].compute for name in rows]
    assert computes == [2 * 100 * 0.5, 2 * 20 * 2.0, 2 * 20 * 2.0]  # of one calibration for all


def narrow():
    import torch
    from torch import nn

    from subnetwork import decompose

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return decompose(model, torch.ones(2, 4), verify=False)


def test_a_file_that_is_none_is_refused_by_its_name(tmp_path):
    for text in ('{"passes": {}}', "no JSON", '{"race": {"link": 1}}', '{"a": 1, "b": 2}'):
        (tmp_path / "kept").write_text(text)
        with pytest.raises(ValueError, match="is not what --keep writes"):
            timing.kept(tmp_path / "kept")
    with pytest.raises(ValueError, match="is not what --keep writes"):
        timing.kept(tmp_path / "none")


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
        measured = race_parts.parts(run, spec)
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
