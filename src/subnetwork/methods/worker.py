"""One worker process: `main`, called in a process of the nursery of `subnetwork train`, `demo`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from subnetwork.methods.compiling import parts, warm
from subnetwork.methods.rows import method, task
from subnetwork.methods.training import Training
from subnetwork.nets.local import Local
from subnetwork.runtime.launch import work_here
from subnetwork.runtime.serve import Template, templates

MODULE = "subnetwork.methods.worker"


def build(job: str) -> tuple[Template, Local]:
    """The shapes and the local work of a job: what the coordinator has too, built from the text.

    What has to be compiled is compiled here, before the first round has a deadline.
    """
    run = Training.from_json(job)
    row = method(task(run))
    if run.compile:
        shapes = parts(row.shapes, row.sketch, row.seed, row.n_rounds)
        warm(row.shapes, row.sketch, row.seed, row.local, shapes)
    return templates(row.sketch, row.seed, row.shapes), row.local


def main(arguments: Sequence[str]) -> int:
    """Work for the run in a folder, as one of its workers; the exit status."""
    folder, worker = arguments
    return work_here(Path(folder), int(worker), build)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
