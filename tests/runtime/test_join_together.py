"""`join` where ranks do not do the same: all say so, before pieces of other sizes are sent."""

import pytest
import torch

from sessions_in_threads import in_threads
from subnetwork.algorithm import RunFailedError


def trained(session, n_rounds, stop_at=None):
    for sub in session.rounds(n_rounds):
        sub(torch.ones(5, 4)).square().sum().backward()
        torch.optim.SGD(sub.parameters(), 0.01).step()
        if session.k == stop_at:
            break


def refused(others):
    """The words of three ranks, of which the last one does something else."""

    def side(rank, session):
        with pytest.raises(RunFailedError) as told:
            if rank == 2:
                others(session)
            else:
                trained(session, 3)
                session.model()
        return str(told.value)

    return in_threads(3, side)


def test_a_rank_that_asks_for_the_model_while_others_train():
    def ask(session):
        trained(session, 1)
        session.model(everywhere=True)

    here, too, there = refused(ask)
    for rank, words in enumerate((here, too)):
        assert words.startswith(
            "rank 2 is at session.model(everywhere=True) in round 1, and rank "
            f"{rank} at session.rounds in round 1. Call session.rounds and session.model on every "
        )
    assert there.startswith("rank 0 is at session.rounds in round 1, and rank 2 at session.model")


def test_a_rank_that_leaves_the_body_by_break():
    """Its round is undone, and the others' is not merged with it."""

    def leave(session):
        trained(session, 3, stop_at=1)
        session.model()

    here, _, there = refused(leave)
    assert "rank 2 is at session.model() in round 1, and rank 0 at the end of the body" in here
    assert "rank 0 is at the end of the body in round 1" in there


def test_a_rank_that_trains_fewer_rounds():
    def stop(session):
        trained(session, 2)
        session.model()

    assert all("session.model() in round 2" in words for words in refused(stop))


def test_one_that_wants_it_everywhere_and_others_that_do_not():
    def side(rank, session):
        trained(session, 1)
        with pytest.raises(RunFailedError, match=r"everywhere=True"):
            session.model(everywhere=rank == 0)
        trained(session, 1)
        return session.model(everywhere=True).state_dict()

    one, other = in_threads(2, side)
    assert all(torch.equal(one[name], other[name]) for name in one), "they can go on together"


def test_all_may_leave_the_body_together():
    def side(_, session):
        trained(session, 3, stop_at=1)
        assert session.k == 1
        trained(session, 2)
        return session.k

    assert in_threads(2, side) == [3, 3]
