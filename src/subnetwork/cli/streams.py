"""Where words go: a disk that is full loses them, and ends no run."""

import io
import sys
from typing import TYPE_CHECKING

from subnetwork.record import OUT_OF_SPACE

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Lossy(io.FileIO):
    """A file that loses what it is told where there is no space for it."""

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write, or not; says how many bytes are done with."""
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in OUT_OF_SPACE:
                raise
            return memoryview(data).nbytes


def lose_words_rather_than_runs() -> None:
    """From now on what this process prints is lost where it cannot be written for lack of space.

    Names of files need not be text: what cannot be encoded is escaped. Streams that others have put
    in the place of Python's own are left alone.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        own = type(stream) is io.TextIOWrapper
        if not own or isinstance(getattr(stream.buffer, "raw", None), Lossy):
            continue
        stream.flush()
        made = io.TextIOWrapper(
            io.BufferedWriter(Lossy(stream.fileno(), "w", closefd=False)),
            stream.encoding,
            "backslashreplace",
            line_buffering=stream.line_buffering or stream.write_through,
        )
        setattr(sys, name, made)
