"""`subnetwork report`: the page of a folder of records."""

from pathlib import Path

from subnetwork.cli.console import Output, say


def report(folder: Path = Path("runs/demo"), *, out: Path | None = None) -> int:
    """Write the page of a run's folder again, from its records alone.

    Parameters
    ----------
    folder:
        A folder that `subnetwork demo`, `train` or `lab run` wrote.
    out:
        The page's file; FOLDER/report.html if it is left out.
    """
    from subnetwork.report import write

    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder}. Name one that `subnetwork demo`, `train` or `lab run` "
            "wrote, for example runs/demo."
        )
    page = write(folder, out, found=True)
    say(Output(), f"wrote {page}")
    return 0
