"""A call in a thread that nobody has to wait for."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """A call in a thread that nobody has to wait for, unlike those of an executor."""

    def __init__(self, call: Callable[[], T]) -> None:
        """It begins at once."""
        self._call = call
        self._value: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def done(self) -> bool:
        """Whether it has come back."""
        return not self._thread.is_alive()

    def result(self) -> T:
        """What it came back with, once it has; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._value[0]

    def end(self) -> None:
        """Wait for a thread whose link was closed: it notices at once."""
        self._thread.join(timeout=1.0)

    def _run(self) -> None:
        try:
            self._value.append(self._call())
        except BaseException as error:
            self._error = error
