"""Small tensors travel together: one table, of which a line is a line of each of them.

Dealing out a tensor takes a fraction of a millisecond, however small it is; a transformer has
hundreds of them, with a moment or two and a counter each. Those that are cut in the same way have
the same holders, keepers and idle lines, so that they are one to an exchange.
"""

from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from subnetwork.runtime.direct.counted import is_counter
from subnetwork.runtime.direct.draws import Draws
from subnetwork.runtime.direct.grid import Grid, Table
from subnetwork.runtime.direct.held import OUTER, PARAMS, Member, as_lines
from subnetwork.runtime.direct.wire import Wire, of_tensor

SMALL = 1 << 14  # entries of a whole parameter that travels in company, at most
MOST = 1 << 20  # entries of whole tensors that are one bundle, about: there are copies of them


@dataclass(frozen=True)
class Bundle:
    """Tensors that an exchange moves as one: of one table, one dtype and one way to travel."""

    members: tuple[Member, ...]
    grids: tuple[Grid, ...]  # of each
    dtype: torch.dtype
    how: Wire

    @property
    def name(self) -> str:
        """A parameter whose lines have the holders that those of all members have."""
        return self.members[0].name

    @property
    def by_keepers(self) -> bool:
        """Whether nobody needs a line but who will keep it: momentum of the merge's step."""
        return self.members[0].plane == OUTER

    @property
    def names(self) -> set[str]:
        """The parameters that members are of."""
        return {name for _, name in self.members}

    @property
    def fused(self) -> bool:
        """Whether these are several tensors."""
        return len(self.members) > 1

    @property
    def grid(self) -> Grid:
        """The table, with lines as long as those of all members together."""
        return self.grids[0].with_lengths([grid.length for grid in self.grids])

    def joined(self, tensors: Mapping[Member, Tensor]) -> Tensor:
        """The members' tensors, of as many lines each, as (lines, length): a copy, if several."""
        of_each = zip(self.members, self.grids, strict=True)
        lines = [as_lines(tensors[member], grid) for member, grid in of_each]
        return torch.cat(lines, dim=1) if self.fused else lines[0]

    def taken(self, tensors: MutableMapping[Member, Tensor]) -> Tensor | None:
        """`joined`, of members that are taken out; None where there are none."""
        if self.members[0] not in tensors:
            return None
        return self.joined({member: tensors.pop(member) for member in self.members})

    def parted(self, lines: Tensor) -> dict[Member, Tensor]:
        """The members' tensors out of such lines, as (lines, length) of their own."""
        if not self.fused:
            return {self.members[0]: lines}
        parts = torch.split(lines, [grid.length for grid in self.grids], dim=1)
        form = torch.contiguous_format  # a single line is contiguous as it is, but nobody's own
        return {m: p.clone(memory_format=form) for m, p in zip(self.members, parts, strict=True)}


def travelling(
    draws: Draws, of_planes: Collection[str], name: str, wire: Wire
) -> list[tuple[str, Wire]]:
    """The planes that a parameter has, and how they travel: counters have no moments."""
    own = (PARAMS,) if is_counter(name) else tuple(of_planes)
    return [(plane, of_tensor(wire, plane, name, draws.like[name])) for plane in own]


def bundles(draws: Draws, of_planes: Collection[str], wire: Wire) -> list[list[Bundle]]:
    """All tensors of a run, by table: what is small in company, up to a bound, all else alone.

    Every rank comes to the same, whatever it holds.

    Args:
        draws: the cuts of the run.
        of_planes: the planes that travel.
        wire: how lines travel.
    """
    found: dict[Table, dict[tuple[object, ...], list[Member]]] = {}
    so_far: dict[Table, int] = {}
    for name, like in draws.like.items():
        grid, n_entries = draws.grids[name], prod(draws.grids[name].shape)
        of_table, before = found.setdefault(grid.table, {}), so_far.get(grid.table, 0)
        so_far[grid.table] = before + n_entries * len(of_planes) * (n_entries <= SMALL)
        for plane, how in travelling(draws, of_planes, name, wire):
            company = (plane, name) if n_entries > SMALL else before // MOST
            which = (like.dtype, how, plane == OUTER, company)
            of_table.setdefault(which, []).append(Member(plane, name))
    return [[_bundle(draws, each, wire) for each in of.values()] for of in found.values()]


def _bundle(draws: Draws, members: list[Member], wire: Wire) -> Bundle:
    grids = tuple(draws.grids[name] for _, name in members)
    plane, name = members[0]
    like = draws.like[name]
    return Bundle(tuple(members), grids, like.dtype, of_tensor(wire, plane, name, like))
