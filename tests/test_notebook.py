from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run(path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")  # those of the tests are for short programs
    nbclient = pytest.importorskip("nbclient")
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=2400, kernel_name="python3").execute()
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    printed = "".join(o["text"] for o in outputs if o.output_type == "stream")
    assert len(pictures) >= 6
    CHECKS[path.stem](printed)


def check_tour(printed):
    # A density integrates to one, and the oracle's log-density is found.
    assert float(
        printed.split("integral over the square: ")[1].split()[0]
    ) == pytest.approx(1, abs=0.05)
    offs = [
        line.split("off by ")[1].split()[0]
        for line in printed.splitlines()
        if "off by" in line
    ]
    assert len(offs) == 4
    assert all(abs(float(off)) < 5e-3 for off in offs)


def check_conditional(printed):
    """Networks as small as these follow what they are told, far above chance."""

    def number(text):
        return float(printed.split(text)[1].split()[0].rstrip(","))

    assert number("class as asked at weight 3: ") > 0.9  # chance is 0.1
    assert number("with eight as negative ") < 0.05
    assert number("captions drawn as asked: ") > 0.8
    for name in ("ink", "slant", "width"):
        assert number(f"{name}: asked and found correlate with ") > 0.6
    # Of 16 grey levels; what is told nothing is 4 off.
    assert number("told: the small picture is off by ") < 0.8
    controlled = number("pixels on the asked side: ")
    assert controlled > number("of the frozen network alone ") + 0.1
    assert "what was trained: ['branch']" in printed


def check_stages(printed):
    """Short trainings of small networks already do what each part is for."""

    def number(text):
        return float(printed.split(text)[1].split()[0])

    assert number("reconstructions are off by ") < 2  # of 16 grey levels
    assert number("each class occurs ") >= 4  # of 200
    # A bound, and independent pixels have 2.4: the autoencoder is small.
    assert 2.5 < number(" test: ") < 5
    assert number("the small picture is off by ") < 0.6
    assert number("class kept: ") > 0.8


def check_anatomy(printed):
    """The numbers that tests/test_anatomy.py knows, as the notebook prints them."""
    for known in (
        "t = 40: mean 1.087589, variance 0.704288",
        "in total variation: 0.0086",
        "z = -0.8, t = 3: mean -0.843852, variance 0.0385143",
        "z = 0.4, t = 60: mean 0.361053, variance 0.0298222",
        "KL of the first 0.0025",
        "total variation 0.213 0.174 0.154",
        "total variation 0.156 0.116 0.080",
    ):
        assert known in printed, known


CHECKS = {
    "tour": check_tour,
    "conditional": check_conditional,
    "anatomy": check_anatomy,
    "stages": check_stages,
}
