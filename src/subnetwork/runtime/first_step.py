"""What the first optimizer of a process imports, over a second of a processor: here, at once.

A nursery imports this module once for all its processes, and they share the memory of it.
"""

import torch

torch.optim.SGD([torch.zeros(1)])
