"""The other end of a link: the loop of one worker process."""

import traceback
from collections.abc import Callable
from datetime import timedelta
from typing import TypeAlias

from subnetwork.nets import NetSketch, Submodel
from subnetwork.nets.local import Local
from subnetwork.nets.state import ModelState, Tensors
from subnetwork.runtime.wire import Header, Link, Verb, pack, read_text, text_payload, unpack

Template: TypeAlias = Callable[[int, int], Submodel]
"""(k, worker) -> a submodel with the names and shapes of w_i of round k."""

Build: TypeAlias = Callable[[str], tuple[Template, Local]]
"""What a job's text means: the shapes of the submodels and the local work."""

PATIENCE = timedelta(days=7)  # for the next round; a coordinator that dies closes the link at once


def serve(link: Link, worker: int, build: Build) -> None:
    """Work off rounds until the coordinator says stop or is gone.

    An exception in the local work goes to the coordinator as text, and the loop ends.
    """
    template: Template | None = None
    local: Local | None = None
    while True:
        try:
            header = link.receive_header(PATIENCE)
        except RuntimeError:
            return  # the coordinator is gone: nobody waits for this worker
        if header.verb == Verb.STOP:
            return
        try:
            if header.verb == Verb.JOB:
                template, local = build(read_text(link.receive_payload(header, PATIENCE)))
                link.send(Header(Verb.READY)).wait(PATIENCE)
                continue
            assert header.verb == Verb.ROUND
            assert template is not None
            assert local is not None
            _round(link, worker, header, template(header.k, worker), local)
        except Exception as error:
            _report(link, header.k, error)
            return


def _round(link: Link, worker: int, header: Header, like: Submodel, local: Local) -> None:
    entries = sum(tensor.numel() for tensor in like.tensors())
    if header.length != entries:
        raise RuntimeError(
            f"round {header.k} announces {header.length} entries, the cut has {entries}"
        )
    submodel = unpack(link.receive_payload(header, PATIENCE), like, header.loss)
    trained = local(header.k, worker, submodel)
    flat = pack(trained)
    link.send(Header(Verb.DONE, header.k, len(flat), flat.dtype, trained.loss), flat).wait(PATIENCE)


def _report(link: Link, k: int, error: Exception) -> None:
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error} ({last.name}, line {last.lineno} of {last.filename})"
    payload = text_payload(text)
    try:
        link.send(Header(Verb.FAILED, k, len(payload)), payload).wait(timedelta(seconds=5))
    except RuntimeError:
        return  # the coordinator is gone too


def templates(sketch: NetSketch, seed: int, x: ModelState) -> Template:
    """Shapes of the submodels, from the shared seed: what both ends of a link agree on unsent."""
    shapes = ModelState(_shapes(x.params), {name: _shapes(m) for name, m in x.moments.items()})
    return lambda k, worker: sketch.sample(seed, k).select(shapes, worker)


def _shapes(tensors: Tensors) -> Tensors:
    return {name: tensor.to("meta") for name, tensor in tensors.items()}
