"""What a result was made by: it is reused by exactly the same, and by nothing less."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde.run.open import Run

TRAINING = frozenset({"train", "optimizer", "devices", "extra", "editing", "parts"})
DRAWING = frozenset({"sampler", "grid", "guidance", "threshold", "sampling"})
EVALUATION = frozenset({"features", "metrics", "evaluation"})
CANNOT_MATTER: dict[str, frozenset[str]] = {
    "samples": TRAINING | EVALUATION | {"objective", "likelihood"},
    "likelihood": TRAINING | EVALUATION | DRAWING,
    "evaluation": TRAINING | {"objective", "likelihood"},
}
"""Kind of result -> sections that can't change it, given the parameters."""


def made_by(kind: str, run: Run) -> dict[str, Any]:
    """All that a result of this kind depends on, as JSON holds it."""
    left_out = CANNOT_MATTER[kind]
    causes = {
        "step": run.step,
        "parameters": run.digest,
        "companions": dict(run.companions.made_by),
        "config": {k: v for k, v in run.config.items() if k not in left_out},
    }
    return json.loads(json.dumps(causes))


def is_done(report: Path, causes: Mapping[str, Any]) -> bool:
    """Whether a report exists that was made by exactly this."""
    if not report.exists():
        return False
    try:
        old = json.loads(report.read_text())
    except ValueError:
        return False
    return all(old.get(name) == value for name, value in causes.items())
