"""What a config's values must be: alone, beside each other, and for their data.

Each rule that is broken is a line of text: the field, its value, what it must be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax

from score_sde.data import ABSENT, DATASETS, FILES, TFDS, Dataset
from score_sde.data.augment import NUM_LABELS
from score_sde.guidance import interpolated
from score_sde.networks import ADM, EDM2, DiT
from score_sde.networks.attention import IMPLEMENTATIONS
from score_sde.networks.options import DTYPES, EMBEDDINGS
from score_sde.networks.song_unet import PROGRESSIVE_INPUTS, PROGRESSIVES
from score_sde.run.condition_rules import fit_conditions
from score_sde.schedules import BETA_SCHEDULES, TIMESTEP_SPACINGS
from score_sde.types import NO_LABEL, choices_text

Holds = Callable[[Any], bool]
POSITIVE: tuple[str, Holds] = ("> 0", lambda v: 0 < v < math.inf)
COUNT: tuple[str, Holds] = (">= 0", lambda v: v >= 0)
POSITIVES: tuple[str, Holds] = (
    "one or more numbers > 0",
    lambda v: len(v) > 0 and all(0 < a < math.inf for a in v),
)


def _one_of(choices: Collection[str]) -> tuple[str, Holds]:
    return f"one of {list(choices)}", lambda v: v in choices


RULES: dict[str, tuple[str, Holds]] = {
    **dict.fromkeys(("channels", "width", "depth", "blocks_per_level"), POSITIVE),
    **dict.fromkeys(("num_words", "text_width", "text_depth"), POSITIVE),
    **dict.fromkeys(("num_heads", "gamma", "rho", "num_steps"), POSITIVE),
    **dict.fromkeys(("sigma_min", "sigma_max", "beta_min", "beta_max"), POSITIVE),
    **dict.fromkeys(("c_1", "c_2"), POSITIVE),
    **dict.fromkeys(("patch_size", "hidden_size", "mlp_ratio"), POSITIVE),
    **dict.fromkeys(("clip_act", "logvar_channels"), POSITIVE),
    **dict.fromkeys(("num_classes", "vector_dims", "token_dims"), COUNT),
    **dict.fromkeys(("beta_start", "beta_end", "beta_d", "eps_s"), POSITIVE),
    **dict.fromkeys(("num_train_timesteps", "timestep_scale"), POSITIVE),
    "steps_offset": COUNT,
    "beta_schedule": _one_of(BETA_SCHEDULES),
    "timestep_spacing": _one_of(TIMESTEP_SPACINGS),
    "multipliers": POSITIVES,
    "attention_resolutions": ("numbers > 0", lambda v: all(a > 0 for a in v)),
    "input_frequencies": ("finite numbers", lambda v: all(map(math.isfinite, v))),
    "bias": ("finite", math.isfinite),
    "dropout": (">= 0 and < 1", lambda v: 0 <= v < 1),
    "embedding": _one_of(EMBEDDINGS),
    "dtype": _one_of(DTYPES),
    "attention": _one_of(IMPLEMENTATIONS),
    "progressive_input": _one_of(PROGRESSIVE_INPUTS),
    "progressive": _one_of(PROGRESSIVES),
    "min_group": POSITIVE,
    "augment_dims": COUNT,
    "channels_per_head": COUNT,
    "resample_filter": (
        "an even number of taps with a sum > 0",
        lambda v: len(v) > 1 and len(v) % 2 == 0 and sum(v) > 0,
    ),
    **dict.fromkeys(
        ("label_balance", "concat_balance", "res_balance", "attn_balance"),
        ("from 0 to 1", lambda v: 0 <= v <= 1),
    ),
    "weight": ("finite", math.isfinite),
    "weights": ("finite numbers", lambda v: all(map(math.isfinite, v))),
    "negative_label": (">= -1", lambda v: v >= NO_LABEL),
    "rescale": ("from 0 to 1", lambda v: 0 <= v <= 1),
    "sigma_low": COUNT,
    "sigma_high": ("> 0", lambda v: v > 0),
    "percentile": ("> 0 and <= 100", lambda v: 0 < v <= 100),
    "limit": POSITIVE,
    "tau": POSITIVE,
}
"""What a field of a network or a function must be; dataclasses check their own."""


def cross_check(sections: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """Rules between sections, none of which needs the data."""
    problems = []
    data, grid = sections["data"], sections["grid"]
    names = {*DATASETS, *TFDS, FILES, ABSENT}
    if data["name"] not in names:
        problems.append(
            f"data.name is {data['name']!r}{choices_text(data['name'], names)}"
        )
    if "sigma_min" in grid and grid["sigma_min"] >= grid["sigma_max"]:
        problems.append(
            f"grid: sigma_min {grid['sigma_min']} must be below sigma_max "
            f"{grid['sigma_max']}"
        )
    else:
        try:
            jax.eval_shape(built["grid"])  # no number is computed
        except ValueError as error:
            problems.append(f"grid: {error}")
    guidance = sections["guidance"]
    low, high = guidance.get("sigma_low", 0.0), guidance.get("sigma_high", math.inf)
    if low >= high:
        problems.append(f"guidance: sigma_low {low} must be below sigma_high {high}")
    run = guidance.get("run", "")
    if guidance["name"] == "auto" and not (Path(run) / "config.json").is_file():
        problems.append(f"guidance.run is {run!r}; it must be the folder of a run")
    if guidance["name"] == "scheduled":
        try:
            interpolated(guidance.get("sigmas", ()), guidance.get("weights", ()))
        except ValueError as error:
            problems.append(f"guidance: {error}")
    threshold = sections["threshold"]
    if threshold.get("low", -1.0) >= threshold.get("high", 1.0):
        problems.append("threshold: low must be below high")
    problems += _check_points(sections, built)
    if built["loss"].bound_weight and sections["precondition"]["name"] != "chain":
        problems.append(
            f"precondition.name is {sections['precondition']['name']!r}; "
            "loss.bound_weight needs a network of a discrete chain, 'chain'"
        )
    if built["loss"].bound_weight and built["data"].points != "centres":
        problems.append(
            f"data.points is {built['data'].points!r}; loss.bound_weight, whose "
            "decoder gives a level its whole bin, needs 'centres'"
        )
    if built["optimizer"].warmup_steps >= built["train"].num_steps:
        problems.append(
            f"optimizer.warmup_steps is {built['optimizer'].warmup_steps}; it must be "
            f"below train.num_steps, {built['train'].num_steps}"
        )
    return problems


def _check_points(sections: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """Rules of variational points, which are trained by the bound, and of schedules."""
    problems = []
    points = built["data"].points == "variational"
    levels, weight = sections["noise_levels"]["name"], sections["weight"]["name"]
    bounds = ("learned", "likelihood_importance")
    if (points or levels == "learned") and weight not in ("noise", "sigma_squared"):
        cause = "data.points 'variational'" if points else "noise_levels 'learned'"
        problems.append(
            f"weight.name is {weight!r}; {cause} needs the bound's, 'noise'"
        )
    if points and levels not in bounds:
        problems.append(
            f"noise_levels.name is {levels!r}; data.points 'variational' needs one of "
            f"{sorted(bounds)}"
        )
    if built["likelihood"].dequantisation == "variational" and not points:
        problems.append(
            "likelihood.dequantisation is 'variational'; it needs the flow of "
            "data.points 'variational'"
        )
    return problems


def fit_data(
    sections: Mapping[str, Any], built: Mapping[str, Any], dataset: Dataset
) -> list[str]:
    """Rules between the data and what processes them."""
    problems = []
    network, shape = sections["network"], dataset.shape
    network_of = built["network"]
    is_image = len(shape) == 3
    if is_image != (network["name"] != "mlp"):
        fitting = "'unet'" if is_image else "'mlp'"
        problems.append(
            f"network.name is {network['name']!r}; data of shape {shape} need {fitting}"
        )
    elif is_image:
        problems += _fit_image(built["network"], shape)
    elif built["data"].random_flip:
        problems.append("data.random_flip is True; it is for images")
    problems += fit_conditions(sections, built, dataset)
    augmented = built["data"].augment_probability > 0
    needed, told = NUM_LABELS if augmented else 0, built["condition"]
    dims = getattr(built["network"], "augment_dims", 0)
    if augmented and not is_image:
        problems.append("data.augment_probability is above 0; it is for images")
    elif augmented and (told.attributes or told.image != "none"):
        problems.append(
            "data.augment_probability is above 0; what section condition tells of an "
            "image would not be true of the augmented one"
        )
    elif dims not in (needed, NUM_LABELS):
        problems.append(
            f"network.augment_dims is {dims}; it must be {NUM_LABELS} for augmented "
            "data, of networks that have it, and 0 otherwise"
        )
    if network.get("token_dims", 0):
        problems.append(
            f"network.token_dims is {network['token_dims']}; {dataset.name} comes "
            "without tokens, so it must be 0"
        )
    if built["data"].points == "variational" and not (is_image and dataset.num_levels):
        problems.append(
            f"data.points is 'variational'; it is for images of levels, not for "
            f"{dataset.name}"
        )
    has_variance = getattr(network_of, "learn_sigma", False)
    if built["loss"].bound_weight and not has_variance:
        problems.append(
            "loss.bound_weight needs network.learn_sigma True, of a network that has it"
        )
    if sections["sampler"].get("variance") == "learned" and not has_variance:
        problems.append(
            "sampler.variance is 'learned'; it needs network.learn_sigma True, of a "
            "network that has it"
        )
    if built["editing"].task == "colourise" and shape[-1] != 3:
        problems.append(
            f"editing.task is 'colourise'; {dataset.name} has shape {shape}, without "
            "three colours"
        )
    return problems


def _fit_image(module: Any, shape: tuple[int, ...]) -> list[str]:
    """Rules between an image and the network that halves it or cuts it to patches."""
    if isinstance(module, DiT):
        problems = []
        if shape[0] % module.patch_size or shape[1] % module.patch_size:
            problems.append(
                f"network.patch_size is {module.patch_size}; it must divide the sides, "
                f"{shape[:2]}"
            )
        if module.hidden_size % module.num_heads or module.hidden_size % 4:
            problems.append(
                f"network.hidden_size is {module.hidden_size}; it must be a multiple "
                f"of 4 and of num_heads, {module.num_heads}"
            )
        return problems
    halvings = len(module.multipliers) - 1
    if shape[0] % 2**halvings or shape[1] % 2**halvings:
        return [
            f"network.multipliers halve the image {halvings} times; its sides, "
            f"{shape[:2]}, must be multiples of {2**halvings}"
        ]
    levels = [shape[0] >> i for i in range(halvings + 1)]
    problems = [
        f"network.attention_resolutions has {resolution}; choose from {levels}"
        for resolution in module.attention_resolutions
        if resolution not in levels
    ]
    if isinstance(module, (EDM2, ADM)):
        problems += _fit_heads(module, levels)
    return problems


def _fit_heads(module: Any, levels: list[int]) -> list[str]:
    """Rules between the widths of a U-Net and the heads of its attention."""
    size, field = module.channels_per_head, "channels_per_head"
    if not size and isinstance(module, ADM):
        size, field = module.num_heads, "num_heads"
    if not size:
        return [f"network.{field} is {size}; it must be > 0"]
    widths = [int(module.channels * m) for m in module.multipliers]
    attending = {
        width
        for width, level in zip(widths, levels, strict=True)
        if level in module.attention_resolutions
    } | {widths[-1]}
    return [
        f"network.{field} is {size}; it must divide the {width} channels of a level "
        "with attention"
        for width in sorted(attending)
        if width % size
    ]
