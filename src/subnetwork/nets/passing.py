"""A network tested while its parameters pass by: each is there as long as something computes.

The batches run side by side, one thread each, of which one moves at a time: as far as the next
operation that takes a parameter, or the next normalisation whose statistics are not known yet.
When all have come so far, the parameter is fetched, and they go on with it. A forward that leaves
something of its batch on the module for a later layer is not made for that.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode, get_default_nowrap_functions
from torch.utils._pytree import tree_leaves, tree_map

from subnetwork.nets.calibrate import gathers, pool, reading
from subnetwork.nets.data import Inputs
from subnetwork.nets.evaluate import Scores, called, scored
from subnetwork.nets.losses import Loss

Fetch: TypeAlias = Callable[[Sequence[str]], Mapping[str, Tensor]]
"""Names of parameters -> their values."""

STACK = 2 << 20
"""Bytes of a thread's stack: products are computed elsewhere, and the usual 8 MiB count as memory
where that is limited."""

OF_SHAPES = get_default_nowrap_functions() | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.stride}
"""What is asked of a parameter and needs no values."""


def passing_scores(
    model: nn.Module,
    fetch: Fetch,
    stream: Iterable[Inputs],
    pairs: Iterable[tuple[Inputs, Tensor]],
    loss: Loss,
) -> Scores:
    """What `recalibrate` and `scores` find of a model, to the bit, and its batch statistics in it.

    In memory are the parameters of one operation and what all batches are there. Afterwards the
    model's normalisations have their statistics.

    Args:
        model: whose parameters are on the meta device, where they stay; its buffers have values.
        fetch: gives parameters their values, by name; the first name of tied ones.
        stream: batches of inputs that the batch statistics are of.
        pairs: batches of inputs and targets that it is tested on.
        loss: of the outputs beside the targets.

    Raises:
        ValueError: a normalisation is run twice, or by test batches alone, or there is no batch
            that its statistics could be of.
    """
    model.eval()
    norms = {norm for norm in model.modules() if gathers(norm)}
    seen = [_Course(model, batch) for batch in (stream if norms else ())]
    if norms and not seen:
        raise ValueError("The stream is without a batch: there are no statistics.")
    tested, targets = [], []
    for inputs, target in pairs:
        tested.append(_Course(model, inputs))
        targets.append(target)
    courses = [*seen, *tested]

    def await_statistics(norm: _NormBase, inputs: Tensor) -> None:
        next(course for course in courses if course.moves_here).await_statistics(norm, inputs)

    with torch.no_grad(), reading(norms, await_statistics), _running(courses):
        _run(fetch, norms, seen, tested)
    return scored(((c.output(), t) for c, t in zip(tested, targets, strict=True)), loss)


@dataclass(frozen=True, eq=False)
class _Operation:
    """A batch waits for what becomes of it and of these parameters."""

    names: tuple[str, ...]
    compute: Callable[[Mapping[str, Tensor]], object]


@dataclass(frozen=True, eq=False)
class _Statistics:
    """A batch waits for those of a normalisation that it is the input of."""

    norm: _NormBase
    inputs: Tensor


def _run(
    fetch: Fetch, norms: set[_NormBase], seen: Sequence["_Course"], tested: Sequence["_Course"]
) -> None:
    """Take all test batches to their end, and those that statistics are of as far as is needed."""
    known: set[_NormBase] = set()
    for course in (*seen, *tested):
        course.go_on()
    while any(course.waits for course in tested):
        if not _calibrated(norms, known, seen) and not _past(known, tested):
            _compute(fetch, [course for course in (*seen, *tested) if course.waits])


def _calibrated(norms: set[_NormBase], known: set[_NormBase], seen: Sequence["_Course"]) -> bool:
    """Set a normalisation's statistics, if all batches that they are of wait for them."""
    waits = [course.waits for course in seen]
    if known == norms or not all(isinstance(each, _Statistics) for each in waits):
        return False
    known.add(_pooled(waits))
    for course in seen:
        course.go_on() if known < norms else course.end()
    return True


def _past(known: set[_NormBase], tested: Sequence["_Course"]) -> bool:
    """Have test batches go on that wait for statistics which are known; whether there are any."""
    late = [c for c in tested if isinstance(c.waits, _Statistics) and c.waits.norm in known]
    for course in late:
        course.go_on()
    return bool(late)


def _compute(fetch: Fetch, waiting: Sequence["_Course"]) -> None:
    """Fetch the parameters that the first batch waits for, and have all go on that do.

    Here, and not in the threads: each would have buffers of its own for its products.
    """
    wanted = next((c.waits.names for c in waiting if isinstance(c.waits, _Operation)), None)
    if wanted is None:
        raise ValueError(
            "A normalisation is run by test batches and by none of those that its statistics are "
            "of. Test the model whole."
        )
    values = fetch(wanted)
    for course in waiting:
        if isinstance(course.waits, _Operation) and course.waits.names == wanted:
            course.go_on(course.waits.compute(values))


def _pooled(waiting: Sequence[object]) -> _NormBase:
    """Set the statistics of the normalisation that all batches wait for."""
    first, *_ = waits = [w for w in waiting if isinstance(w, _Statistics)]
    if any(w.norm is not first.norm for w in waits):
        raise ValueError(
            "A normalisation is run by some of the batches that its statistics are of, and others "
            "are run by another one first. Test the model whole."
        )
    pooled = pool(first.norm)
    for each in waits:
        pooled.add(each.inputs)
    pooled.write_to(first.norm)
    return first.norm


class _Left(BaseException):
    """The rest of a forward pass is not wanted."""


class _Course:
    """A batch on its way through the model, in a thread that moves when it is told to."""

    def __init__(self, model: nn.Module, batch: object) -> None:
        self.waits: _Operation | _Statistics | None = None  # None: it is through, or not begun
        self._passed: set[_NormBase] = set()
        self._names = {p: name for name, p in model.named_parameters()}
        self._given: object = None
        self._told, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._left = False
        self._failed: BaseException | None = None
        self._result: Tensor | None = None
        self._thread = threading.Thread(target=self._move, args=(model, batch), daemon=True)
        self._threads = torch.get_num_threads()

    def go_on(self, given: object = None) -> None:
        """Move as far as to what is waited for next."""
        self.waits, self._given = None, given
        if self._thread.ident is None:
            usual = threading.stack_size(STACK)
            self._thread.start()
            threading.stack_size(usual)
        else:
            self._told.release()
        self._stands.acquire()
        if self._failed is not None:
            raise self._failed

    def end(self) -> None:
        """Leave the forward pass where it stands."""
        if self._thread.ident is not None and self._thread.is_alive():
            self._left = True
            self._told.release()
            self._thread.join()

    def output(self) -> Tensor:
        """Of the model, once it is through."""
        assert self._result is not None
        return self._result

    @property
    def moves_here(self) -> bool:
        """Whether it is this thread that asks."""
        return self._thread is threading.current_thread()

    def await_statistics(self, norm: _NormBase, inputs: Tensor) -> None:
        """Called in the thread, before a normalisation: stand until its statistics are known."""
        if norm in self._passed:
            raise ValueError(
                "A normalisation is run twice by a batch: its statistics would depend on "
                "themselves. Test the model whole."
            )
        self._passed.add(norm)
        self.need(_Statistics(norm, inputs))

    def need(self, waits: _Operation | _Statistics) -> object:
        """Called in the thread: stand until told to go on, with what is given then."""
        self.waits = waits
        self._stands.release()
        self._told.acquire()
        if self._left:
            raise _Left
        given, self._given = self._given, None
        return given

    def _move(self, model: nn.Module, batch: object) -> None:
        torch.set_num_threads(self._threads)
        try:
            with torch.no_grad(), _Asking(self._names, self.need):
                self._result = called(model, batch)
        except _Left:
            pass
        except BaseException as problem:  # whatever it is: who told it to move raises it
            self._failed = problem
        self.waits = None
        self._stands.release()


@contextmanager
def _running(courses: Sequence[_Course]) -> Iterator[None]:
    try:
        yield
    finally:
        for course in courses:
            course.end()


class _Asking(TorchFunctionMode):
    """Has every operation on parameters wait until it is computed, with their values."""

    def __init__(
        self, names: Mapping[nn.Parameter, str], need: Callable[[_Operation], object]
    ) -> None:
        super().__init__()
        self._names, self._need = names, need

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """What the operation returns."""
        del types
        call = (args, kwargs or {})
        own = [self._names[x] for x in tree_leaves(call) if self._is_own(x)]
        if func in OF_SHAPES or not own:
            return func(*call[0], **call[1])

        def compute(values: Mapping[str, Tensor]) -> object:
            args, kwargs = tree_map(
                lambda x: values[self._names[x]] if self._is_own(x) else x, call
            )
            return func(*args, **kwargs)

        return self._need(_Operation(tuple(dict.fromkeys(own)), compute))

    def _is_own(self, x: object) -> TypeGuard[nn.Parameter]:
        return isinstance(x, nn.Parameter) and x in self._names
