"""No result is reused on less than all that it depends on."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.launch import load_config
from score_sde.data import DATASETS, Dataset, InMemory
from score_sde.run import parts, provenance
from score_sde.run.build import build
from score_sde.run.paths import covers, flat
from score_sde.run.provenance import CANNOT_MATTER, digest_of, is_done, made_by
from score_sde.run.same_run import FREE
from score_sde.run.sections import SECTIONS, complete
from score_sde.runtime.folder import write_json

CONFIG = complete(load_config("digits:label", Path()))
KINDS = sorted(CANNOT_MATTER)
EXPERIMENT = build(CONFIG)


def opened(config=CONFIG, dataset=None, **changes):
    """What `made_by` looks at of an opened run."""
    experiment = EXPERIMENT
    known = {
        "step": 5,
        "digest": "params",
        "companions": SimpleNamespace(made_by={}),
        "earlier": None,
        "config": config,
        "experiment": experiment,
        "dataset": dataset or experiment.dataset,
    }
    return SimpleNamespace(**known | changes)


BASE = {kind: made_by(kind, opened()) for kind in KINDS}


def other(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return 1.0 if value == float("inf") else value + 1
    if isinstance(value, str):
        return f"{value}x"
    return "another" if value is None else (*value, "one more") if value != {} else 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", [path for path, _ in flat(CONFIG)])
def test_every_field_is_a_cause_or_has_a_reason_why_not(kind, path):
    if path == "parts":
        pytest.skip("by the content of the modules: see below")
    config = copy.deepcopy(CONFIG)
    *parents, last = path.split(".")
    holder = config
    for name in parents:
        holder = holder[name]
    holder[last] = other(holder[last])
    found = made_by(kind, opened(config))
    excused = [why for field, why in CANNOT_MATTER[kind].items() if covers(field, path)]
    if excused:
        assert all(isinstance(why, str) and len(why) > 10 for why in excused)
        assert found == BASE[kind]
    else:
        assert found != BASE[kind]
        assert digest_of(found) != digest_of(BASE[kind])


def test_what_is_excused_exists():
    for kind in KINDS:
        for field in CANNOT_MATTER[kind]:
            section = field.split(".")[0]
            assert section in SECTIONS or section in ("extra", "parts"), field


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "changes",
    [
        {"step": 6},
        {"digest": "other params"},
        {"companions": SimpleNamespace(made_by={"worse": {"digest": "x"}})},
    ],
    ids=lambda c: next(iter(c)),
)
def test_parameters_and_companions_are_causes(kind, changes):
    assert made_by(kind, opened(**changes)) != BASE[kind]


def test_data_are_causes_by_their_content():
    """The likelihood of other data in the same place is another one."""
    digits = DATASETS["digits"]()

    def with_values(change):
        def split(name):
            known = digits.split(name)
            values = known.values.copy()
            if name == "test":
                change(values)
            return InMemory(values, known.labels)

        return Dataset("digits", (8, 8, 1), 17, 10, split)

    def one_pixel(values):
        values[3, 2, 2, 0] ^= 1

    same, another = with_values(lambda values: None), with_values(one_pixel)
    for kind in ("likelihood", "evaluation"):
        assert made_by(kind, opened(dataset=same)) == BASE[kind]
        assert made_by(kind, opened(dataset=another)) != BASE[kind]
    # Samples that are told labels in turn depend on no example.
    assert made_by("samples", opened(dataset=another)) == BASE["samples"]


def test_code_and_modules_and_packages_are_causes(tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text("WIDTH = 1\n")
    config = CONFIG | {"parts": (str(file),)}
    assert parts.load(config["parts"]) == []
    first = made_by("samples", opened(config))
    assert first != BASE["samples"]
    file.write_text("WIDTH = 2\n")
    assert made_by("samples", opened(config)) != first
    monkeypatch.setattr(provenance, "code_digest", lambda: "other code")
    assert made_by("samples", opened()) != BASE["samples"]
    monkeypatch.undo()
    versions = {name: "0.0" for name in provenance.PACKAGES}
    monkeypatch.setattr(provenance.importlib.metadata, "version", versions.__getitem__)
    assert made_by("samples", opened()) != BASE["samples"]


FILES = {
    "evaluation": {"evaluation": {"reference": "FILE"}},
    "samples": {"conditions": {"picture": {"samples": ("FILE", "other.png")}}},
    "likelihood": {"network": {"weights": "FILE"}},
    "edits": {"conditions": {"words": {"samples": ("a seven" * 99,), "path": "FILE"}}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_content_of_files_that_a_config_names_is_a_cause(kind, tmp_path):
    file = tmp_path / "named.npz"
    file.write_bytes(b"one")
    named = json.loads(json.dumps(FILES[kind]).replace("FILE", str(file)))
    config = CONFIG | named
    first = made_by(kind, opened(config))
    assert first == made_by(kind, opened(config))
    assert [*first["files"]] == [str(file)]
    file.write_bytes(b"two")
    assert made_by(kind, opened(config)) != first


def test_a_report_is_reused_by_exactly_its_causes(tmp_path):
    report = tmp_path / "samples.json"
    assert not is_done(report, BASE["samples"])
    write_json(report, {"made_by": BASE["samples"], "numbers": 1})
    assert is_done(report, BASE["samples"])
    fewer = {k: v for k, v in BASE["samples"].items() if k != "code"}
    assert not is_done(report, fewer)
    assert not is_done(report, BASE["samples"] | {"step": np.int64(5).item() + 1})
    for text in ("[]", '{"made_by": ', json.dumps({"numbers": 1})):
        report.write_text(text)
        assert not is_done(report, BASE["samples"])


def test_the_page_of_checks_names_every_field_that_can_not_matter():
    page = (Path(__file__).parents[1] / "docs" / "checks.md").read_text()
    fields = {field for kind in CANNOT_MATTER.values() for field in kind} | set(FREE)
    assert not [field for field in sorted(fields) if f"`{field}`" not in page]
