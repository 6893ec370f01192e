"""Another round's values in a module that stands already: nothing is built, nothing is copied."""

from torch import Tensor, nn

from subnetwork.nets.state import Tensors


def reload(module: nn.Module, tensors: Tensors) -> None:
    """Have a module compute with other tensors of the same shapes, whose memory it then shares.

    Parameters stay the same objects, so that optimizers, tied weights and compiled graphs go on;
    what they hold is exchanged. So they can be views of one flat buffer.

    Args:
        module: as a builder made it.
        tensors: name -> tensor, for every parameter (tied ones once) and any of the buffers.

    Raises:
        ValueError: where names, shapes or dtypes are others; the module is then as it was.
    """
    params, buffers = dict(module.named_parameters()), dict(module.named_buffers())
    held: dict[str, Tensor] = {**buffers, **params}
    odd = sorted((set(params) - set(tensors)) | (set(tensors) - set(held)))
    if odd:
        raise ValueError(
            f"The module cannot be loaded anew: it and the given tensors disagree on {odd[:4]}. "
            "Build one for the blocks that are held now."
        )
    for name, tensor in tensors.items():
        old = held[name]
        if (tensor.shape, tensor.dtype, tensor.device) != (old.shape, old.dtype, old.device):
            raise ValueError(
                f"The module cannot be loaded anew: {name} is {tuple(old.shape)} {old.dtype} on "
                f"{old.device}, given is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}. "
                "Build one for these sizes."
            )
    for name, tensor in tensors.items():
        held[name].data = tensor.detach()
