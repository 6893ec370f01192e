"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def showing(
    console: Console, name: str, steps: int
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield the function that shows a row: live on a terminal, else about ten lines a run."""
    before, tested = (0, 0.0), "  none"

    def text(row: Mapping[str, Any]) -> str:
        nonlocal before, tested
        (samples, seconds), before = before, (row["samples"], row["seconds"])
        rate = (row["samples"] - samples) / max(row["seconds"] - seconds, 1e-9)
        loss = "none" if row["loss"] is None else f"{row['loss']:6.4f}"  # no worker answered
        shown = tested
        if row["accuracy"] is not None:
            shown = f"{row['accuracy']:6.1%}"
            tested = f"{shown} (step {row['steps']})"  # of the rows until the next test
        return (
            f"step {row['steps']:>4}  training loss {loss}  accuracy {shown}  "
            f"payload {row['payload'] / 1e6:8.2f} MB  {rate:6.0f} samples/s"
        )

    if not console.is_terminal:
        every, following = steps / 10, 0.0

        def plain(row: Mapping[str, Any]) -> None:
            nonlocal following
            line = text(row)
            if row["steps"] >= following or row["steps"] >= steps:
                console.print(
                    f"{name:<16} {line}  {row['seconds']:6.1f} s", highlight=False, soft_wrap=True
                )
                following = row["steps"] + every

        yield plain
        return
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[text]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(name, total=steps, text="")
        yield lambda row: progress.update(bar, completed=row["steps"], text=text(row))
