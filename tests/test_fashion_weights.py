"""The Fashion-MNIST model on record: its weights come in, give their number, go out."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from as_a_user import run
from safetensors.numpy import load_file
from test_weights import assert_same_tensors, imported, program

GOLDEN = Path(__file__).with_name("golden") / "fashion_mnist"

# In a process of its own: with 64-bit numbers, as here, other noise is drawn.
SCORE = """
import sys
import numpy as np
import score_sde as ss
with np.load(sys.argv[2]) as file:
    found = ss.open_run(sys.argv[1]).log_prob({"values": file["images"]})
bits = ss.bits_per_dim(found.nats, 784, num_levels=None)
print("bits", *np.asarray(bits).tolist())
"""


@pytest.mark.slow
def test_the_weights_on_record_give_their_bits_and_go_out_as_they_came(tmp_path):
    """The number is in benchmarks/fashion_mnist.json, of more images than these."""
    told = json.loads((GOLDEN / "vdm.json").read_text())
    where, file = tmp_path / "run", GOLDEN / "vdm.safetensors"
    imported(file, where, "--network=unet", "--config.likelihood.num_steps=128")
    words = [sys.executable, "-c", SCORE, str(where), str(GOLDEN / "images.npz")]
    bits = [float(b) for b in run(words, tmp_path).partition("bits ")[2].split()]
    # Other compiler settings move one picture of these, mostly black, by 0.02.
    assert np.mean(bits) == pytest.approx(np.mean(told["bits_per_dim"]), abs=2e-3)
    np.testing.assert_allclose(bits, told["bits_per_dim"], atol=0.05)
    out = tmp_path / "out.safetensors"
    program("export_weights", f"--workdir={where}", f"--to={out}")
    assert_same_tensors(load_file(out), load_file(file))
