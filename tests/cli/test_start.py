"""What a command imports before its workers can begin."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from subnetwork.cli import main
status = main(sys.argv[1:])
print("steps", "subnetwork.runtime.first_step" in sys.modules, "torch._dynamo" in sys.modules)
sys.exit(status)
"""


@pytest.mark.parametrize(
    ("flags", "imported"),
    [
        ("--method ist", False),
        ("--method diloco", True),
        ("--method ist --outer nesterov", True),
        ("--method ist --here", True),
    ],
)
def test_a_coordinator_imports_what_steps_need_where_it_takes_any(flags, imported, tmp_path):
    """A second of a processor, in which its workers would wait; torch does that by itself."""
    small = "--workers 2 --hidden 8 --rounds 2 --local-steps 1 --out run"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "train", *flags.split(), *small.split()],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert f"steps {imported} {imported}" in done.stdout
