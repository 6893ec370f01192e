"""The lab where only its own dependencies are installed; wants pytest and nothing else."""

import subprocess
import sys

import numpy as np
import pytest

UNWANTED = "torch", "numba", "sklearn", "matplotlib", "hypothesis", "beartype"


def imported_by(code):
    """Which of the unwanted packages a fresh Python imports on the way."""
    report = f"import sys; {code}; print(*[m for m in {UNWANTED!r} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


def test_importing_the_package_imports_nothing_heavy():
    assert imported_by("import subnetwork") == set()


@pytest.mark.parametrize("module", ["problems", "sketches", "theorems", "curves", "simulation"])
def test_the_lab_imports_no_torch_and_sklearn_only_when_asked(module):
    assert imported_by(f"import subnetwork.theory.{module}") <= {"numba"}


def test_a_lab_run_and_the_table_of_claims_import_no_torch():
    code = (
        "from subnetwork.experiments import interpolation, verify; "
        "from subnetwork.theory.problems import trig; "
        "interpolation.run(trig(), n_rounds=5, n_seeds=3); verify.verify(0, n_seeds=200)"
    )
    assert "torch" not in imported_by(code)


def test_a_lab_run_works(tmp_path):
    from subnetwork.experiments import evidence, interpolation, neighbourhood
    from subnetwork.record import read_folder
    from subnetwork.theory.problems import breast_cancer

    for experiment in (interpolation, neighbourhood):
        found = experiment.run(breast_cancer(), n_rounds=20, n_seeds=10)
        evidence.write(tmp_path, found)
        assert found.outcomes[0].verdict == "holds"
    assert set(read_folder(tmp_path)) == {"interpolation", "neighbourhood"}


def test_rounds_run_on_vectors():
    from subnetwork import Perm, rounds
    from subnetwork.theory.merges import merge_form
    from subnetwork.theory.problems import trig
    from subnetwork.theory.sketches import Dealt
    from subnetwork.theory.work import GradientSteps

    problem = trig(2, 6).minimised_at_zero()
    work = GradientSteps(problem, 0.3)
    *_, last = rounds(
        np.ones(6), Dealt(Perm(2), 6, "paper"), work, merge_form, seed=0, n_rounds=200
    )
    assert problem.gap(last.x) < 1e-12
