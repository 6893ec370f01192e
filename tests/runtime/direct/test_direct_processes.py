"""Real processes over gloo, against one process."""

import subprocess
import sys

import pytest
import torch

from subnetwork.keys import INIT
from subnetwork.methods import Training
from subnetwork.methods.rows import task
from subnetwork.nets import initial_state
from subnetwork.runtime.direct import initial_parameters

FLAGS = ["--hidden", "12", "9", "--rounds", "3", "--batch-size", "8", "--optimizer", "adam"]
FLAGS += ["--step-size", "0.01"]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@pytest.mark.parametrize(
    "launch", [[], pytest.param(TORCHRUN, marks=pytest.mark.slow)], ids=["itself", "torchrun"]
)
def test_processes_equal_the_reference_bit_for_bit(launch, tmp_path):
    workers = ["--workers", "2"]
    own = [] if launch else workers
    direct = [*launch, "subnetwork", "train", *FLAGS, *own, "--exchange", "direct"]
    here = ["subnetwork", "train", *FLAGS, *workers, "--here"]
    for out, command in (("direct", direct), ("here", here)):
        subprocess.run(
            [sys.executable, "-m", *command, "--out", out],
            cwd=tmp_path,
            check=True,
            timeout=300,
            stdout=subprocess.DEVNULL,
        )
    models = [(tmp_path / out / "model.safetensors").read_bytes() for out in ("direct", "here")]
    assert models[0] == models[1]


def test_a_model_made_layer_by_layer_is_the_model_made_at_once():
    run = Training(hidden=(12, 9), workers=3, batch_size=8)
    t = task(run)
    seed = run.stream(INIT)
    whole = initial_state(t.architecture, seed=seed).params
    before = torch.random.get_rng_state()
    made = {}
    for name, p in initial_parameters(t.architecture, seed=seed):
        torch.rand(3)  # what others draw in between is no matter
        made[name] = p.clone()
    assert not torch.equal(before, torch.random.get_rng_state())
    assert made.keys() == whole.keys()
    assert all(torch.equal(made[name], p) for name, p in whole.items())
