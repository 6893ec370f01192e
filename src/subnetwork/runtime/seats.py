"""One seat per worker, and the Work that spans them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol, TypeVar

from subnetwork.algorithm import Work, WorkerLostError
from subnetwork.nets import NetPartition, Submodel
from subnetwork.nets.local import Local
from subnetwork.runtime.wire import Header, Link, Verb, pack, read_text, text_payload, unpack

T = TypeVar("T")

DEADLINE = timedelta(seconds=300)  # for one worker's round


class Seat(Protocol):
    """Where one worker sits."""

    def assign(self, job: str, local: Local, /) -> Callable[[], None]:
        """Tell the worker what the coming rounds are about; the returned function waits for it."""
        ...

    def start(self, k: int, submodel: Submodel, /) -> Callable[[], Submodel]:
        """Hand down w_i of round k; the returned function waits for z_i^+."""
        ...


def seated(seats: Sequence[Seat]) -> Work[NetPartition, Submodel]:
    """Lines 4-8 with every worker at its seat: all start, then all are waited for in order."""

    def work(k: int, partition: NetPartition, submodels: Sequence[Submodel], /) -> list[Submodel]:
        del partition  # drawn again by each worker, from the same key
        waiting = [seat.start(k, w) for seat, w in zip(seats, submodels, strict=True)]
        return [finish() for finish in waiting]

    return work


class InProcess:
    """A worker of this process: it trains when it is waited for, while the others train too."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._local: Local | None = None

    def assign(self, job: str, local: Local, /) -> Callable[[], None]:
        """Take the local work as it is."""
        del job
        self._local = local
        return lambda: None

    def start(self, k: int, submodel: Submodel, /) -> Callable[[], Submodel]:
        """Train on the spot once everyone else has started."""
        assert self._local is not None, "a job is assigned before the first round"
        local = self._local
        return lambda: local(k, self._worker, submodel)


@dataclass(frozen=True)
class Remote:
    """A worker in another process, behind its own link."""

    worker: int
    link: Link
    fate: Callable[[], str]  # what became of the process, for the message

    def assign(self, job: str, local: Local, /) -> Callable[[], None]:
        """Send the job, from which the worker builds the same local work for itself."""
        del local
        payload = text_payload(job)
        when = "taking a job"
        header = Header(Verb.JOB, length=len(payload))
        sending = self._guarded(when, lambda: self.link.send(header, payload))

        def ready() -> None:
            self._guarded(when, lambda: sending.wait(DEADLINE))
            self._guarded(when, lambda: self._expect(Verb.READY, 0, 0, when))

        return ready

    def start(self, k: int, submodel: Submodel, /) -> Callable[[], Submodel]:
        """Start sending w_i; the returned function receives z_i^+."""
        flat = pack(submodel)
        header = Header(Verb.ROUND, k, len(flat), flat.dtype)
        when = f"round {k}"
        sending = self._guarded(when, lambda: self.link.send(header, flat))

        def finish() -> Submodel:
            self._guarded(when, lambda: sending.wait(DEADLINE))
            return self._guarded(when, lambda: self._receive(k, submodel))

        return finish

    def _receive(self, k: int, like: Submodel) -> Submodel:
        entries = sum(tensor.numel() for tensor in like.tensors())
        header = self._expect(Verb.DONE, k, entries, f"round {k}")
        return unpack(self.link.receive_payload(header, DEADLINE), like, header.loss)

    def _expect(self, verb: Verb, k: int, length: int, when: str) -> Header:
        header = self.link.receive_header(DEADLINE)
        if header.verb == Verb.FAILED:
            reason = read_text(self.link.receive_payload(header, DEADLINE))
            raise WorkerLostError(f"worker {self.worker} failed in {when}: {reason}")
        if (header.verb, header.k, header.length) != (verb, k, length):
            raise WorkerLostError(
                f"worker {self.worker} answered {when} with {header}, not with {length} entries. "
                "Run again; if it stays so, report it."
            )
        return header

    def _guarded(self, when: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except WorkerLostError:
            raise
        except RuntimeError:
            raise WorkerLostError(
                f"worker {self.worker} was lost in {when}: {self.fate()}. "
                "This version does not go on without it; run the command again."
            ) from None
