"""A process that computes one Frechet distance, and prints its own peak memory in KiB.

`benchmarks.evaluation` starts it: python -m benchmarks.evaluation_memory FEATURES.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from score_sde.evaluation import frechet_distance


def main() -> None:
    with np.load(sys.argv[1]) as file:
        frechet_distance(file["real"], file["fake"])
    # Not of getrusage, whose peak begins with that of whoever started this process.
    status = Path("/proc/self/status").read_text()
    print(status.split("VmHWM:")[1].split()[0])


if __name__ == "__main__":
    main()
