"""A process that imports once what many need, and that they are forked from.

`python -m subnetwork.nursery MODULE ..` imports these modules, one thread and nothing running, and
then makes processes as it is asked to: each calls ``main(arguments)`` of a module. To import torch
takes seconds of a processor, and the memory of what is imported is shared. Where forks are not safe
(elsewhere than on Linux) every process is one of its own interpreter.

Nothing here imports torch, so that a command can start its nursery before it does.
"""

import ctypes
import gc
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any

FORKS = sys.platform == "linux"
FIRST_STEP = "subnetwork.runtime.first_step"  # what processes that train need besides
GRACE = 5.0  # seconds for a process to be seen to end; a nursery that does not see it is ended
PARENT_DEATH, NAME = 1, 15  # PR_SET_PDEATHSIG and PR_SET_NAME of Linux


@contextmanager
def nursery(*modules: str, forks: bool = FORKS) -> Iterator["Nursery"]:
    """Yield a nursery that imports these modules at once; when it is left, no process is left.

    Args:
        modules: what the processes will need.
        forks: whether processes are forked.
    """
    own = Nursery(modules, forks=forks)
    try:
        yield own
    finally:
        own.close()


class Child:
    """A process from a nursery, as `subprocess.Popen` has them."""

    def __init__(self, nursery: "Nursery", number: int, log: Path) -> None:
        self._nursery, self._number, self._log = nursery, number, log
        self.pid: int | None = None  # until it is born
        self.returncode: int | None = None
        self.refused = ""  # why no process could be started

    def poll(self) -> int | None:
        """The exit status, minus a signal's number; None while it runs or is not born yet."""
        self._nursery.look()
        return self.returncode

    def wait(self, seconds: float) -> bool:
        """Wait for its end; whether it has ended."""
        until = time.monotonic() + seconds
        while self.poll() is None and (left := until - time.monotonic()) > 0:
            self._nursery.look(left)
        return self.returncode is not None

    def kill(self) -> None:
        """End it now, frozen or not."""
        if self.poll() is not None:
            return
        self._nursery.ask({"kill": self._number})
        if self.pid is None:  # it ends as soon as it is born
            self._nursery.forget(self._number)
            self.returncode = -signal.SIGKILL
        elif not self.wait(GRACE):
            self._nursery.close()

    def ended(self) -> tuple[str, str]:
        """How it ended, and the last line that it wrote, or why it was never born."""
        code = self.returncode or 0
        how = f"process {self.pid} left with status {code}"
        if code < 0:
            how = f"process {self.pid} was ended by {_signal(-code)}"
        if self.pid is None and code >= 0:
            how = "no process could be started"
        text = self._log.read_text(errors="replace").strip() if self._log.exists() else ""
        lines = (text or self.refused).splitlines()
        return how, lines[-1] if code >= 0 and lines else ""


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # those for real time have no name
        return f"signal {number}"


class Nursery:
    """The owner's end."""

    def __init__(self, modules: Sequence[str], *, forks: bool = FORKS) -> None:
        self._modules, self._forks = tuple(modules), forks
        self._children: dict[int, Child] = {}  # those that have not ended
        self._started = 0
        self._lock = threading.RLock()
        self._process, self._said = self._begin()
        self._rest = b""

    def start(self, name: str, module: str, arguments: Sequence[str], log: Path) -> Child:
        """Have a process call ``module.main(arguments)``.

        Args:
            name: what tools like `ps` call it.
            module: where its `main` is.
            arguments: what `main` is given.
            log: the file that its output goes to.

        Returns:
            The process, which may not be born yet.
        """
        with self._lock:
            self.look()
            self._started += 1
            child = Child(self, self._started, log)
            log.unlink(missing_ok=True)
            if self._process.poll() is not None:
                self._bury()
                try:
                    self._process, self._said = self._begin()
                except OSError as reason:
                    child.returncode, child.refused = 1, str(reason.strerror)
                    return child
            self._children[self._started] = child
            self.ask(
                {
                    "start": self._started,
                    "name": name,
                    "module": module,
                    "arguments": list(arguments),
                    "log": str(log.resolve()),
                }
            )
            return child

    def ask(self, request: dict[str, Any]) -> None:
        """Send a line; one that can no longer be sent is of a nursery that has ended."""
        with self._lock, suppress(BrokenPipeError, ValueError):
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")

    def forget(self, number: int) -> None:
        """Hear of a process no more."""
        with self._lock:
            self._children.pop(number, None)

    def look(self, seconds: float = 0.0) -> None:
        """Hear what became of the processes; wait so long for the first word at most."""
        with self._lock:
            source = self._process.stdout
            assert source is not None
            if source.closed:
                return
            waiting = select.poll()
            waiting.register(source, select.POLLIN)
            while waiting.poll(1000 * min(seconds, 0.05)):
                data = os.read(source.fileno(), 1 << 16)
                if not data:
                    self._bury()
                    return
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    self._hear(json.loads(line))
                seconds = 0.0

    def close(self) -> None:
        """End the nursery and all its processes now."""
        with self._lock:
            self.look()
            if any(child.pid for child in self._children.values()):
                assert self._process.stdin is not None
                self._process.stdin.close()  # it ends them, and then itself
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(GRACE)
            self._process.kill()  # what is forked from it ends with it
            self._bury()

    def _begin(self) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        said = tempfile.TemporaryFile()  # noqa: SIM115  (closed when the nursery is buried)
        how = "fork" if self._forks else "spawn"
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "subnetwork.nursery", how, *self._modules],
            # -P: a random.py in the current folder is none of ours
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            bufsize=0,
        )
        return process, said

    def _hear(self, told: dict[str, Any]) -> None:
        child = self._children.get(told["number"])
        if child is None:  # it was forgotten
            return
        child.pid = told.get("pid", child.pid)
        child.refused = told.get("refused", "")
        if "status" in told:
            child.returncode = told["status"]
            del self._children[told["number"]]

    def _bury(self) -> None:
        """The nursery has ended, and its processes with it."""
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(OSError):
                stream.close()
        if not self._said.closed:
            self._said.seek(0)
            words = self._said.read().decode(errors="replace").strip()
            self._said.close()
        else:
            words = ""
        for child in self._children.values():
            child.pid = child.pid or self._process.pid
            child.returncode, child.refused = code or -signal.SIGKILL, words
        self._children.clear()
        self._rest = b""


def leave_interrupts() -> None:
    """Let pass what a terminal or a supervisor sends to all: it is for the owner, which ends us.

    By a handler that does nothing: what is ignored would be ignored in programs that are run here
    too.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _let_pass)
        signal.siginterrupt(number, False)


def _let_pass(number: int, frame: object) -> None:
    del number, frame


def die_with_parent() -> None:
    """Have the system kill this process when its parent ends, also where it is stopped; Linux."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PARENT_DEATH, signal.SIGKILL)


@dataclass
class _Births:
    """The nursery's own end."""

    forks: bool
    requests: int
    answers: int
    wake: int
    woken: int
    pids: dict[int, int] = field(default_factory=dict)  # number -> process id, of the living

    def tell(self, **words: object) -> None:
        os.write(self.answers, json.dumps(words).encode() + b"\n")

    def serve(self) -> None:
        """Until the owner is gone."""
        rest = b""
        while True:
            ready = select.select([self.requests, self.wake], [], [])[0]
            if self.wake in ready:
                os.read(self.wake, 1 << 12)
            self.reap()
            if self.requests not in ready:
                continue
            data = os.read(self.requests, 1 << 16)
            if not data:
                return
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if "kill" in request:
                    self.reap()
                    with suppress(KeyError):
                        os.kill(self.pids[request["kill"]], signal.SIGKILL)
                else:
                    self.bear(request)

    def bear(self, request: dict[str, Any]) -> None:
        number = request["start"]
        try:
            pid = self.forked(request) if self.forks else _spawned(request)
        except OSError as reason:
            self.tell(number=number, status=1, refused=reason.strerror)
            return
        self.pids[number] = pid
        self.tell(number=number, pid=pid)

    def forked(self, request: dict[str, Any]) -> int:
        """A process that has all that is imported here."""
        sys.stdout.flush()
        sys.stderr.flush()
        mother, pid = os.getpid(), os.fork()
        if pid:
            return pid
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            die_with_parent()
            if os.getppid() != mother:  # it was gone before that
                os._exit(status)
            for descriptor in (self.requests, self.answers, self.wake, self.woken):
                os.close(descriptor)
            _to_log(request["log"])
            _call(request["name"])
            status = _ended(request["module"], request["arguments"])
        except BaseException:  # the process ends here, whatever it is
            traceback.print_exc()
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def reap(self) -> None:
        """Tell of those that have ended."""
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                number = next((n for n, pid in self.pids.items() if pid == found[0]), None)
                if number is None:  # of a module that is imported here
                    continue
                del self.pids[number]
                self.tell(number=number, status=os.waitstatus_to_exitcode(found[1]))


def _spawned(request: dict[str, Any]) -> int:
    command = [sys.executable, "-P", "-m", request["module"], *request["arguments"]]
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    log = (os.POSIX_SPAWN_OPEN, 1, request["log"], flags, 0o600)
    both = (os.POSIX_SPAWN_DUP2, 1, 2)
    return os.posix_spawn(sys.executable, command, os.environ, file_actions=[log, both])


def _to_log(path: str) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _call(name: str) -> None:
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(NAME, name.encode()[:15])


def _ended(module: str, arguments: list[str]) -> int:
    """The exit status of a module's `main`, as Python's own."""
    sys.argv = [module, *arguments]
    try:
        code = import_module(module).main(arguments)
    except SystemExit as leaving:
        code = leaving.code
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    sys.stderr.write(f"{code}\n")
    return 1


def main(how: str, *modules: str) -> None:
    """The life of a nursery: it and all from it end when the owner does."""
    leave_interrupts()
    die_with_parent()
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)  # what is printed on the way is no answer
    wake, woken = os.pipe()
    for descriptor in (wake, woken):
        os.set_blocking(descriptor, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    if how == "fork":
        for module in modules:
            import_module(module)
        gc.freeze()  # so that no collection writes to the memory that is shared
    births = _Births(how == "fork", requests, answers, wake, woken)
    with suppress(BrokenPipeError):
        births.serve()
    for pid in births.pids.values():
        os.kill(pid, signal.SIGKILL)
    for pid in births.pids.values():
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
