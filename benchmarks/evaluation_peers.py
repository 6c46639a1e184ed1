"""The side of torch-fidelity and clean-fid, which `benchmarks.evaluation` starts.

It needs neither JAX nor this library. Each line that it reads is a command in JSON, a
name and arguments; each line that it writes is what came of it. Given the name of a
distance and a file of features, it computes that one and prints its peak memory in KiB.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cleanfid import fid
from torch_fidelity import feature_extractor_inceptionv3 as inception
from torch_fidelity import metric_fid, metric_kid, metric_prc

PACKAGES = ("torch", "torch-fidelity", "clean-fid", "numpy", "scipy")
held: dict[str, Any] = {}


def versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def read(path: str) -> None:
    """Read both sets of features."""
    with np.load(path) as file:
        held["real"], held["fake"] = file["real"], file["fake"]
    held["moments"] = _moments()


def _moments() -> list[dict[str, np.ndarray]]:
    return [
        metric_fid.fid_features_to_statistics(torch.from_numpy(held[name]))
        for name in ("real", "fake")
    ]


def torch_fidelity() -> float:
    return _of_moments(_moments())


def torch_fidelity_of_moments() -> float:
    return _of_moments(held["moments"])


def _of_moments(moments: list[dict[str, np.ndarray]]) -> float:
    made = metric_fid.fid_statistics_to_metric(*moments, verbose=False)
    return float(made[metric_fid.KEY_METRIC_FID])


def torch_fidelity_kernel(subsets: str, size: str) -> float:
    """Mean of KID over subsets of the features that were read."""
    made = metric_kid.kid_features_to_metric(
        *_tensors(), kid_subsets=int(subsets), kid_subset_size=int(size), verbose=False
    )
    return float(made[metric_kid.KEY_METRIC_KID_MEAN])


def torch_fidelity_precision(neighbours: str) -> float:
    """Precision of the second set beside the first, of the features that were read.

    The peer takes generated features first.
    """
    real, fake = _tensors()
    made = metric_prc.prc_features_to_metric(
        fake, real, prc_neighborhood=int(neighbours), verbose=False
    )
    return float(made[metric_prc.KEY_METRIC_PRECISION])


def _tensors() -> list[torch.Tensor]:
    return [torch.from_numpy(held[name]) for name in ("real", "fake")]


def clean_fid_of_moments() -> float:
    sides = [m[name] for m in held["moments"] for name in ("mu", "sigma")]
    return float(fid.frechet_distance(*sides))


def clean_fid() -> float:
    return float(fid.fid_from_feats(held["real"], held["fake"]))


def make_weights(names: str, path: str) -> None:
    """Write a state dict of random weights of these names and shapes."""
    make = torch.Generator().manual_seed(0)
    with open(names) as file:
        shapes = json.load(file)
    state = {}
    for name, shape in shapes:
        scale = 0.05 if len(shape) > 1 else 0.1
        value = scale * torch.randn(shape, generator=make)
        if name.endswith(("running_var", "bn.weight")):
            value = 1 + value.abs()
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(0)
        state[name] = value
    torch.save(state, path)


def open_inception(weights: str, images: str) -> None:
    held["network"] = inception.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights
    ).eval()
    pictures = np.load(images).transpose(0, 3, 1, 2)
    held["images"] = torch.from_numpy(np.ascontiguousarray(pictures))


def features() -> list[float]:
    """Compute features of all images; a few numbers of them are returned."""
    with torch.no_grad():
        (found,) = held["network"](held["images"])
    return [float(v) for v in found[:2, :3].reshape(-1)]


COMMANDS = {
    f.__name__: f
    for f in (
        versions,
        read,
        torch_fidelity,
        torch_fidelity_of_moments,
        torch_fidelity_kernel,
        torch_fidelity_precision,
        clean_fid,
        clean_fid_of_moments,
        make_weights,
        open_inception,
        features,
    )
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    answers = sys.stdout
    sys.stdout = sys.stderr  # what programs print is no answer
    if len(sys.argv) > 1:  # a distance of a file, and the peak memory that it took
        with np.load(sys.argv[2]) as file:
            held["real"], held["fake"] = file["real"], file["fake"]
        {f.__name__: f for f in (torch_fidelity, clean_fid)}[sys.argv[1]]()
        # Not of getrusage, whose peak begins with that of whoever started this process.
        status = Path("/proc/self/status").read_text()
        print(status.split("VmHWM:")[1].split()[0], file=answers, flush=True)
        sys.exit()
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), file=answers, flush=True)
