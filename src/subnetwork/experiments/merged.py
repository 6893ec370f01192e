"""The merged model of a run by direct hand-over, which no rank has: tested, and written."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from subnetwork.experiments.side import Side
from subnetwork.nets import recalibrate
from subnetwork.nets.architecture import skeleton
from subnetwork.nets.evaluate import Scores
from subnetwork.nets.passing import passing_scores
from subnetwork.nets.pieces import kinds_of
from subnetwork.nets.tensorfile import in_order, write_passing
from subnetwork.runtime.direct import Held, passing_parameters, tell
from subnetwork.runtime.memory import lean_memory

MODEL = "model.safetensors"


@dataclass(frozen=True)
class Tested:
    """What was found of the merged model: everything on rank 0, nothing elsewhere."""

    scores: Scores | None = None
    buffers: Mapping[str, Tensor] = field(default_factory=dict)  # of the model, statistics set


def tested(side: Side, held: Held) -> Tested:
    """Test the merged model while its parameters pass by rank 0, those of an operation at a time.

    Rank 0 says which, and the others send their lines of them. A model that takes less memory than
    its rows would, all batches side by side, is put together on rank 0. Batch statistics are those
    of the training rows, as everywhere.
    """
    if side.rank > 0:
        return _asked(side, held)
    if side.tests_whole:
        _tell(side, None)
        return _tested_whole(side, held)
    model, places = skeleton(side.row.architecture), list(side.draws.like)

    def fetch(names: Sequence[str]) -> Mapping[str, Tensor]:
        _tell(side, [places.index(name) for name in names])
        return dict(_fetched(side, held, names))

    with lean_memory():
        found = passing_scores(model, fetch, side.t.stream(), side.t.tested(), side.t.loss)
    _tell(side, [])
    return Tested(found, dict(model.named_buffers()))


def _asked(side: Side, held: Held) -> Tested:
    """Another rank than 0: send what it asks for."""
    places = list(side.draws.like)
    while wanted := _tell(side, []):
        assert not dict(_fetched(side, held, [places[i] for i in wanted])), "rank 0 has them"
    return _tested_whole(side, held) if wanted is None else Tested()


def _tell(side: Side, wanted: Sequence[int] | None) -> list[int] | None:
    """What rank 0 wants: places of parameters among all; none at the end; None: the whole model."""
    said: list[int] | None = tell(side.links, side.rank, side.n_workers, {"wanted": wanted})[0][
        "wanted"
    ]
    return said


def _tested_whole(side: Side, held: Held) -> Tested:
    passing = _fetched(side, held)
    if side.rank > 0:
        assert not dict(passing), "rank 0 has them"
        return Tested()
    architecture = side.row.architecture
    model = architecture.build(architecture.layout.all_units)
    params = {name: p.detach() for name, p in model.named_parameters()}
    for name, tensor in passing:
        params[name].copy_(tensor)
    recalibrate(model, side.t.stream)
    return Tested(side.t.scores(model), dict(model.named_buffers()))


def write_model(side: Side, held: Held, found: Tested) -> None:
    """Write `model.safetensors`, for the plain module: tensors pass through rank 0 one by one."""
    model = skeleton(side.row.architecture)
    first = {id(t): name for name, t in model.named_parameters()}  # of tied ones
    kinds = kinds_of(model.state_dict())
    ties = dict(model.named_parameters(remove_duplicate=False))
    sources = {name: first[id(ties[name])] if name in ties else name for name in in_order(kinds)}
    passing = _whole_tensors(side, held, sources, found.buffers)
    if side.rank == 0:
        write_passing(side.folder / MODEL, kinds, passing)
    else:
        assert not list(passing)


def _whole_tensors(
    side: Side, held: Held, sources: Mapping[str, str], buffers: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers in this order on rank 0, by what holds them; nothing elsewhere."""
    for name, source in sources.items():
        if source in side.draws.like:
            for _, tensor in _fetched(side, held, [source]):
                yield name, tensor
        elif source in buffers:
            yield name, buffers[source]


def _fetched(
    side: Side, held: Held, names: Iterable[str] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Parameters of these names, or all, one after another on rank 0; nothing elsewhere."""
    for name, tensor in passing_parameters(held, side.draws, side.rank, side.links, names):
        if tensor is not None:
            yield name, tensor
