"""Memory that is used again: what a hand-over may write over, and what it may not."""

import errno
import mmap
import os
from pathlib import Path

import pytest
import torch
from simulated import same_part

from subnetwork import Perm
from subnetwork.nets import MLP, SGD, Batches, LocalSteps, NetSketch
from subnetwork.runtime.direct import Draws, gathered, initial_parameters, taken, with_moments
from subnetwork.runtime.direct.memory import ALIGNED, CLOSE, LARGE, Spare, made, room
from subnetwork.runtime.direct.outer import trained

BYTES = torch.uint8


def piece(n_bytes=LARGE):
    return torch.ones(n_bytes, dtype=BYTES)


def mapped(n_bytes):
    """A piece that the system takes back when it is freed, whatever malloc has lying about."""
    return torch.frombuffer(mmap.mmap(-1, n_bytes), dtype=BYTES).fill_(1)


def spare_of(*tensors):
    spare = Spare()
    spare.add(tensors)
    return spare


def span(tensor):
    return range(tensor.data_ptr(), tensor.data_ptr() + tensor.numel() * tensor.element_size())


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def overlap(one, other):
    return max(one.start, other.start) < min(one.stop, other.stop)


def test_pieces_are_cut_from_memory_and_never_overlap():
    whole = piece(4 * LARGE)
    spare = spare_of(whole)
    parts = [spare.room((1, LARGE + 1), BYTES) for _ in range(3)]
    assert all(part.data_ptr() % ALIGNED == 0 and len(part[0]) == LARGE + 1 for part in parts)
    assert all(span(part).start in span(whole) for part in parts)
    assert not any(overlap(span(a), span(b)) for a in parts for b in parts if a is not b)
    other = spare.room((LARGE // 8 + 1, 2), torch.float32)  # the rest is too small by now
    assert other.shape == (LARGE // 8 + 1, 2)
    assert not overlap(span(other), span(whole))


def test_what_lasts_does_not_hold_much_more_than_itself():
    large, close = piece(4 * LARGE), piece(int(CLOSE * LARGE) - 1)
    spare = spare_of(large, close)
    passing = spare.room((1, LARGE), BYTES)
    assert span(passing).start in span(large), "whole pieces are kept for what lasts"
    assert span(spare.room((1, LARGE), BYTES, lasts=True)).start in span(close)
    lasting = spare.room((1, LARGE), BYTES, lasts=True)
    assert not overlap(span(lasting), span(large))


def test_only_memory_that_is_the_tensors_alone_is_used_again():
    whole = piece(2 * LARGE)
    views = whole[:LARGE], whole[LARGE:], whole.view(2, -1).t()
    spare = spare_of(*views, piece(LARGE - 1), torch.ones(LARGE, device="meta"))
    assert not overlap(span(spare.room((1, LARGE), BYTES)), span(whole))
    twice = spare_of(whole, whole.view(2, -1))
    parts = [twice.room((1, 2 * LARGE), BYTES) for _ in range(2)]
    assert not overlap(span(parts[0]), span(parts[1]))


def test_small_tensors_and_those_without_spare_memory_get_their_own():
    whole = piece()
    spare = spare_of(whole)
    assert not overlap(span(spare.room((1, 8), BYTES)), span(whole))
    assert made((2, 3), torch.float64, None).shape == (2, 3)
    spare.clear()
    assert not overlap(span(spare.room((1, LARGE), BYTES)), span(whole))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux says what is in memory")
def test_for_new_memory_as_much_goes_back_to_the_system():
    large = 16 * LARGE
    spare = spare_of(mapped(large), mapped(large))
    before = resident()
    for n_asked in (1, 2):
        assert spare.room((1, large + 1), BYTES).shape == (1, large + 1)
        assert n_asked - 0.1 < (before - resident()) / large < n_asked + 0.1
    spare = spare_of(mapped(2 * large))
    passing = spare.room((1, large), BYTES).fill_(1)
    before = resident()
    spare.give_back(large // 2)
    assert 0.4 * large < before - resident() < 0.6 * large, "no more than that"
    assert passing.all()
    spare.clear()
    assert before - resident() > 0.9 * large
    assert passing.all()


def test_memory_that_the_system_has_not_is_no_error_of_a_disk(monkeypatch):
    """A rank that wrote its shard would go on without what it was sent, and wait for ever."""

    def none(*_, **__):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("subnetwork.runtime.direct.memory.mmap.mmap", none)
    with pytest.raises(MemoryError, match=r"no 4\.2 MB to give"):
        room((1, LARGE), BYTES)


def test_less_than_a_large_piece_is_not_given_back():
    spare = spare_of(piece(2 * LARGE))
    spare.give_back(LARGE - 1)
    assert len(spare._free[0]) == 2 * LARGE
    spare.give_back(LARGE)
    assert len(spare._free[0]) == LARGE
    spare.give_back(LARGE)
    assert not spare._free


NETWORK = MLP(1024, (2048,), 4, norm=False)


def part():
    x = dict(initial_parameters(NETWORK, seed=0))
    draws = Draws(
        NetSketch(NETWORK.layout, Perm(1)), {name: p.to("meta") for name, p in x.items()}, 0
    )
    return draws, taken(draws, 0, 0, with_moments(x.items()))


@pytest.mark.parametrize("in_place", [True, False])
def test_gradients_are_for_the_hand_over_where_work_is_done_in_place(in_place):
    batches = Batches(torch.randn(8, 1024), torch.randint(4, (8,)), 1, 4, seed=0)
    draws, held = part()
    local = LocalSteps(NETWORK, batches, SGD(0.1), 2, in_place=in_place)
    held = trained(held, local, 0, None, Spare())
    n_bytes = 4 * 1024 * 2048
    assert bool(held.spare._free) == in_place
    if in_place:
        (gradient,) = held.spare._free
        assert len(gradient) == n_bytes
        assert all(not overlap(span(gradient), span(tensor)) for tensor in held.submodel.tensors())
    next(gathered(draws, 0, held, "0.weight", to=()))
    assert bool(held.spare._free) == in_place
    next(gathered(draws, 0, held, "0.weight"))
    assert not held.spare._free, "as much as is gathered goes back"


def test_gradients_that_are_the_part_itself_stay_what_they_are():
    """An odd backward may return a view of a parameter: its memory is not to be written over."""
    _, held = part()
    told = []

    class Odd(LocalSteps):
        def __call__(self, _k, _worker, submodel, /):
            weight = submodel.params["0.weight"]
            self.let_go([weight.detach(), torch.ones_like(weight)])
            return submodel

    local = Odd(NETWORK, None, SGD(0.1), 1, in_place=True, let_go=told.append)
    held = trained(held, local, 0, None, Spare())
    (gradient,) = held.spare._free
    assert not overlap(span(gradient), span(held.submodel.params["0.weight"]))
    assert len(told) == 1, "who asked for them is told too"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux says what is in memory")
def test_a_layer_that_is_cut_on_one_side_gives_way_too():
    """2 workers hold half of the rows of a matrix of 64 MB each, and nothing waits."""
    network = MLP(4096, (4096,), 4, norm=False)
    x = dict(initial_parameters(network, seed=0))
    like = {name: p.to("meta") for name, p in x.items()}
    draws = Draws(NetSketch(network.layout, Perm(2)), like, 0)
    rows = draws.partition(0).entries("0.weight", like["0.weight"], 1).index[0]
    kept = x["0.weight"][rows].clone()
    before = resident()
    part = taken(draws, 1, 0, with_moments(x.items()), emptied=True)
    assert before - resident() > 24 << 20, "32 MB came and 64 MB went"
    assert torch.equal(part.submodel.params["0.weight"], kept)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="Linux says what is in memory")
def test_tensors_that_may_be_emptied_give_way_to_the_part_that_is_taken_of_them():
    """4 workers hold 4 of 16 blocks of a matrix of 64 MB, and keep 3 idle ones each."""
    network = MLP(4, (4096, 4096), 4, norm=False)
    with torch.device("meta"):
        like = dict(
            torch.nn.Sequential(*network.build(network.layout.all_units)).named_parameters()
        )
    draws = Draws(NetSketch(network.layout, Perm(4)), {n: p.to("meta") for n, p in like.items()}, 0)
    x = {name: torch.randn(p.shape) for name, p in like.items()}
    kept = taken(draws, 1, 0, with_moments(x.items()))
    before = resident()
    part = taken(draws, 1, 0, with_moments(x.items()), emptied=True)
    assert before - resident() > 40 << 20, "16 MB came and 64 MB went"
    same_part(part, kept)
