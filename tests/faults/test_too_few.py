"""Row 5: the workers leave and none is ready again: the command waits, names them, ends with 3."""

import json
import os
import re
import signal
import sys
import time

from attacked import UNFINISHED, errors, kept_rounds, rounds_done, seconds_until, started

from subnetwork.runtime import Patience
from worker_processes import all_gone, children

WAIT = 5.0
PROGRAM = f"""
import sys
from functools import partial
from subnetwork.cli import main
from subnetwork.experiments import training
from subnetwork.methods import worker
from subnetwork.runtime import Patience

worker.MODULE, training.Patience = "leaving", partial(Patience, missing={WAIT})
sys.exit(main(sys.argv[1:]))
"""
LEAVING = """
import time
from pathlib import Path
from subnetwork.methods import worker

def main(arguments):
    while Path("leave").exists():
        time.sleep(1)
    return worker.main(arguments)
"""


def test_workers_that_leave_for_good_are_waited_for_and_named_and_the_status_is_3(
    tmp_path, monkeypatch
):
    assert Patience().missing == 60, "what docs/faults.md says"
    (tmp_path / "leaving.py").write_text(LEAVING)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    folder = tmp_path / UNFINISHED
    flags = ["--hidden", 12, "--batch-size", 8, "--workers", 2, "--rounds", 10**6]
    with started(*flags, cwd=tmp_path, program=("-c", PROGRAM)) as process:
        seconds_until(lambda: rounds_done(folder / "ist.jsonl") > 2, process)
        (tmp_path / "leave").touch()
        before = children(process.pid)
        assert len(before) == 2
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        seconds_until(lambda: len(set(children(process.pid)) - set(before)) == 2, process)
        left, began = children(process.pid), time.monotonic()
        assert process.wait(timeout=120) == 3
        assert time.monotonic() - began < 12 * WAIT
    *_, line = errors(tmp_path).splitlines()
    (waited,) = re.findall(
        r"needs 1 of 2 workers and waited ([\d.]+) s in vain\. Missing are", line
    )
    assert float(waited) >= WAIT
    assert [line.count(f"worker {worker}: ") for worker in range(2)] == [1, 1]
    assert all_gone([*before, *left], 10)
    record = folder / "ist.jsonl"
    assert kept_rounds(folder) == rounds_done(record)
    last = json.loads(record.read_text().splitlines()[-1])
    assert {"waiting"} <= {fault["kind"] for fault in last["faults"]}
