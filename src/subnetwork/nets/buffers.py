"""Memory that submodels are gathered into, round after round."""

import torch
from torch import Tensor


class Buffers:
    """One flat buffer per worker, kept from round to round: gathering into it allocates nothing.

    A submodel gathered into it is overwritten by the worker's next one. It suits loops that are
    done with a round when they start the next, such as a training script; a loop that looks back
    at `Round.submodels` goes without.
    """

    def __init__(self) -> None:
        self._flat: dict[tuple[object, ...], Tensor] = {}

    def flat(self, worker: int, length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """The worker's buffer, cut to a length; it grows where a submodel is larger than before."""
        path = (worker, dtype, device)
        if path not in self._flat or len(self._flat[path]) < length:
            self._flat.pop(path, None)  # before the new one is there
            self._flat[path] = torch.empty(length, dtype=dtype, device=device)
        return self._flat[path][:length]
