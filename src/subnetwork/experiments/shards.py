"""Checkpoints of a model that no rank holds: every rank writes some whole tensors, one at a time.

They are the checkpoints of a run through a coordinator, in as many shards as there are ranks:
either kind of run goes on from the other's.
"""

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from subnetwork.algorithm import RunFailedError
from subnetwork.experiments.side import Side
from subnetwork.nets import checkpoint
from subnetwork.nets.checkpoint import Checkpoint, Written
from subnetwork.nets.counters import COUNTER
from subnetwork.nets.means import has_mean
from subnetwork.nets.pieces import Kind
from subnetwork.record import force
from subnetwork.runtime.direct import Draws, Held, carried, gathered, tell
from subnetwork.runtime.direct.counted import counter_of, is_counter
from subnetwork.runtime.direct.held import OUTER, PARAMS

CHECKPOINTS = "checkpoints"
SEEN = ".seen-"  # how a file is named by which ranks find out whether they share a folder


def check_shared(side: Side) -> None:
    """Find out before the first round whether all ranks can write to the run's folder.

    Every rank calls it. Where rank 0 itself cannot, what it writes there next says so.

    Raises:
        RunFailedError: on every rank, where one of them cannot.
    """
    seen = side.folder / f"{SEEN}{secrets.token_hex(4)}"
    try:
        if side.rank == 0:
            with suppress(OSError):
                for left in side.folder.glob(f"{SEEN}*"):  # by a run that was killed meanwhile
                    left.unlink()
                seen.touch()
        name = tell(side.links, side.rank, side.n_workers, {"name": seen.name})[0]["name"]
        sees = (side.folder / name).exists() and os.access(side.folder, os.W_OK)
        said = tell(side.links, side.rank, side.n_workers, {"sees": sees})
    finally:
        if side.rank == 0:
            with suppress(OSError):
                seen.unlink()
    blind = [rank for rank, each in enumerate(said) if not each["sees"]]
    if blind and said[0]["sees"]:
        raise RunFailedError(
            f"rank {', '.join(map(str, blind))} cannot write to {side.folder}, where rank 0 writes "
            "the run. In direct hand-over every rank writes its shard of a checkpoint: put --out "
            "where all hosts can write."
        )


def save_with_others(side: Side, held: Held, k: int, header: Mapping[str, Any] | None) -> None:
    """Write this rank's shard of the checkpoint before round k; every rank calls it.

    Args:
        side: whose side.
        held: its part after the merge of round k - 1.
        k: the round that comes next.
        header: on rank 0, what to remember of the run; elsewhere None.

    Raises:
        OSError: on rank 0, where some rank could not write; the earlier checkpoints are intact.
        RunFailedError: where the ranks do not share the folder.
    """
    stage = side.folder / CHECKPOINTS / f".round-{k:08}"
    try:
        _save(side, held, k, header, stage)
    finally:
        if header is not None:
            shutil.rmtree(stage, ignore_errors=True)


def _save(side: Side, held: Held, k: int, header: Mapping[str, Any] | None, stage: Path) -> None:
    folder, trouble = stage.parent, 0
    if header is not None:
        try:  # here, where the others are told what went wrong
            force(side.folder / f"{side.t.run.method}.jsonl")
            checkpoint.staging(folder, k)
        except OSError as error:
            trouble = error.errno or 1
    if _anyone(tell(side.links, side.rank, side.n_workers, {"trouble": trouble}), header):
        return
    if not stage.is_dir():
        raise RunFailedError(
            f"rank {side.rank} does not see {stage}. In direct hand-over every rank writes its "
            "shard of a checkpoint: put --out where all hosts can write."
        )
    written, trouble = _written(side, held, stage)
    words = {"trouble": trouble, "written": asdict(written)}
    said = tell(side.links, side.rank, side.n_workers, words)
    if _anyone(said, header) or header is None:
        return
    shards = [Written(**each["written"]) for each in said]
    checkpoint.commit(stage, folder, k, header, kinds(side.draws, side.moments), shards)


def _written(side: Side, held: Held, stage: Path) -> tuple[Written, int]:
    """This rank's shard, and what kept it from being written."""
    owners = _owners(side.draws)
    mine: dict[str, Kind] = {}
    for name, owner in owners.items():
        mine |= _kinds(side.draws, name, side.moments) if owner == side.rank else {}
    passing = _passing(side, held, owners)
    try:
        return checkpoint.write_whole_tensors(stage, mine, passing, side.rank, side.n_workers), 0
    except OSError as error:
        for _ in passing:  # the others wait for what this rank has of their tensors
            pass
        return Written("", 0, ""), error.errno or 1


def kinds(draws: Draws, moments: tuple[str, ...]) -> dict[str, Kind]:
    """Dtype and shape of all tensors of a model, in the order of `tensors_of`."""
    found = [_kinds(draws, name, moments) for name in draws.like if not is_counter(name)]
    return {
        key: kinds[key]
        for plane in (PARAMS, *moments)
        for kinds in found
        for key in kinds
        if key.startswith(_key(plane, ""))
    }


def _key(plane: str, name: str) -> str:
    """What `tensors_of` calls a tensor."""
    kinds = {PARAMS: "params", OUTER: "outer"}
    return f"{kinds.get(plane, f'moments/{plane}')}/{name}"


def read_by_parts(
    found: Checkpoint, draws: Draws, moments: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tensors of a checkpoint one parameter after another, for `taken`.

    Momentum of the merge that it does not hold is zero: before the first round there is none.

    Raises:
        ValueError: the checkpoint holds other tensors than this run has.
    """
    expected = _shapes(kinds(draws, tuple(m for m in moments if m != OUTER)))
    every = _shapes(found.kinds)
    there = {key: kind for key, kind in every.items() if not key.startswith(_key(OUTER, ""))}
    if expected != there:
        odd = sorted(set(expected) ^ set(there)) or sorted(expected)
        raise ValueError(f"{found.path} holds another model: {odd[0]} differs. Start anew.")
    for name in draws.like:
        if is_counter(name):
            continue
        tensors: dict[str, Tensor] = {}
        for plane, key in ((plane, _key(plane, name)) for plane in (PARAMS, *moments)):
            if plane == OUTER and key not in every:
                tensors[plane] = torch.zeros_like(tensors[PARAMS])
                continue
            _, shape = every[key]
            flat = found.part({key: range(prod(shape))})[0].values
            tensors[plane] = flat.view(shape)
        counter = tensors.pop(COUNTER, None)
        yield name, tensors
        if counter is not None:
            yield counter_of(name), {PARAMS: counter}


def _shapes(kinds: Mapping[str, Kind]) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    return {key: (dtype, tuple(shape)) for key, (dtype, shape) in kinds.items()}


def _owners(draws: Draws) -> dict[str, int]:
    """Who writes a parameter with its moments: even shares of bytes, the widest entries first."""
    like = {name: p for name, p in draws.like.items() if not is_counter(name)}
    load, found = [0] * draws.n_workers, {}
    for name in sorted(like, key=lambda name: -like[name].nbytes):
        found[name] = min(range(len(load)), key=load.__getitem__)
        load[found[name]] += like[name].nbytes
    return {name: found[name] for name in sorted(like, key=lambda name: -like[name].itemsize)}


def _kinds(draws: Draws, name: str, moments: tuple[str, ...]) -> dict[str, Kind]:
    """Key -> dtype and shape of a parameter, its moments and its counter, as they are written."""
    like = draws.like[name]
    found: dict[str, Kind] = {_key(PARAMS, name): (like.dtype, tuple(like.shape))}
    for moment in _stored(moments, like):
        own = draws.like[counter_of(name)] if moment == COUNTER else like
        found[_key(moment, name)] = (own.dtype, tuple(own.shape))
    return found


def _stored(moments: tuple[str, ...], like: Tensor) -> list[str]:
    """The moments that are written of a parameter: a merge does not step on whole numbers."""
    return [moment for moment in moments if moment != OUTER or has_mean(like)]


def _passing(side: Side, held: Held, owners: Mapping[str, int]) -> Iterator[tuple[str, Tensor]]:
    """All parameters pass by; this rank keeps those that it writes for their turn."""

    def whole(name: str, owner: int) -> dict[str, Tensor]:
        exchange = gathered(side.draws, side.rank, held, name, (owner,))
        return carried(exchange, side.links).result

    for name, owner in owners.items():
        planes = whole(name, owner)
        if COUNTER in side.moments:
            counter = whole(counter_of(name), owner)
            planes |= {COUNTER: counter[PARAMS]} if counter else {}
        for plane in (PARAMS, *_stored(side.moments, side.draws.like[name])):
            if plane in planes:
                yield _key(plane, name), planes[plane]


def _anyone(said: list[dict[str, Any]], header: Mapping[str, Any] | None) -> bool:
    """Whether some rank is in trouble; rank 0 raises it."""
    troubles = [words["trouble"] for words in said if words["trouble"]]
    if troubles and header is not None:
        raise OSError(troubles[0], os.strerror(troubles[0]))
    return bool(troubles)
