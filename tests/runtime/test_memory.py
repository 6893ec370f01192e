"""A process of ours keeps the memory that it frees, or gives it back."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from subnetwork.environment import PAGES as PAGES_NAME
from subnetwork.environment import large_pages

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


HOLES = """
import sys, torch
from pathlib import Path
from subnetwork.runtime.memory import spare_memory
if sys.argv[1] != "as it is" and not spare_memory():
    sys.exit(3)
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
torch.ones(6 << 20)
before, kept = resident(), []
for _ in range(8):
    large = torch.ones(6 << 20)
    del large
    kept.append(torch.ones(1 << 18))
print((resident() - before) >> 20)
"""


def held(how):
    """MiB of a process beyond what it had, after 24 MiB eight times and 1 MiB kept each time."""
    done = subprocess.run(
        [sys.executable, "-c", HOLES, how], check=False, capture_output=True, text=True, timeout=120
    )
    if done.returncode == 3:
        pytest.skip("not glibc")
    assert not done.returncode, done.stderr
    return int(done.stdout)


def test_small_pieces_are_not_cut_out_of_large_ones():
    assert held("as it is") > 20
    assert 6 <= held("spared") <= 10


TESTS = """
import sys, torch
from pathlib import Path
from subnetwork.runtime.memory import lean_memory, spare_memory
if not spare_memory():
    sys.exit(3)
def in_heap():
    pieces = [torch.ones(1 << 20, dtype=torch.uint8) for _ in range(64)]
    maps = Path("/proc/self/maps").read_text().splitlines()
    (heap,) = [line.split()[0] for line in maps if "[heap]" in line]
    first, last = (int(end, 16) for end in heap.split("-"))
    return sum(first <= piece.data_ptr() < last for piece in pieces)
with lean_memory():
    within = in_heap()
print(within, in_heap())
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux says what is where")
def test_while_a_model_is_tested_pieces_of_a_mebibyte_are_the_systems():
    """What is not on the heap goes back when it is freed; afterwards it is as before.

    Of 64 some may find room that the heap has anyway.
    """
    done = subprocess.run(
        [sys.executable, "-c", TESTS], check=False, capture_output=True, text=True, timeout=120
    )
    if done.returncode == 3:
        pytest.skip("not glibc")
    assert not done.returncode, done.stderr
    within, after = map(int, done.stdout.split())
    assert within < 16
    assert after > 48


PAGES = """
import resource, sys, torch
from subnetwork.runtime.memory import spare_memory
if not spare_memory():
    sys.exit(3)
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
torch.ones(1 << 24)
print(faults() - before)
"""
SYSTEM = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not SYSTEM.exists() or "[never]" in SYSTEM.read_text(), reason="the system has no large pages"
)
def test_what_is_got_anew_comes_in_large_pages(monkeypatch):
    """64 MB are 16,384 pages of 4 KiB, or 32 large ones; what the environment says stays."""
    counts = {}
    for said in (None, "0"):
        monkeypatch.setenv(PAGES_NAME, "0")
        if said is None:
            monkeypatch.delenv(PAGES_NAME)
        with large_pages():
            command = [sys.executable, "-c", PAGES]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert os.environ.get(PAGES_NAME) == said
        if done.returncode == 3:
            pytest.skip("not glibc")
        counts[said] = int(done.stdout)
    if "[madvise]" in SYSTEM.read_text():
        assert counts["0"] > 16_000 > 2 * counts[None]  # some pages may be in pieces
