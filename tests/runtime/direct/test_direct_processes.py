"""Real processes over gloo, against `rounds` in this one."""

import subprocess
import sys
from dataclasses import replace

import torch
from safetensors.torch import load_file

from subnetwork import rounds
from subnetwork.keys import INIT
from subnetwork.methods import Training
from subnetwork.methods.rows import method, task
from subnetwork.nets import initial_state
from subnetwork.runtime import here
from subnetwork.runtime.direct import initial_parameters

RUN = Training(hidden=(12, 9), workers=3, rounds=4, local_steps=2, batch_size=8, momentum=0.5)

RANK = """
import sys
import torch, torch.distributed as dist
from pathlib import Path
from safetensors.torch import save_file
from subnetwork.keys import INIT
from subnetwork.methods import Training
from subnetwork.methods.rows import method, task
from subnetwork.runtime.direct import *

folder, rank = Path(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
for text in sys.argv[3:]:
    run = Training.from_json(text)
    t = task(run)
    row = method(t)
    n = run.workers
    store = dist.FileStore(str(folder / run.method), n)
    links = over(meet(store, rank, n, host="127.0.0.1"), rank)
    like = {name: p.to("meta") for name, p in row.x.params.items()}
    draws = Draws(row.sketch, like, row.seed)
    agree(links, rank, digest(draws, "float32"))
    x = with_moments(initial_parameters(t.architecture, seed=run.stream(INIT)), (*row.x.moments,))
    held = taken(draws, rank, 0, x)
    for done in direct_rounds(held, draws, rank, row.local, links, n_rounds=row.n_rounds):
        whole = {
            f"{plane}/{name}": tensor
            for name, planes in whole_parameters(done.held, draws, rank, links, to=(1,))
            for plane, tensor in planes.items()
        }
        assert bool(whole) == (rank == 1)
        if whole:
            save_file(whole, folder / f"{run.method}{done.k}.safetensors")
"""


def test_processes_equal_the_reference_bit_for_bit(tmp_path):
    torch.set_num_threads(1)
    runs = [replace(RUN, method=name) for name in ("ist", "local_sgd")]
    texts = [run.to_json() for run in runs]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path), str(rank), *texts],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RUN.workers)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    for run in runs:
        row = method(task(run))
        reference = rounds(
            row.x, row.sketch, here(row.local), row.merge, seed=row.seed, n_rounds=row.n_rounds
        )
        for done in reference:
            whole = load_file(tmp_path / f"{run.method}{done.k}.safetensors")
            for parameter, value in done.x.params.items():
                assert torch.equal(whole[f"/{parameter}"], value), (done.k, parameter)
                for moment, tensors in done.x.moments.items():
                    assert torch.equal(whole[f"{moment}/{parameter}"], tensors[parameter])


def test_a_model_made_layer_by_layer_is_the_model_made_at_once():
    t = task(RUN)
    seed = RUN.stream(INIT)
    whole = initial_state(t.architecture, seed=seed).params
    before = torch.random.get_rng_state()
    made = {}
    for name, p in initial_parameters(t.architecture, seed=seed):
        torch.rand(3)  # what others draw in between is no matter
        made[name] = p.clone()
    assert not torch.equal(before, torch.random.get_rng_state())
    assert made.keys() == whole.keys()
    assert all(torch.equal(made[name], p) for name, p in whole.items())
