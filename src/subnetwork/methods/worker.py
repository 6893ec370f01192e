"""One worker process: ``python -m subnetwork.methods.worker FOLDER WORKER``.

Started by `subnetwork train` and `demo`, never by hand.
"""

import sys
from pathlib import Path

from subnetwork.methods.rows import method, task
from subnetwork.methods.training import Training
from subnetwork.nets.local import Local
from subnetwork.runtime.launch import work_here
from subnetwork.runtime.serve import Template, templates

MODULE = "subnetwork.methods.worker"


def build(job: str) -> tuple[Template, Local]:
    """The shapes and the local work of a job: what the coordinator has too, built from the text."""
    row = method(task(Training.from_json(job)))
    return templates(row.sketch, row.seed, row.shapes), row.local


if __name__ == "__main__":
    sys.exit(work_here(Path(sys.argv[1]), int(sys.argv[2]), build))
