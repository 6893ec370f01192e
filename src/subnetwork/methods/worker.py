"""One worker process: ``python -m subnetwork.methods.worker FOLDER WORKER``.

Started by `subnetwork train` and `demo`, never by hand.
"""

import sys
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
        shapes = parts(row.x, row.sketch, row.seed, row.n_rounds)
        warm(row.x, row.sketch, row.seed, row.local, shapes)
    return templates(row.sketch, row.seed, row.x), row.local


if __name__ == "__main__":
    sys.exit(work_here(Path(sys.argv[1]), int(sys.argv[2]), build))
