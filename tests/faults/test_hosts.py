"""Two hosts (network namespaces) under torchrun; one is cut off for ten seconds and comes back."""

import secrets
import signal
import sys
import time
from contextlib import ExitStack

import net
import pytest
from attacked import MANY, count, faults, kept_rounds, rounds_done, rows, seconds_until

CUTS = 5
FLAGS = ["--hidden", "12", "--batch-size", "8", *MANY]
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


@pytest.mark.faults
def test_a_host_that_is_cut_off_for_ten_seconds_comes_back_five_times(hosts, tmp_path):
    record = tmp_path / "run.unfinished" / "ist.jsonl"
    secret = {"SUBNETWORK_SECRET": secrets.token_hex(32), "OMP_NUM_THREADS": "1"}
    said = [tmp_path / f"host{host.number}" for host in hosts]
    calm = tmp_path / "calm.py"
    calm.write_text(CALM)
    with ExitStack() as stack:
        agents = []
        for host, path in zip(hosts, said, strict=True):
            place = ["--nnodes", "2", "--node-rank", str(host.number), "--nproc-per-node", "1"]
            meet = ["--master-addr", hosts[0].address, "--master-port", "29511"]
            train = [
                "train",
                "--host",
                hosts[0].address,
                "--out",
                str(tmp_path / "run"),
                *FLAGS,
                *EVERY,
            ]
            run = ["torch.distributed.run", *place, *meet, str(calm), *train]
            out = stack.enter_context(path.open("w"))
            command = [sys.executable, "-m", *run]
            agents.append(host.start(command, environment=secret, stdout=out, stderr=out))
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
