"""What parts are compared with: the whole model, masked entry by entry.

It shares no code with the package: each entry of a parameter is marked by the units that it
belongs to, and zeroed where a worker does not hold them; blocks are zeroed by their names.
"""

import copy

import torch
from torch.utils._pytree import tree_leaves

from subnetwork.nets.terms import Prod


def owners(term, sizes):
    """For each entry along a dim: the set of (axis, unit) that it belongs to."""
    if isinstance(term, str):
        return [{(term, unit)} for unit in range(sizes[term])]
    if isinstance(term, int):
        return [set() for _ in range(term)]
    if isinstance(term, Prod):
        found = [set()]
        for factor in term.factors:
            found = [a | b for a in found for b in owners(factor, sizes)]
        return found
    return [entry for part in term.parts for entry in owners(part, sizes)]


def kept(dims, shape, sizes, held):
    """A boolean tensor: which entries of a parameter belong to held units only."""
    mask = torch.ones(shape, dtype=torch.bool)
    for d, (dim, n) in enumerate(zip(dims, shape, strict=True)):
        entries = owners(n if dim is None else dim, sizes)
        assert len(entries) == n
        along = [all(unit in held[axis] for axis, unit in entry) for entry in entries]
        mask &= torch.tensor(along).reshape([-1 if i == d else 1 for i in range(len(shape))])
    return mask


def masks(plan, sub):
    """What a part holds of every parameter; of a block that it lacks, nothing."""
    held = {axis: set(units.tolist()) for axis, units in sub.held_units.items()}
    lacking = tuple(f"{b.path}." for u, b in enumerate(plan.blocks) if u not in held["blocks"])
    return {
        name: kept(plan.layout.dims[name], p.shape, plan.layout.sizes, held)
        & (not name.startswith(lacking))
        for name, p in plan.model.named_parameters()
    }


def masked(model, mask):
    """A copy of the whole model, with every entry at zero that the mask leaves out."""
    whole = copy.deepcopy(model)
    for name, p in whole.named_parameters():
        p.data *= mask[name]
    return whole


def call(model, inputs):
    """The model on the inputs of a plan."""
    return model(*inputs.args, **inputs.kwargs)


def outputs(model, inputs):
    """All tensors of floating-point numbers that a forward pass returns."""
    leaves = tree_leaves(call(model, inputs))
    return [x for x in leaves if isinstance(x, torch.Tensor) and x.is_floating_point()]


def assert_same_function(plan, model, sub):
    """Outputs and gradients of a part are those of the model at masked parameters, in float64."""
    mask = masks(plan, sub)
    whole = masked(model, mask)
    found, expected = outputs(sub.train(), plan.inputs), outputs(whole.train(), plan.inputs)
    for a, b in zip(found, expected, strict=True):
        assert b.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    weights = [torch.randn_like(x) for x in expected]
    for out in (found, expected):
        sums = [(x * w).sum() for x, w in zip(out, weights, strict=True)]
        torch.autograd.backward(torch.stack(sums).sum())
    full = dict(whole.named_parameters())
    for name, p in sub.named_parameters():
        slope = torch.zeros_like(full[name]) if full[name].grad is None else full[name].grad
        found = torch.zeros_like(p) if p.grad is None else p.grad
        expected = slope[mask[name]].reshape(p.shape)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


def doubled(batch):
    """A batch with every tensor of floating-point numbers in float64."""

    def cast(x):
        return x.double() if x.is_floating_point() else x

    if isinstance(batch, dict):
        return {name: cast(x) for name, x in batch.items()}
    return tuple(map(cast, batch)) if isinstance(batch, tuple) else cast(batch)


def without_dropout(model):
    """The model with every rate of dropout at zero."""
    for module in model.modules():
        for name, value in vars(module).items():
            if name in ("p", "dropout") and isinstance(value, float):
                setattr(module, name, 0.0)
    return model
