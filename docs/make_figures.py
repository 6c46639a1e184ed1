"""Write the figures of the anatomy, by running the cells of its notebook.

    python docs/make_figures.py FOLDER

A cell that draws begins with a comment `# NAME: what`; its figure is NAME.png.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

# Most of the time is compilation of small programs: half of it this way.
FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"

import matplotlib  # noqa: E402

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
NOTEBOOK = ROOT / "notebooks/anatomy.ipynb"
TITLE = re.compile(r"# (\w+): ")


def write_figures(folder: Path, dpi: int = 110) -> list[Path]:
    """Run the notebook's cells in this process; the pictures that they draw.

    Args:
        folder: where the pictures go; it is made if it is not there.
        dpi: dots per inch of the pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    names: dict[str, object] = {}
    written = []
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        source = "".join(cell["source"])
        exec(compile(source, str(NOTEBOOK), "exec"), names)
        title = TITLE.match(source)
        if title:
            written.append(folder / f"{title[1]}.png")
            plt.gcf().savefig(written[-1], dpi=dpi)
        plt.close("all")
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/make_figures.py FOLDER")
    began = time.monotonic()
    pictures = write_figures(Path(sys.argv[1]))
    print(f"{len(pictures)} pictures in {time.monotonic() - began:.0f} s")
