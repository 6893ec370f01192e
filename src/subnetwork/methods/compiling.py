"""`--compile`: the modules of subnetworks by torch.compile, one graph for each shape of a part."""

import os
import shutil
import sys
from dataclasses import replace
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from subnetwork.nets import ModelState, NetSketch
from subnetwork.nets.local import Local, Stoppable
from subnetwork.nets.modules import Modules
from subnetwork.nets.state import Tensors

BACKEND = "inductor"
GRAPHS = 8  # torch gives a module's code up after so many
LOOKED_AT = 256  # rounds whose parts are looked at beforehand: drawing a cut takes milliseconds

Shapes: TypeAlias = tuple[tuple[str, tuple[int, ...]], ...]


def compiled_modules() -> Modules:
    """Modules that are compiled whole, for constant shapes; what cannot be is an error.

    Raises:
        ValueError: there is no C++ compiler.
    """
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if BACKEND == "inductor" and shutil.which(compiler) is None:
        raise ValueError(
            f"--compile needs the C++ compiler {compiler}, which is not there. Install it, name "
            "another one in the environment as CXX, or leave --compile out."
        )
    return Modules(_compiled)


def _compiled(module: nn.Module) -> nn.Module:
    return cast(nn.Module, torch.compile(module, fullgraph=True, dynamic=False, backend=BACKEND))


def parts(
    x: ModelState, sketch: NetSketch, seed: int, n_rounds: int
) -> dict[Shapes, tuple[int, int]]:
    """The shapes that parts have in the first rounds, each with a (round, worker) that has it."""
    on_meta = ModelState({name: p.to("meta") for name, p in x.params.items()})
    found: dict[Shapes, tuple[int, int]] = {}
    for k in range(min(n_rounds, LOOKED_AT)):
        partition = sketch.sample(seed, k)
        for worker in range(partition.n_workers):
            params = partition.select(on_meta, worker).params
            shapes = tuple((name, tuple(p.shape)) for name, p in params.items())
            found.setdefault(shapes, (k, worker))
    found.pop((), None)  # of a worker that has no network in some round
    return found


def check_shapes(method: str, shapes: dict[Shapes, tuple[int, int]]) -> None:
    """Raise ValueError where parts come in more shapes than there may be graphs."""
    if len(shapes) > GRAPHS:
        raise ValueError(
            f"--compile makes a graph for each shape, and parts of {method} have {len(shapes)} "
            f"shapes here, more than the {GRAPHS} that torch keeps. Leave --compile out, or use "
            "sizes that --workers divides."
        )


def warm(
    x: ModelState, sketch: NetSketch, seed: int, local: Local, shapes: dict[Shapes, tuple[int, int]]
) -> None:
    """Take one step on a part of each shape, so that no round has to wait for the compiler.

    Of x the shapes count, which may be all that there is of it: every part is zeros.
    """
    once = local.until(lambda _: True) if isinstance(local, Stoppable) else local
    for k, worker in shapes.values():
        part = sketch.sample(seed, k).select(x, worker)
        moments = {moment: _zeros(tensors) for moment, tensors in part.moments.items()}
        once(k, worker, replace(part, params=_zeros(part.params), moments=moments))


def _zeros(tensors: Tensors) -> dict[str, Tensor]:
    return {name: torch.zeros_like(t, device="cpu") for name, t in tensors.items()}
