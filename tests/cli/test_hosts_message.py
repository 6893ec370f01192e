"""On several hosts the command says once that the network between them has to be trusted."""

from contextlib import contextmanager

import pytest
from torch.distributed import HashStore

from subnetwork import runtime
from subnetwork.cli import main
from subnetwork.runtime.in_process import InProcess

FLAGS = ["--rounds", "2", "--hidden", "12", "--batch-size", "8"]


class Place:
    rank = 0

    def __init__(self, host):
        self.host, self.store = host, HashStore()

    @contextmanager
    def seats(self):
        yield (InProcess(0),)


@pytest.mark.parametrize(("host", "times"), [("10.177.0.1", 1), (None, 0)])
def test_the_network_has_to_be_trusted(host, times, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, value in {"TORCHELASTIC_RUN_ID": "a", "WORLD_SIZE": "1", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(runtime, "place_under_torchrun", Place)
    assert main(["train", *FLAGS, *(["--host", host] if host else [])]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("the network between them has to be trusted") == times
