"""Folders of runs whose names lead nowhere, to the root, or are no text."""

import os
import subprocess
import sys

import pytest
from in_process import command

QUICK = ["--hidden", "12", "--batch-size", "8", "--workers", "2", "--rounds", "2", "--here"]
ODD = b"\xff-out"


@pytest.mark.parametrize(
    "arguments",
    [["train", *QUICK, "--out"], ["lab", "run", "--out"], ["watch"], ["evaluate"], ["export"]],
)
def test_links_in_a_circle_and_the_root_are_refused(arguments, tmp_path):
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    for folder, fault in (("a", "a"), ("a/run", "a/run"), ("/", "/ is the root of the file sys")):
        result = command(*arguments, folder, cwd=tmp_path)
        line = result.stderr
        assert (result.returncode, len(line.splitlines())) == (2, 1), line
        assert fault in line
        assert any(word in line for word in ("ame another", "Name one", "Name a", "Choose a")), line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def ran(*arguments, cwd):
    """The command in a process: only there are its words bytes."""
    words = [sys.executable, "-m", "subnetwork", *arguments]
    result = subprocess.run(words, cwd=cwd, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_folder_whose_name_is_no_text_is_written_read_and_gone_on_with(tmp_path):
    more = [*QUICK[:-2], "3", "--here"]
    assert rb"wrote \udcff-out/ist.jsonl" in ran("train", *QUICK, "--out", ODD, cwd=tmp_path)
    assert rb"wrote \udcff-out/ist" in ran("train", *more, "--resume", "--out", ODD, cwd=tmp_path)
    assert rb"(\udcff-out/model.safetensors)" in ran("evaluate", ODD, cwd=tmp_path)
    assert rb"wrote \udcff-out/report.html" in ran("report", ODD, cwd=tmp_path)
    assert rb"\udcff-out" in (tmp_path / os.fsdecode(ODD) / "report.html").read_bytes()


def test_a_record_keeps_words_that_are_no_text(tmp_path):
    from subnetwork.record import read, writing

    with writing(tmp_path / "a.jsonl", kind="lab", name="a", config={}) as write:
        write({"file": os.fsdecode(ODD)})
    assert os.fsencode(read(tmp_path / "a.jsonl").rows[0]["file"]) == ODD
