"""`carry`: the state of an optimizer goes with its units, each of which has a count of its own."""

import pytest
import torch
from torch import nn

from sessions_in_threads import in_threads
from subnetwork import Perm, decompose, join
from subnetwork.nets.layout import Layout
from subnetwork.nets.terms import Prod
from subnetwork.runtime.carrying import State, put, read

COUNTS = (40, 0, 1000, 2, 7, 1, 400, 41)
OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, 0.1, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.1, amsgrad=True, foreach=True),
    "fused": lambda p: torch.optim.Adam(p, 0.1, fused=True),
    "radam": lambda p: torch.optim.RAdam(p, 0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.1, lr_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 0.1),
}
GRADIENTS = {
    "constant": lambda _: 1.0,
    "smaller": lambda _: 0.01,
    "larger": lambda _: 100.0,
    "falling": lambda s: 0.5**s,
    "turning": lambda s: (-1.0) ** s * (s + 1),
}


def with_counts(make):
    """A parameter of every count, each stepped alone by torch, and all as the units of one."""
    alone = [nn.Parameter(torch.full((3,), 0.5)) for _ in COUNTS]
    optimizers = [make([p]) for p in alone]
    for p, optimizer, count in zip(alone, optimizers, COUNTS, strict=True):
        for step in range(count):
            p.grad = torch.tensor([1.0, 0.3, -2.0]) * (1 + step % 3)
            optimizer.step()
    states = [o.state[p] for p, o in zip(alone, optimizers, strict=True)]
    zeros = torch.zeros(3)
    moments = {
        m: {"w": torch.stack([state.get(m, zeros) for state in states])}
        for m in states[0]
        if m != "step"
    }
    together = nn.Parameter(torch.stack([p.detach() for p in alone]))
    return alone, optimizers, together, State(moments, {"w": torch.tensor([COUNTS]).T.float()})


LAYOUT = Layout({"units": len(COUNTS)}, {"w": ("units", None)})


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_every_unit_makes_the_steps_of_its_own_count_to_the_bit(kind, gradient):
    make = OPTIMIZERS[kind]
    alone, optimizers, together, state = with_counts(make)
    optimizer = make([together])
    stepped = put(optimizer, {"w": together}, state, LAYOUT)
    for step in range(50):
        g = torch.tensor([1.0, -0.2, 3.0]) * GRADIENTS[gradient](step)
        for p, own in zip(alone, optimizers, strict=True):
            p.grad = g.clone()
            own.step()
        together.grad = g.expand(len(COUNTS), 3).clone()
        optimizer.step()
        assert torch.equal(together, torch.stack(list(alone))), step
    after = read([stepped], {"w": together}, state)
    assert after.counters["w"].flatten().tolist() == [count + 50 for count in COUNTS]
    for m, of in after.moments.items():
        exact = torch.stack([own.state[p][m] for p, own in zip(alone, optimizers, strict=True)])
        assert torch.equal(of["w"], exact), m


def test_state_that_no_step_was_taken_on_goes_on_as_it_came():
    _, _, together, state = with_counts(OPTIMIZERS["adam"])
    here, now = torch.optim.Adam([together]), state
    for _ in range(20):
        stepped = put(here, {"w": together}, now, LAYOUT)
        now = read([stepped], {"w": together}, now)
        stepped.let_go()
    for m, of in state.moments.items():
        assert torch.equal(now.moments[m]["w"], of["w"])
    assert torch.equal(now.counters["w"], state.counters["w"])
    nobody = read([], {"w": together}, state)
    assert torch.equal(nobody.moments["exp_avg"]["w"], state.moments["exp_avg"]["w"])


def test_a_closure_is_called_once_and_its_gradient_is_that_of_the_step():
    _, _, together, state = with_counts(OPTIMIZERS["adam"])
    twin, calls = nn.Parameter(together.detach().clone()), []
    ways = [torch.optim.Adam([p], 0.1) for p in (together, twin)]
    for p, optimizer in zip((together, twin), ways, strict=True):
        put(optimizer, {"w": p}, state, LAYOUT)

    def closure():
        calls.append(1)
        ways[0].zero_grad()
        loss = together.square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        told = ways[0].step(closure)
        ways[1].zero_grad()
        loss = twin.square().sum()
        loss.backward()
        ways[1].step()
        assert torch.equal(told, loss)
    assert len(calls) == 3
    assert torch.equal(together, twin)


def test_a_parameter_without_gradient_is_left_with_its_count():
    _, _, together, state = with_counts(OPTIMIZERS["adam"])
    other, before = nn.Parameter(torch.ones(1)), together.detach().clone()
    optimizer = torch.optim.Adam([together, other])
    layout = Layout({"units": len(COUNTS)}, {"w": ("units", None), "o": (None,)})
    moments = {m: {**of, "o": torch.zeros(1)} for m, of in state.moments.items()}
    state = State(moments, {**state.counters, "o": torch.zeros(1)})
    named = {"w": together, "o": other}
    stepped = put(optimizer, named, state, layout)
    other.grad = torch.ones(1)
    optimizer.step()
    assert optimizer.param_groups[0]["params"] == [together, other]
    after = read([stepped], named, state)
    assert torch.equal(together, before)
    assert torch.equal(after.counters["w"], state.counters["w"])
    assert after.counters["o"].tolist() == [1]


def test_sparse_gradients_are_refused_where_counts_differ():
    _, _, together, state = with_counts(OPTIMIZERS["adagrad"])
    optimizer = OPTIMIZERS["adagrad"]([together])
    put(optimizer, {"w": together}, state, LAYOUT)
    together.grad = torch.ones_like(together).to_sparse()
    with pytest.raises(ValueError, match=r"a sparse gradient does not allow. Use embeddings with"):
        optimizer.step()


def test_an_optimizer_that_is_carried_twice_steps_once_and_is_let_go():
    """After the round, too: its hooks are gone."""

    def side(session, times):
        hooks = []
        for sub in session.rounds(4):
            optimizer = torch.optim.Adam(sub.parameters(), 0.1)
            for _ in range(times):
                session.carry(optimizer)
            hooks.append(len(optimizer._optimizer_step_pre_hooks))
            sub(torch.ones(5, 4)).square().sum().backward()
            optimizer.step()
        assert not optimizer._optimizer_step_pre_hooks
        return session.model(everywhere=True).state_dict(), hooks

    found = []
    for times in (1, 2):
        model, hooks = in_threads(2, lambda _, s, n=times: side(s, n))[0]
        assert hooks[0] == 0
        assert hooks[-1] == 1
        found.append(model)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_count_of_a_unit_is_that_of_all_its_entries():
    """Three rows a head and two columns a channel, as in the projections of attention."""
    layout = Layout({"heads": 2, "channels": 2}, {"w": (Prod(("heads", 3)), Prod((2, "channels")))})
    w, entry = nn.Parameter(torch.zeros(4, 6).T), nn.Parameter(torch.zeros(1))
    counts, v = torch.tensor([[0.0, 100.0], [3.0, 7.0]]), 1 - 0.999**100
    of_all = torch.zeros(6, 4).index_fill_(1, torch.tensor([1, 3]), v)
    of_all[3:] = 0
    state = State({"exp_avg": {"w": torch.zeros(6, 4)}, "exp_avg_sq": {"w": of_all}}, {"w": counts})
    optimizer, alone = torch.optim.Adam([w]), torch.optim.Adam([entry])
    put(optimizer, {"w": w}, state, layout)
    alone.state[entry] = {
        "step": torch.tensor(100.0),
        "exp_avg": torch.zeros(1),
        "exp_avg_sq": torch.full((1,), v),
    }
    w.grad, entry.grad = torch.ones(6, 4), torch.ones(1)
    optimizer.step()
    alone.step()
    assert torch.equal(w[:3, [1, 3]], entry.expand(3, 2))
    torch.testing.assert_close(w[:3, [0, 2]], torch.full((3, 2), -0.001))


@pytest.mark.parametrize("idle", [0, 1])
def test_a_worker_that_took_no_step_yet_makes_room_for_the_others_state(idle):
    """In the first round one optimizer has no state: what the other has travels all the same."""
    inputs = torch.ones(5, 4)

    def side(rank, session):
        for sub in session.rounds(3):
            optimizer = torch.optim.AdamW(sub.parameters(), 0.01)
            session.carry(optimizer)
            for _ in range(0 if session.k == 0 and rank == idle else 2):
                optimizer.zero_grad()
                sub(inputs).square().sum().backward()
                optimizer.step()
        state = session._state()
        steps = {n: c.flatten().tolist() for n, c in state.counters.items()}
        return session.model(everywhere=True).state_dict(), steps, set(state.moments)

    (one, steps, kinds), (other, _, kinds_too) = in_threads(2, side)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert kinds == kinds_too == {"exp_avg", "exp_avg_sq"}
    assert set(steps["0.bias"]) == {4.0, 6.0}


class Mixed(nn.Module):
    """Parameters of four kinds; those that are no numbers with a mean are never trained."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.randn(8, 4, dtype=torch.cfloat))
        self.b = nn.Parameter(torch.randn(3, 8, dtype=torch.cfloat))
        self.scale = nn.Parameter(torch.ones(3))
        self.order = nn.Parameter(torch.tensor([2**24 + 1, 7]), requires_grad=False)
        self.flags = nn.Parameter(torch.tensor([True, False]), requires_grad=False)

    def forward(self, x):
        return ((x.to(self.a.dtype) @ self.a.T).tanh() @ self.b.T).abs() * self.scale


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_parameters_of_all_kinds_go_through_rounds(kind):
    def side(_, session):
        for sub in session.rounds(3):
            optimizer = OPTIMIZERS[kind](sub.parameters())
            session.carry(optimizer)
            for _ in range(2):
                optimizer.zero_grad()
                sub(torch.ones(5, 4)).square().sum().backward()
                optimizer.step()
        counters = session._state().counters
        return session.model(everywhere=True), {c.dtype for c in counters.values()}

    torch.manual_seed(0)
    model = Mixed()
    (one, dtypes), (other, _) = in_threads(2, side, model)
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    assert torch.equal(one.order, model.order)
    assert torch.equal(one.flags, model.flags)
    assert not torch.equal(one.a, model.a)
    assert dtypes == {torch.float32}


def test_the_state_of_another_rounds_optimizer_is_refused():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    with join(decompose(model, torch.randn(3, 4)), deal=Perm(1)) as session:
        for _ in session.rounds(1):
            with pytest.raises(ValueError, match=r"Make it inside the loop, from sub.parameters"):
                session.carry(torch.optim.SGD(model.parameters(), 0.1))
