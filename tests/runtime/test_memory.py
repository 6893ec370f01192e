"""A process of ours keeps the memory that it frees."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys, torch
from subnetwork.runtime.memory import keep_memory
if sys.argv[1] == "kept" and not keep_memory():
    sys.exit(3)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    torch.ones(1 << 24)
before = faults()
for _ in range(3):
    torch.ones(1 << 24)
print(faults() - before)
"""


def faults(how):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 3:
        pytest.skip("not glibc")
    return int(done.stdout)


def test_freed_memory_is_not_asked_for_again():
    """192 MB are 49,000 pages of 4 KiB; with large pages fewer, but some."""
    assert faults("kept") < 10 < faults("as it is")
