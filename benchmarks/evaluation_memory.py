"""A process that computes one Frechet distance, and prints its own peak memory in KiB.

`benchmarks.evaluation` starts it: python -m benchmarks.evaluation_memory FEATURES.npz
"""

from __future__ import annotations

import resource
import sys

import numpy as np

from score_sde.evaluation import frechet_distance


def main() -> None:
    with np.load(sys.argv[1]) as file:
        frechet_distance(file["real"], file["fake"])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
