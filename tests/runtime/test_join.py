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

from subnetwork import Full, Perm, decompose, join, rounds
from subnetwork.algorithm import RunFailedError
from subnetwork.nets import NetSketch, holders
from subnetwork.nets.architecture import runnable
from subnetwork.nets.state import Submodel
from subnetwork.runtime import here
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


def test_several_hosts_are_told_what_to_set_up(monkeypatch):
    for name, value in (("WORLD_SIZE", 4), ("LOCAL_WORLD_SIZE", 2), ("RANK", 1)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    plan = decompose(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), torch.randn(3, 4))
    with pytest.raises(ValueError, match="several hosts.*init_process_group"):
        with join(plan, deal=Perm(4)):
            pass


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
