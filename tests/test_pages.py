"""Every command of the how-to pages, in their order, from a clean folder.

Runs are short, so that this is about the commands: each must end well and leave what
it says. What needs a file from elsewhere is left out by name.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from as_a_user import blocks, commands, run
from PIL import Image

PAGES = (
    "guidance.md",
    "evaluation.md",
    "training.md",
    "latents.md",
    "cascades.md",
    "weights.md",
    "few_steps.md",
    "data.md",
    "samplers.md",
    "parts.md",
    "config.md",
)
WITH_SNIPPETS = ("few_steps.md",)
"""Pages whose Python is of runs that their commands make; it runs behind them."""
ONE_LOOK = {"train.sample_every": 12}
"""Held-out losses and a picture, at the end: half of the time of so short a run."""
SHORT = {
    "train": {"train.num_steps": 12, "optimizer.warmup_steps": 1, **ONE_LOOK},
    "distil": {"train.num_steps": 12, "optimizer.warmup_steps": 1, **ONE_LOOK},
    "sweep": {"train.num_steps": 12, "likelihood.rtol": 1e-2, "likelihood.atol": 1e-2},
    "sample": {"sampling.num_samples": 8, "sampling.batch_size": 8},
    "evaluate": {"sampling.num_samples": 32, "sampling.batch_size": 32},
    "likelihood": {
        "likelihood.num_train": 0,
        "likelihood.rtol": 1e-2,
        "likelihood.atol": 1e-2,
    },
}
"""Program -> fields that make it short, unless the page sets them itself."""
OF_OTHERS = ("inception", "edm2", "mine.safetensors --network=dit", "sd-vae", "sd_vae")
OF_OTHERS += ("efficientnet_lite0",)
"""Words of commands that need files which are published elsewhere, or an extra."""


FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


def shortened(words):
    """A command of a page with what makes it short."""
    fields = dict(SHORT.get(words[1], {}))
    if any(w.startswith("--config=") and "direct" in w for w in words):
        fields["objective.num_trajectories"] = 16
    given = {w.partition("=")[0] for w in words}
    return words + [
        f"--config.{name}={value}"
        for name, value in fields.items()
        if f"--config.{name}" not in given
    ]


def pictures(folder):
    """The picture files that the pages speak of."""
    random = np.random.default_rng(0)
    for name, side in (("three", 8), ("mask", 8), ("small", 4)):
        pixels = random.integers(0, 2 if name == "mask" else 17, (side, side))
        scale = 255 if name == "mask" else 15
        Image.fromarray((scale * pixels).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "pictures").mkdir()
    for i in range(40):
        pixels = random.integers(0, 256, (8, 8, 1), dtype=np.uint8)
        Image.fromarray(pixels[..., 0]).save(folder / f"pictures/{i}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders that hold a short run each, trained once for all pages."""
    return tmp_path_factory.mktemp("trained")


def ready(name, trained, folder):
    """Lay a run into the folder, unless a command of the page trained it."""
    place = folder / "runs" / name
    if place.exists():
        return
    config = "digits:label" if name == "label" else "digits"
    kept = trained / config.replace(":", "_")
    if not kept.exists():
        words = ["score-sde", "train", f"--config={config}", f"--workdir={kept}"]
        words += ["--config.train.power_ema_stds=0.05,0.1"]  # for reconstruct-ema
        words += ["--config.train.snapshot_every=4"]
        run(shortened(words), folder)
    shutil.copytree(kept, place)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_work(page, trained, folder):
    pictures(folder)
    (folder / "mine.py").write_text("".join(blocks(page, "python")[:1]))
    done = 0
    for words in commands(page):
        line = " ".join(words)
        if any(word in line for word in OF_OTHERS):
            continue
        if "fashion_mnist" in line and not FASHION_MNIST.exists():
            continue  # a package of the system has them
        for name in ("digits", "mine", "short", "label"):
            used = f"runs/{name}" in line
            trains = f"--workdir=runs/{name}" in line and "--config=" in line
            if used and not trains:
                ready(name, trained, folder)
        run(shortened([w.replace("PATH", "pictures") for w in words]), folder)
        done += 1
    assert done
    if page in WITH_SNIPPETS:
        (folder / "snippets.py").write_text("".join(blocks(page, "python")))
        run([sys.executable, "snippets.py"], folder)
