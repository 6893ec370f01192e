"""Two hosts (network namespaces) under torchrun; one is cut off for ten seconds and comes back."""

import json
import secrets
import signal
import sys
import time
from contextlib import ExitStack

import net
import pytest

from subnetwork.experiments.resume import saved

FLAGS = ["--hidden", "12", "--batch-size", "8", "--rounds", "1000000", "--checkpoint-every", "500"]


def faults(record):
    lines = [json.loads(line) for line in record.read_text().split("\n")[:-1]]
    return [fault for line in lines for fault in line.get("faults", [])]


def rounds_of(record):
    lines = [json.loads(line) for line in record.read_text().split("\n")[:-1]]
    return [line["k"] for line in lines if "k" in line]


def wait_for(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kinds(record):
    return [fault["kind"] for fault in faults(record)]


@pytest.fixture
def hosts():
    with ExitStack() as stack:
        try:
            made = stack.enter_context(net.network(2))
        except net.CannotEmulateError as reason:
            pytest.skip(f"TWO HOSTS NOT TESTED: {reason}")
        yield made


@pytest.mark.faults
def test_a_host_that_is_cut_off_for_ten_seconds_comes_back(hosts, tmp_path):
    record = tmp_path / "run.unfinished" / "ist.jsonl"
    secret = {"SUBNETWORK_SECRET": secrets.token_hex(32), "OMP_NUM_THREADS": "1"}
    said = [tmp_path / f"host{host.number}" for host in hosts]
    with ExitStack() as stack:
        agents = []
        for host, path in zip(hosts, said, strict=True):
            place = ["--nnodes", "2", "--node-rank", str(host.number), "--nproc-per-node", "1"]
            meet = ["--master-addr", hosts[0].address, "--master-port", "29511"]
            train = ["train", "--host", hosts[0].address, "--out", str(tmp_path / "run"), *FLAGS]
            run = ["torch.distributed.run", *place, *meet, "-m", "subnetwork", *train]
            out = stack.enter_context(path.open("w"))
            command = [sys.executable, "-m", *run]
            agents.append(host.start(command, environment=secret, stdout=out, stderr=out))
        wait_for(lambda: record.exists() and len(rounds_of(record)) > 5, 400)
        before = len(rounds_of(record))
        hosts[1].down()
        time.sleep(10)
        during = len(rounds_of(record))
        hosts[1].up()
        back = time.monotonic()
        wait_for(lambda: "joined" in kinds(record), 120)
        waited = time.monotonic() - back
        print(f"{during - before} rounds while cut off, back after {waited:.1f} s")  # noqa: T201
        after = rounds_of(record)[-1]
        wait_for(lambda: rounds_of(record)[-1] > after + 20, 120)
        agents[0].send_signal(signal.SIGTERM)
        for agent in agents:
            agent.wait(timeout=120)
    ks = rounds_of(record)
    assert ks == list(range(len(ks)))
    found = faults(record)
    assert {fault["worker"] for fault in found} == {1}
    assert found[0]["kind"] == "frozen"
    assert found[0]["seconds"] < 6  # the deadline of 3 s; a busy machine adds
    assert kinds(record).count("joined") == 1
    assert during > before
    kept, damage = saved(record.parent / "checkpoints")
    assert not damage
    assert kept.start.k > 0
    assert [path.read_text().count("has to be trusted") for path in said] == [1, 0]
