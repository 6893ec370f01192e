"""Ranks of one host listen on its loopback interface alone, as SECURITY.md says."""

import ipaddress
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist

from subnetwork.runtime import linked
from subnetwork.runtime.direct import launched_ranks, tell
from worker_processes import descendants

pytestmark = pytest.mark.skipif(
    not Path("/proc/net/tcp").exists(), reason="the system does not list its sockets"
)
LISTENS = "0A"
TAKES_PART = """
import time
from pathlib import Path
from subnetwork.runtime.direct import rank_here, tell

def main(arguments):
    folder, rank, n_workers, _ = arguments
    place = rank_here(Path(folder), int(rank), int(n_workers))
    links = place.links()
    for _ in range(2):  # in a run that goes on; until it was looked at
        tell(links, place.rank, place.n_workers, {})
"""


def listening(pid):
    """The addresses on which a process listens."""
    open_now = Path(f"/proc/{pid}/fd").iterdir()
    own = {str(entry.readlink()) for entry in open_now if entry.is_symlink()}
    found = []
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/{pid}/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTENS and f"socket:[{inode}]" in own:
                found.append(address(local.split(":")[0]))
    return found


def address(digits):
    """An address as the kernel prints it: words of four bytes, each in the order of the machine."""
    words = [bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return getattr(found, "ipv4_mapped", None) or found


def test_what_the_kernel_prints_is_read_as_it_is_meant():
    assert str(address("0100007F")) == "127.0.0.1"
    assert str(address("0000000000000000FFFF00000100007F")) == "127.0.0.1"
    assert str(address("00000000000000000000000001000000")) == "::1"
    assert str(address("00000000")) == "0.0.0.0"


def test_ranks_that_the_command_starts_listen_on_the_loopback_interface_alone(
    tmp_path, monkeypatch
):
    (tmp_path / "takes_part.py").write_text(TAKES_PART)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    before = listening(os.getpid())
    with launched_ranks(3, "takes_part") as first:
        links = first.links()
        tell(links, 0, 3, {})
        ranks = [pids[0] for name, pids in descendants().items() if name.startswith("rank ")]
        assert len(ranks) == 2
        found = [listening(pid) for pid in (*ranks, os.getpid())]
        tell(links, 0, 3, {})
    for of_rank in found:
        assert len(of_rank) > 0, "a rank listens, or nothing was looked at"
    assert len(found[-1]) > len(before)
    for each in before:
        found[-1].remove(each)
    assert all(one.is_loopback for of_rank in found for one in of_rank)


def test_ranks_of_join_listen_on_the_loopback_interface_alone(monkeypatch):
    """Where it makes the group itself: under torchrun, on one host."""
    store, before = dist.HashStore(), listening(os.getpid())
    monkeypatch.setattr(linked, "place_under_torchrun", lambda: SimpleNamespace(store=store))
    monkeypatch.setattr(linked, "under_several_hosts", lambda: False)

    def links(rank):
        with linked.linked(rank, 2) as own:
            tell(own, rank, 2, {})
            found = listening(os.getpid())
            tell(own, rank, 2, {})
        return found

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(links, range(2)))
    for found in both:
        assert len(found) >= len(before) + 2, "two ranks of this process listen"
        for each in before:
            found.remove(each)
        assert all(one.is_loopback for one in found)
