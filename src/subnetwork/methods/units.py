"""Whether a network has a unit for every worker, said in the flags that decide it."""

import math

from subnetwork.methods.training import Training
from subnetwork.nets import Layout

SIZES = {"resnet": "width", "gpt": "width", "gat": "heads"}  # of the others: hidden


def check_units(run: Training, layout: Layout) -> None:
    """Raise ValueError where an axis has fewer units than there are workers.

    The deals say the same of an axis; here it is said of the flags.
    """
    few = {axis: n for axis, n in layout.sizes.items() if n < run.workers}
    if not few:
        return
    axis, n = min(few.items(), key=lambda item: item[1])
    name = "heads" if axis.endswith("heads") else SIZES.get(run.model, "hidden")
    size = n if name == "hidden" else getattr(run, name)
    least = math.ceil(run.workers * size / n)
    raise ValueError(
        f"--{name} {size} gives {n} units on axis {axis} for --workers {run.workers}, and every "
        f"worker is dealt one at least. Use --workers {n} or less, or --{name} {least} or more."
    )
