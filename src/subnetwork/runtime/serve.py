"""The other end of a link: the loop of one worker process."""

import json
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import Tensor

from subnetwork.deals import Perm
from subnetwork.nets import NetSketch, Submodel
from subnetwork.nets.local import Local, Stoppable
from subnetwork.nets.state import ModelState, Tensors
from subnetwork.runtime.measured import peak_memory
from subnetwork.runtime.wire import (
    FrameError,
    Header,
    Link,
    Verb,
    pack,
    read_text,
    text_payload,
    unpack,
)

Template: TypeAlias = Callable[[int, int], Submodel]
"""(k, worker) -> a submodel with the names and shapes of w_i of round k."""

Build: TypeAlias = Callable[[str], tuple[Template, Local]]
"""What a job's text means: the shapes of the submodels and the local work."""

NO_ROUND = (1 << 63) - 1  # of a link that is none any more
BEAT = 1.0  # seconds between two signs of life while a job is built
DONE, GONE = 0, 3  # exit status of a worker: told to stop; the coordinator is gone


def serve(link: Link, worker: int, build: Build) -> bool:
    """Work off rounds until the coordinator says stop (True) or is gone (False).

    An exception in the local work goes to the coordinator as a traceback; the loop goes on. A frame
    that does not fit the plan ends it after a word why, since nothing after it can be trusted.
    """
    jobs: list[tuple[Template, Local]] = []
    try:
        while (header := link.receive_header(until=None)).verb != Verb.STOP:
            if header.verb == Verb.SHARES and jobs:
                shares = read_text(link.receive_payload(header, until=None))
                jobs[0] = (_shared(jobs[0][0], shares), jobs[0][1])
                continue
            answer, payload = _answer(link, worker, header, build, jobs)
            link.send(answer, payload, until=None)
    except FrameError as error:
        with suppress(OSError):
            text = text_payload(f"{type(error).__name__}: {error}")
            told = Header(Verb.FAILED, NO_ROUND, len(text))
            link.send(told, text, until=time.monotonic() + 1)
            link.drain(until=time.monotonic() + 1)
        return False
    except OSError:
        return False
    finally:
        link.close()
    return True


def _answer(
    link: Link, worker: int, header: Header, build: Build, jobs: list[tuple[Template, Local]]
) -> tuple[Header, Tensor | None]:
    """The frame that answers a frame. `jobs` holds the job in force, and takes a new one."""
    try:
        if header.verb == Verb.JOB:
            job = read_text(link.receive_payload(header, until=None))
            with _shown_alive(link):
                jobs[:] = [build(job)]
            return Header(Verb.READY), None
        if header.verb != Verb.ROUND or not jobs:
            raise FrameError(f"{header.verb.name} comes unasked for")
        template, local = jobs[0]
        return _round(worker, header, _handed_down(link, worker, header, template), local)
    except (OSError, FrameError):
        raise
    except Exception:  # whatever the local work raises is for the coordinator to show
        payload = text_payload(traceback.format_exc())
        return Header(Verb.FAILED, header.k, len(payload)), payload


@contextmanager
def _shown_alive(link: Link) -> Iterator[None]:
    """Say at once, and every second until the block is left, that a job is being built."""
    over = threading.Event()

    def tell() -> None:
        with suppress(OSError):  # who is gone is missed by whoever sends next
            link.send(Header(Verb.BUILDING), until=None)
            while not over.wait(BEAT):
                link.send(Header(Verb.BUILDING), until=None)

    telling = threading.Thread(target=tell, daemon=True)
    telling.start()
    try:
        yield
    finally:
        over.set()
        telling.join()


def _handed_down(link: Link, worker: int, header: Header, template: Template) -> Submodel:
    """w_i of a round. What fails before it is read leaves it on the link, which is none then.

    Raises:
        FrameError: it does not fit the cut, or there is no room for it.
    """
    try:
        like = template(header.k, worker)
        flat = next(like.tensors())
        entries = sum(tensor.numel() for tensor in like.tensors())
        if (header.length, header.dtype) != (entries, flat.dtype):
            raise FrameError(
                f"round {header.k} announces {header.length} entries of {header.dtype}, the cut "
                f"has {entries} of {flat.dtype}"
            )
        return unpack(link.receive_payload(header, until=None), like, header)
    except (OSError, FrameError):
        raise
    except Exception as error:
        raise FrameError(f"{type(error).__name__} before w_i was read: {error}") from error


def _round(worker: int, header: Header, submodel: Submodel, local: Local) -> tuple[Header, Tensor]:
    started = time.monotonic()
    trained = in_time(local, started + header.seconds)(header.k, worker, submodel)
    seconds = time.monotonic() - started
    flat = pack(trained)
    done = Header(
        Verb.DONE, header.k, len(flat), flat.dtype, trained.loss, trained.n_steps, seconds,
        peak_memory(),
    )  # fmt: skip
    return done, flat


def in_time(local: Local, end: float) -> Local:
    """The local work, which begins no step after `end` where it consists of steps."""
    if not isinstance(local, Stoppable):
        return local
    return local.until(lambda _: time.monotonic() > end)


@dataclass(frozen=True)
class Templates:
    """Shapes of the submodels, drawn from the shared seed."""

    sketch: NetSketch
    seed: int
    shapes: ModelState

    def __call__(self, k: int, worker: int, /) -> Submodel:
        """The shapes of w_i of round k."""
        return self.sketch.sample(self.seed, k).select(self.shapes, worker)

    def shared(self, weights: tuple[int, ...]) -> "Templates":
        """The same, dealt in these shares."""
        return replace(self, sketch=with_shares(self.sketch, weights))


def templates(sketch: NetSketch, seed: int, x: ModelState) -> Templates:
    """Shapes of the submodels, from the shared seed: what both ends of a link agree on unsent."""
    shapes = ModelState(_shapes(x.params), {name: _shapes(m) for name, m in x.moments.items()})
    return Templates(sketch, seed, shapes)


def with_shares(sketch: NetSketch, weights: tuple[int, ...]) -> NetSketch:
    """The same sketch with unequal shares.

    Raises:
        ValueError: a sketch that deals no permutation, or weights for other workers.
    """
    if not isinstance(sketch.deal, Perm):
        raise ValueError(
            f"Shares are those of a permutation, and {type(sketch.deal).__name__} deals otherwise. "
            "Use --shares equal, or --method ist or gist."
        )
    return replace(sketch, deal=Perm(sketch.deal.n_workers, weights))


def _shared(template: Template, text: str) -> Template:
    try:
        weights = tuple(map(int, json.loads(text)))
        if isinstance(template, Templates):
            return template.shared(weights)
    except (ValueError, TypeError, OverflowError) as error:
        raise FrameError(f"shares that are none: {error}") from None
    raise FrameError("shares come for a cut that has none")


def _shapes(tensors: Tensors) -> Tensors:
    return {name: tensor.to("meta") for name, tensor in tensors.items()}
