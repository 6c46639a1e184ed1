"""Start an experiment of your own: score-sde new FOLDER.

Writes a folder with a config, a part of your own and a test of both, which work as they
stand: `config.py`, `parts.py`, `test_parts.py`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import launch

CONFIG = '''\
"""The config of this experiment: every section is a dict of literals.

    score-sde train --config={folder}/config.py --workdir={folder}/run
"""

from pathlib import Path

PARTS = str(Path(__file__).resolve().with_name("parts.py"))


def get_config():
    """The config; `score-sde train --config=FILE --help` lists all fields."""
    return {{
        "seed": 0,
        "parts": (PARTS,),
        "data": {{"name": "rings", "batch_size": 256}},
        "sde": {{"name": "edm", "t_min": 0.002, "t_max": 20.0}},
        "network": {{"name": "waves", "width": 64}},
        "precondition": {{"name": "edm"}},
        "noise_levels": {{"name": "log_normal", "mean": -1.6, "std": 1.4}},
        "weight": {{"name": "capped", "cap": 100.0}},
        "optimizer": {{"learning_rate": 2e-3}},
        "train": {{"num_steps": 2_000, "ema_halflife_steps": 100.0}},
        "sampler": {{"name": "heun"}},
        "grid": {{"name": "karras", "num_steps": 18}},
        "sampling": {{"num_samples": 1_000}},
        "likelihood": {{"divergence": "exact"}},
    }}
'''

PARTS = '''\
"""Parts of this experiment: what is registered here, a config can name."""

from typing import Annotated

import flax.linen as nn
import jax.numpy as jnp

from score_sde.fields import checks_rules
from score_sde.losses import WEIGHTS
from score_sde.networks import NETWORKS
from score_sde.rules import Positive


class Waves(nn.Module):
    """A network for points: residual layers above waves of x at several frequencies.

    Args:
        width: features of the hidden layers.
        depth: number of hidden layers.
    """

    width: Annotated[int, Positive] = 64
    depth: Annotated[int, Positive] = 3

    @nn.compact
    def __call__(self, x, noise, cond=None):
        scaled = x[..., None] * 2.0 ** jnp.arange(4, dtype=x.dtype)
        waves = jnp.concatenate([jnp.sin(scaled), jnp.cos(scaled)], -1)
        told = [x, waves.reshape(len(x), -1), noise[:, None]]
        h = nn.Dense(self.width)(jnp.concatenate(told, -1))
        for _ in range(self.depth):
            h = h + nn.Dense(self.width)(nn.silu(h))
        return nn.Dense(x.shape[-1], kernel_init=nn.initializers.zeros)(h)


@checks_rules
def capped(sigma, *, cap: Annotated[float, Positive] = 25.0):
    """Weight min(1/sigma^2, cap) of the squared error of x0."""
    return jnp.minimum(1 / sigma**2, cap)


NETWORKS["waves"] = Waves
WEIGHTS["capped"] = capped
'''

TEST = '''\
"""Checks of this experiment, in seconds: pytest {folder}"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np

import score_sde as ss
from score_sde.losses import WEIGHTS
from score_sde.run.build import build

FOLDER = Path(__file__).resolve().parent


def test_the_weight_is_what_its_formula_says():
    spec = importlib.util.spec_from_file_location("config", FOLDER / "config.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build(module.get_config())  # registers the parts, and checks every field
    sigma = np.asarray([0.1, 2.0])
    np.testing.assert_allclose(WEIGHTS["capped"](sigma, cap=25.0), [25.0, 0.25])


def test_it_trains_draws_and_scores(tmp_path):
    words = [f"--config={{FOLDER}}/config.py", f"--workdir={{tmp_path}}"]
    words.append("--config.train.num_steps=20")
    program = [sys.executable, "-m", "score_sde.experiments.train"]
    subprocess.run([*program, *words], check=True)
    run = ss.open_run(tmp_path)
    assert run.step == 20
    assert np.isfinite(run.sample(8).levels).all()
    rows = run.dataset.test[np.arange(4)]
    assert np.isfinite(run.log_prob(rows).nats).all()
'''

FILES = {"config.py": CONFIG, "parts.py": PARTS, "test_parts.py": TEST}

NEXT = """\
{folder}: config.py, parts.py, test_parts.py

  score-sde train      --config={folder}/config.py --workdir={folder}/run
  score-sde sample     --workdir={folder}/run
  score-sde likelihood --workdir={folder}/run
  pytest {folder}"""


def main(argv: list[str] | None = None) -> int:
    """Write the folder, and print what can be done next."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    folder = parser.parse_args(argv).folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        print(f"{folder} is there already; name a folder that is not.", file=sys.stderr)
        return 2
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in FILES.items():
            shown = text.format(folder=folder) if name != "parts.py" else text
            (folder / name).write_text(shown)
    except OSError as error:
        print(f"{folder} can't be written: {error.strerror}.", file=sys.stderr)
        return 2
    print(NEXT.format(folder=folder))
    return 0


if __name__ == "__main__":
    sys.exit(launch.print_report(main))
