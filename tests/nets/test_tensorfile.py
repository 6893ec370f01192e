"""Files of tensors that are damaged, or hold what the format cannot."""

import pytest
import torch

from subnetwork.nets.tensorfile import read_state_dict, write_tensors


@pytest.mark.parametrize("legacy", [True, False])
def test_a_cut_off_or_damaged_state_dict_is_refused_by_name(legacy, tmp_path):
    """Wherever it ends, and whichever byte is flipped, where that can be noticed at all."""
    path = tmp_path / "weights.pt"
    tensors = {"a.weight": torch.randn(4, 3), "a.bias": torch.randn(4)}
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    whole, step = path.read_bytes(), 7 if legacy else 41
    assert set(read_state_dict(path)) == set(tensors)
    for size in range(0, len(whole) - 1, step):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"weights\.pt (is no|holds no) state_dict"):
            read_state_dict(path)
    for place in range(0, len(whole), step):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            read_state_dict(path)  # a value that differs is a value
        except ValueError as refused:
            assert "weights.pt" in str(refused)  # noqa: PT017


def test_a_type_that_the_format_cannot_hold_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"w is torch\.complex64, which .* float32"):
        write_tensors(tmp_path / "x.safetensors", {"w": torch.zeros(2, dtype=torch.complex64)})
