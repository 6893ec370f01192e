"""The host of rank 0 is gone for good, and with it torchrun's store: the others leave in time."""

import time

import pytest
import test_hosts
from attacked import rounds_done, seconds_until
from test_hosts import EVERY, FLAGS, two_hosts

hosts = test_hosts.hosts
JOIN, SILENT = 20, 3
SOONER = f"""
from subnetwork.runtime import handshake, torchrun

torchrun.JOIN = {JOIN}
seconds = ("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", {SILENT - 1})
handshake.TUNED = (*seconds, ("TCP_USER_TIMEOUT", {1000 * SILENT}))
"""  # a minute and half a minute in a run


@pytest.mark.faults
@pytest.mark.slow
def test_ranks_leave_with_status_3_when_the_host_of_rank_0_is_gone(hosts, tmp_path, monkeypatch):
    monkeypatch.setattr(test_hosts, "CALM", SOONER + test_hosts.CALM)
    record = tmp_path / "run.unfinished" / "ist.jsonl"
    with two_hosts(hosts, tmp_path, [*FLAGS, *EVERY]) as (agents, said):
        seconds_until(lambda: rounds_done(record) > 5)
        hosts[0].down()
        began = time.monotonic()
        assert agents[1].wait(timeout=3 * JOIN) == 1
        waited = time.monotonic() - began
    print(f"left after {waited:.1f} s")  # noqa: T201
    assert JOIN < waited < JOIN + SILENT + 10
    assert "exitcode  : 3" in said[1].read_text()
