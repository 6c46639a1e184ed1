"""Features of a classifier that is trained here, on a data set's own training split.

For data that no published network has seen, such as digits. It takes seconds, once: the
parameters are kept in $XDG_CACHE_HOME/score_sde/classifiers (~/.cache by default) under
a digest of the data, the settings and the versions that train it. They are known by
their own checksum: two machines whose rounding differs have two classifiers, whose
numbers are not compared.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.data import Dataset
from score_sde.data.identity import digest_of_json, identity
from score_sde.data.local import replaced
from score_sde.evaluation.estimate import checks_options
from score_sde.evaluation.extractor import Extractor, extractor_of
from score_sde.rules import NonNegative, Positive, Rule, at_least, one_of
from score_sde.types import UserError

VERSION = 1
"""Counted up whenever the same settings would train another classifier."""
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")
"""Packages another version of which may train other parameters."""
Labelled = Rule("data with labels", lambda dataset: dataset.num_classes > 0)
BLOCK = 4096
"""How many examples are read at once."""


class Settings(NamedTuple):
    """How a classifier is trained; `make_classifier` says what each means."""

    width: int = 64
    num_steps: int = 1_000
    batch_size: int = 64
    learning_rate: float = 2e-3
    num_train: int = 20_000
    seed: int = 0


DEFAULTS = Settings()


@checks_options
def make_classifier(
    dataset: Annotated[Dataset, Labelled],
    *,
    output: Annotated[str, one_of(("features", "logits"))] = "features",
    width: Annotated[int, at_least(2)] = DEFAULTS.width,
    num_steps: Annotated[int, at_least(1)] = DEFAULTS.num_steps,
    batch_size: Annotated[int, at_least(1)] = DEFAULTS.batch_size,
    learning_rate: Annotated[float, Positive] = DEFAULTS.learning_rate,
    num_train: Annotated[int, NonNegative] = DEFAULTS.num_train,
    seed: Annotated[int, NonNegative] = DEFAULTS.seed,
) -> Extractor:
    """Features of a small classifier of these data, trained here on the training split.

    It has seen the training split: compare samples with the test split.

    Args:
        dataset: the data, with labels.
        output: its last hidden layer, "features", or its "logits".
        width: how many features there are.
        num_steps: of training.
        batch_size: of training.
        learning_rate: of training, at its highest.
        num_train: how many training examples it sees; 0 for all.
        seed: of its first parameters and of the order of examples.
    Raises: UserError for data without labels, or that are not there.
    """
    if not Labelled.holds(dataset):
        raise UserError(
            f"features.name is 'classifier'; {dataset.name} has no labels to train one "
            "on: choose features.name 'values' or 'efficientnet_lite0'."
        )
    settings = Settings(width, num_steps, batch_size, learning_rate, num_train, seed)
    module, params, word = trained_classifier(dataset, settings)
    return extractor_of(
        f"a classifier of {dataset.name}",
        module,
        params,
        prepare=scaled,
        output=output,
        identity={"weights": word, "resize": "none"},
        logits="logits",
        takes_any=True,
    )


def trained_classifier(
    dataset: Dataset, settings: Settings = DEFAULTS
) -> tuple[Any, Mapping[str, Any], str]:
    """The classifier of these data: its module, its parameters, their SHA-256."""
    from score_sde.networks.features.small import SmallClassifier

    module = SmallClassifier(dataset.num_classes, settings.width)
    return module, *_trained(module, dataset, settings)


def scaled(values: np.ndarray) -> np.ndarray:
    """The input of a classifier: images, uint8, from -1 to 1; floats as they are."""
    x = np.asarray(values, np.float32)
    return x / np.float32(127.5) - 1 if values.dtype == np.uint8 else x


def _trained(
    module: Any, dataset: Dataset, settings: Settings
) -> tuple[Mapping[str, Any], str]:
    """Train the classifier, or read it if it was trained before.

    Returns: (its parameters, their SHA-256).
    """
    key = jax.random.key(0)
    one = jax.ShapeDtypeStruct((1, *dataset.shape), jnp.float32)
    like = jax.eval_shape(module.init, key, one)["params"]
    cause = {
        "version": VERSION,
        "shapes": {name: array.shape for name, array in _by_path(like)},
        "data": identity(dataset),
        "settings": settings._asdict(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "backend": jax.default_backend(),
    }
    path = _cache_folder() / f"{digest_of_json(cause)[:32]}.npz"
    kept = _read(path, like)
    if kept is None:
        kept = _fit(module, like, dataset, settings)
        _write(path, kept, cause)
    return kept, _checksum(kept)


def _fit(module: Any, like: Any, dataset: Dataset, settings: Settings) -> Any:
    """Train the classifier of parameters of these shapes."""
    from score_sde.training.classifier import fit_classifier

    count = min(len(dataset.train), settings.num_train or len(dataset.train))
    starts = range(0, count, BLOCK)
    rows = [dataset.train[np.arange(i, min(i + BLOCK, count))] for i in starts]
    values = np.concatenate([full_range(r["values"], dataset.num_levels) for r in rows])
    labels = np.concatenate([r["label"] for r in rows]).astype(np.int32)

    def logits(params: Any, x: Any, key: Any) -> Any:
        given = {"params": params}
        return module.apply(given, x, False, rngs={"dropout": key})["logits"]

    return fit_classifier(
        _first(like, settings.seed),
        logits,
        scaled(values),
        labels,
        num_steps=settings.num_steps,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
    )


def full_range(values: np.ndarray, num_levels: int | None) -> np.ndarray:
    """Levels 0 .. num_levels - 1 as uint8 of the full range; floats as they are."""
    if num_levels is None:
        return values
    full = np.round(np.float64(values) * (255 / (num_levels - 1)))
    return np.asarray(full, np.uint8)


def _first(like: Any, seed: int) -> Any:
    """First parameters: kernels with variance 1 / inputs, and biases of 0.

    They are drawn by NumPy, which takes no time to compile.
    """
    random = np.random.default_rng(seed)

    def one(leaf: Any) -> np.ndarray:
        inputs = int(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 0
        scale = 1 / np.sqrt(inputs) if inputs else 0.0
        return np.asarray(scale * random.standard_normal(leaf.shape), np.float32)

    return jax.tree.map(one, like)


def _cache_folder() -> Path:
    told = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(told) if told else Path("~/.cache").expanduser()
    return base / "score_sde" / "classifiers"


def _by_path(params: Any) -> list[tuple[str, Any]]:
    """Parameters, or their shapes, with the path to each."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _checksum(params: Any) -> str:
    digest = hashlib.sha256()
    for name, array in _by_path(params):
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _write(path: Path, params: Any, cause: Mapping[str, Any]) -> None:
    """Keep parameters; nothing is lost but seconds if that fails."""
    arrays: dict[str, Any] = {
        **dict(_by_path(params)),
        "checksum": np.asarray(_checksum(params)),
        "cause": np.asarray(json.dumps(cause, sort_keys=True)),
    }
    try:
        with replaced(path) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)
    except OSError:
        return


def _read(path: Path, like: Any) -> Any:
    """Read parameters that were kept; None if there are none, or damaged ones."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            kept = dict(file)
        word = str(kept.pop("checksum"))
        leaves = [kept[name] for name, _ in _by_path(like)]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    params = jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)
    return params if _checksum(params) == word else None
