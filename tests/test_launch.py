"""What programs read before they begin: their flags, and configs of every kind."""

import json
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder, required_placeholder

from experiments import config_files, launch
from experiments.overrides import OPEN

ROOT = Path(__file__).parents[1]


def parsed(*words, **options):
    return launch.parse("", ["--workdir=none", *words], **options)


def refusal(capsys, *words, **options):
    """The one line that answers a mistake."""
    with pytest.raises(SystemExit) as stop:
        parsed(*words, **options)
    said = capsys.readouterr().err
    assert stop.value.code == 2
    assert said.count("\n") == 1
    return said


def config_file(tmp_path, text):
    """A config file that changes the packaged digits, and its --config."""
    path = tmp_path / "mine.py"
    path.write_text(text)
    return f"--config={path}"


VARIANT = """
from configs import digits
from ml_collections.config_dict import placeholder, required_placeholder

def get_config(word="plain"):
    config = digits.get_config().unlock()
    {change}
    return config
"""


def test_a_reference_is_computed_anew_after_overrides(tmp_path):
    change = 'config.train.sample_every = config.train.get_ref("num_steps") // 2'
    config = config_file(tmp_path, VARIANT.format(change=change))
    assert parsed(config).config["train"]["sample_every"] == 2_200
    words = [config, "--config.train.num_steps=10"]
    assert parsed(*words).config["train"]["sample_every"] == 5
    words.append("--config.train.sample_every=3")
    assert parsed(*words).config["train"]["sample_every"] == 3


def test_a_reference_outlives_the_choice_of_another_alternative(tmp_path):
    change = (
        'config.grid.num_steps = config.train.get_ref("num_steps"); '
        'config.grid.rho = config.train.get_ref("ema_halflife_steps")'
    )
    config = config_file(tmp_path, VARIANT.format(change=change))
    words = ["--config.grid.name=log_uniform", "--config.train.num_steps=12"]
    grid = parsed(config, "--config.grid.name=log_snr", words[1]).config["grid"]
    assert grid["num_steps"] == 12
    assert "rho" not in grid


@pytest.mark.parametrize("kind", [placeholder, required_placeholder])
def test_a_placeholder_needs_a_value(kind, tmp_path, capsys):
    change = f"config.seed = 0; config.train.num_steps = {kind.__name__}(int)"
    config = config_file(tmp_path, VARIANT.format(change=change))
    said = refusal(capsys, config)
    assert "train.num_steps is a placeholder that is not set" in said
    assert "give --config.train.num_steps=INT" in said
    words = [config, "--config.train.num_steps=10"]
    assert parsed(*words).config["train"]["num_steps"] == 10
    assert "it must be int" in refusal(capsys, config, "--config.train.num_steps=x")


def test_packaged_configs_have_names():
    names = config_files.packaged_names()
    assert {"digits", "points", "cifar10_edm"} <= set(names)
    for word in ("digits", "ffhq64_edm"):  # the second starts from another
        command = parsed(f"--config={word}")
        file = parsed(f"--config={ROOT / 'configs'}/{word}.py")
        assert command.config == file.config


def test_a_config_has_an_argument(tmp_path):
    config = config_file(tmp_path, VARIANT.format(change="config.extra = {'w': word}"))
    assert parsed(config).config["extra"] == {"w": "plain"}
    assert parsed(f"{config}:a:b").config["extra"] == {"w": "a:b"}
    assert parsed(f"{config}:").config["extra"] == {"w": ""}


def test_a_config_starts_from_another_in_its_folder(tmp_path):
    config_file(tmp_path, VARIANT.format(change="config.seed = 7"))
    other = tmp_path / "other.py"
    other.write_text("from . import mine\nget_config = mine.get_config\n")
    assert parsed(f"--config={other}").config["seed"] == 7


def test_the_sections_for_entries_of_a_user_take_new_ones():
    words = [
        "--config.companions.worse.run=runs/small",
        "--config.companions.worse.step=3",
        "--config.conditions.label={}",
        "--config.extra.note=as in the paper",
        "--config.extra.deep.er=(1,2)",
    ]
    config = parsed("--config=digits", *words).config
    worse = {"run": "runs/small", "step": 3, "changes": None}
    assert config["companions"]["worse"] == worse
    assert "label" in config["conditions"]
    assert config["extra"] == {"note": "as in the paper", "deep": {"er": (1, 2)}}
    assert set(OPEN) <= config.keys()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': (1, 2)}", {"a": (1, 2)}),
        ("2024", 2024),
        ("'2024'", "2024"),
        ("{1}", "{1}"),  # JSON, in which a run keeps it, has no sets
        ("...", "..."),
        ("b'1'", "b'1'"),
        ("1e-3", 0.001),
        ("true", True),
        ("a, b", "a, b"),
    ],
)
def test_a_new_entry_is_a_literal_that_json_keeps(text, value):
    config = parsed("--config=digits", f"--config.extra.new={text}").config
    assert config["extra"]["new"] == value


@pytest.mark.parametrize("name", ["items", "lock", "a..b", ""])
def test_an_entry_with_a_name_that_config_dicts_need_is_refused(name, capsys):
    said = refusal(capsys, "--config=digits", f"--config.extra.{name}=1")
    assert "there is no" in said


@pytest.mark.parametrize("section", ["train", "extra.note"])
def test_no_entry_is_made_where_none_may_be(section, tmp_path, capsys):
    text = VARIANT.format(change="config.extra = {'note': 'text'}")
    word = f"--config.{section}.more=1"
    said = refusal(capsys, config_file(tmp_path, text), word)
    assert f"{word}: there is no 'more'" in said


BAD_FILES = {
    "def get_config(:": "line 1: invalid syntax",
    "import nothing_of_that_name": "line 1: No module named",
    "x = 1\n\ndef get_config():\n    return x.y": "line 4: 'int' object has no",
    "def get_config():\n    1 / 0": "line 2: division by zero (ZeroDivisionError)",
    "def get_config():\n    raise SystemExit(3)": "line 2: 3 (SystemExit)",
    "import sys\nsys.exit()": "line 2: SystemExit",
    "def get_config():\n    assert False": "line 2: AssertionError",
    "def get_config():\n    raise ValueError('a\\nb')": "line 2: a b (ValueError)",
    "import json\n\ndef get_config(): json.loads('{')": "raised in decoder.py, line",
    "def get_config(): pass": "gave None; it must give a ConfigDict",
    "def get_config(): return [1]": "gave [1]; it must give a ConfigDict",
    "x = 1": "has no function get_config()",
    "def get_config(): return {1: 2}": "the config has the key 1, which is no string",
    "def get_config(): return {'a': {(): 2}}": "a has the key ()",
    "def get_config(): return {'a.b': 2}": "a.b",
    "def get_config(): return {'a': {'b': print}}": "a.b is <built-in function print>",
    "def get_config(): return {'a': {1}}": "a is {1}, a set; it must be a literal",
}


@pytest.mark.parametrize("text", BAD_FILES)
def test_a_config_file_that_fails_is_answered_by_one_line(text, tmp_path, capsys):
    config = config_file(tmp_path, text)
    said = refusal(capsys, config)
    assert BAD_FILES[text] in said
    assert "mine.py" in said


def test_a_mistake_has_a_traceback_if_asked(tmp_path):
    config = config_file(tmp_path, "def get_config():\n    return 1 / 0")
    with pytest.raises(ValueError, match="line 2") as caught:
        parsed(config, "--traceback")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config=digit", "no packaged config 'digit'; did you mean 'digits'?"),
        ("--config=configs", f"'{'configs'}' is a folder"),
        ("--config=none/digits.py", "there is a packaged one: --config=digits"),
        ("--config=points:class", "takes no argument 'class'"),
        ("--config=points:", "takes no argument ''"),
    ],
)
def test_a_config_that_is_none_is_answered_by_names(word, message, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert message in refusal(capsys, word)


def test_a_config_that_needs_an_argument_says_so(tmp_path, capsys):
    config = config_file(tmp_path, "def get_config(word): return {'seed': word}")
    assert "needs an argument: give" in refusal(capsys, config)


def test_what_is_missing_and_what_is_unknown_is_said_in_this_order(capsys):
    with pytest.raises(SystemExit):
        launch.parse("", ["--wrokdir=a", "--config=digits"])
    said = capsys.readouterr().err
    assert "unknown argument '--wrokdir=a'; did you mean --workdir?" in said
    with pytest.raises(SystemExit):
        launch.parse("", ["--config=digits"], options={"from": "a run"})
    assert "give --workdir and --from" in capsys.readouterr().err
    assert "expected one argument" in refusal(capsys, "--config", "--dry_run")


def test_flags_of_programs_are_read_as_those_of_absl():
    words = ["-config=digits", "-dry_run", "--go", "--nogo"]
    command = parsed(*words, flags={"go": ""})
    assert command.dry_run
    assert command.options == {"go": False}


def test_help_lists_the_fields_of_a_config(capsys):
    with pytest.raises(SystemExit) as stop:
        launch.parse(
            "Head\n    with  layout", ["--help", "--config=digits", "--config.seed=7"]
        )
    out = capsys.readouterr().out
    assert stop.value.code == 0
    assert "Head\n    with  layout" in out
    for field, value in {
        "train.num_steps": "4400",
        "seed": "7",
        "network.multipliers": "(1, 2)",
        "sampler.s_churn": "0.0",  # a default
        "sde.name": "'edm'",
    }.items():
        assert any(line.split(None, 1) == [field, value] for line in out.splitlines())


def test_a_run_goes_on_with_its_config_and_notes(tmp_path):
    config = parsed("--config=digits", "--config.extra.note=mine").config
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = launch.parse("", [f"--workdir={tmp_path}"]).config
    assert again == config


def test_a_config_of_any_mapping_is_read(tmp_path):
    for kind in ("ConfigDict", "FrozenConfigDict", "dict"):
        config_file(
            tmp_path,
            f"import ml_collections\n"
            f"from ml_collections import ConfigDict, FrozenConfigDict\n"
            f"def get_config(): return {kind}({{'a': {{'b': (1, 2)}}}})",
        )
        config = launch.load_config(str(tmp_path / "mine.py"), tmp_path)
        assert config == {"a": {"b": (1, 2)}}
    assert isinstance(ConfigDict(config), ConfigDict)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("sde.nam=vp", "there is no 'nam'; did you mean 'name'"),
        ("sd.name=vp", "there is no 'sd'; did you mean 'sde'"),
        ("seed.x=1", "there is no 'x'"),
        ("train=3", "--config.train=3: it is a section"),
        ("train.num_steps=1.5", "--config.train.num_steps=1.5: it must be int"),
    ],
)
def test_a_field_that_is_none_is_answered_by_one_line(field, message, tmp_path, capsys):
    words = [
        f"--config={ROOT / 'configs/digits.py'}",
        f"--workdir={tmp_path}",
        f"--config.{field}",
    ]
    with pytest.raises(SystemExit) as stop:
        launch.parse("", words)
    out = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in out
    assert out.count("\n") == 1


def test_all_fields_that_are_none_are_answered_at_once(tmp_path, capsys):
    """Of those that the file states, and of those that only the defaults have."""
    wrong = ["train.num_steps=many", "network.chanels=3", "train.rolback=True"]
    words = [f"--config={ROOT / 'configs/digits.py'}", f"--workdir={tmp_path}"]
    with pytest.raises(SystemExit):
        launch.parse("", [*words, *(f"--config.{word}" for word in wrong)])
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == len(wrong)
    for line, word in zip(lines, wrong, strict=True):
        assert f"--config.{word}" in line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "line 1: invalid syntax"),
        ("import nothing_of_that_name", "line 1: No module named"),
        ("x = 1\n\ndef get_config():\n    return x.y", "line 4: 'int' object has no"),
        ("def get_config(): pass", r"get_config\(\) of .* gave None"),
        ("x = 1", r"has no function get_config\(\)"),
    ],
)
def test_a_config_file_that_fails_is_named_with_the_line(text, message, tmp_path):
    file = tmp_path / "config.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        launch.load_config(str(file), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/digits.py", "--config.train.num_step=3"], "num_step"),
        (
            ["--config=configs/digits.py", "--config.data.batch_size=x"],
            "data.batch_size=x",
        ),
        (
            ["--config=configs/digits.py", "--confg.seed=1"],
            "unknown argument '--confg.seed=1'",
        ),
        (["--config=configs/none.py"], "no file 'configs/none.py'"),
        (["--config=README.md"], "not a Python file"),
        ([], "no config: give --config=FILE"),
    ],
)
def test_mistakes_on_the_command_line_are_one_clear_error(
    tmp_path, arguments, message, capsys
):
    with pytest.raises(SystemExit) as exit_:
        launch.parse("train", [f"--workdir={tmp_path}", *arguments])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_overrides_are_typed_and_names_reset_their_section(tmp_path):
    command = launch.parse(
        "train",
        [
            f"--workdir={tmp_path}",
            "--config=configs/digits.py",
            "--config.network.multipliers=(1,2,4)",
            "--config.sde.name",
            "vp",
            "--config.sde.beta_max=15",
            "--config.noise_levels.stratified=false",
        ],
    )
    assert command.config["network"]["multipliers"] == (1, 2, 4)
    assert command.config["sde"] == {
        "name": "vp",
        "t_min": 1e-5,
        "t_max": 1.0,
        "beta_min": 0.1,
        "beta_max": 15.0,
    }
    assert command.config["noise_levels"]["stratified"] is False


def test_naming_other_data_keeps_how_they_are_fed(tmp_path):
    words = [f"--config={ROOT / 'configs/digits.py'}", f"--workdir={tmp_path}"]
    data = launch.parse("", [*words, "--config.data.name=patches"]).config["data"]
    assert (data["name"], data["batch_size"], data["sigma_data"]) == (
        "patches",
        64,
        0.71,
    )
