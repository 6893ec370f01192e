"""Torch's generators, seeded inside a block and as they were after it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's generators inside the block.

    Those of CUDA too where they are in use: elsewhere seeding them is put off by torch until CUDA
    starts, and nothing would put them back then.
    """
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = list(range(torch.cuda.device_count())) if in_use else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if in_use:
            torch.cuda.manual_seed_all(seed)
        yield
