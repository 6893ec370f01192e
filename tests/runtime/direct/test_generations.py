"""A rank dies at any of its posts: the run is the one without the death, to the bit."""

from itertools import pairwise

import pytest
import torch
from mortal_ranks import Mortal
from simulated import draws, local, parts, pass_on, train
from test_rebuilding import same_part

from subnetwork.algorithm import RunFailedError, WorkerLostError
from subnetwork.deals import Full, Lazy, Perm, RandQ
from subnetwork.nets import Layout, ModelState, NetSketch, Outer
from subnetwork.runtime.direct import whole_parameters
from subnetwork.runtime.direct.generations import Company, lasting_rounds
from subnetwork.runtime.direct.held import OUTER

LAYOUT = Layout({"a": 7, "b": 5}, {"up": ("a", None), "middle": ("b", "a"), "whole": (None,)})
ROUNDS = 3
CASES = [(deal, "float32") for deal in (Perm(3), RandQ(3, q=2), Lazy(3, 2), Full(3), Perm(2))]
CASES += [(RandQ(3, q=2), "int8"), (Perm(4), "bfloat16")]


def model():
    generator = torch.Generator().manual_seed(0)

    def tensors():
        shapes = {"up": (7, 3), "middle": (5, 7), "whole": (4,)}
        return {n: torch.randn(shape, generator=generator) for n, shape in shapes.items()}

    return ModelState(tensors(), {"m": tensors()})


def by_the_book(d, x, wire, steps=None):
    """Every rank's part after every merge, without a death."""
    helds, after = parts(d, x), []
    for k in range(ROUNDS):
        after.append(train(d, helds, wire, steps))
        if k + 1 < ROUNDS:
            helds = pass_on(d, after[-1], wire)
    return after


def model_for(steps):
    """With the momentum of the merge, where it has one."""
    x = model()
    if steps is None:
        return x
    return ModelState(
        x.params, {**x.moments, OUTER: {n: torch.zeros_like(p) for n, p in x.params.items()}}
    )


def run(deal, deaths=(), successors=True, wire="float32", steps=None):
    """What each rank had after each round, what rank 0 put together, and what was rebuilt."""
    x = model_for(steps)
    d = draws(NetSketch(LAYOUT, deal), x)
    world, found, models, mended = Mortal(d.n_workers, deaths), {}, {}, []

    def side(rank, number):
        torch.set_num_threads(1)
        own = draws(NetSketch(LAYOUT, deal), x)  # its memory is not for other threads
        note = mended.append if rank == 0 else lambda _: None
        company = Company(
            own, rank, world.meet(rank), moments=tuple(x.moments), wire=wire, number=number,
            report=note,
        )  # fmt: skip

        def after(done):
            found[rank, done.k] = done.held
            passing = dict(whole_parameters(done.held, own, rank, company.links))
            if rank == 0:
                models[done.k] = passing

        begun = lambda: parts(own, x)[rank]  # noqa: E731
        lasting_rounds(company, local, begun, after, n_rounds=ROUNDS, steps=steps)

    world.run(side, successors)
    return d, x, found, models, mended, world


def check(deal, deaths, wire="float32", steps=None):
    d, x, found, models, mended, world = run(deal, deaths, wire=wire, steps=steps)
    for k, after in enumerate(by_the_book(d, x, wire, steps)):
        for rank, held in enumerate(after):
            same_part(found[rank, k], held)
    assert sorted(models) == list(range(ROUNDS))
    return mended, world


def dies_everywhere(deal, wire, rounds, steps=None):
    """A death at each post of these rounds: before it is sent, after one peer has it, after all."""
    _, world = check(deal, (), wire, steps)
    n, a_round = deal.n_workers, world.posts[1] // ROUNDS
    for number in range(rounds[0] * a_round, rounds[1] * a_round):
        rank = 1 + number % (n - 1)
        mended, _ = check(deal, [(rank, 0, number, number % n)], wire, steps)
        if number < (ROUNDS - 1) * a_round:  # in the last words rank 0 may be done
            assert [of.rank for of in mended] == [rank]


@pytest.mark.parametrize("deal", [Perm(3), RandQ(3, q=2), Perm(2)], ids=repr)
def test_a_rank_may_die_at_any_of_its_posts(deal):
    dies_everywhere(deal, "float32", (1, 2))


@pytest.mark.parametrize("wire", ["float32", "int8"])
def test_a_rank_may_die_at_any_of_its_posts_under_a_merge_that_steps(wire):
    """The momentum of the merge is rebuilt too, and no step is taken twice."""
    dies_everywhere(RandQ(3, q=2), wire, (1, 2), Outer())


@pytest.mark.slow
@pytest.mark.parametrize(("deal", "wire"), CASES, ids=repr)
def test_a_rank_may_die_at_any_post_of_any_round(deal, wire):
    dies_everywhere(deal, wire, (0, ROUNDS))


def after_two_deaths(first, second, number):
    """What became of it: the same model, or why not."""
    a_round = 7
    try:
        mended, _ = check(Perm(3), [(first, 0, a_round + 4, 1), (second, 1, number, 1)])
    except (RunFailedError, WorkerLostError) as error:
        return str(error)
    assert all(one.k <= other.k for one, other in pairwise(mended))
    return [of.rank for of in mended]


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1), (1, 1)])
def test_a_second_death_is_survived_in_another_round(first, second):
    """In the same one it ends the run, since what the first one had sent died with it."""
    assert after_two_deaths(first, second, 11) == [first, second]
    why = after_two_deaths(first, second, 4)
    assert ("died in round 1 twice" if first == second else "One death a round is survived") in why


def test_without_a_successor_the_run_ends():
    with pytest.raises(WorkerLostError, match="nobody comes"):
        run(Perm(3), [(1, 0, 9, 1)], successors=False)
