"""The Fashion-MNIST model on record: its weights come in, give their number, go out."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_weights import imported, program

import score_sde as ss

GOLDEN = Path(__file__).with_name("golden") / "fashion_mnist"


@pytest.mark.slow
def test_the_weights_on_record_give_their_bits_and_go_out_as_they_came(tmp_path):
    """The number is in benchmarks/fashion_mnist.json; these images are few of its own."""
    told = json.loads((GOLDEN / "vdm.json").read_text())
    imported(
        GOLDEN / "vdm.safetensors",
        tmp_path / "run",
        "--network=unet",
        "--config.likelihood.num_steps=40",
    )
    run = ss.open_run(tmp_path / "run")
    with np.load(GOLDEN / "images.npz") as file:
        found = run.log_prob({"values": file["images"]})
    bits = ss.bits_per_dim(found.nats, 784, num_levels=None)
    np.testing.assert_allclose(bits, told["bits_per_dim"], atol=2e-3)
    out = tmp_path / "out.safetensors"
    program("export_weights", f"--workdir={tmp_path / 'run'}", f"--to={out}")
    before, after = load_file(GOLDEN / "vdm.safetensors"), load_file(out)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
