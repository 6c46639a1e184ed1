r"""Time distances and Inception features beside torch-fidelity and clean-fid.

    python3 -m venv PEERS && PEERS/bin/pip install torch torch-fidelity clean-fid
    OMP_NUM_THREADS=1 XLA_FLAGS="--xla_cpu_multi_thread_eigen=false \
        intra_op_parallelism_threads=1" taskset -c 0 \
        python -m benchmarks.evaluation --peers=PEERS/bin/python [--json=FILE]

The peers live in an environment of their own, and are called in turns with ours, each
on one thread. Features have random weights, the same in both programs: no published
ones are needed to time them. Peak memory is that of a process of each program that
computes one distance.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import record
from benchmarks.turns import in_turns
from score_sde.evaluation import (
    FEATURES,
    frechet_distance,
    kernel_distance_of_subsets,
    precision_recall,
)
from score_sde.evaluation.frechet import frechet_distance_of_moments
from score_sde.evaluation.moments import moments_of

HERE = Path(__file__).parent
NAMES = HERE.parent / "tests" / "golden" / "evaluation" / "names.json.gz"
DIMS = 2048
SUBSETS = 20
"""Of KID, where papers take 100: each costs the same."""


class Peers:
    """The program of the peers, as it waits for commands."""

    def __init__(self, python: str):
        words = [python, str(HERE / "evaluation_peers.py")]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)

    def __call__(self, name: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, *map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def some_features(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features like Inception's: positive, with a spectrum that falls."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((DIMS, DIMS)) * (1 + np.arange(DIMS)) ** -0.5 / 20
    sets = []
    for shift in (0.0, 0.02):
        x = rng.standard_normal((number, DIMS), np.float32) @ np.float32(mix)
        sets.append(np.maximum(x + np.float32(0.3 + shift), 0))
    return sets[0], sets[1]


def distances(peers: Peers, folder: Path, number: int, repeat: int) -> dict[str, Any]:
    """Seconds of the distance of two sets of 2,048 features, and the values.

    The rows "moments" start from means and covariances. No program that computes
    covariances in float64 can be faster than the first row.
    """
    real, fake = some_features(number)
    np.savez(folder / "features.npz", real=real, fake=fake)
    peers("read", folder / "features.npz")
    values: dict[str, float] = {}

    def kept(name: str, compute: Any) -> Any:
        return lambda: values.__setitem__(name, float(compute()))

    def products() -> float:
        wide = (x.astype(np.float64) for x in (real, fake))
        return sum(float((x.T @ x)[0, 0]) for x in wide)

    moments = moments_of(real), moments_of(fake)
    sides = {
        "X^T X of both in float64": kept("a limit", products),
        "ours": kept("ours", lambda: frechet_distance(real, fake, level=None)),
        "ours with its interval": kept(
            "ours with its interval", lambda: frechet_distance(real, fake)
        ),
        "torch-fidelity": kept("torch-fidelity", lambda: peers("torch_fidelity")),
        "clean-fid": kept("clean-fid", lambda: peers("clean_fid")),
        "moments: ours": kept(
            "moments: ours", lambda: frechet_distance_of_moments(*moments)
        ),
        "moments: torch-fidelity": kept(
            "moments: torch-fidelity", lambda: peers("torch_fidelity_of_moments")
        ),
        "moments: clean-fid": kept(
            "moments: clean-fid", lambda: peers("clean_fid_of_moments")
        ),
    }
    seconds = in_turns(sides, repeat)
    return {"examples": number, "seconds": seconds, "values": values}


def kernels_and_balls(
    peers: Peers, folder: Path, number: int, repeat: int
) -> dict[str, Any]:
    """Seconds of KID's subsets and of precision and recall, and the values.

    Both programs are given as many examples, subsets and neighbours.
    """
    real, fake = some_features(number)
    np.savez(folder / "features.npz", real=real, fake=fake)
    peers("read", folder / "features.npz")
    size, values = min(1000, number), dict[str, float]()

    def kept(name: str, compute: Any) -> Any:
        return lambda: values.__setitem__(name, float(compute()))

    def ours() -> float:
        options = {"num_subsets": SUBSETS, "subset_size": size, "level": None}
        return kernel_distance_of_subsets(real, fake, **options).value

    def precision() -> float:
        return precision_recall(real, fake, k=3, level=None).precision.value

    sides = {
        "KID: ours": kept("KID: ours", ours),
        "KID: torch-fidelity": kept(
            "KID: torch-fidelity",
            lambda: peers("torch_fidelity_kernel", SUBSETS, size),
        ),
        "precision: ours": kept("precision: ours", precision),
        "precision: torch-fidelity": kept(
            "precision: torch-fidelity", lambda: peers("torch_fidelity_precision", 3)
        ),
    }
    seconds = in_turns(sides, repeat)
    return {"examples": number, "seconds": seconds, "values": values}


def peak_memory(folder: Path, python: str) -> dict[str, float]:
    """Largest resident MiB of a process of each program that computes a distance.

    Args:
        folder: where features.npz is, which each reads.
        python: that of the peers.
    """
    words, found = [str(folder / "features.npz")], {}
    ours = [sys.executable, "-m", "benchmarks.evaluation_memory", *words]
    found["ours"] = _peak(ours)
    for name in ("torch_fidelity", "clean_fid"):
        peer = [python, str(HERE / "evaluation_peers.py"), name, *words]
        found[name.replace("_", "-")] = _peak(peer)
    return found


def _peak(command: list[str]) -> float:
    """What a command that ends with its own peak in KiB printed last, in MiB."""
    done = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return float(done.stdout.split()[-1]) / 1024


def features(peers: Peers, folder: Path, number: int, repeat: int) -> dict[str, Any]:
    """Seconds of Inception's features of 32x32 images, and how far they differ."""
    with gzip.open(NAMES) as file:
        (folder / "names.json").write_text(
            json.dumps(json.load(file)["inception_v3_fid"])
        )
    weights = folder / "inception.pth"
    peers("make_weights", folder / "names.json", weights)
    shape = (number, 32, 32, 3)
    images = np.random.default_rng(1).integers(256, size=shape, dtype=np.uint8)
    np.save(folder / "images.npy", images)
    peers("open_inception", weights, folder / "images.npy")
    extract = FEATURES["inception"](weights=str(weights))
    found: dict[str, Any] = {}
    sides = {
        "ours": lambda: found.__setitem__("ours", extract(images)[:2, :3].reshape(-1)),
        "torch-fidelity": lambda: found.__setitem__("theirs", peers("features")),
    }
    seconds = in_turns(sides, repeat)
    ours, theirs = np.asarray(found["ours"]), np.asarray(found["theirs"])
    relative = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
    return {"images": number, "seconds": seconds, "largest_difference": relative}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", required=True, help="a Python that has the peers")
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--balls", type=int, default=5_000)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    peers = Peers(given.peers)
    result: dict[str, Any] = record.circumstances("scipy") | {
        "threads": 1,
        "versions_of_peers": peers("versions"),
    }
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        result["features"] = features(peers, folder, given.images, given.repeat)
        fewer = min(given.examples, given.balls)
        result["kernels_and_balls"] = kernels_and_balls(
            peers, folder, fewer, given.repeat
        )
        result["frechet"] = distances(peers, folder, given.examples, given.repeat)
        result["peak_mib"] = peak_memory(folder, given.peers)
        print("peak MiB", result["peak_mib"])
    for what in ("features", "frechet", "kernels_and_balls"):
        print(what, {k: v for k, v in result[what].items() if k != "seconds"})
        for name, seconds in result[what]["seconds"].items():
            print(f"  {name:<26} {median(seconds):8.2f} s")
    record.write(given.json, result)


if __name__ == "__main__":
    main()
