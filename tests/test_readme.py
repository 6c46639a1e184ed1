import re
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_model_in_ten_lines_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    lines = code.partition("\n\n")[2].splitlines()
    assert len(lines) <= 11
    names = {}
    # A user has neither float64 nor the strict promotion of these tests.
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        exec(code, names)
    assert names["loss"].shape == names["nats"].shape == (100,)
    assert names["samples"].shape == names["decoded"].shape == (100, 2)
    # What it prints is what the page says; another machine rounds otherwise.
    (said,) = re.findall(r"```text\n(-?[\d.]+) nats", README)
    assert float(names["nats"].mean()) == pytest.approx(float(said), abs=0.02)


def test_it_is_short():
    features = README.partition("## Features")[2].partition("\n## ")[0]
    assert len(re.findall(r"^- \*\*", features, re.MULTILINE)) == 8
    measured = README.partition("## Measured")[2].partition("\n## ")[0]
    assert len(re.findall(r"^\| ", measured, re.MULTILINE)) == 1 + 4


@pytest.mark.parametrize("path", re.findall(r"\]\(([\w./]+)\)", README))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


def test_all_files_that_the_table_names_exist():
    pieces = (ROOT / "docs/pieces.md").read_text()
    names = re.findall(r"`([a-z_/]+(?:\.py|/))` \|", pieces)
    assert len(names) > 15
    for name in names:
        assert (ROOT / "score_sde" / name).exists(), name


def test_what_it_counts_is_registered():
    from score_sde.samplers import SAMPLERS

    assert f"**{len(SAMPLERS)} samplers**" in README
