"""Frames: what is sent is what arrives, and nothing that is not ours is believed."""

import math
import random

import pytest
import torch

from subnetwork.nets import Submodel
from subnetwork.runtime.wire import (
    Header,
    Verb,
    _decode,
    _encode,
    pack,
    read_text,
    text_payload,
    unpack,
)


def test_a_submodel_survives_packing():
    params = {"w": torch.randn(3, 4), "b": torch.randn(3)}
    submodel = Submodel(params, {"m": {"w": torch.randn(3, 4), "b": torch.randn(3)}})
    flat = pack(submodel)
    assert flat.numel() * flat.element_size() == submodel.n_bytes
    back = unpack(flat, submodel, 0.5)
    assert back.loss == 0.5
    assert all(torch.equal(a, b) for a, b in zip(back.tensors(), submodel.tensors(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_header_survives_encoding(dtype):
    header = Header(Verb.DONE, 12, 345, dtype, 1.25)
    assert _decode(_encode(header)) == header
    assert math.isnan(_decode(_encode(Header(Verb.STOP))).loss)


def test_a_foreign_header_is_refused():
    words = random.Random(0)
    for _ in range(1000):
        frame = torch.tensor([words.randrange(-(2**63), 2**63) for _ in range(8)])
        with pytest.raises(RuntimeError, match="not a frame of this program"):
            _decode(frame)
    for place, wrong in ((1, 99), (3, -1), (4, 17)):
        frame = _encode(Header(Verb.ROUND, 1, 10))
        frame[place] = wrong
        with pytest.raises(RuntimeError, match="not a frame of this program"):
            _decode(frame)


def test_text_survives_and_is_bounded():
    assert read_text(text_payload('{"gamma": "γ"}')) == '{"gamma": "γ"}'
    assert len(text_payload("x" * 5_000_000)) == 1 << 20
