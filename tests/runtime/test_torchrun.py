"""The same command under torchrun gives the same model as one process."""

import subprocess
import sys


def test_torchrun_equals_one_process_bit_for_bit(tmp_path):
    flags = ["--rounds", "2", "--hidden", "12", "--batch-size", "8"]
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    subprocess.run(
        [sys.executable, "-m", *launch, "-m", "subnetwork", "train", *flags, "--out", "apart"],
        cwd=tmp_path,
        check=True,
        timeout=120,
        capture_output=True,
    )
    here = ["subnetwork", "train", *flags, "--workers", "3", "--here", "--out", "together"]
    subprocess.run([sys.executable, "-m", *here], cwd=tmp_path, check=True, capture_output=True)
    apart = (tmp_path / "apart" / "model.safetensors").read_bytes()
    assert apart == (tmp_path / "together" / "model.safetensors").read_bytes()
