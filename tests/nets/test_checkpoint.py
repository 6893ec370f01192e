"""Checkpoints: exact, whole or not there, damage found in every byte, any number of ranks."""

import errno
import hashlib
import os
import random
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from subnetwork.nets import checkpoint as cp
from subnetwork.nets.pieces import Piece, assembled, cut, even_ranges, kinds_of, overlap
from subnetwork.nets.tensorfile import write_tensors


def some(v=0.0):
    """A state of many kinds whose entries all tell the version v."""
    return {
        "params/w": torch.arange(12.0).reshape(3, 4) + v,
        "params/scale": torch.tensor(v, dtype=torch.float64),
        "moments/step/w": torch.full((3, 4), int(v), dtype=torch.int64),
        "outer/empty": torch.zeros(0, 5),
        "params/half": torch.full((5,), v, dtype=torch.bfloat16),
        "mask": torch.tensor([True, False, True]),
    }


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("shards", [1, 2, 3, 40])
def test_what_is_read_is_what_was_written_to_the_bit(shards, tmp_path):
    odd = {"x": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])}
    path = cp.save(tmp_path / "c", 7, {"run": {"seed": 3}}, {**some(2.0), **odd}, shards=shards)
    found, damage = cp.newest(tmp_path / "c")
    assert (found.path, found.k, found.header["run"], damage) == (path, 7, {"seed": 3}, [])
    tensors = found.tensors()
    assert torch.equal(tensors.pop("x").view(torch.int32), odd["x"].view(torch.int32))
    same(tensors, some(2.0))


@given(
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    n=st.integers(1, 6),
)
def test_even_ranges_hold_every_entry_once_and_evenly(sizes, n):
    named = {str(i): size for i, size in enumerate(sizes)}
    shares = even_ranges(named, n)
    held = [sorted((name, j) for name, at in share.items() for j in at) for share in shares]
    assert sorted(entry for h in held for entry in h) == [
        (name, j) for name in named for j in range(named[name])
    ]
    lengths = [len(h) for h in held]
    assert max(lengths) - min(lengths) <= 1


def positions(kind, size, rng):
    if kind == "range":
        low = rng.randrange(size + 1)
        return range(low, rng.randrange(low, size + 1))
    return torch.tensor(sorted(rng.sample(range(size), rng.randrange(size + 1))), dtype=torch.int64)


@given(
    kinds=st.tuples(st.sampled_from(["range", "index"]), st.sampled_from(["range", "index"])),
    seed=st.integers(0, 2**32 - 1),
)
def test_overlap_is_that_of_sets(kinds, seed):
    rng = random.Random(seed)
    wanted, held = (positions(kind, 12, rng) for kind in kinds)
    mine, theirs = overlap(wanted, held)
    assert [int(wanted[int(i)]) for i in mine] == [int(held[int(j)]) for j in theirs]
    assert {int(wanted[int(i)]) for i in mine} == {int(w) for w in wanted} & {int(h) for h in held}


@pytest.mark.parametrize("writers", [1, 3])
@pytest.mark.parametrize("readers", [1, 2, 5])
def test_shards_of_some_ranks_are_read_by_any_number_of_ranks(writers, readers, tmp_path):
    """Each rank writes scattered entries, by index; each reads others, and never the whole."""
    rng = torch.Generator().manual_seed(writers)
    whole = {"w": torch.randn(6, 7, generator=rng), "v": torch.randn(11, generator=rng)}
    stage = cp.staging(tmp_path, 3)
    owner = {name: torch.randint(writers, (t.numel(),), generator=rng) for name, t in whole.items()}
    written = []
    for rank in range(writers):
        share = {name: (of == rank).nonzero().reshape(-1) for name, of in owner.items()}
        written.append(cp.write_shard(stage, cut(whole, share), rank, writers))
    cp.commit(stage, tmp_path, 3, {}, kinds_of(whole), written)
    found, _ = cp.newest(tmp_path)
    same(found.tensors(), whole)
    wanted = even_ranges({name: t.numel() for name, t in whole.items()}, readers)
    pieces = [piece for share in wanted for piece in found.part(share)]
    same(assembled(kinds_of(whole), pieces), whole)
    scattered = found.part({"w": torch.tensor([0, 5, 41])})[0]
    assert torch.equal(scattered.values, whole["w"].reshape(-1)[[0, 5, 41]])


def test_part_refuses_what_is_not_there(tmp_path):
    cp.save(tmp_path, 1, {}, some())
    found, _ = cp.newest(tmp_path)
    with pytest.raises(ValueError, match=r"holds no \['params/u'\]"):
        found.part({"params/u": range(2)})
    with pytest.raises(ValueError, match="params/w has 12 entries"):
        found.part({"params/w": range(10, 14)})


def test_pieces_that_lack_or_repeat_entries_are_refused():
    whole = {"w": torch.arange(6.0)}
    low, high = Piece("w", range(4), torch.arange(4.0)), Piece("w", range(3, 6), torch.arange(3.0))
    with pytest.raises(ValueError, match="held by two pieces"):
        assembled(kinds_of(whole), [low, high])
    with pytest.raises(ValueError, match="hold 4 of its 6 entries"):
        assembled(kinds_of(whole), [low])
    with pytest.raises(ValueError, match="beyond its 6 entries"):
        assembled(kinds_of(whole), [Piece("w", range(5, 8), torch.zeros(3))])
    with pytest.raises(ValueError, match="none of the tensors"):
        assembled({}, [low])
    with pytest.raises(ValueError, match="have to ascend"):
        cut(whole, {"w": torch.tensor([2, 1])})
    with pytest.raises(ValueError, match="one flat value for each position"):
        Piece("w", range(3), torch.zeros(4))


def test_two_are_kept_and_an_abandoned_course_goes(tmp_path):
    for k in (1, 2, 3, 9):
        cp.save(tmp_path, k, {}, some(k))
    assert [path.name for path in cp.checkpoints(tmp_path)] == ["round-00000003", "round-00000009"]
    cp.save(tmp_path, 5, {}, some(5))  # a run that went back to round 3
    assert [path.name for path in cp.checkpoints(tmp_path)] == ["round-00000003", "round-00000005"]
    assert len(list(tmp_path.iterdir())) == 2


def test_every_flipped_byte_is_found_and_the_previous_one_used(tmp_path):
    cp.save(tmp_path, 1, {}, some(1), shards=2)
    path = cp.save(tmp_path, 2, {}, some(2), shards=2)
    flips = 0
    for file in sorted(path.iterdir()):
        data = bytearray(file.read_bytes())
        for place in range(len(data)):
            data[place] ^= 1 << place % 8
            file.write_bytes(data)
            with pytest.raises(ValueError, match=rf"{path.name}/(.* or )?.*{file.suffix}"):
                cp.opened(path)
            if place % 500 == 0:
                found, (line,) = cp.newest(tmp_path)
                assert found.k == 1
                assert file.name in line
            data[place] ^= 1 << place % 8
            flips += 1
        file.write_bytes(data)
    assert flips > 1500
    assert cp.newest(tmp_path)[0].k == 2


@pytest.mark.parametrize("file", ["COMMITTED", "manifest.json", "header.json", "shard-0-of-1"])
def test_a_missing_or_shortened_file_is_found(file, tmp_path):
    path = cp.save(tmp_path, 2, {}, some(2))
    (hit,) = path.glob(f"{file}*")
    hit.write_bytes(hit.read_bytes()[:-1])
    assert file in cp.newest(tmp_path)[1][0]
    hit.unlink()
    found, (line,) = cp.newest(tmp_path)
    assert found is None
    assert file in line


def test_another_one_of_a_round_stands_beside_it_and_an_equal_one_is_not_written(tmp_path):
    path = cp.save(tmp_path, 2, {}, some(2))
    assert cp.save(tmp_path, 2, {}, some(2)) == path
    course = {"run": "another course"}
    beside = cp.save(tmp_path, 2, course, some(2))
    assert beside.name == "round-00000002.1"
    assert cp.newest(tmp_path)[0].header["run"] == "another course"
    third = cp.save(tmp_path, 2, course, some(3))
    assert all(torch.equal(t, some(3)[name]) for name, t in cp.opened(third).tensors().items())
    assert cp.newest(tmp_path)[0].path == third
    (third / "header.json").write_text("{}")
    cp.save(tmp_path, 2, course, some(3))
    assert cp.newest(tmp_path) == (cp.opened(tmp_path / "round-00000002.3"), [])
    assert cp.opened(path).header.keys() == {"format", "k", "tensors"}  # as it was
    cp.save(tmp_path, 3, {}, some(2))
    cp.save(tmp_path, 4, {}, some(2))
    assert [path.name for path in cp.checkpoints(tmp_path)] == ["round-00000003", "round-00000004"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("links", [True, False])
def test_a_checkpoint_is_told_again_under_another_header(links, tmp_path, monkeypatch):
    if not links:
        monkeypatch.setattr(os, "link", failing_after(0, os.link))
    old = cp.opened(cp.save(tmp_path / "old", 2, {"run": 1}, some(2), shards=3))
    new = cp.opened(cp.retell(old, tmp_path / "new", {"run": 2}))
    assert (new.k, new.header["run"]) == (2, 2)
    assert all(torch.equal(t, some(2)[name]) for name, t in new.tensors().items())
    assert cp.opened(old.path).header["run"] == 1
    same = cp.retell(old, tmp_path / "old", {"run": 3})
    assert cp.newest(tmp_path / "old")[0].path == same != old.path
    assert all(torch.equal(t, some(2)[name]) for name, t in old.tensors().items())


ORIGINAL = Path.open


def failing_after(calls, call):
    """`call`, on a disk that is full after so many calls."""
    left = calls

    def guarded(*arguments, **named):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return call(*arguments, **named)

    return guarded


@pytest.mark.parametrize("step", ["write", "fsync", "mkdir", "rename"])
def test_a_disk_that_fills_up_at_any_moment_leaves_the_earlier_ones(step, tmp_path, monkeypatch):
    cp.save(tmp_path, 1, {}, some(1))
    for after in range(200):
        with monkeypatch.context() as patch:
            if step == "write":
                patch.setattr(Path, "open", opened_with(partial(failing_after, after)))
            elif step == "fsync":
                patch.setattr(os, "fsync", failing_after(after, os.fsync))
            else:
                patch.setattr(Path, step, failing_after(after, getattr(Path, step)))
            with suppress(OSError):
                cp.save(tmp_path, 2, {}, some(2), shards=2)
                break
        found, damage = cp.newest(tmp_path)
        assert damage == []
        same(found.tensors(), some(found.k))
    assert after >= 1
    assert cp.newest(tmp_path)[0].k == 2


def opened_with(guard):
    """`Path.open`, with the writes of all files guarded in one count."""
    total = guard(lambda: None)

    def open_(self, *arguments, **named):
        file = ORIGINAL(self, *arguments, **named)
        if arguments[:1] == ("wb",):
            write = file.write
            return Wrapped(file, lambda data: (total(), write(data)))
        return file

    return open_


class Wrapped:
    """A file whose `write` is another function."""

    def __init__(self, file, write):
        self.file, self.write = file, write

    def __enter__(self):
        return self

    def __exit__(self, *reason):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_everything_is_on_disk_before_it_is_renamed_and_committed_is_last(tmp_path, monkeypatch):
    log = []
    fsync, rename = os.fsync, Path.rename

    def forced(descriptor):
        log.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renamed(self, target):
        log.append(f"{self.name} -> {Path(target).name}")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(Path, "rename", renamed)
    cp.save(tmp_path / "c", 1, {}, some(1))
    stage = ".round-00000001"
    assert log == [
        "shard-0-of-1.safetensors",
        "header.json",
        "manifest.json",
        stage,
        "COMMITTED",
        stage,
        ".round-00000001 -> round-00000001",
        "c",
    ]


WRITER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from subnetwork.nets import checkpoint as cp

folder, trials, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
rng = random.Random(seed)

def state(v):
    return {f"w{i}": torch.full((50_000,), float(v)) for i in range(4)}

began = time.monotonic()
cp.save(folder, 1, {}, state(1))
took = time.monotonic() - began  # on this machine, as busy as it is
lost, killed_in_writing, k = 0, 0, 1
for _ in range(trials):
    child = os.fork()
    if child == 0:
        while True:
            k += 1
            cp.save(folder, k, {}, state(k), shards=2)
    time.sleep(rng.uniform(0.05, 3) * max(took, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed_in_writing += any(folder.glob(".round-*"))
    found, damage = cp.newest(folder)
    values = {float(x) for t in found.tensors().values() for x in t.unique()} if found else set()
    if damage or values != {float(found.k if found else 0)} or found.k < k:
        lost += 1
    k = found.k
print(lost, killed_in_writing, k)
"""


def kills(trials, folder):
    output = subprocess.check_output(
        [sys.executable, "-c", WRITER, folder, str(trials), "0"], text=True, timeout=300
    )
    return map(int, output.split())


def test_a_writer_killed_at_random_moments_loses_nothing(tmp_path):
    lost, in_writing, k = kills(12, tmp_path)
    assert lost == 0
    assert in_writing >= 3  # it was hit where it hurts
    assert k > 1  # and it went on


@pytest.mark.slow
def test_a_writer_killed_200_times_loses_nothing(tmp_path):
    lost, in_writing, k = kills(200, tmp_path)
    assert lost == 0
    assert in_writing >= 50
    assert k > 20


def test_the_library_reads_what_is_written_here(tmp_path):
    n_bytes, sha256 = write_tensors(tmp_path / "a", some(3.0), {"note": "ü"})
    same(safetensors.torch.load_file(tmp_path / "a"), some(3.0))
    data = (tmp_path / "a").read_bytes()
    assert (n_bytes, sha256) == (len(data), hashlib.sha256(data).hexdigest())
    columns = torch.arange(12.0).reshape(3, 4).T  # not contiguous
    write_tensors(tmp_path / "b", {"columns": columns})
    same(safetensors.torch.load_file(tmp_path / "b"), {"columns": columns})


def test_scores_and_width_come_back_and_the_run_goes_on_to_the_bit(tmp_path):
    """Scored after 2 rounds and kept after 3: the scores are those of round 2, not of round 3."""
    from subnetwork import rounds
    from subnetwork.deals import Scored
    from subnetwork.experiments.resume import state_of, tensors_of
    from subnetwork.nets import MLP, SGD, LocalSteps, NetSketch, changes, holders, initial_state
    from subnetwork.nets.data.batches import batches_of
    from subnetwork.runtime import here

    network, rng = MLP(4, (12,), 3), torch.Generator().manual_seed(0)
    rows = torch.randn(40, 4, generator=rng), torch.randint(3, (40,), generator=rng)
    feed = batches_of(tuple(x.numpy() for x in rows), n_workers=2, batch_size=5, seed=1)
    work = here(LocalSteps(network, feed, SGD(0.3), 2))
    x0 = initial_state(network, seed=0)

    def after(x, sketch, start, stop):
        *_, last = rounds(x, sketch, work, holders, seed=7, n_rounds=stop, start=start)
        return last.x

    blind = NetSketch(network.layout, Scored((0.5, 0.6)), width=3)
    x2 = after(x0, blind, 0, 2)
    scored = Scored((0.5, 0.6), changes(network.layout, x2.params, x0.params))
    sketch = NetSketch(network.layout, scored, width=3)
    whole = after(x2, sketch, 2, 6)

    x3 = after(x2, sketch, 2, 3)
    cp.save(tmp_path, 3, {"sketch": sketch.to_json()}, tensors_of(x3))
    found, _ = cp.newest(tmp_path)
    again = NetSketch.from_json(network.layout, found.header["sketch"])
    resumed = after(state_of(found.tensors()), again, found.k, 6)
    same(resumed.params, whole.params)
    for lost in (blind, NetSketch(network.layout, scored)):  # no scores, no width: another run
        other = after(x3, lost, 3, 6)
        assert not all(torch.equal(other.params[n], p) for n, p in whole.params.items())
