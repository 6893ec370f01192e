"""What the commands print to: plain text, whole lines, and a closed pipe that is noticed."""

from rich.console import Console


class Output(Console):
    """Standard output; raises BrokenPipeError when nobody reads any more.

    rich would end the process with status 1, which here means that a claim did not hold.
    """

    def on_broken_pipe(self) -> None:
        """Let the command line decide."""
        raise BrokenPipeError


def say(console: Console, line: str) -> None:
    """Print a line as it is: not wrapped, not highlighted, no markup in the user's file names."""
    console.print(line, highlight=False, soft_wrap=True, markup=False)
