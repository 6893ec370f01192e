"""Frames: what is sent is what arrives, and nothing that is not ours is believed."""

import math
import random
import socket
import struct
import threading
import time
import zlib

import pytest
import torch

from seats_in_threads import Threads
from subnetwork.nets import Submodel
from subnetwork.runtime.faults import Fault
from subnetwork.runtime.seats import Remote
from subnetwork.runtime.serve import serve
from subnetwork.runtime.wire import (
    HEADER,
    TEXT_LIMIT,
    FrameError,
    Header,
    Link,
    Verb,
    decode,
    encode,
    pack,
    read_text,
    text_payload,
    unpack,
)

W = Submodel({"w": torch.arange(12.0).view(3, 4), "b": torch.ones(3)})
MOMENTS = {"m": {"w": torch.randn(3, 4), "b": torch.randn(3)}}


@pytest.fixture
def ends():
    ours, theirs = map(Link, socket.socketpair())
    yield ours, theirs
    ours.close()
    theirs.close()


def soon():
    return time.monotonic() + 5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_submodel_survives_the_wire(ends, dtype):
    ours, theirs = ends
    parts = [{n: t.to(dtype) for n, t in tensors.items()} for tensors in (W.params, MOMENTS["m"])]
    submodel = Submodel(parts[0], {"m": parts[1]}, 0.5, 7)
    flat = pack(submodel)
    assert flat.numel() * flat.element_size() == submodel.n_bytes
    sent = Header(Verb.DONE, 3, len(flat), flat.dtype, submodel.loss, submodel.n_steps, 1.5)
    ours.send(sent, flat, until=soon())
    header = theirs.receive_header(until=soon())
    assert header == sent
    back = unpack(theirs.receive_payload(header, until=soon()), submodel, header)
    assert (back.loss, back.n_steps) == (0.5, 7)
    assert list(back.moments) == ["m"]
    for a, b in zip(back.tensors(), submodel.tensors(), strict=True):
        assert torch.equal(a, b)


def test_a_header_has_64_bytes_and_survives():
    header = Header(Verb.DONE, 12, 345, torch.float64, 1.25, 20, 0.5)
    assert len(encode(header)) == HEADER == 64
    assert decode(encode(header)) == header
    assert math.isnan(decode(encode(Header(Verb.STOP))).loss)


def test_every_single_changed_byte_of_a_header_is_refused():
    frame = encode(Header(Verb.ROUND, 1, 10))
    for place in range(HEADER):
        for flip in (1, 0x80, 0xFF):
            damaged = bytearray(frame)
            damaged[place] ^= flip
            with pytest.raises(FrameError, match="not a frame of this program"):
                decode(bytes(damaged))


@pytest.mark.parametrize(("place", "wrong"), [(8, 99), (9, 17), (16, -1), (24, -1), (32, -1)])
def test_a_sound_header_that_says_nonsense_is_refused(place, wrong):
    fields = bytearray(encode(Header(Verb.ROUND, 1, 10))[:56])
    struct.pack_into("<B" if place < 16 else "<q", fields, place, wrong)
    with pytest.raises(FrameError, match="not a frame of this program"):
        decode(bytes(fields) + struct.pack("<I4x", zlib.crc32(fields)))


def test_text_survives_and_is_bounded(ends):
    ours, theirs = ends
    assert read_text(text_payload('{"gamma": "\u03b3"}')) == '{"gamma": "\u03b3"}'
    assert len(text_payload("x" * 5_000_000)) == TEXT_LIMIT
    ours.send(Header(Verb.JOB, length=TEXT_LIMIT + 1), until=soon())
    with pytest.raises(FrameError, match=f"text of {TEXT_LIMIT + 1} bytes is over the limit"):
        theirs.receive_payload(theirs.receive_header(until=soon()), until=soon())


def test_a_peer_that_drips_gets_no_more_time_than_one_that_is_silent(ends):
    ours, theirs = ends
    stop = threading.Event()

    def drip():
        for byte in encode(Header(Verb.STOP)):
            ours.socket.send(bytes([byte]))
            if stop.wait(0.05):
                return

    thread = threading.Thread(target=drip)
    thread.start()
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        theirs.receive_header(until=started + 0.3)
    assert time.monotonic() - started < 0.6
    stop.set()
    thread.join()


def test_a_closed_end_is_told_at_once(ends):
    ours, theirs = ends
    ours.socket.send(b"half a header")
    ours.close()
    with pytest.raises(ConnectionError):
        theirs.receive_header(until=soon())


def fuzzed(words, k):
    """Bytes that a broken or lying worker might send instead of its answer of round k."""
    payload = torch.ones(15).numpy().tobytes()
    right = encode(Header(Verb.DONE, k, 15, torch.float32, 0.5, 1, 0.0))
    damaged = bytearray(right)
    damaged[words.randrange(HEADER)] ^= words.randrange(1, 256)
    other_round = k + words.choice([1, 7, 10**12])
    length = words.choice([0, 14, 16, 2**40, 2**62])
    verb = words.choice([Verb.JOB, Verb.ROUND, Verb.STOP, Verb.READY])
    return words.choice(
        [
            words.randbytes(words.randrange(300)),
            (right + payload)[: words.randrange(HEADER + 60)],  # cut off
            bytes(damaged) + payload,
            encode(Header(Verb.DONE, other_round, 15)) + payload,
            encode(Header(Verb.DONE, k, length)) + payload,
            encode(Header(Verb.DONE, k, 15, torch.float64)) + payload * 2,
            encode(Header(verb, k, 15)) + payload,
            encode(Header(Verb.FAILED, k, 2**62)) + payload,
        ]
    )


@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_fuzzed_answers_are_refused_and_harm_nothing(seed):
    """Ten thousand with all seeds: every one is a fault of its worker, none an answer."""
    words = random.Random(seed)
    seat = Remote(0, Threads(lambda link: link.close()))
    seen = set()
    for k in range(5, 1005):
        ours, theirs = socket.socketpair()
        seat._sit_down(Link(ours))
        theirs.sendall(fuzzed(words, k))
        theirs.shutdown(socket.SHUT_WR)
        answer = seat._exchange(seat._link, k, W, time.monotonic(), time.monotonic() + 5)
        theirs.close()
        seat._link.close()
        assert isinstance(answer.fault, Fault)
        assert answer.trained.n_bytes == 0
        seen.add(answer.fault.kind)
    assert seen == {"refused", "lost"}
    seat.leave()


def refuse(job):
    raise ValueError(f"no job: {job[:20]}")


def test_fuzzed_orders_end_a_worker_s_loop_and_nothing_else():
    """It ends, at once, with the link closed; nothing that was sent is taken for a job or work."""
    words, ends = random.Random(1), {True: 0, False: 0}
    for k in range(1, 1001):
        ours, theirs = socket.socketpair()
        ours.sendall(fuzzed(words, k))
        ours.shutdown(socket.SHUT_WR)
        ends[serve(Link(theirs), 0, refuse)] += 1
        assert theirs.fileno() == -1
        ours.close()
    assert ends[False] > 900, "whoever is not told to stop comes back"
