"""What torchrun says in the environment: nothing, numbers, or nonsense that is refused by name."""

import pytest
from in_process import command

from subnetwork.environment import (
    rank_under_torchrun,
    restarts_under_torchrun,
    workers_under_torchrun,
)
from subnetwork.runtime import place_under_torchrun

NAMES = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "WORLD_SIZE", "RANK")
NAMES += ("LOCAL_WORLD_SIZE", "MASTER_PORT")
QUICK = ["--hidden", "12", "--batch-size", "8", "--workers", "2", "--rounds", "1", "--here"]


@pytest.fixture
def said(monkeypatch):
    """Set what the environment says, and nothing else of torchrun."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)

    def say(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return say


def test_torchrun_is_believed_only_where_it_started_the_process(said):
    said(WORLD_SIZE="3", RANK="2")
    assert (workers_under_torchrun(), rank_under_torchrun()) == (None, 0)
    said(TORCHELASTIC_RUN_ID="")
    assert (workers_under_torchrun(), rank_under_torchrun()) == (None, 0)
    said(TORCHELASTIC_RUN_ID="a", TORCHELASTIC_RESTART_COUNT="4")
    assert (workers_under_torchrun(), rank_under_torchrun()) == (3, 2)
    assert restarts_under_torchrun() == 4
    said(TORCHELASTIC_RESTART_COUNT="")
    assert restarts_under_torchrun() == 0


@pytest.mark.parametrize("text", ["two", "-1", "1.5", "0", "9" * 5_000, "²"])
def test_nonsense_is_refused_by_name(text, said):
    for started in ("", "a"):
        said(WORLD_SIZE=text, TORCHELASTIC_RUN_ID=started)
        with pytest.raises(ValueError, match=r"^WORLD_SIZE='.*no whole number from 1 on.*unset it"):
            workers_under_torchrun()


def test_what_torchrun_did_not_say_is_named(said):
    said(TORCHELASTIC_RUN_ID="a", WORLD_SIZE="")
    with pytest.raises(ValueError, match=r"^WORLD_SIZE is not set .* or unset TORCHELASTIC_RUN_ID"):
        workers_under_torchrun()
    said(WORLD_SIZE="2")
    with pytest.raises(ValueError, match=r"^RANK is not set"):
        rank_under_torchrun()
    with pytest.raises(ValueError, match=r"^LOCAL_WORLD_SIZE is not set"):
        place_under_torchrun()
    said(RANK="2", LOCAL_WORLD_SIZE="2", MASTER_PORT="first")
    with pytest.raises(ValueError, match=r"^RANK=2 .* ranks are 0 to 1"):
        rank_under_torchrun()
    with pytest.raises(ValueError, match=r"^MASTER_PORT='first' in the environment"):
        place_under_torchrun()


def test_train_says_how_many_workers_it_starts_whatever_others_say(said, tmp_path):
    for others in ({"WORLD_SIZE": "", "RANK": ""}, {"WORLD_SIZE": "7", "RANK": "5"}):
        said(TORCHELASTIC_RESTART_COUNT="", **others)
        result = command("train", *QUICK, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert result.stdout.startswith("ist of mlp on digits: 2 workers in this process")


@pytest.mark.parametrize("name", ["WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"])
def test_train_refuses_nonsense_in_one_line(name, said, tmp_path):
    said(**{name: "many"})
    result = command("train", *QUICK, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f"subnetwork: {name}='many' in the environment is no whole")
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
