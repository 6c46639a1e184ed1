"""Rules between the data, what the network is told of them, and who uses that.

Each rule that is broken is a line of text: the field, its value, what it must be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde.conditions import IMAGES, captions
from score_sde.conditions.attributes import ATTRIBUTES
from score_sde.data import ABSENT, Dataset
from score_sde.evaluation.plots import read_picture
from score_sde.networks import ControlledUNet, TextUNet
from score_sde.types import NO_LABEL, UserError, choices_text

UNTOLD = ("none", "auto")
"""Guidances that need no condition."""


def fit_conditions(
    sections: Mapping[str, Any], built: Mapping[str, Any], dataset: Dataset
) -> list[str]:
    """All rules of this file."""
    network, wanted, problems = built["network"], built["sampling"], []
    classes = sections["network"].get("num_classes", 0)
    if classes not in (0, dataset.num_classes):
        problems.append(
            f"network.num_classes is {classes}; {dataset.name} needs 0 (unconditional) "
            f"or {dataset.num_classes}"
        )
    if isinstance(network, TextUNet):
        problems += _fit_captions(network, dataset, wanted.caption)
    elif wanted.caption:
        problems.append(
            f"sampling.caption is {wanted.caption!r}; it is for a network that reads: "
            "network.name 'text_unet'"
        )
    problems += _fit_uses(sections, built, dataset, classes)
    problems += _fit_vector(sections, built, dataset)
    return problems + _fit_picture(built, dataset)


def _fit_vector(
    sections: Mapping[str, Any], built: Mapping[str, Any], dataset: Dataset
) -> list[str]:
    """Rules of the attributes that the network is told."""
    names = built["condition"].attributes
    problems = [
        f"condition.attributes has {name!r}{choices_text(name, ATTRIBUTES)}"
        for name in names
        if name not in ATTRIBUTES
    ]
    if names and (len(dataset.shape) != 3 or dataset.name == ABSENT):
        problems.append(
            f"condition.attributes is {names}; they are of images, and of data that "
            f"are here, not of {dataset.name}"
        )
    dims = sections["network"].get("vector_dims", 0)
    needed = len(names) + 1 if names else 0
    if dims != needed:
        problems.append(
            f"network.vector_dims is {dims}; the {len(names)} of condition.attributes "
            f"need {needed}"
        )
    stated = built["sampling"].vector
    if stated and len(stated) != len(names):
        problems.append(
            f"sampling.vector is {stated}; it needs one number for each of "
            f"condition.attributes, {names}"
        )
    if not all(map(math.isfinite, stated)):
        problems.append(f"sampling.vector is {stated}; it must be finite")
    return problems


def _fit_picture(built: Mapping[str, Any], dataset: Dataset) -> list[str]:
    """Rules of the picture that the network is told."""
    told, network, shape = built["condition"], built["network"], dataset.shape
    file, problems = built["sampling"].image, []
    choices = {"none", *IMAGES}
    if told.image not in choices:
        hint = choices_text(told.image, choices)
        problems.append(f"condition.image is {told.image!r}{hint}")
    if told.image == "none":
        if isinstance(network, ControlledUNet):
            problems.append(
                "condition.image is 'none'; network.name 'controlled_unet' is "
                f"controlled by one of {sorted(IMAGES)}"
            )
        if file:
            problems.append(
                f"sampling.image is {file!r}; it is for a network that is told one: "
                "set condition.image"
            )
        return problems
    if len(shape) != 3 or getattr(network, "learn_sigma", False):
        problems.append(
            f"condition.image is {told.image!r}; it is for images, and for networks "
            "without learn_sigma"
        )
    elif told.image == "small" and (shape[0] % told.factor or shape[1] % told.factor):
        problems.append(
            f"condition.factor is {told.factor}; it must divide the sides, {shape[:2]}"
        )
    elif file:
        try:
            read_picture(Path(file), shape)
        except (OSError, ValueError) as error:
            problems.append(f"sampling.image: {error}")
    if dataset.name == ABSENT and not file:
        problems.append(
            f"condition.image is {told.image!r}; there are no examples of "
            f"{dataset.name} to make one of: give sampling.image"
        )
    return problems


def _fit_uses(
    sections: Mapping[str, Any],
    built: Mapping[str, Any],
    dataset: Dataset,
    num_classes: int,
) -> list[str]:
    """Rules of who uses what the network is told."""
    guidance, labels = sections["guidance"], built["sampling"].labels
    told, dropout = built["condition"], built["loss"].condition_dropout
    is_told = num_classes or told.attributes or told.image != "none"
    by_class = guidance["name"] == "classifier"
    uses = {
        "loss.condition_dropout": (dropout or None, is_told),
        "guidance.name": (
            None if guidance["name"] in UNTOLD else guidance["name"],
            num_classes if by_class else is_told,
        ),
        "sampling.labels": (labels or None, num_classes),
    }
    problems = [
        f"{field} is {value!r}; the network has no classes: set network.num_classes "
        f"to {dataset.num_classes}"
        for field, (value, can) in uses.items()
        if value is not None and not can
    ]
    if by_class and isinstance(built["network"], TextUNet):
        problems.append(
            "guidance.name is 'classifier'; it is for a network that is told labels, "
            "not for one that reads"
        )
    problems += _fit_named(guidance, built["network"], num_classes)
    return problems + [
        f"sampling.labels has {label}; choose from 0 to {num_classes - 1}, or -1 for "
        "none"
        for label in labels
        if num_classes and not NO_LABEL <= label < num_classes
    ]


def _fit_named(
    guidance: Mapping[str, Any], network: Any, num_classes: int
) -> list[str]:
    """Rules of the labels and captions that guidance goes to, or away from."""
    labels = [("labels", label) for label in guidance.get("labels", ())]
    texts = [("captions", caption) for caption in guidance.get("captions", ())]
    given, reads, problems = len(labels) + len(texts), isinstance(network, TextUNet), []
    if guidance.get("negative_label", NO_LABEL) != NO_LABEL:
        labels.append(("negative_label", guidance["negative_label"]))
    if guidance.get("negative_caption"):
        texts.append(("negative_caption", guidance["negative_caption"]))
    for field, caption in texts:
        if not reads:
            problems.append(
                f"guidance.{field} is {caption!r}; it is for a network that reads: "
                "network.name 'text_unet'"
            )
        else:
            problems += _unreadable(f"guidance.{field}", caption)
    for field, label in labels:
        if reads:
            problems.append(
                f"guidance.{field} is {label}; of a network that reads, give "
                f"guidance.{field.replace('label', 'caption')}"
            )
        elif not NO_LABEL <= label < num_classes:
            choices = f"choose from 0 to {num_classes - 1}, or -1 for none"
            problems.append(
                f"guidance.{field} is {label}; "
                + (choices if num_classes else "the network has no classes")
            )
    if guidance["name"] == "composed":
        weights = guidance.get("weights", ())
        if len(weights) != given:
            problems.append(
                f"guidance.weights is {weights}; it needs one number for each of "
                f"guidance.labels and guidance.captions, {given}"
            )
    return problems


def _fit_captions(module: TextUNet, dataset: Dataset, caption: str) -> list[str]:
    """Rules between captions and the network that reads them."""
    problems = _unreadable("sampling.caption", caption)
    if dataset.name != "digits":
        problems.append(f"network.name is 'text_unet'; {dataset.name} has no captions")
    needed = {"num_words": len(captions.WORDS), "num_classes": len(captions.NUMBERS)}
    return problems + [
        f"network.{field} is {getattr(module, field)}; captions need {value}"
        for field, value in needed.items()
        if getattr(module, field) != value
    ]


def _unreadable(field: str, caption: str) -> list[str]:
    try:
        captions.tokens(caption)
    except UserError as error:
        return [f"{field}: {error}"]
    return []
