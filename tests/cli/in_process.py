"""The command in this process, since torch takes seconds to import."""

import contextlib
import io
import signal
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from subnetwork.cli import main


@dataclass
class Result:
    """What a command left: its status and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def command(*arguments, cwd):
    """Run the command in a folder; signal handlers are as before when it ends."""
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.chdir(cwd), redirect_stdout(out), redirect_stderr(err):
            status = main([str(argument) for argument in arguments])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Result(status, out.getvalue(), err.getvalue())
