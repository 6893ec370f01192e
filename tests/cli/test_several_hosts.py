"""What the command says where the address of rank 0 is wrong, or rank 0 is gone."""

import re
from datetime import timedelta

import pytest
import torch.distributed as dist
from in_process import command

from subnetwork import runtime
from subnetwork.cli import handing
from subnetwork.runtime.torchrun import Place, place_under_torchrun

ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "a"}
HINT = "Give the one that other hosts reach, as in: ip -brief address."


@pytest.fixture
def said(monkeypatch):
    """Set what torchrun says."""
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)

    def say(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    say(**ALONE, MASTER_PORT="1", MASTER_ADDR="127.0.0.1", SUBNETWORK_SECRET="ab" * 32)
    return say


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("203.0.113.7", "Cannot assign requested address"),
        ("2001:db8::7", r"(Cannot assign requested address|Address family not supported.*)"),
        ("no such host", "Name or service not known"),
    ],
)
@pytest.mark.parametrize("exchange", ["star", "direct"])
@pytest.mark.usefixtures("said")
def test_an_address_that_is_not_rank_0s_is_named(host, reason, exchange, tmp_path):
    flags = ["--hidden", "12", "--batch-size", "8", "--exchange", exchange, "--host", host]
    result = command("train", *flags, cwd=tmp_path)
    assert result.returncode == 2
    words = rf"subnetwork: --host {host} is no address of rank 0's machine \({reason}\)\. {HINT}\n"
    assert re.fullmatch(words, result.stderr), result.stderr
    assert not list(tmp_path.iterdir())


def test_another_rank_does_not_listen_there(said):
    """It only has to reach it."""
    server = dist.TCPStore("127.0.0.1", 0, 2, is_master=True, wait_for_workers=False)
    said(RANK="1", WORLD_SIZE="2", LOCAL_WORLD_SIZE="1", MASTER_PORT=str(server.port))
    said(TORCHELASTIC_USE_AGENT_STORE="True")
    assert place_under_torchrun("203.0.113.7").rank == 1


def test_a_rank_that_knows_no_such_host_says_which_rank_it_is(said, capsys):
    said(RANK="1", WORLD_SIZE="2", LOCAL_WORLD_SIZE="1")
    place = Place(1, 2, dist.HashStore(), "no such host")
    assert handing.followed(place) == 3
    assert capsys.readouterr().err == (
        "subnetwork: rank 1: --host no such host is nothing that rank 1's host reaches (Name or "
        "service not known). Give rank 0's address in the network between hosts, on all.\n"
    )


def test_a_rank_that_lost_rank_0_ends_with_status_3_and_one_line(said, tmp_path, monkeypatch):
    said(RANK="1", WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=0.2))
    place = Place(1, 2, store, None)
    monkeypatch.setattr(runtime, "place_under_torchrun", lambda _: place)
    result = command("train", "--resume", cwd=tmp_path)
    assert result.returncode == 3
    why = "rank 1 lost rank 0's store: see rank 0's own output for why."
    assert result.stderr == f"subnetwork: {why}\n"
