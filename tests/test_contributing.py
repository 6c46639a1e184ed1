"""The recipes of CONTRIBUTING.md: each snippet registers a part that works."""

import copy
import re
from pathlib import Path

import pytest

from score_sde.fields import MISSING
from score_sde.run import sections
from score_sde.run.build import ConfigError, build
from score_sde.run.parts import import_file

pytestmark = pytest.mark.usefixtures("standard_promotion")
ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)

CONFIG = {
    "seed": 0,
    "data": {"name": "rings", "batch_size": 8, "sigma_data": 0.4},
    "sde": {"name": "edm", "t_min": 0.002, "t_max": 20.0},
    "network": {"name": "mlp", "width": 8, "depth": 1},
    "precondition": {"name": "edm"},
    "noise_levels": {"name": "log_normal"},
    "weight": {"name": "edm"},
    "train": {"num_steps": 3},
    "sampler": {"name": "heun"},
    "grid": {"name": "karras", "num_steps": 4},
}
TOLD = {"conditions": {"side": {}}, "network": {"name": "small"}}
ALSO = {
    ("guidance", "a_bit_further"): TOLD,
    ("conditions", "side"): TOLD,
    ("grid", "geometric"): {"grid": {"num_steps": 4}},
}
"""What else the config of a part must have."""
KINDS = {name for name, kind in sections.SECTIONS.items() if kind.registry is not None}
PARTS = re.findall(r'^([A-Z_]+)\["(\w+)"\] = ', "\n".join(SNIPPETS), re.MULTILINE)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The file of all snippets, and the parts that it registers."""
    file = tmp_path_factory.mktemp("parts") / "mine.py"
    file.write_text("\n\n".join(SNIPPETS))
    registries = [k.registry for k in sections.SECTIONS.values() if k.registry]
    registries = [getattr(r, "maps", [r])[0] for r in registries]
    before = [dict(registry) for registry in registries]
    names = {name for _, name in PARTS}
    for registry in registries:  # parts of other tests
        for name in names & registry.keys():
            del registry[name]
    packaged = sections.registered_names()
    import_file(file)
    new = sections.registered_names() - packaged
    assert len(new) == len(PARTS) == len(SNIPPETS)
    yield str(file), sorted(new)
    for registry, content in zip(registries, before, strict=True):
        registry.clear()
        registry.update(content)


def config_of(file, section, name, **options):
    """A config that has the part, with these options."""
    config = copy.deepcopy(CONFIG) | {"parts": (file,)}
    also = copy.deepcopy(ALSO.get((section, name), {}))
    options |= also.pop(section, {}) if section == "grid" else {}
    config |= also
    if sections.SECTIONS[section].is_open:
        config[section] = {name: options}
    else:
        shared = CONFIG.get(section, {}) if section == "data" else {}
        config[section] = {**shared, "name": name, **options}
    return config


def test_every_kind_of_part_but_thresholds_has_a_recipe(parts):
    # A threshold is guidance in another registry.
    assert {section for section, _ in parts[1]} == KINDS - {"threshold"}


def test_parts_are_registered_from_outside_and_build(parts):
    file, names = parts
    for section, name in names:
        build(config_of(file, section, name))


def test_a_wrong_option_is_answered_by_one_line(parts):
    file, names = parts
    for section, name in names:
        kind = sections.SECTIONS[section]
        fields = sections.option_fields(section, kind.registry[name])
        option, field = next((n, f) for n, f in fields.items() if f.rules)
        wrong = -1 if field.default is MISSING else type(field.default)(-1)
        with pytest.raises(ConfigError) as error:
            build(config_of(file, section, name) | _with(section, name, option, wrong))
        where = f"{section}.{name}" if kind.is_open else section
        (problem,) = error.value.problems
        assert problem == f"{where}.{option} is {wrong!r}; it must be > 0 and finite"


def _with(section, name, option, value):
    """The section of `config_of` with this option."""
    content = config_of("", section, name)[section]
    if sections.SECTIONS[section].is_open:
        return {section: {name: {option: value}}}
    return {section: content | {option: value}}


def test_files_and_tests_that_it_names_exist():
    for name in re.findall(r"`(tests/\w+\.py|docs/[\w./]+)`", TEXT):
        assert (ROOT / name).exists(), name
    table = TEXT.split("## Put a part into the package")[1].split("## ")[0]
    for name in re.findall(r"\| `([\w/]+(?:\.py|/))` \|", table):
        home = ROOT if name == "configs/" else ROOT / "score_sde"
        assert (home / name).exists(), name
