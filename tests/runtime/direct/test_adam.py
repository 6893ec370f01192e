"""Ranks with the counts of steps of Adam, against `rounds`: equal to the bit."""

from dataclasses import replace

import pytest
import torch

from ranks_in_threads import together
from subnetwork import rounds
from subnetwork.methods import Training
from subnetwork.methods.rows import method, task
from subnetwork.nets.counters import COUNTER
from subnetwork.runtime import here
from subnetwork.runtime.direct import (
    direct_rounds,
    draws_of,
    memory,
    taken,
    whole_parameters,
    with_moments,
)

RUN = Training(hidden=(7, 5), workers=3, rounds=4, local_steps=2, batch_size=4, step_size=0.01)


@pytest.mark.parametrize("in_place", [False, True], ids=["anew", "in place"])
@pytest.mark.parametrize(
    ("optimizer", "name", "workers"),
    [("adam", "ist", 3), ("adamw", "fedrolex", 2), ("adam", "federated_dropout", 4)],
)
def test_counts_of_steps_travel_to_the_bit(optimizer, name, workers, in_place, monkeypatch):
    """Disjoint hands, hands that differ in size, and hands that overlap and miss units.

    In place every tensor that can be is put where gradients and old idle lines were.
    """
    monkeypatch.setattr(memory, "LARGE", 1 if in_place else memory.LARGE)
    reused, room = [], memory.Spare.room

    def noting(spare, *args, **how):
        tensor = room(spare, *args, **how)
        reused.append(tensor.untyped_storage().data_ptr() in spare._seen)
        return tensor

    monkeypatch.setattr(memory.Spare, "room", noting)
    run = replace(RUN, optimizer=optimizer, method=name, workers=workers, keep=0.8)
    run = replace(run, capacities=(0.5, 0.5) if name == "fedrolex" else ())
    t = task(run)
    row = method(t)
    torch.set_num_threads(1)
    assert row.x.params  # made here: threads share torch's generator

    def side(place):
        own, links = method(t), place.links()  # a rank has modules of its own
        draws = draws_of(own.sketch, own.shapes.params, own.seed, moments=own.moments)
        whole = with_moments(row.x.params.items(), own.moments, own.sketch.layout)
        held = taken(draws, place.rank, 0, whole)
        found, work = [], replace(own.local, in_place=in_place)
        for done in direct_rounds(held, draws, place.rank, work, links, n_rounds=own.n_rounds):
            found.append(dict(whole_parameters(done.held, draws, place.rank, links)))
        return found

    found = together(workers, side)[0]
    reference = rounds(
        row.x, row.sketch, here(row.local), row.merge, seed=row.seed, n_rounds=row.n_rounds
    )
    uneven = False
    for done in reference:
        whole = found[done.k]
        for parameter, value in done.x.params.items():
            assert torch.equal(whole[parameter][""], value), (done.k, parameter)
            for moment, tensors in done.x.moments.items():
                at = (f"{parameter}::step", "") if moment == COUNTER else (parameter, moment)
                assert torch.equal(whole[at[0]][at[1]], tensors[parameter]), (parameter, moment)
        counts = done.x.moments[COUNTER]["3.weight"]
        uneven = uneven or bool(counts.min() != counts.max())
    assert any(reused) == in_place
    assert uneven, "units have taken different numbers of steps: the counters matter"


def test_counts_of_steps_without_a_layout_are_refused():
    with pytest.raises(ValueError, match="Give with_moments the layout"):
        list(with_moments([("w", torch.ones(2))], ("exp_avg", COUNTER)))
