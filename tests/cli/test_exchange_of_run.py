"""How a run will exchange is told before torch is imported: by the flags, or by what was kept."""

import json
from dataclasses import replace

import pytest

from subnetwork.cli.keeping import Keeping, exchange_of_run
from subnetwork.methods import Training

DIRECT = Training(exchange="direct")


def kept(folder, exchange, k=3):
    """A checkpoint's header; nothing else of it is looked at."""
    place = folder / "checkpoints" / f"round-{k:08}"
    place.mkdir(parents=True)
    (place / "header.json").write_text(json.dumps({"run": {"exchange": exchange}}))


def test_a_new_run_exchanges_as_it_is_asked_to():
    assert exchange_of_run(Training(), Keeping(), ()) == "star"
    assert exchange_of_run(DIRECT, Keeping(), ("exchange",)) == "direct"


def test_a_run_that_goes_on_exchanges_as_its_newest_checkpoint_says_unless_it_is_told(tmp_path):
    keeping = Keeping(out=tmp_path / "run", resume=True)
    assert exchange_of_run(Training(), keeping, ()) == "star"  # there is nothing to go on with
    kept(tmp_path / "run", "star")
    kept(tmp_path / "run.unfinished", "star")
    kept(tmp_path / "run.unfinished", "direct", 12)
    assert exchange_of_run(Training(), keeping, ()) == "direct"
    assert exchange_of_run(Training(), keeping, ("exchange",)) == "star"
    assert exchange_of_run(Training(), replace(keeping, resume=False), ()) == "star"


@pytest.mark.parametrize("header", ["", "{}", "[]", '{"run": 3}', '{"run": {}}', "\\udcff"])
def test_a_header_that_says_nothing_is_left_to_whoever_reads_the_checkpoint(header, tmp_path):
    kept(tmp_path / "run.unfinished", "direct")
    (tmp_path / "run.unfinished/checkpoints/round-00000003/header.json").write_text(header)
    keeping = Keeping(out=tmp_path / "run", resume=True)
    assert exchange_of_run(DIRECT, keeping, ()) == "direct"
    assert exchange_of_run(Training(), keeping, ()) == "star"
