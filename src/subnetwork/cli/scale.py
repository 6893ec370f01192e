"""`subnetwork scale`: a run that is being written goes on with more workers, or fewer."""

import time
from pathlib import Path

from subnetwork.algorithm import RunFailedError
from subnetwork.cli.console import Output, say
from subnetwork.cli.folder import is_written, run_folder, unfinished
from subnetwork.cli.requests import MOST, PLACE, Answer, Request, answer_to, ask, taken_back

POLL = 0.05  # seconds between two looks for the answer
CHANGE = 300.0  # seconds that a run has for what it took


def scale(run: Path = Path("runs/train"), *, workers: int, wait: float = 60.0) -> int:
    """Have a running run go on with another number of workers, from the end of its round on.

    It goes on as `subnetwork train --resume --workers M` would, without an end in between. Where it
    cannot, the reason is printed, and the run goes on as it was.

    Parameters
    ----------
    run:
        The run's folder: what its command was given as --out.
    workers:
        How many workers it is to have.
    wait:
        Seconds to wait for the end of a round; then the request is taken back.
    """
    if not 1 <= workers <= MOST:
        raise ValueError(f"--workers is a whole number from 1 to {MOST}, not {workers}.")
    if not 0 < wait <= 1e6:
        raise ValueError(f"--wait is a positive number of seconds, not {wait}.")
    folder, console = _written(run, workers), Output()
    try:
        request = ask(folder / PLACE, workers)
    except FileNotFoundError:
        raise ValueError(
            f"The run in {run} takes no requests: it is about to begin or to end. Ask again in a "
            "moment."
        ) from None
    say(console, f"asked {run} for {workers} workers; waits up to {wait:g} s for a round to end")
    try:
        found = _answered(request, run, folder, wait)
    except KeyboardInterrupt:
        back = taken_back(request)
        what = "the request is taken back" if back else "the run has taken the request already"
        raise KeyboardInterrupt(f"interrupted; {what}") from None
    if not found.done:
        raise ValueError(found.line)
    say(console, found.line)
    return 0


def _written(run: Path, workers: int) -> Path:
    """The folder of the run as it is written.

    Raises:
        ValueError: there is none, or no process writes it.
    """
    folder = unfinished(run)
    if folder.is_dir() and is_written(folder):
        return folder
    if run.is_dir() and is_written(run):
        name = run.with_name(run.name.removesuffix(".unfinished"))
        raise ValueError(
            f"{run} is where a run is being written. Name the run as its command does: "
            f"subnetwork scale {name} --workers {workers}"
        )
    there = run_folder(run) == folder
    more, state = ("", "nobody runs it") if there else (" --rounds N", "it is complete")
    raise ValueError(
        f"The run in {run} cannot be scaled: {state}. Go on with it by: subnetwork train --resume "
        f"--workers {workers}{more} --out {run}"
    )


def _answered(request: Request, run: Path, folder: Path, wait: float) -> Answer:
    """What the run answers.

    Raises:
        RunFailedError: it does not.
    """
    until = time.monotonic() + wait
    while True:
        written = is_written(folder)  # looked at first: an answer comes before the end
        found = answer_to(request)
        if found is not None:
            return found
        if not written:
            raise RunFailedError(
                f"The run in {run} ended before it answered. See: subnetwork watch {run}"
            )
        if time.monotonic() > until:
            if taken_back(request):
                raise RunFailedError(
                    f"No round of the run in {run} ended in {wait:g} s; the request is taken back. "
                    "Ask again with a longer --wait."
                )
            if time.monotonic() > until + CHANGE:
                raise RunFailedError(
                    f"The run in {run} took the request, but has not answered for {CHANGE:g} s. "
                    f"See: subnetwork watch {run}"
                )
        time.sleep(POLL)
