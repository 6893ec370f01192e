"""`python -m subnetwork`, for torchrun: ``torchrun --nproc-per-node 4 -m subnetwork train``."""

import sys

from subnetwork.cli import main

sys.exit(main())
