"""`join` in the user's own loop: under torchrun, against `rounds`, and what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from sessions_in_threads import in_threads
from subnetwork import Full, Perm, decompose, join, rounds
from subnetwork.algorithm import RunFailedError
from subnetwork.nets import NetSketch, holders
from subnetwork.nets.architecture import runnable
from subnetwork.nets.layout import Layout
from subnetwork.nets.state import Submodel
from subnetwork.nets.terms import Prod
from subnetwork.runtime import here
from subnetwork.runtime.carrying import State, put, read
from subnetwork.runtime.direct import agree

ROOT = Path(__file__).parents[2]
MODEL = """
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
inputs, targets = torch.randn(64, 6), torch.randn(64, 3)
model = nn.Sequential(
    nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 10), nn.Tanh(), nn.Linear(10, 3)
)


def batch(k, worker, step):
    rows = torch.arange(8) + 8 * ((k + 3 * worker + 5 * step) % 8)
    return inputs[rows % 64], targets[rows % 64]
"""
SCRIPT = (
    MODEL
    + """
import os, sys
from subnetwork import Perm, decompose, join
n, rank, kind = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]), sys.argv[1]
with join(decompose(model, inputs[:4]), deal=Perm(n), seed=7) as session:
    for sub in session.rounds(6):
        optimizer = {
            "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
            "adam": lambda p: torch.optim.Adam(p, 0.01),
        }[kind](sub.parameters())
        session.carry(optimizer)
        for step in range(3):
            x, y = batch(session.k, rank, step)
            optimizer.zero_grad()
            ((sub(x) - y) ** 2).mean().backward()
            optimizer.step()
    whole = session.model(everywhere=True)
    torch.save(whole.state_dict(), f"{kind}{rank}.pt")
    assert session.bytes_sent > 0
"""
)


def torchrun(folder, n, script, *arguments):
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    (folder / "script.py").write_text(script)
    return subprocess.run(
        [sys.executable, "-m", *launch, "script.py", *arguments],
        cwd=folder,
        timeout=240,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_users_loop_equals_the_reference_bit_for_bit(tmp_path):
    """Momentum travels by coordinate; every rank gets the model that `rounds` gives."""
    space = {}
    exec(MODEL, space)
    plan = decompose(space["model"], space["inputs"][:4])

    def local(k, i, w):
        module = runnable(plan, w)
        named = dict(module.named_parameters())
        optimizer = torch.optim.SGD(named.values(), 0.1, momentum=0.9)
        if k:
            for name, p in named.items():
                optimizer.state[p]["momentum_buffer"] = w.moments["momentum_buffer"][name].clone()
        for step in range(3):
            x, y = space["batch"](k, i, step)
            optimizer.zero_grad()
            ((module(x) - y) ** 2).mean().backward()
            optimizer.step()
        moments = {name: optimizer.state[p]["momentum_buffer"] for name, p in named.items()}
        params = {name: p.detach() for name, p in named.items()}
        return Submodel(params, {"momentum_buffer": moments})

    torch.set_num_threads(1)
    sketch = NetSketch(plan.layout, Perm(2))
    start = plan.state(moments=["momentum_buffer"])
    *_, last = rounds(start, sketch, here(local), holders, seed=7, n_rounds=6)
    done = torchrun(tmp_path, 2, SCRIPT, "sgd")
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        whole = torch.load(tmp_path / f"sgd{rank}.pt", weights_only=True)
        for name, p in last.x.params.items():
            assert torch.equal(whole[name], p), (rank, name)


def test_one_process_is_plain_training_bit_for_bit():
    """n = 1: the loop with join equals the loop without it, Adam's state and counts included."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    inputs, targets = torch.randn(32, 4), torch.randn(32, 2)
    plan = decompose(model, inputs[:3])
    with join(plan, deal=Perm(1)) as session:
        for sub in session.rounds(4):
            optimizer = torch.optim.Adam(sub.parameters(), 0.01)
            session.carry(optimizer)
            for _ in range(3):
                optimizer.zero_grad()
                ((sub(inputs) - targets) ** 2).mean().backward()
                optimizer.step()
        merged = session.model()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(12):
        optimizer.zero_grad()
        ((model(inputs) - targets) ** 2).mean().backward()
        optimizer.step()
    for ours, theirs in zip(merged.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_adam_travels_between_processes(tmp_path):
    done = torchrun(tmp_path, 3, SCRIPT, "adam")
    assert done.returncode == 0, done.stderr
    one, other = (torch.load(tmp_path / f"adam{r}.pt", weights_only=True) for r in (0, 2))
    assert all(torch.equal(one[name], other[name]) for name in one)


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


def test_an_optimizer_that_is_carried_twice_steps_once_and_is_let_go(monkeypatch):
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
        model, hooks = in_threads(monkeypatch, 2, lambda _, s, n=times: side(s, n))[0]
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
def test_a_worker_that_took_no_step_yet_makes_room_for_the_others_state(monkeypatch, idle):
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

    (one, steps, kinds), (other, _, kinds_too) = in_threads(monkeypatch, 2, side)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert kinds == kinds_too == {"exp_avg", "exp_avg_sq"}
    assert set(steps["0.bias"]) == {4.0, 6.0}


def test_several_hosts_are_told_what_to_set_up(monkeypatch):
    for name, value in (("WORLD_SIZE", 4), ("LOCAL_WORLD_SIZE", 2), ("RANK", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    plan = decompose(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(3, 4))
    with pytest.raises(ValueError, match="several hosts.*init_process_group"):
        with join(plan, deal=Perm(4)):
            pass


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
def test_parameters_of_all_kinds_go_through_rounds(monkeypatch, kind):
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
    (one, dtypes), (other, _) = in_threads(monkeypatch, 2, side, model)
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


@pytest.fixture
def group():
    """torch.distributed with this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.filterwarnings("ignore")
def test_a_subnetwork_over_several_processes_is_refused():
    """DDP would overwrite all parts with rank 0's, since every process is a worker."""
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    with join(decompose(model, torch.randn(3, 4)), deal=Perm(1)) as session:
        for sub in session.rounds(1):
            with pytest.raises(RuntimeError, match="doesn't have any parameter"):
                DistributedDataParallel(sub)
        with pytest.raises(ValueError, match=r"0.weight was sharded \(fully_shard\)"):
            for sub in session.rounds(1):
                fully_shard(sub, mesh=init_device_mesh("cpu", (1,)))


def test_state_that_is_no_coordinates_is_refused():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    with join(decompose(model, torch.randn(3, 4)), deal=Perm(1)) as session:
        with pytest.raises(ValueError, match="NAdam keeps 'mu_product'"):
            for sub in session.rounds(1):
                optimizer = torch.optim.NAdam(sub.parameters(), 0.1)
                session.carry(optimizer)
                sub(torch.randn(3, 4)).sum().backward()
                optimizer.step()


def test_a_deal_for_other_workers_than_processes_is_refused():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    plan = decompose(model, torch.randn(3, 4))
    with pytest.raises(
        ValueError, match=r"for 4 workers, but there is one process. Start torchrun"
    ):
        with join(plan, deal=Perm(4)):
            pass
    with pytest.raises(ValueError, match="wire='fp8' is none of float32, bfloat16, int8"):
        with join(plan, deal=Perm(1), wire="fp8"):
            pass


def test_axes_may_have_deals_of_their_own():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    plan = decompose(model, torch.randn(3, 4))
    first, *_ = plan.layout.sizes
    with join(plan, deal={first: Full(1), "*": Perm(1)}) as session:
        for sub in session.rounds(1):
            assert len(list(sub.parameters())) == 6
    with pytest.raises(ValueError, match="for 2 workers, but there is one process"):
        with join(plan, deal={first: Full(2), "*": Perm(2)}):
            pass


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"deal": 2}, r"deal=2 is no deal. Write Perm\(2\)"),
        ({"deal": {"*": 2}}, r"deal=2 is no deal. Write Perm\(2\)"),
        ({"seed": 1.5}, r"seed=1.5 is no whole number. Give one, such as 0"),
    ],
)
def test_what_is_no_deal_or_seed_is_refused(wrong, said):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    with pytest.raises(ValueError, match=said):
        with join(decompose(model, torch.randn(3, 4)), **{"deal": Perm(1), **wrong}):
            pass


def test_carry_outside_of_a_round_is_refused():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    said = r"carry was called where no round goes on. Call it in the body"
    with join(decompose(model, torch.randn(3, 4)), deal=Perm(1)) as session:
        with pytest.raises(ValueError, match=said):
            session.carry(torch.optim.SGD(model.parameters(), 0.1))
        for sub in session.rounds(1):
            optimizer = torch.optim.SGD(sub.parameters(), 0.1)
        with pytest.raises(ValueError, match=said):
            session.carry(optimizer)


def test_batch_statistics_are_named():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    inputs = torch.randn(32, 4)
    with join(decompose(model, inputs), deal=Perm(1)) as session:
        for sub in session.rounds(1):
            sub(inputs)
        with pytest.warns(UserWarning, match="1 normalisations.*stream="):
            session.model()
        whole = session.model(stream=lambda: [inputs])
    torch.testing.assert_close(whole[1].running_mean, model[0](inputs).mean(0))


def test_a_subnetwork_may_be_trained_in_another_type():
    """What comes back is rounded as it was trained; the state of the optimizer travels."""
    torch.manual_seed(0)
    model, inputs = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(6, 4)
    with join(decompose(model, inputs), deal=Perm(1)) as session:
        for sub in session.rounds(3):
            sub.to(torch.bfloat16)
            optimizer = torch.optim.AdamW(sub.parameters(), 0.1)
            session.carry(optimizer)
            sub(inputs.bfloat16()).square().mean().backward()
            optimizer.step()
            trained = {name: p.detach().float() for name, p in sub.named_parameters()}
        whole = session.model()
    assert all(torch.equal(p, trained[name]) for name, p in whole.named_parameters())
    assert not torch.equal(whole[0].weight, model[0].weight)


def test_ranks_that_disagree_are_told_before_anything_moves():
    def links(post):
        post.into[1][0].copy_(torch.tensor([2, 8], dtype=torch.int64).view(torch.uint8))

    with pytest.raises(RunFailedError, match="rank 1 has another plan, deal, seed or wire"):
        agree(links, 0, [2, 7])
    agree(links, 0, [2, 8])


def test_the_example_runs_under_torchrun(tmp_path):
    script = (ROOT / "examples" / "join_torchrun.py").read_text()
    done = torchrun(tmp_path, 2, script)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.strip().splitlines()
    assert first.startswith("round 0: loss 2.3")
    assert float(last.split()[1].rstrip("%,")) > 85
    assert (tmp_path / "model.pt").exists()


def test_the_loop_of_the_page_runs():
    """docs/join.md, in one process."""
    page = (ROOT / "docs" / "join.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    torch.manual_seed(0)
    names = {
        "torch": torch,
        "cross_entropy": nn.functional.cross_entropy,
        "model": nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)),
        "inputs": torch.randn(16, 4),
        "targets": torch.randint(2, (16,)),
        "world": 1,
    }
    names |= {"example_batch": names["inputs"], "batches_of_inputs": lambda: [names["inputs"]]}
    exec(code, names)
    assert names["session"].k == 20
    assert nn.functional.cross_entropy(names["whole"](names["inputs"]), names["targets"]) < 0.1
