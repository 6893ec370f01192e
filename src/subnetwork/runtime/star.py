"""Lines 4-8 over seats: a round ends with whoever answers by the deadline (a star of pairs)."""

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

import torch

from subnetwork.algorithm import DivergedError, WorkerLostError
from subnetwork.nets import ABSENT, NetPartition, Submodel
from subnetwork.nets.local import Local
from subnetwork.runtime.faults import (
    ABSENTEE,
    DROPS,
    EVICTED,
    FAILED,
    JOINED,
    NOT_FINITE,
    NOT_READY,
    STRIKES,
    WAITING,
    Fault,
    NetWork,
    Patience,
    Report,
    ignore,
    last_line,
)
from subnetwork.runtime.measured import Measure, Measured, split, unmeasured
from subnetwork.runtime.seats import Answer, Seat

REMEMBERED = 21  # rounds whose durations make the deadline
ATTEMPTS = 3  # at a round from which nobody came back
POLL = 0.02  # seconds between two looks for who has come


def brief(seats: Sequence[Seat], job: str, local: Local) -> None:
    """Tell all workers what the coming rounds are about, and wait for them.

    One that cannot do the job is parted with, and another one may come; the next round tells why.

    Args:
        seats: where they sit.
        job: from which a worker in another process builds the local work.
        local: that of this process.

    Raises:
        WorkerLostError: where none of them can do it.
    """
    failed: list[WorkerLostError] = []
    for ready in [seat.assign(job, local) for seat in seats]:
        try:
            ready()
        except WorkerLostError as error:
            failed.append(error)
    if failed and len(failed) == len(seats):
        raise failed[0]


def seated(
    seats: Sequence[Seat],
    *,
    patience: Patience | None = None,
    report: Report = ignore,
    measure: Measure = unmeasured,
) -> NetWork:
    """The Work of workers at their seats: all start at once, none can hold the others up.

    A worker that died, froze, failed, sent what the plan does not say or returned NaN is left out:
    `ABSENT` stands in its place, its block of the round keeps its value, and `report` is told. Who
    has (re)joined takes part from the next round on. The third fault of a worker's own making ends
    its part in the run. `measure` is told what each worker's part of a round took.

    Raises (when called):
        WorkerLostError: where fewer than half of the workers are there for 60 s (see `Patience`),
            naming those who are missing; where nobody comes back from a round, however often it is
            begun; where the work itself fails on every worker.
        DivergedError: where every worker returns NaN or Inf.
    """
    return _Star(seats, patience or Patience(), report, measure)


class _Star:
    """What the rounds of one Work remember of each other."""

    def __init__(
        self, seats: Sequence[Seat], patience: Patience, report: Report, measure: Measure
    ) -> None:
        self._seats = seats
        self._patience = patience
        self._report = report
        self._measure = measure
        self._durations: deque[float] = deque(maxlen=REMEMBERED)
        self._strikes = [0] * len(seats)
        self._missing: set[int] = set()

    def __call__(
        self, k: int, partition: NetPartition, submodels: Sequence[Submodel], /
    ) -> list[Submodel]:
        """z_i^+ of those who answered, `ABSENT` for the others."""
        del partition  # drawn again by each worker, from the same key
        for _ in range(ATTEMPTS):
            present = self._enough(k)
            answers, seconds = self._round(k, present, submodels)
            faults = [answer.fault for answer in answers.values() if answer.fault is not None]
            for fault in faults:
                self._report(fault)
            if len(answers) > 1 or len(present) == 1:  # one of several may itself be at fault
                _check_common(k, faults, len(answers))
            for fault in faults:
                self._part_with(fault)
            if any(answer.trained is not ABSENT for answer in answers.values()) or not answers:
                break
            self._missing.update(present)  # the round begins again: who is in it is told
        else:
            _check_lost(k, faults)
        if seconds:
            self._durations.append(max(seconds))
        return [answers[i].trained if i in answers else ABSENT for i in range(len(self._seats))]

    def _enough(self, k: int) -> list[int]:
        """Who is there; waits, visibly and not for ever, for enough workers."""
        started = time.monotonic()
        needed = self._patience.enough(len(self._seats))
        waiting = False
        while len(present := self._present()) < needed:
            waited = time.monotonic() - started
            missing = [i for i in range(len(self._seats)) if i not in present]
            self._tell_who_left(k, waited)
            in_vain = sum(not seat.closed() for seat in self._seats) < needed
            if in_vain or waited > self._patience.missing:
                raise WorkerLostError(self._too_few(k, needed, missing, waited))
            if not waiting:
                reason = f"{len(present)} of {len(self._seats)} workers are there, {needed} needed"
                self._tell(k, missing, WAITING, waited, reason)
            waiting = True
            time.sleep(POLL)
        waited = time.monotonic() - started
        missing = [i for i in range(len(self._seats)) if i not in present]
        self._tell_who_left(k, waited)
        self._tell(k, missing, ABSENTEE, waited, "nobody sits in its seat")
        self._tell(k, sorted(self._missing - set(missing)), JOINED, waited, "")
        self._missing = set(missing)
        return present

    def _present(self) -> list[int]:
        return [i for i, seat in enumerate(self._seats) if seat.present()]

    def _tell(self, k: int, workers: Sequence[int], kind: str, seconds: float, why: str) -> None:
        for worker in workers:
            self._report(Fault(k, worker, kind, seconds, why))

    def _tell_who_left(self, k: int, seconds: float) -> None:
        for worker, seat in enumerate(self._seats):
            for reason in seat.left():
                self._tell(k, [worker], NOT_READY, seconds, reason)

    def _too_few(self, k: int, needed: int, missing: Sequence[int], waited: float) -> str:
        fates = "; ".join(f"worker {i}: {self._seats[i].fate()}" for i in missing)
        return (
            f"round {k} needs {needed} of {len(self._seats)} workers and waited "
            f"{waited:.1f} s in vain. Missing are {fates}. Run again, with fewer "
            "workers if they cannot all be there."
        )

    def _round(
        self, k: int, present: Sequence[int], submodels: Sequence[Submodel]
    ) -> tuple[dict[int, Answer], list[float]]:
        """One answer of each present worker with a network, by the deadline.

        With the seconds of those that did all their work: the others say nothing of a round.
        """
        started = time.monotonic()
        until = started + self._patience.deadline(self._durations)
        working = [i for i in present if submodels[i] is not ABSENT]
        waiting = {i: self._seats[i].start(k, submodels[i], until) for i in working}
        answers = {i: _believed(k, i, finish(), started) for i, finish in waiting.items()}
        ended = time.monotonic()
        for i, one in answers.items():
            parts = split(one.seconds, started, one.answered, ended)
            self._measure(Measured(k, i, **parts, down=one.down, up=one.up, peak=one.peak))
        return answers, [o.answered - started for o in answers.values() if o.fault is None]

    def _part_with(self, fault: Fault) -> None:
        """Dismiss a worker that can no longer be talked to or believed."""
        if fault.kind not in DROPS:
            return
        own = fault.kind in (FAILED, NOT_FINITE)
        self._strikes[fault.worker] += own
        out = self._strikes[fault.worker] >= STRIKES
        if out:
            reason = f"{STRIKES} faults of its own making, the last one: {fault.kind}"
            self._tell(fault.round, [fault.worker], EVICTED, fault.seconds, reason)
        if out or not own:
            self._missing.add(fault.worker)
            self._seats[fault.worker].dismiss(for_good=out)


def _believed(k: int, worker: int, answer: Answer, started: float) -> Answer:
    """The answer, unless it holds what is no number."""
    if answer.trained is ABSENT or is_finite(answer.trained):
        return answer
    seconds = time.monotonic() - started
    fault = Fault(k, worker, NOT_FINITE, seconds, "it returned NaN or Inf")
    return replace(answer, trained=ABSENT, fault=fault)


def is_finite(submodel: Submodel) -> bool:
    """Whether every entry is a number. A sum is looked at first: it costs a tenth of the test."""
    return math.isfinite(submodel.loss) and all(
        math.isfinite(float(tensor.sum())) or bool(torch.isfinite(tensor).all())
        for tensor in submodel.tensors()
    )


def _check_common(k: int, faults: Sequence[Fault], n_present: int) -> None:
    """Raise where every worker fails in the same way: then it is the work, not the workers."""
    kinds = {fault.kind for fault in faults}
    if len(faults) < n_present or len(kinds) != 1:
        return
    if kinds == {NOT_FINITE}:
        raise DivergedError(
            f"the run diverged: every worker returned NaN or Inf in round {k}. Use a smaller "
            "--step-size."
        )
    if kinds == {FAILED}:
        reason = last_line(faults[0].reason)
        raise WorkerLostError(f"the local work failed on every worker in round {k}: {reason}")


def _check_lost(k: int, faults: Sequence[Fault]) -> None:
    """Raise where no worker came back from any attempt at a round, through no work of theirs."""
    if any(fault.kind in (FAILED, NOT_FINITE) for fault in faults):
        return  # what it is given is at fault, and its block keeps its value
    fates = "; ".join(f"worker {fault.worker}: {last_line(fault.reason)}" for fault in faults)
    raise WorkerLostError(
        f"nobody came back from round {k} in {ATTEMPTS} attempts: {fates}. Go on with --resume, "
        "with fewer workers if the machine cannot hold them all."
    )
