"""Fixed hypothesis profile, and shapes checked at run time; both only where they are installed."""

import sys
from importlib.util import find_spec
from pathlib import Path

import subnetwork

# benchmarks are scripts beside each other, as `python benchmarks/NAME.py` finds them
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

if find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60)
    settings.load_profile("ci")

if find_spec("beartype"):
    from jaxtyping import install_import_hook

    THEORY = Path(subnetwork.__file__).parent / "theory"
    install_import_hook(
        # kernels are compiled: their annotations are read by a type checker only
        [f"subnetwork.theory.{m.stem}" for m in THEORY.glob("*.py") if m.stem != "kernels"],
        "beartype.beartype",
    )
