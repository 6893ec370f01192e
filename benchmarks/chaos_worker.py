"""A worker process that does wrong when it is told to: `chaos.py` starts it, never a user.

An order is a file in the folder that CHAOS names: WORKER holds the kind. It is carried out in the
next round of that worker, once.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from subnetwork.methods import worker
from subnetwork.nets import Submodel
from subnetwork.nets.local import Local, Stoppable
from subnetwork.runtime import launch
from subnetwork.runtime.serve import Template
from subnetwork.runtime.wire import HEADER, Header, Link, Verb

SLOW = float(os.environ.get("CHAOS_SLOW", "2.4"))
"""Seconds more for each local step: over 0.75 of the least deadline, 3 s, and below it."""
VALUES = {"nan": float("nan"), "inf": float("inf"), "huge": 1e25}
FRAMES: list[str] = []  # what is to be wrong with the next answer


@dataclass(frozen=True)
class Sabotaged:
    """The local work of a worker, which looks for an order in each round."""

    local: Local
    stop: Callable[[int], bool] = lambda _: False

    def until(self, stop: Callable[[int], bool], /) -> "Sabotaged":
        """The same work that ends early."""
        return replace(self, stop=stop)

    def __call__(self, k: int, i: int, submodel: Submodel, /) -> Submodel:
        """The round's work, or what was ordered."""
        order, local = ordered(i), self.local
        if order == "error":
            raise RuntimeError("an exception of the local work")
        if order == "out of memory":
            raise MemoryError("out of memory")
        if isinstance(local, Stoppable):
            local = local.until(lambda n: self._slowly(order) or self.stop(n))
        trained = local(k, i, submodel)
        if order in VALUES:
            with torch.no_grad():
                next(iter(trained.params.values())).view(-1)[0] = VALUES[order]
        elif order in ("frame", "short"):
            FRAMES.append(order)
        return trained

    def _slowly(self, order: str) -> bool:
        if order == "slow":
            time.sleep(SLOW)
        return False


def ordered(i: int) -> str:
    """The order for a worker, which is taken away; nothing where there is none."""
    path = Path(os.environ["CHAOS"]) / str(i)
    with suppress(OSError):
        order = path.read_text()
        path.unlink()
        return order
    return ""


class BadLink(Link):
    """A link that damages or cuts off the answer that it is told to."""

    def send(self, header: Header, payload: Any = None, *, until: float | None) -> None:  # noqa: ANN401
        """Send a frame, or what is none."""
        if header.verb != Verb.DONE or not FRAMES:
            super().send(header, payload, until=until)
        elif FRAMES.pop() == "frame":
            self.socket.sendall(os.urandom(HEADER + 200))
        else:
            super().send(replace(header, length=header.length - 1), payload[:-1], until=until)


def build(job: str) -> tuple[Template, Local]:
    """The job of a worker, sabotaged."""
    template, local = worker.build(job)
    return template, Sabotaged(local)


def main(arguments: list[str]) -> int:
    """A worker's life, with links that can be told to do harm."""
    connect = launch.connect
    launch.connect = lambda *a: BadLink(connect(*a).socket)
    return launch.work_here(Path(arguments[0]), int(arguments[1]), build)
