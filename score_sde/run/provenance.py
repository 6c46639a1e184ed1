"""Causes of results: one is reused by exactly the same, and by nothing less.

A result's causes are the parameters, the companions, the data, the user's modules, the
code, and the whole resolved config but for fields that provably can't matter, which
stand here with their reasons.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from score_sde.data.identity import identity
from score_sde.run import parts
from score_sde.run.open import Run
from score_sde.run.paths import OF_SAMPLES as TOLD_TO_SAMPLES
from score_sde.run.paths import without

GIVEN_PARAMETERS = "it decided the parameters, which are known by their digest"
ANOTHER_PROGRAM = "another program's, which this result does not pass through"
NEVER: dict[str, str] = {
    "train": GIVEN_PARAMETERS,
    "optimizer": GIVEN_PARAMETERS,
    "devices": "what it computes is the same however it is spread",
    "noise_levels": GIVEN_PARAMETERS,
    "weight": GIVEN_PARAMETERS,
    "data.batch_size": GIVEN_PARAMETERS,
    "data.random_flip": GIVEN_PARAMETERS,
    "data.num_workers": "examples are the same whoever reads them",
    "data.path": "the data are known by their content",
    "data.test_path": "the data are known by their content",
    "data.folder": "the data are known by their content",
    "companions": "those that are used are known by the digest of their parameters",
    "extra": "notes of the user, which nothing reads",
    "parts": "the modules are known by their content",
    "editing": ANOTHER_PROGRAM,
    "restoration": ANOTHER_PROGRAM,
}
OF_SAMPLES = dict.fromkeys(
    ("sampler", "grid", "guidance", "threshold", "sampling", *TOLD_TO_SAMPLES),
    "scoring evaluates the model's own denoiser on the data",
)
OF_METRICS = dict.fromkeys(("features", "metrics", "evaluation"), ANOTHER_PROGRAM)
CANNOT_MATTER: dict[str, dict[str, str]] = {
    "samples": {
        **NEVER,
        **OF_METRICS,
        "likelihood": ANOTHER_PROGRAM,
        "objective": GIVEN_PARAMETERS,
    },
    "likelihood": {**NEVER, **OF_METRICS, **OF_SAMPLES},
    "evaluation": {
        **NEVER,
        "likelihood": ANOTHER_PROGRAM,
        "objective": GIVEN_PARAMETERS,
    },
    "edits": {
        **{f: why for f, why in NEVER.items() if f not in ("editing", "restoration")},
        **OF_METRICS,
        "likelihood": ANOTHER_PROGRAM,
        "objective": GIVEN_PARAMETERS,
        "sampling": "editing.num_samples says how many",
        "editing.image": "the picture is known by its content",
        "editing.mask": "the mask is known by its content",
    },
}
"""Kind of result -> section, or section.field, that can't change it -> why."""

PACKAGES = ("jax", "jaxlib", "flax", "diffrax", "numpy", "scipy")
"""Packages another version of which may give another answer."""


def made_by(kind: str, run: Run) -> dict[str, Any]:
    """All that a result of this kind depends on, as JSON holds it."""
    config = without(run.config, CANNOT_MATTER[kind])
    causes = {
        "step": run.step,
        "parameters": run.digest,
        "companions": dict(run.companions.made_by),
        "data": identity(run.dataset) if reads_data(kind, run) else None,
        "parts": {part: parts.digest_of(part) for part in run.config["parts"]},
        "code": code_digest(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "config": config,
        "files": _files(config),
    }
    if run.earlier is not None:
        before = kind if kind == "likelihood" else "samples"
        causes["earlier"] = made_by(before, run.earlier)
    return json.loads(json.dumps(causes))


def _files(config: Mapping[str, Any]) -> dict[str, str]:
    """File that a config names -> SHA-256: a result depends on what it holds."""
    found = {}
    for path, value in config.items():
        for word in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(word, str) or path.endswith("name"):
                continue
            file = os.path.expanduser(word)
            if os.path.isfile(file):  # where pathlib raises: a long caption is no file
                with open(file, "rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256")
                found[word] = digest.hexdigest()
    return found


def reads_data(kind: str, run: Run) -> bool:
    """Whether a result depends on the data: samples may be told of held-out ones."""
    told = run.experiment.model.conditions
    return kind not in ("samples", "edits") or any(
        not (c.samples or c.every) for c in told
    )


@functools.cache
def code_digest() -> str:
    """A digest of this library's own source."""
    import score_sde

    root, digest = Path(inspect.getfile(score_sde)).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def file_digest(path: str | Path | None) -> str | None:
    """A digest of what a file holds, None for no file."""
    if not path:
        return None
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:16]


def digest_of(causes: Mapping[str, Any]) -> str:
    """One word for all causes of a result, which its arrays carry."""
    text = json.dumps(causes, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def circumstances() -> dict[str, Any]:
    """How, when and where a result was made; nothing is compared with it."""
    return {
        "command": " ".join(sys.argv),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()} {platform.system()}",
        "devices": [str(device) for device in jax.devices()],
    }


def is_done(report: Path, causes: Mapping[str, Any]) -> bool:
    """Whether a report exists that was made by exactly this."""
    if not report.exists():
        return False
    try:
        old = json.loads(report.read_text())
    except ValueError:
        return False
    return isinstance(old, dict) and old.get("made_by") == causes
