"""One seat per worker. Who sits in it may die and be replaced; the seat stays."""

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from subnetwork.algorithm import WorkerLostError
from subnetwork.nets import ABSENT, Submodel
from subnetwork.nets.local import Local
from subnetwork.runtime.background import Background
from subnetwork.runtime.faults import FAILED, FROZEN, LOST, REFUSED, SLOW, Fault, last_line
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

JOB_SECONDS = 300.0  # for a worker to build what a job is about
TAKING = 3.0  # seconds until it says that it does
SILENT = 30.0  # between two signs of life meanwhile: what it calls may let no thread run
RETURNS = 5  # workers in a row that may sit down in a seat and leave it without one answer
ENDING = 0.1  # seconds from a closed link until the system knows how its process ended
STEPPING = 0.75  # of the time until the deadline, in which local steps may begin


@dataclass(frozen=True)
class Answer:
    """What became of one worker's part of a round."""

    trained: Submodel  # z_i^+; ABSENT where there is none
    fault: Fault | None = None  # why there is none, or what was wrong with it
    seconds: float = math.nan  # spent on local steps
    answered: float = math.nan  # when the coordinator had it, by time.monotonic
    down: int = 0  # bytes that went over the socket for it
    up: int = 0
    peak: int = 0  # bytes of memory that the worker's process has held at most; 0: not known


class Seat(Protocol):
    """Where one worker sits."""

    def assign(self, job: str, local: Local, /) -> Callable[[], None]:
        """Tell the worker what the coming rounds are about; the returned function waits for it.

        It raises WorkerLostError where the worker cannot do the job. Others may.
        """
        ...

    def present(self) -> bool:
        """Whether a worker that knows the job sits here; lets in who has come since."""
        ...

    def deal(self, weights: tuple[int, ...], /) -> None:
        """From the next round on the units are dealt in these shares (see `Perm`)."""
        ...

    def start(self, k: int, submodel: Submodel, until: float, /) -> Callable[[], Answer]:
        """Hand down w_i of round k; the returned function waits for z_i^+, `until` at most."""
        ...

    def dismiss(self, *, for_good: bool) -> None:
        """Part with the worker. Another one may sit down, but not where it is `for_good`."""
        ...

    def closed(self) -> bool:
        """Whether nobody can sit down here any more."""
        ...

    def left(self) -> list[str]:
        """What became of workers that left before their first round; each is told once."""
        ...

    def fate(self) -> str:
        """What became of the worker, in words."""
        ...


class Door(Protocol):
    """How workers get to one remote seat."""

    def arrived(self) -> Link | None:
        """The newest link of a worker that came since this was last asked, or None."""
        ...

    def dismissed(self, *, for_good: bool) -> None:
        """The worker's link was closed: end what is left of it, send for another one."""
        ...

    def fate(self, wait: float = 0.0, /) -> str:
        """What became of the worker, in words; waits so many seconds for its end to be known."""
        ...


class Remote:
    """The seat of a worker in another process. Every wait for it is a thread of its own."""

    def __init__(self, worker: int, door: Door) -> None:
        self._worker = worker
        self._door = door
        self._job: str | None = None
        self._link: Link | None = None  # of who sits here and knows the job
        self._settling: _Settling | None = None  # who came, while it builds the job
        self._in_vain = 0  # workers that sat here one after another and returned nothing
        self._out = False
        self._left: list[str] = []
        self._weights: tuple[int, ...] = ()  # of the deal; none: those of the job
        self._told: tuple[int, ...] = ()  # to who sits here
        self._round: Background[Answer] | None = None  # the newest one

    def assign(self, job: str, local: Local, /) -> Callable[[], None]:
        """Send the job, from which the worker builds the same local work for itself."""
        del local
        self._admit()
        self._job, self._weights = job, ()
        link, self._link = self._link, None
        if link is None:
            return lambda: None  # whoever comes is told then
        building = self._settle(link, job).building

        def ready() -> None:
            try:
                building.result()
            except (OSError, FrameError) as error:
                self._lost(error)  # the first round goes on without it
            except WorkerLostError as error:
                self._lost(error)
                raise

        return ready

    def deal(self, weights: tuple[int, ...], /) -> None:
        """Told to whoever sits here with its next round: it draws the cut by itself."""
        self._weights = weights

    def present(self) -> bool:
        """Whether somebody sits here who knows the job. Never waits for anyone."""
        self._admit()
        return self._link is not None

    def start(self, k: int, submodel: Submodel, until: float, /) -> Callable[[], Answer]:
        """Exchange w_i for z_i^+ beside the other seats."""
        link = self._link
        assert link is not None, "only a seat that is present starts"
        started = time.monotonic()
        self._round = Background(lambda: self._counted(link, k, submodel, started, until))
        return self._round.result

    def dismiss(self, *, for_good: bool) -> None:
        """Close the link, then the door sees to what is left of the worker."""
        for link in self._links():
            link.close()
        self._link = self._settling = None
        self._in_vain += 1
        self._out = self._out or for_good or self._in_vain > RETURNS
        self._door.dismissed(for_good=self._out)

    def closed(self) -> bool:
        """Whether a worker was dismissed for good, or too many came in vain."""
        return self._out

    def left(self) -> list[str]:
        """What became of workers between sitting down and their first round."""
        told, self._left = self._left, []
        return told

    def fate(self) -> str:
        """What the door knows."""
        return self._door.fate()

    def leave(self) -> None:
        """Tell who sits here, and who was about to, that the work is done."""
        for link in self._links():
            _send_away(link)
        self.close()

    def close(self) -> None:
        """Close all links, and see to it that nothing of this seat runs on."""
        for link in self._links():
            link.close()
        running = [self._round, self._settling.building if self._settling is not None else None]
        self._link = self._settling = self._round = None
        for background in running:
            if background is not None:
                background.end()

    def _lost(self, error: Exception) -> None:
        """Part with a worker that left while it built its job; another one may come."""
        self._left.append(f"{error}; {self._door.fate(ENDING)}")
        self.dismiss(for_good=False)

    def _links(self) -> list[Link]:
        """All that there are to this seat's worker, of this incarnation or the next."""
        settling = self._settling.link if self._settling is not None else None
        links = (self._link, settling, self._door.arrived())
        return [link for link in links if link is not None]

    def _admit(self) -> None:
        """Let in who has come; it gets the job in the background and sits down at a later call."""
        link = self._door.arrived()
        if link is not None and self._out:
            _send_away(link)
        elif link is not None and self._job is None:  # there is no job yet
            self._sit_down(link)
        elif link is not None:
            self._settle(link, self._job or "")
        if self._settling is not None and self._settling.building.done():
            self._settled(self._settling)

    def _settle(self, link: Link, job: str) -> "_Settling":
        if self._settling is not None:
            self._settling.link.close()  # the newest incarnation is the worker
        building = Background(lambda: self._brief(link, job))
        self._settling = _Settling(link, job, building)
        return self._settling

    def _settled(self, settling: "_Settling") -> None:
        self._settling = None
        try:
            settling.building.result()
        except (OSError, FrameError, WorkerLostError) as error:
            settling.link.close()
            self._lost(error)
            return
        if settling.job == self._job:
            self._sit_down(settling.link)
        else:  # there is another job by now
            self._settle(settling.link, self._job or "")

    def _sit_down(self, link: Link) -> None:
        if self._link is not None:
            self._link.close()
        self._link, self._told = link, ()

    def _brief(self, link: Link, job: str) -> None:
        payload, until = text_payload(job), time.monotonic() + JOB_SECONDS
        link.send(Header(Verb.JOB, length=len(payload)), payload, until=time.monotonic() + TAKING)
        header = _built(link, until)
        if header.verb == Verb.FAILED:
            text = read_text(link.receive_payload(header, until=until))
            reason = last_line(text)
            raise WorkerLostError(f"worker {self._worker} failed in taking a job: {reason}")
        _expect(header, Header(Verb.READY))

    def _counted(
        self, link: Link, k: int, submodel: Submodel, started: float, until: float
    ) -> Answer:
        """The exchange, with the time of its end and the bytes that it moved."""
        before = replace(link.moved)
        answer = self._exchange(link, k, submodel, started, until)
        down, up = link.moved.sent - before.sent, link.moved.received - before.received
        return replace(answer, answered=time.monotonic(), down=down, up=up)

    def _tell_shares(self, link: Link, k: int, until: float) -> None:
        if self._weights != self._told:
            link.send(*_sent_text(Verb.SHARES, k, json.dumps(self._weights)), until=until)
            self._told = self._weights

    def _exchange(
        self, link: Link, k: int, submodel: Submodel, started: float, until: float
    ) -> Answer:
        def fault(kind: str, reason: str) -> Fault:
            return Fault(k, self._worker, kind, time.monotonic() - started, reason)

        flat, before = pack(submodel), link.moved.sent
        header = Header(Verb.ROUND, k, len(flat), flat.dtype, seconds=STEPPING * (until - started))
        try:
            self._tell_shares(link, k, until)
            link.send(header, flat, until=until)
            answer = link.receive_header(until=until)
            if answer.verb == Verb.FAILED:
                text = read_text(link.receive_payload(answer, until=until))
                return Answer(ABSENT, fault(FAILED if answer.k == k else REFUSED, text))
            _expect(answer, replace(header, verb=Verb.DONE))
            trained = unpack(link.receive_payload(answer, until=until), submodel, answer)
        except TimeoutError:
            told = _silent(link.moved.sent - before, flat.nbytes, started)
            return Answer(ABSENT, fault(FROZEN, told))
        except FrameError as error:
            return Answer(ABSENT, fault(REFUSED, str(error)))
        except OSError as error:
            return Answer(ABSENT, fault(LOST, f"{error}; {self._door.fate(ENDING)}"))
        self._in_vain = 0
        cut = answer.seconds > header.seconds
        slow = fault(SLOW, stopped(trained)) if cut else None
        return Answer(trained, slow, answer.seconds, peak=answer.peak)


def _silent(sent: int, n_bytes: int, started: float) -> str:
    """What a worker did not do by the deadline, in words: its link may be what is slow."""
    seconds = f"{time.monotonic() - started:.1f} s"
    if sent < n_bytes:
        return f"{sent / 1e6:.3g} of {n_bytes / 1e6:.3g} MB had gone to it after {seconds}"
    return f"silent for {seconds}"


def stopped(trained: Submodel) -> str:
    """What a slow worker did, in words."""
    return f"stopped after {trained.n_steps} local steps"


def _built(link: Link, until: float) -> Header:
    """What a worker says when it has built its job; it shows until then that it lives."""
    patience = TAKING
    while True:
        try:
            header = link.receive_header(until=min(until, time.monotonic() + patience))
        except TimeoutError:
            raise TimeoutError(f"silent for {patience:g} s on being told its job") from None
        if header.verb != Verb.BUILDING:
            return header
        patience = SILENT


def _sent_text(verb: Verb, k: int, text: str) -> tuple[Header, Tensor]:
    payload = text_payload(text)
    return Header(verb, k, len(payload)), payload


def _send_away(link: Link) -> None:
    with suppress(OSError):  # whether it still listens is no matter
        link.send(Header(Verb.STOP), until=time.monotonic() + 1)
    link.close()


def _expect(header: Header, plan: Header) -> None:
    """Raise FrameError unless verb, round, length and dtype are those of the plan."""
    got, wanted = (
        (h.verb.name, h.k, h.length, str(h.dtype).removeprefix("torch.")) for h in (header, plan)
    )
    if got != wanted:
        raise FrameError(
            "verb, round, entries and dtype of the answer are {} {} {} {}, ".format(*got)
            + "the plan says {} {} {} {}".format(*wanted)
        )


@dataclass(frozen=True)
class _Settling:
    """A worker that came and is given a job."""

    link: Link
    job: str
    building: Background[None]
