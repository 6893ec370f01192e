"""What the race makes of what its workers wrote down; and its real rows on two hosts."""

import json
import sys
from dataclasses import replace

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


def test_a_round_is_taken_apart_by_the_slowest_worker():
    """The first round warms up and is left out; bytes are those of the busiest interface."""
    found = [
        {"rows": [row(99, 99, 99, 99), row(10, 4, 1, 500)]},
        {"rows": [row(99, 99, 99, 99), row(9, 6, 0, 300)]},
    ]
    parts = race_parts.parts([found], {"method": "ist"}, n_cores=1)
    assert (parts.wall, parts.compute, parts.handling) == (10, 6, 1)
    assert parts.exchange == 10 - 6 - 1
    assert parts.waiting == 6 - 5
    assert parts.wire == 500
    assert parts.replay == 3 + 1 + 3  # processor time of the slowest, handling, exchange
    free = race_parts.parts([found], {"method": "ist"}, limited=False, n_cores=1)
    assert free.replay == 6  # all that the busiest worker's threads did
    each = race_parts.parts([found], {"method": "ist"}, n_cores=2)
    assert each.replay == 10  # a core each: the round itself


def test_a_replay_is_the_round_of_workers_that_sleep():
    """As long as computing took each; what they waited for a core to handle on is not in it."""
    found = [
        {"rows": [row(99, 99, 99, 99), row(10, 4, 1, 500), row(9, 2, 1, 500)]},
        {"rows": [row(99, 99, 99, 99), row(9, 6, 0, 300), row(9, 8, 0, 300)]},
    ]
    assert race_parts.sleeps(found) == [[2, 1], [3, 4]]
    slow = {**row(7, 3, 2, 500), "handling_cpu": 1.5}
    slower = {**slow, "handling_cpu": 1.25}
    asleep = [{"rows": [row(99, 99, 99, 99), slow]}, {"rows": [row(99, 99, 99, 99), slower]}]
    again = {"asleep": [asleep], "n_cores": 1}
    assert race_parts.parts([found], {"method": "ist"}, **again).replay == 7 - 0.75
    free = race_parts.parts([found], {"method": "ist"}, **again, limited=False)
    assert free.replay == 7  # a link without a limit: all that the busiest worker's threads did


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
        {"method": "ist_direct", "wire": "int8"},
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


def row_of(name):
    return {**field.ROWS[name], "network": "mlp", "step_size": 0.1}


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """Three rows in two passes, of which the second is twice as slow, as its calibrations are."""
    from subnetwork.runtime.costs import Pace

    asked, slow = [], [1.0]

    def run_all(_n_workers, _link, specs):
        asked.append(list(specs))
        slow[0] *= len(asked) if len(asked) < 3 else 1
        return [
            [{"rows": [row(of["n_steps"] * slow[0], 4 * slow[0], 1, 500)] * of["n_rounds"]}] * 2
            for of in specs
        ]

    def calibrate(*_args, wire, outer, **_given):
        handling = 5.0 if outer else 3.0 if wire == "int8" else 2.0
        return Pace(4 * slow[0], slow[0], handling, direct=handling, messages=0)

    names = ("ist 100", "ist int8 churn 0.1", "local_sgd 20", "diloco int8", "ddp")
    rows = {name: row_of(name) for name in names}
    monkeypatch.setattr(timing, "run_all", run_all)
    monkeypatch.setattr(timing, "calibrate", calibrate)
    monkeypatch.setattr(timing, "planned", lambda *_: (narrow(), None))
    begun = timing.Timed("1gbit", 1e9, 0.0, "mlp", 2, 1, rows, 5, 2)
    found = timing.time_rounds(begun, 3, tmp_path / "kept")
    return found, asked, tmp_path / "kept"


def test_a_link_is_timed_in_passes_with_a_calibration_around_each(timed):
    """Forth and back; then again, asleep as long as each pass computed. DDP takes fewer steps."""
    found, asked, _ = timed
    names, warm = list(found.rows), 5
    assert [list(of) for of in found.passes] == [names, names[::-1]]
    assert [of["n_steps"] for of in asked[0][warm:]] == [100, 100, 20, 50, 5]
    assert len(found.calibrations) == 3
    assert [list(of) for of in found.replays] == [names[:4], names[:4]]
    slept = [[of["asleep"] for of in specs[-4:]] for specs in asked[2:]]
    assert slept == [[[[2.0] * 3] * 2] * 4, [[[4.0] * 3] * 2] * 4]


def test_predictions_stand_beside_rounds_of_the_same_pass(timed):
    """Rounds are those in the middle of all passes; a ratio of rows is of one pass."""
    found, _, _ = timed
    parts = timing.measured(found)
    assert [parts[name].wall for name in found.rows] == [150, 150, 30, 75, 4 * 7.5]
    here, alone = timing.foretold(found)
    stepping = replace(found, rows={"ist outer 100": row_of("ist outer 100")})
    told = timing.calibrated(stepping)
    assert len(told["paces"]) == 2
    stepping = replace(stepping, calibrations=(told,))
    assert timing.foretold(stepping)[1]["ist outer 100"].handling == 5.0  # a coordinator's own
    computes = [here[name].compute for name in found.rows]
    assert computes == [
        2 * 100,
        2 * 100,
        *(2 * n * 4 for n in (20, 50, 20)),
    ]  # of the middle calibration
    assert alone["ist 100"].compute == 100
    of_int8, of_float = here["ist int8 churn 0.1"].handling, here["ist 100"].handling
    assert (of_int8, of_float) == (2 * 3.0, 2 * 2.0)  # each by its own hand-over
    assert 4 * here["diloco int8"].bytes_up == here["local_sgd 20"].bytes_up
    off, _ = timing.offs(found)
    first, second = off["local_sgd 20"]
    assert first == pytest.approx(160 * (1 + 1) / 2 / 20, rel=0.01)
    assert second == pytest.approx(160 * (1 + 2) / 2 / 40, rel=0.01)
    asked = race.argparse.Namespace(network="mlp", workers=2)
    results = {
        r.name.split(": ")[1]: r.value for r in race.ratios_foretold("1gbit", asked, (off, {}))
    }
    ratios = [a / b - 1 for a, b in zip(off["ddp"], off["ist 100"], strict=True)]
    assert results["ddp / ist 100, prediction off"] == abs(sum(ratios) / 2)


def test_what_is_kept_is_read_again_and_what_is_not_whole_is_left_out(timed, capsys):
    found, _, path = timed
    assert timing.kept(path) == [found]
    text = path.read_text()
    path.write_text(text + text[:-300])  # a second link that was ended in the midst of a line
    assert timing.kept(path) == [found]
    assert "what there is of 1gbit is not whole" in capsys.readouterr().err
    lines = text.splitlines(keepends=True)
    for n in range(len(lines)):
        path.write_text("".join(lines[:n]))
        with pytest.raises(ValueError, match="has no link that was timed to the end"):
            timing.kept(path)
    path.write_text(text.replace('"network": {', '"network": {"odd": 1, '))
    with pytest.raises(ValueError, match="is not what --keep writes"):
        timing.kept(path)


def test_a_file_of_another_race_is_refused(timed):
    found, _, path = timed
    asked = race.argparse.Namespace(network="mlp", workers=2, kept=path)
    assert race.same_race(asked, [found], found.rows) == [found]
    with pytest.raises(ValueError, match="--network mlp --workers 2"):
        race.same_race(race.argparse.Namespace(**{**vars(asked), "workers": 4}), [found], {})
    other = {**found.rows, "ddp": {**row_of("ddp"), "step_size": 0.2}}
    with pytest.raises(ValueError, match="other rows, such as 'ddp'"):
        race.same_race(asked, [found], other)


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    path = tmp_path / "kept"
    asked = race.argparse.Namespace(keep=path, links=["1gbit"])
    assert race.fields(asked)["1gbit"].rate == 1e9
    path.write_text("what was kept")
    with pytest.raises(ValueError, match="is there already"):
        race.fields(asked)


def narrow():
    import torch
    from torch import nn

    from subnetwork import decompose

    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return decompose(model, torch.ones(2, 4), verify=False)


def test_a_file_that_is_none_is_refused_by_its_name(tmp_path):
    for text in ('{"pass": {}}\n', "no JSON\n", '{"race": {"link": 1}}\n', '{"a": 1, "b": 2}\n'):
        (tmp_path / "kept").write_text(text)
        with pytest.raises(ValueError, match="is not what --keep writes"):
            timing.kept(tmp_path / "kept")
    with pytest.raises(ValueError, match="none cannot be read: No such file"):
        timing.kept(tmp_path / "none")


def test_the_first_round_at_a_target_counts_and_none_is_none():
    course = field.Course([(2, 0.5), (4, 0.86), (6, 0.84)])
    assert (course.rounds_to(0.85), course.rounds_to(0.9), course.best) == (4, None, 0.86)


def test_ratios_are_of_the_best_of_each_side():
    values = {"ist 50": 4.0, "ist bf16": 2.0, "local_sgd 20": 6.0, "diloco int8": 5.0}
    assert race.times(values, field.AVERAGING) == 2.5
    assert race.times(values, ("ddp",)) is None
    assert race.times({"ddp": 1.0}, ("ddp",)) is None


def test_narrow_networks_that_exchange_nothing_are_no_row_of_ist_in_ratios():
    values = {"ist bf16 churn 0": 0.1, "ist bf16 churn 0.1": 2.0, "local_sgd 20": 6.0}
    assert race.times(values, ("local_sgd",)) == 3.0
    early = [name for name in field.ROWS if not race.is_lazy_or_rounded(name)]
    assert {"ist 100", "ist outer 50", "ist coordinator", "diloco int8"} <= set(early)
    assert not {"ist bf16", "ist int8 churn 0.1", "ist bf16 churn 0.25"} & set(early)


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
    """A file as Fashion-MNIST's, of noise around ten patterns."""
    import numpy as np

    rng = np.random.default_rng(0)
    patterns = rng.integers(60, 196, (10, 28, 28), dtype=np.uint8)

    def part(n):
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        return patterns[labels] + rng.integers(0, 60, (n, 28, 28), dtype=np.uint8), labels

    (tmp_path / "fashion_mnist").mkdir()
    (x, y), (u, v) = part(60_000), part(10_000)
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
        measured = race_parts.parts([run], spec, n_cores=8)
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
