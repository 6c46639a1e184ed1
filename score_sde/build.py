"""From a config to objects: the only file that reads one.

A config is sections of literals. A section with alternatives has a `name`, a key of one
of the dictionaries below, and the arguments of what it names. The other sections are
the fields of a settings class. Whatever is wrong in any of them is found here, before
any device work, and reported together.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import UnionType
from typing import Any, get_type_hints

import numpy as np

from score_sde import losses, noise_levels, precondition, sde
from score_sde.data import ABSENT, DATASETS, Dataset, absent, captions
from score_sde.evaluation.settings import Editing, Sampling, Scoring
from score_sde.experiment import Data, Experiment, Loss, NoisyClassifier
from score_sde.guidance import GUIDANCES, THRESHOLDS
from score_sde.networks import (
    EDM2,
    MLP,
    CrossUNet,
    DiT,
    Network,
    TextUNet,
    UNet,
    from_linen,
)
from score_sde.networks.blocks import DTYPES, EMBEDDINGS
from score_sde.samplers import SAMPLERS, grids
from score_sde.schedules import BETA_SCHEDULES, TIMESTEP_SPACINGS
from score_sde.training.loop import Training
from score_sde.training.optimizer import Optimizer
from score_sde.types import NO_LABEL, UserError

SDES: dict[str, Callable[..., Any]] = {
    "vp": sde.VP,
    "subvp": sde.SubVP,
    "ve": sde.VE,
    "edm": sde.EDM,
    "cosine_vp": sde.CosineVP,
    "straight_line": sde.StraightLine,
}
NETWORKS: dict[str, Callable[..., Any]] = {
    "unet": UNet,
    "mlp": MLP,
    "edm2": EDM2,
    "dit": DiT,
    "cross_unet": CrossUNet,
    "text_unet": TextUNet,
}
NOISE_LEVELS: dict[str, Callable[..., Any]] = {
    "uniform_time": noise_levels.UniformTime,
    "log_normal": noise_levels.LogNormal,
    "log_uniform": noise_levels.LogUniform,
    "ladder": noise_levels.Ladder,
    "likelihood_importance": noise_levels.LikelihoodImportance,
}

CLASSES: dict[str, Mapping[str, Callable[..., Any]]] = {
    "sde": SDES,
    "network": NETWORKS,
    "noise_levels": NOISE_LEVELS,
    "sampler": SAMPLERS,
}
"""Sections whose name picks a constructor."""

FUNCTIONS: dict[str, Mapping[str, Callable[..., Any]]] = {
    "precondition": precondition.PRECONDITIONERS,
    "weight": losses.WEIGHTS,
    "grid": grids.GRIDS,
    "guidance": GUIDANCES,
    "threshold": THRESHOLDS,
}
"""Sections whose name picks a function, which gets the other fields as options."""

SETTINGS: dict[str, Callable[..., Any]] = {
    "data": Data,
    "loss": Loss,
    "optimizer": Optimizer,
    "train": Training,
    "sampling": Sampling,
    "likelihood": Scoring,
    "editing": Editing,
    "classifier": NoisyClassifier,
}
"""Sections without alternatives."""

OPTIONAL: dict[str, Mapping[str, Any]] = {
    "guidance": {"name": "none"},
    "threshold": {"name": "none"},
    "editing": {},
    "classifier": {},
}
"""Sections that a config may leave out, and what they then are."""

NAMED: dict[str, Mapping[str, Callable[..., Any]]] = {**CLASSES, **FUNCTIONS}

# Arguments that come from elsewhere: another section, the caller, or Flax.
NOT_FIELDS = {"sde", "sigma_data", "sigma", "denoise", "log_prob", "parent", "name"}

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
    **dict.fromkeys(("channels_per_head", "clip_act", "logvar_channels"), POSITIVE),
    **dict.fromkeys(("num_classes", "vector_dims", "token_dims"), COUNT),
    **dict.fromkeys(("beta_start", "beta_end", "beta_d", "eps_s"), POSITIVE),
    "num_train_timesteps": POSITIVE,
    "steps_offset": COUNT,
    "beta_schedule": _one_of(BETA_SCHEDULES),
    "timestep_spacing": _one_of(TIMESTEP_SPACINGS),
    "multipliers": POSITIVES,
    "attention_resolutions": ("numbers > 0", lambda v: all(a > 0 for a in v)),
    "input_frequencies": ("finite numbers", lambda v: all(map(math.isfinite, v))),
    "bias": ("finite", math.isfinite),
    "dropout": (">= 0 and < 1", lambda v: 0 <= v < 1),
    "embedding": _one_of(EMBEDDINGS),
    "weight": ("finite", math.isfinite),
    "negative_label": (">= -1", lambda v: v >= NO_LABEL),
    "rescale": ("from 0 to 1", lambda v: 0 <= v <= 1),
    "sigma_low": COUNT,
    "sigma_high": ("> 0", lambda v: v > 0),
    "percentile": ("> 0 and <= 100", lambda v: 0 < v <= 100),
    "limit": POSITIVE,
    "dtype": _one_of(DTYPES),
    **dict.fromkeys(
        ("label_balance", "concat_balance", "res_balance", "attn_balance"),
        ("from 0 to 1", lambda v: 0 <= v <= 1),
    ),
}
"""What a field of a network or a function must be; dataclasses check their own."""


class ConfigError(UserError):
    """All that is wrong with a config, a line each."""

    def __init__(self, problems: list[str]):
        plural = "s" if len(problems) > 1 else ""
        super().__init__(
            "\n  ".join([f"{len(problems)} problem{plural} in the config:", *problems])
        )
        self.problems = problems


def build(config: Mapping[str, Any]) -> Experiment:
    """The experiment that a config describes.

    Args: `config`, a ConfigDict or a dict of sections.
    Raises: ConfigError with all problems: section, value, choices.
    """
    sections = {
        k: dict(v) if isinstance(v, Mapping) else v
        for k, v in {**OPTIONAL, **config}.items()
    }
    problems = [
        f"{name}: no such section{_choices(name, {'seed', *NAMED, *SETTINGS})}"
        for name in sections.keys() - {"seed", *NAMED, *SETTINGS}
    ]
    built: dict[str, Any] = {}
    seed = sections.get("seed")
    if not isinstance(seed, int) or not 0 <= seed < 2**32:
        problems.append(f"seed: must be an integer from 0 to 2^32 - 1, got {seed!r}")
    context: dict[str, Any] = {}
    for name in [*SETTINGS, *NAMED]:  # NAMED begins with the SDE, which others need
        found, built[name] = _build_section(name, sections.get(name), context)
        problems += found
        if name == "data" and not found:
            context["sigma_data"] = built[name].sigma_data
        if name == "sde":
            context["sde"] = built[name]
    if not problems:
        problems = _cross_check(sections, built)
    if problems:
        raise ConfigError(problems)
    num_classes = sections["network"].get("num_classes", 0)
    dataset = _dataset(built["data"], num_classes)
    problems = _fit_data(sections, built, dataset)
    if problems:
        raise ConfigError(problems)
    assert isinstance(seed, int)
    built["network"] = _network(built["network"], dataset, num_classes)
    return Experiment(
        seed=seed,
        dataset=dataset,
        num_classes=num_classes,
        captioned=sections["network"]["name"] == "text_unet",
        **built,
    )


def network_module(config: Mapping[str, Any]) -> Any:
    """The Linen module of a config that builds."""
    options = dict(config["network"])
    return NETWORKS[options.pop("name")](**options)


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with every default written out, so that a run records them all.

    Fields that the named alternative doesn't have are kept, for `build` to report.
    """
    full: dict[str, Any] = {}
    for name, section in {**OPTIONAL, **config}.items():
        constructor = _constructor(name, section)
        if constructor is None or not isinstance(section, Mapping):
            full[name] = section
            continue
        defaults = {
            field: parameter.default
            for field, parameter in _fields(constructor).items()
            if parameter.default is not inspect.Parameter.empty
        }
        full[name] = {**defaults, **section}
        if name in NAMED:
            full[name] = {"name": section["name"], **full[name]}
    return full


def rename(section: Mapping[str, Any], name: str, section_name: str) -> dict[str, Any]:
    """The section with another alternative chosen, at the defaults of that one.

    Fields without a default are kept if both have them.
    """
    constructor = _constructor(section_name, {"name": name})
    fields = {} if constructor is None else _fields(constructor)
    needed = [k for k, p in fields.items() if p.default is inspect.Parameter.empty]
    return {"name": name} | {k: section[k] for k in needed if k in section}


def _constructor(name: str, section: Any) -> Callable[..., Any] | None:
    if name in SETTINGS:
        return SETTINGS[name]
    chosen = section.get("name") if isinstance(section, Mapping) else None
    return NAMED.get(name, {}).get(chosen) if isinstance(chosen, str) else None


def _fields(constructor: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(constructor).parameters)
    if constructor in SETTINGS.values():
        return parameters
    return {k: p for k, p in parameters.items() if k not in NOT_FIELDS}


def _build_section(
    name: str, section: Any, context: Mapping[str, Any]
) -> tuple[list[str], Any]:
    """(problems, object) of one section."""
    if not isinstance(section, dict):
        return [f"{name}: this section is missing"], None
    options = dict(section)
    constructor: Callable[..., Any]
    if name in NAMED:
        chosen = options.pop("name", None)
        if chosen not in NAMED[name]:
            hint = _choices(chosen, NAMED[name])
            return [f"{name}.name is {chosen!r}{hint}"], None
        constructor = NAMED[name][chosen]
    else:
        constructor = SETTINGS[name]
    fields = _fields(constructor)
    problems = [
        f"{name}.{field}: no such field{_choices(field, fields)}"
        for field in options.keys() - fields.keys()
    ]
    problems += [
        f"{name}.{field} is missing"
        for field, parameter in fields.items()
        if parameter.default is inspect.Parameter.empty and field not in options
    ]
    hints = get_type_hints(
        constructor if name in FUNCTIONS else _initialiser(constructor)
    )
    for field in options.keys() & fields.keys():
        problems += _check_value(name, field, options[field], hints.get(field))
    if problems:
        return problems, None
    parameters = inspect.signature(constructor).parameters
    options |= {k: v for k, v in context.items() if k in parameters and v is not None}
    if name in FUNCTIONS:
        return [], partial(constructor, **options)
    if "sde" in parameters and context.get("sde") is None:
        return [], None  # the SDE itself has been reported
    try:
        return [], constructor(**options)
    except ValueError as error:
        return [f"{name}: {error}"], None


def _initialiser(constructor: Callable[..., Any]) -> Any:
    return constructor.__init__ if inspect.isclass(constructor) else constructor


def _check_value(section: str, field: str, value: Any, hint: Any) -> list[str]:
    """Type of a field, and its rule where no dataclass has it."""
    wrong = f"{section}.{field} is {value!r}"
    items = getattr(hint, "__args__", ())
    if isinstance(hint, UnionType) and float in items:  # Scalar
        hint = float
    kind = getattr(hint, "__origin__", hint)
    if kind is tuple and items:
        item = items[0]
        if not isinstance(value, (tuple, list)) or not all(_is(v, item) for v in value):
            return [f"{wrong}; it must be a tuple of {item.__name__}"]
    elif isinstance(kind, type) and not _is(value, kind):
        return [f"{wrong}; it must be {kind.__name__}"]
    if (section in FUNCTIONS or section == "network") and field in RULES:
        text, holds = RULES[field]
        if not holds(value):
            return [f"{wrong}; it must be {text}"]
    return []


def _is(value: Any, kind: Any) -> bool:
    """Whether a value has a type; an int is a float, a bool is neither."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    return True


def _choices(value: Any, choices: Any) -> str:
    close = difflib.get_close_matches(str(value), choices, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess}; choose from {sorted(choices)}"


def _cross_check(sections: Mapping[str, Any], built: Mapping[str, Any]) -> list[str]:
    """Rules between sections, none of which needs the data."""
    problems = []
    data, grid = sections["data"], sections["grid"]
    names = {*DATASETS, ABSENT}
    if data["name"] not in names:
        problems.append(f"data.name is {data['name']!r}{_choices(data['name'], names)}")
    if "sigma_min" in grid and grid["sigma_min"] >= grid["sigma_max"]:
        problems.append(
            f"grid: sigma_min {grid['sigma_min']} must be below sigma_max "
            f"{grid['sigma_max']}"
        )
    guidance = sections["guidance"]
    low, high = guidance.get("sigma_low", 0.0), guidance.get("sigma_high", math.inf)
    if low >= high:
        problems.append(f"guidance: sigma_low {low} must be below sigma_high {high}")
    threshold = sections["threshold"]
    if threshold.get("low", -1.0) >= threshold.get("high", 1.0):
        problems.append("threshold: low must be below high")
    if built["optimizer"].warmup_steps >= built["train"].num_steps:
        problems.append(
            f"optimizer.warmup_steps is {built['optimizer'].warmup_steps}; it must be "
            f"below train.num_steps, {built['train'].num_steps}"
        )
    return problems


def _dataset(settings: Data, num_classes: int) -> Dataset:
    if settings.name == ABSENT:
        levels = settings.num_levels or None
        return absent(settings.shape, num_levels=levels, num_classes=num_classes)
    return DATASETS[settings.name]()


def _fit_data(
    sections: Mapping[str, Any], built: Mapping[str, Any], dataset: Dataset
) -> list[str]:
    """Rules between the data and what processes them."""
    problems = []
    network, shape = sections["network"], dataset.shape
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
    classes = network.get("num_classes", 0)
    if classes not in (0, dataset.num_classes):
        problems.append(
            f"network.num_classes is {classes}; {dataset.name} needs 0 (unconditional) "
            f"or {dataset.num_classes}"
        )
    if isinstance(built["network"], TextUNet):
        problems += _fit_captions(built["network"], dataset, built["sampling"].caption)
    elif built["sampling"].caption:
        problems.append(
            f"sampling.caption is {built['sampling'].caption!r}; it is for a network "
            "that reads: network.name 'text_unet'"
        )
    problems += _fit_labels(sections, built, dataset, classes)
    if network.get("vector_dims", 0):
        problems.append(
            f"network.vector_dims is {network['vector_dims']}; {dataset.name} comes "
            "without vectors, so it must be 0"
        )
    if built["editing"].task == "colourise" and shape[-1] != 3:
        problems.append(
            f"editing.task is 'colourise'; {dataset.name} has shape {shape}, without "
            "three colours"
        )
    if network.get("token_dims", 0):
        problems.append(
            f"network.token_dims is {network['token_dims']}; {dataset.name} comes "
            "without tokens, so it must be 0"
        )
    if built["likelihood"].num_train > len(dataset.train):
        problems.append(
            f"likelihood.num_train is {built['likelihood'].num_train}; there are "
            f"{len(dataset.train)} training examples"
        )
    return problems


def _fit_labels(
    sections: Mapping[str, Any],
    built: Mapping[str, Any],
    dataset: Dataset,
    num_classes: int,
) -> list[str]:
    """Rules between the network's classes and who uses labels."""
    guidance, labels = sections["guidance"], built["sampling"].labels
    dropout = built["loss"].condition_dropout
    uses = {
        "loss.condition_dropout": dropout or None,
        "guidance.name": None if guidance["name"] == "none" else guidance["name"],
        "sampling.labels": labels or None,
    }
    if not num_classes:
        return [
            f"{field} is {value!r}; the network has no classes: set "
            f"network.num_classes to {dataset.num_classes}"
            for field, value in uses.items()
            if value is not None
        ]
    given = {
        "sampling.labels": labels,
        "guidance.negative_label": [guidance.get("negative_label", NO_LABEL)],
    }
    return [
        f"{field} has {label}; choose from 0 to {num_classes - 1}, or -1 for none"
        for field, values in given.items()
        for label in values
        if not NO_LABEL <= label < num_classes
    ]


def _fit_captions(module: TextUNet, dataset: Dataset, caption: str) -> list[str]:
    """Rules between captions and the network that reads them."""
    problems = []
    try:
        captions.tokens(caption)
    except UserError as error:
        problems.append(f"sampling.caption: {error}")
    if dataset.name != "digits":
        problems.append(f"network.name is 'text_unet'; {dataset.name} has no captions")
    needed = {"num_words": len(captions.WORDS), "num_classes": len(captions.NUMBERS)}
    return problems + [
        f"network.{field} is {getattr(module, field)}; captions need {value}"
        for field, value in needed.items()
        if getattr(module, field) != value
    ]


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
    if isinstance(module, EDM2):
        widths = [module.channels * m for m in module.multipliers]
        attending = {
            w
            for w, l in zip(widths, levels, strict=True)
            if l in module.attention_resolutions
        } | {widths[-1]}
        problems += [
            f"network.channels_per_head is {module.channels_per_head}; it must divide "
            f"the {width} channels of a level with attention"
            for width in sorted(attending)
            if width % module.channels_per_head
        ]
    return problems


def _network(module: Any, dataset: Dataset, num_classes: int) -> Network:
    if isinstance(module, TextUNet):
        words = {"words": np.zeros((1, captions.LENGTH), np.int32)}
        network = from_linen(module, dataset.shape, words)

        def apply(params: Any, x: Any, noise: Any, cond: Any, **options: Any) -> Any:
            return network.apply(params, x, noise, captions.cond_of(cond), **options)

        return network._replace(apply=apply)
    cond = {"label": np.zeros(1, np.int32)} if num_classes else None
    return from_linen(module, dataset.shape, cond)
