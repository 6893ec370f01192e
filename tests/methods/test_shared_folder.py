"""Ranks that do not share the run's folder say so before they train, and not at a checkpoint."""

import json
import os
import threading
from dataclasses import replace
from unittest.mock import Mock

import pytest

from ranks_in_threads import together
from subnetwork.algorithm import RunFailedError
from subnetwork.experiments import direct as module
from subnetwork.experiments import shards
from subnetwork.experiments.direct import Job, follow, lead
from subnetwork.experiments.resume import Edges, Keeper, Start
from subnetwork.methods import Training
from subnetwork.methods.rows import method, task
from subnetwork.nets.local import LocalSteps

RUN = Training(
    hidden=(12,), workers=3, rounds=2, local_steps=1, batch_size=8, exchange="direct", test_every=9
)
CANNOT = (
    r"^rank {} cannot write to \S+, where rank 0 writes the run\. In direct hand-over every rank "
    r"writes its shard of a checkpoint: put --out where all hosts can write\.$"
)


@pytest.fixture(autouse=True)
def trained(monkeypatch):
    """The rounds in which somebody trained; threads begin one after another."""
    rounds, work, begun, lock = [], LocalSteps.__call__, module._begun, threading.Lock()

    def noted(self, k, *rest):
        rounds.append(k)
        return work(self, k, *rest)

    def alone(side):
        with lock:
            return begun(side)

    monkeypatch.setattr(LocalSteps, "__call__", noted)
    monkeypatch.setattr(module, "_begun", alone)
    return rounds


def direct(run, folder, elsewhere, blind=()):
    """Train with a thread for every rank; where some look for the folder, it is another one."""
    t = task(run)
    row = method(t)
    folder.mkdir()
    start, errors = Start(lambda: pytest.fail("rank 0 made the whole model")), {}

    def side(place):
        try:
            if not place.rank:
                keeper = Keeper(folder / "checkpoints", t, start, every=10**6)
                job = Job(run, folder, None)
                return lead(place, t, row, job, start, keeper, Edges(lambda _: None))
            told = json.loads(place.job())
            if place.rank in blind:
                told["folder"] = str(elsewhere)
            return follow(place, json.dumps(told))
        except RunFailedError as error:
            errors[place.rank] = str(error)
            raise

    try:
        together(run.workers, side)
    finally:
        direct.errors = errors


@pytest.mark.parametrize(("blind", "named"), [((1,), "1"), ((1, 2), "1, 2")])
@pytest.mark.parametrize("there", [False, True])
def test_a_rank_that_does_not_see_the_folder_is_named_by_all_before_any_training(
    blind, named, there, tmp_path, trained
):
    """Also where its host has a folder of that name for itself."""
    if there:
        (tmp_path / "elsewhere").mkdir()
    with pytest.raises(RunFailedError, match=CANNOT.format(named)):
        direct(RUN, tmp_path / "run", tmp_path / "elsewhere", blind)
    assert len(direct.errors) == 3
    assert trained == []
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["ist.jsonl"]


@pytest.mark.parametrize("replicas", [0, 1])
def test_where_all_see_it_nothing_is_left_of_the_question(replicas, tmp_path, trained):
    direct(replace(RUN, replicas=replicas), tmp_path / "run", None)
    assert sorted(set(trained)) == [0, 1]
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert found == {"ist.jsonl", "checkpoints", "model.safetensors"}


def test_a_folder_that_can_only_be_read_is_none(tmp_path, trained, monkeypatch):
    monkeypatch.setattr(
        os, "access", lambda *_: not threading.current_thread().name.endswith("rank 2")
    )
    ask = shards.check_shared

    def named(side):
        threading.current_thread().name += f" of rank {side.rank}"
        ask(side)

    monkeypatch.setattr(module, "check_shared", named)
    with pytest.raises(RunFailedError, match=CANNOT.format("2")):
        direct(RUN, tmp_path / "run", None)
    assert trained == []


def test_a_disk_that_is_full_is_for_a_checkpoint_to_find(tmp_path, trained, monkeypatch):
    """What rank 0 cannot write says nothing of the others."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.Path, "touch", full)
    direct(RUN, tmp_path / "run", None)
    assert sorted(set(trained)) == [0, 1]


@pytest.mark.parametrize(("number", "asks"), [(0, 1), (1, 0)])
def test_a_rank_that_takes_a_dead_ones_seat_does_not_ask(number, asks, tmp_path, monkeypatch):
    """The others are in the middle of a round."""
    asked = Mock()
    for name in ("agree", "lasting_rounds", "Company"):
        monkeypatch.setattr(module, name, Mock())
    monkeypatch.setattr(module, "check_shared", asked)
    run = replace(RUN, replicas=1)
    place = module.Rank(1, 3, None, None, number=number)
    follow(place, Job(run, tmp_path, None).to_json())
    assert asked.call_count == asks
