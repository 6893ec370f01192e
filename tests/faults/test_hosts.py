"""Two hosts (network namespaces) under torchrun; one is cut off for ten seconds and comes back."""

import secrets
import signal
import sys
import time
from contextlib import ExitStack, contextmanager

import net
import pytest
from attacked import (
    MANY,
    count,
    faults,
    here,
    kept_rounds,
    rounds_done,
    rows,
    same_model,
    seconds_until,
)

CUTS = 5
SMALL = ["--hidden", "12", "--batch-size", "8"]
FLAGS = [*SMALL, *MANY]
EVERY = ["--checkpoint-every", "100"]

CALM = """
import sys, time
from subnetwork.cli import main
from subnetwork.nets.local import LocalSteps

work = LocalSteps.__call__
LocalSteps.__call__ = lambda *given: time.sleep(0.05) or work(*given)
sys.exit(main(sys.argv[1:]))
"""  # the same command, with rounds that take time and no processor


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


@contextmanager
def two_hosts(hosts, folder, flags, other=None):
    """torchrun on both hosts, the second with another secret perhaps; what they say goes to files.

    Its processes are gone when the block is left.
    """
    ours = secrets.token_hex(32)
    said = [folder / f"host{host.number}" for host in hosts]
    calm = folder / "calm.py"
    calm.write_text(CALM)
    with ExitStack() as stack:
        agents = []
        for host, path, secret in zip(hosts, said, (ours, other or ours), strict=True):
            place = ["--nnodes", "2", "--node-rank", str(host.number), "--nproc-per-node", "1"]
            meet = ["--master-addr", hosts[0].address, "--master-port", "29511"]
            out_of = ["--host", hosts[0].address, "--out", str(folder / "run")]
            run = ["torch.distributed.run", *place, *meet, str(calm), "train", *out_of, *flags]
            out = stack.enter_context(path.open("w"))
            command = [sys.executable, "-m", *map(str, run)]
            environment = {"SUBNETWORK_SECRET": secret, "OMP_NUM_THREADS": "1"}
            agents.append(host.start(command, environment=environment, stdout=out, stderr=out))
        yield agents, said


@pytest.mark.faults
def test_a_host_that_is_cut_off_for_ten_seconds_comes_back_five_times(hosts, tmp_path):
    record = tmp_path / "run.unfinished" / "ist.jsonl"
    with two_hosts(hosts, tmp_path, [*FLAGS, *EVERY]) as (agents, said):
        seconds_until(lambda: rounds_done(record) > 5)
        for number in range(CUTS):
            before = rounds_done(record)
            hosts[1].down()
            time.sleep(10)
            during = rounds_done(record)
            hosts[1].up()
            waited = seconds_until(lambda: count(record, "joined") > number)  # noqa: B023
            print(f"{during - before} rounds while cut off, back after {waited:.1f} s")  # noqa: T201
            assert during > before
            assert count(record, "frozen") == number + 1
            after = rounds_done(record)
            seconds_until(lambda: rounds_done(record) > after + 20)  # noqa: B023
        agents[0].send_signal(signal.SIGTERM)
        for agent in agents:
            agent.wait(timeout=120)
    ks = [row["k"] for row in rows(record)]
    assert ks == list(range(len(ks)))
    found = faults(record)
    assert {fault["worker"] for fault in found} == {1}
    frozen = [fault["seconds"] for fault in found if fault["kind"] == "frozen"]
    assert len(frozen) == kinds(record).count("joined") == CUTS
    assert max(frozen) < 6  # the deadline of 3 s; a busy machine adds
    assert kept_rounds(record.parent) > 0
    assert [path.read_text().count("has to be trusted") for path in said] == [1, 0]


@pytest.mark.faults
def test_ranks_on_two_hosts_hand_over_directly_and_a_cut_costs_time_alone(hosts, tmp_path):
    """No round is dropped and the model is that of one process, to the bit."""
    record = tmp_path / "run.unfinished" / "ist.jsonl"
    flags = [*SMALL, "--rounds", "120", "--test-every", "40"]
    with two_hosts(hosts, tmp_path, ["--exchange", "direct", *flags]) as (agents, said):
        seconds_until(lambda: rounds_done(record) > 5)
        hosts[1].down()
        time.sleep(1)
        during = rounds_done(record)
        time.sleep(2)
        assert rounds_done(record) == during, "nobody goes on without the other"
        hosts[1].up()
        assert [agent.wait(timeout=120) for agent in agents] == [0, 0], said[0].read_text()
    assert [path.read_text().count("has to be trusted") for path in said] == [1, 0]
    assert len(rows(tmp_path / "run/ist.jsonl")) == 120
    assert here("train", *flags, "--workers", 2, "--here", "--out", "here", cwd=tmp_path) == 0
    assert same_model(tmp_path / "run", tmp_path / "here")


@pytest.mark.faults
def test_a_host_with_another_secret_does_nothing_that_it_is_told(hosts, tmp_path):
    flags = ["--exchange", "direct", *SMALL, "--rounds", "5"]
    other = secrets.token_hex(32)
    with two_hosts(hosts, tmp_path, flags, other=other) as (agents, said):
        assert [agent.wait(timeout=120) for agent in agents] == [1, 1]
    assert "does not prove that it knows the run's secret" in said[1].read_text()
    assert "rank 1 does not believe rank 0" in " ".join(said[0].read_text().split())
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("run")]
