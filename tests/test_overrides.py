"""Fields set on the command line, as by `config_flags` of ml_collections, run for real.

Where we differ, a row of the table says why.
"""

import shlex
import warnings
from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags

from experiments import config_files
from experiments.overrides import apply
from experiments.words import expand, read_overrides, words_of

ROOT = Path(__file__).parents[1]
FIELDS = """
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

def get_config(word="none"):
    c = ConfigDict({"i": 1, "f": 0.5, "b": False, "s": "x", "w": word, "n": None})
    c.update({"t": (1, 2), "ts": ("a",), "l": [1, 2], "d": {"a": 1}})
    c.p = placeholder(int)
    c.twice = c.get_ref("i") * 2
    return c.lock()
"""
SET = "--config.p=7"
"""We refuse placeholders that are left unset, and stock doesn't."""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "fields.py"
    path.write_text(FIELDS)
    return path


def stock(file, words):
    """What absl and ml_collections make of a command line; an error's name."""
    words = [f"--config={file}", SET, *words]
    values = flags.FlagValues()
    try:
        with warnings.catch_warnings():  # it loads modules as one did before 3.4
            warnings.simplefilter("ignore", DeprecationWarning)
            config_flags.DEFINE_config_file(
                "config", flag_values=values, sys_argv=["program", *words]
            )
            rest = values(["program", *words])[1:]
    except Exception as error:
        return type(error).__name__
    return values.config.to_dict(), rest


def ours(file, words):
    """The same of ours."""
    try:
        words = expand([SET, *words])
        overrides, rest = read_overrides(words)
        config = config_files.open_config(str(file), Path())
        full = apply(config, overrides)
    except ValueError as error:
        return f"refused: {error}"
    return {name: full[name] for name in config}, rest


SAME = [
    "--config.i=3",
    "--config.i 3",
    "-config.i=3",
    "-config.i 3",
    "--config.i -3",
    "--config.i=0x10",
    "--config.i=007",
    "--config.i=1_000",
    "--config.i=3 --config.i=4",
    "--config.f=3",
    "--config.f=1e-3",
    "--config.f=inf",
    "--config.f -inf",
    "--config.b",
    "--config.b --config.i=3",
    "--config.b --noconfig.b",
    "--noconfig.b",
    "-config.b",
    "-noconfig.b",
    "--config.b=true",
    "--config.b=True",
    "--config.b=1",
    "--config.b=f",
    "--config.s=3",
    "--config.s=None",
    "--config.s=",
    "--config.s=a=b",
    "--config.s='a b'",
    "--config.s -3",
    "--config.t=(1,2,3)",
    "--config.t='(1, 2, 3)'",
    "--config.t=1,2,3",
    "--config.t=[1,2,3]",
    "--config.t=3",
    "--config.t=()",
    "--config.t=1 --config.t=3",
    "--config.t -1",
    "--config.ts=b",
    "--config.ts=/a/b.py",
    "--config.ts=a --config.ts=b",
    """--config.ts="('a','b')" """,
    "--config.l[0]=5",
    "--config.d.a=3",
    """--config.d="{'a': 3}" """,
    "--config.p=3",
    "--config.twice=9",
    "--config.twice=9 --config.i=4",
    "--config.s=$FILE",
    "--flagfile=$FLAGS",
    "--flagfile $FLAGS",
    "-flagfile=$FLAGS",
    "--config.i=9 --flagfile=$FLAGS --config.b=0",
]
REFUSED = {
    "--config.i=1.5": "--config.i=1.5: it must be int",
    "--config.i=x": "--config.i=x: it must be int",
    "--config.i=": "--config.i=: it must be int",
    "--config.i": "--config.i: it is no boolean, and needs a value",
    "--config.f=x": "it must be float",
    "--config.b=yes": "it must be bool",
    "--config.p=x": "it must be int",
    "--noconfig.s": "it is no boolean",
    "--noconfig.b=3": "--no takes no value",
    "--config.x=3": "there is no 'x'; choose from",
    "--config.d.x=3": "there is no 'x'; choose from ['a']",
    "--config.d=3": "--config.d=3: it is a section of fields",
    "--config.l[7]=3": "it has 2 items",
    "--config.d.a=2 --config.d={}": "comes after --config.d.a, and would undo it",
    "--config.=3": "there is no ''",
    "--flagfile=none.txt": "no file 'none.txt'",
}
"""Refused by both; ours by this line."""
BETTER = {
    # Words -> (stock, ours, why).
    "--config.s --config.i=3": (
        {"s": "--config.i=3"},
        "needs a value",
        "a value that is another flag is a value that was forgotten",
    ),
    "--config.b true": ({"b": True}, {"b": True}, "the word 'true' is not left over"),
    "--config.i=1e3": (
        "IllegalFlagValueError",
        {"i": 1000, "twice": 2000},
        "steps are written so",
    ),
    "--config.f=None": (
        "IllegalFlagValueError",
        {"f": None},
        "fields may be optional; `build` refuses None for the others",
    ),
    "--config.n=3": (
        "UnsupportedOperationError",
        {"n": 3},
        "an optional field may be None in the file",
    ),
    "--config.ts=a,b": ({"ts": ("a,b",)}, {"ts": ("a", "b")}, "as for numbers"),
    "--config.ts=(a,b)": ({"ts": ("(a,b)",)}, {"ts": ("a", "b")}, "as for numbers"),
    "--config.t=": ({"t": ("",)}, {"t": ()}, "nothing is no item"),
    "--config.t=(1,2) --config.t=(3,)": (
        {"t": (1, 2, 3)},
        {"t": (3,)},
        "the last word counts, so that a script's own can be changed",
    ),
    "--config.d='{1: 2}'": (
        {"d": {1: 2}},
        "it is a section of fields",
        "a run keeps its config as JSON, where a key is a string",
    ),
    "--config.t[0]=5": ("IndexError", {"t": (5, 2)}, "as for lists"),
    "--config.l=[3]": ("UnsupportedOperationError", {"l": [3]}, "as for tuples"),
    "--config.l=3,4": ("UnsupportedOperationError", {"l": [3, 4]}, "as for tuples"),
}


def words_in(line, tmp_path, file):
    (tmp_path / "inner.txt").write_text("// a comment\n--config.f=2.5\n")
    text = f"# a comment\n\n  --config.i=5\n--config.b\n--flagfile={tmp_path}/inner.txt"
    (tmp_path / "flags.txt").write_text(text)
    line = line.replace("$FLAGS", str(tmp_path / "flags.txt"))
    return shlex.split(line.replace("$FILE", str(file)))


@pytest.mark.parametrize("line", SAME)
def test_a_command_line_means_what_it_means_to_config_flags(line, file, tmp_path):
    words = words_in(line, tmp_path, file)
    expected = stock(file, words)
    assert isinstance(expected, tuple)
    assert ours(file, words) == expected


@pytest.mark.parametrize("line", REFUSED)
def test_what_config_flags_refuses_is_refused_by_one_line(line, file, tmp_path):
    words = words_in(line, tmp_path, file)
    assert isinstance(stock(file, words), str)
    said = ours(file, words)
    assert said.startswith("refused: ")
    assert REFUSED[line] in said
    assert "\n" not in said


@pytest.mark.parametrize("line", BETTER)
def test_where_config_flags_is_worse_the_row_says_why(line, file, tmp_path):
    theirs, mine, why = BETTER[line]
    words = words_in(line, tmp_path, file)
    plain, _ = stock(file, [])
    for expected, got in ((theirs, stock(file, words)), (mine, ours(file, words))):
        if isinstance(expected, dict):
            assert got[0] == plain | expected
        else:
            assert expected in got
    assert stock(file, words) != ours(file, words)
    assert why


def test_words_of_overrides_are_read_as_the_same_overrides():
    words = ["--config.a=1", "--noconfig.b", "--config.c", "--config.a=x y"]
    overrides, _ = read_overrides(words)
    assert read_overrides(words_of(overrides))[0] == overrides


def test_a_flag_file_that_contains_itself_is_refused(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text(f"--flagfile={file}\n")
    with pytest.raises(ValueError, match="contains itself"):
        expand([f"--flagfile={file}"])


def test_a_field_is_known_by_the_signature_of_its_part():
    """Also where neither the file nor the defaults state it."""
    from experiments.launch import parse

    words = [
        "--config=digits",
        "--workdir=nowhere",
        "--config.data.name=files",
        "--config.data.path=mine.npz",
        "--config.data.shape=8,8,1",
        "--config.grid.sigma_min=1",
        "--config.conditions.vector.attributes=ink,slant",
        "--config.companions.worse.run=2024",
        "--config.metrics.density_coverage.k=3",
        "--config.sde.t_max=80",
    ]
    config = parse("", words).config
    assert config["data"]["path"] == "mine.npz"
    assert config["data"]["shape"] == (8, 8, 1)
    assert config["grid"]["sigma_min"] == 1.0
    assert isinstance(config["grid"]["sigma_min"], float)
    assert config["conditions"]["vector"]["attributes"] == ("ink", "slant")
    assert config["companions"]["worse"] == {
        "run": "2024",
        "step": 0,
        "changes": None,
    }
    assert config["metrics"]["density_coverage"]["k"] == 3
    assert (
        parse("", [*words, "--config.data.sigma_data=None"]).config["data"][
            "sigma_data"
        ]
        is None
    )
    with pytest.raises(SystemExit):
        parse("", [*words, "--config.data.pth=x"])
