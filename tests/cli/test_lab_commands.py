"""`lab list`, `figure`, `run FILE.toml` and `sweep`, as a stranger uses them."""

import pytest

from subnetwork.cli import main
from subnetwork.record import read

SWEEP = """
problem = {name = "trig", n_workers = 2, dim = 4}
rounds = 10
seeds = 2
[[method]]
name = "gd"
step_size = 0.3
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def said(capsys, *arguments, status=0):
    """What a command printed; its error line where it failed."""
    assert main(list(arguments)) == status
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == (status == 2)
    return err if status else out


def test_list_names_everything_in_a_line_each(capsys):
    lines = said(capsys, "lab", "list").splitlines()
    first = {line.split()[0] for line in lines}
    assert {"experiments", "bias_removal", "trig", "perm", "stale_saga", "a9a"} <= first
    assert all(len(line.split()) > 1 for line in lines if line.startswith("  "))
    from subnetwork.cli.choices import THEOREMS
    from subnetwork.experiments.registry import EXPERIMENTS
    from subnetwork.theory.declared import DECLARED
    from subnetwork.theory.method_table import METHODS
    from subnetwork.theory.problems import OTHER_PROBLEMS, PROBLEMS

    whole = "\n".join(lines)
    for names in (EXPERIMENTS, PROBLEMS, OTHER_PROBLEMS, DECLARED, METHODS, THEOREMS):
        assert all(f"\n  {name} " in whole for name in names)


def test_run_takes_a_file_and_flags_win(capsys, tmp_path):
    (tmp_path / "e.toml").write_text('experiment = "equal_bits"\nrounds = 12\nseeds = 3\n')
    said(capsys, "lab", "run", "e.toml", "--seeds", "5", "--out", "lab")
    config = read(tmp_path / "lab" / "equal_bits.jsonl").header["config"]
    assert (config["n_rounds"], config["n_seeds"]) == (12, 5)
    assert (tmp_path / "lab" / "report.html").exists()


def test_a_file_can_say_more_of_the_problem(capsys, tmp_path):
    text = 'experiment = "not_psd"\nrounds = 5\nseeds = 2\nproblem = {name = "trig", dim = 8}\n'
    (tmp_path / "e.toml").write_text(text)
    said(capsys, "lab", "run", "e.toml", "--workers", "2", "--out", "lab")
    config = read(tmp_path / "lab" / "not_psd.jsonl").header["config"]
    assert (config["dim"], config["n_workers"]) == (8, 2)


def test_figure_reads_a_record_or_runs(capsys, tmp_path):
    assert "wrote bias_against_q.svg" in said(capsys, "lab", "figure", "bias_against_q")
    assert (tmp_path / "bias_against_q.svg").read_text().startswith("<?xml")
    said(capsys, "lab", "run", "equal_bits", "--rounds", "8", "--out", "lab")
    record = "lab/equal_bits.jsonl"
    said(capsys, "lab", "figure", record, "--axis", "work", "--out", "w.png")
    assert (tmp_path / "w.png").read_bytes()[:4] == b"\x89PNG"
    said(capsys, "lab", "figure", record)
    said(capsys, "lab", "figure", record, "--axis", "bits", "--out", "b.svg")
    assert (tmp_path / "equal_bits.svg").read_text() == (tmp_path / "b.svg").read_text()
    assert not list(tmp_path.glob(".*"))


def test_sweep_says_what_it_computed_and_a_second_one_computes_nothing(capsys, tmp_path):
    (tmp_path / "s.toml").write_text(SWEEP)
    assert "2 units in units; computed 20 rounds" in said(
        capsys, "lab", "sweep", "s.toml", "--out", "units"
    )
    assert "computed 0 rounds" in said(capsys, "lab", "sweep", "s.toml", "--out", "units")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["figure", "bias"], "no experiment 'bias'"),
        (["figure", "bias_against_q", "--out", "x.pdf"], "no .svg or .png"),
        (["figure", "bias_against_q", "--out", "no/x.svg"], "there is no folder no"),
        (["figure", "none.jsonl"], "there is no record none.jsonl"),
        (["figure", "bias_against_q", "--axis", "bits"], "can be drawn against: q"),
        (["run", "none.toml"], "cannot read an experiment from none.toml"),
        (["run", "bias_removal", "--data", "a9a"], "takes no 'data'"),
        (["run", "homogeneous", "--problem", "trig"], "makes its own problem"),
        (["run", "bias_removal", "--workers", "3"], "Name a --problem"),
        (["sweep", "none.toml"], "cannot read a sweep from none.toml"),
    ],
)
def test_a_mistake_costs_one_line_and_leaves_nothing(capsys, arguments, message, tmp_path):
    assert message in said(capsys, "lab", *arguments, status=2)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
