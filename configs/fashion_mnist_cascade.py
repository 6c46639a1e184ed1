"""Fashion-MNIST by a cascade of three: 7x7, 14x14 and 28x28 pixels.

    score-sde train --config=fashion_mnist_cascade:7 --workdir=runs/fashion7
    score-sde train --config=fashion_mnist_cascade:14 --workdir=runs/fashion14
    score-sde train --config=fashion_mnist_cascade --workdir=runs/fashion28
    score-sde sample --workdir=runs/fashion28 --config=fashion_mnist_cascade:all

The later stages are trained with noise in the small picture, and by themselves; `all`
is the last stage with the two runs before it as companions. The variants coarse,
details2 and details are the stages of a cascade over wavelets, whose likelihood is
exact, and `likelihood` the last of them with those before it:

    score-sde likelihood --workdir=runs/fashion_details
        --config=fashion_mnist_cascade:likelihood

Not trained here.
"""

from ml_collections import ConfigDict

from .digits import default

SOURCE = {"name": "fashion_mnist"}
TOLD = {"factor": 2, "num_levels": 256, "noise": 0.5, "level": 0.05}
CLASSES = {"label": {}}
STAGES = ("", "14", "7")
PARTS = {
    "coarse": ("coarse", 2, 0.606, (1,), (155.136,)),
    "details2": ("details", 2, 0.607, (1, 2), (77.696, 310.784)),
    "details": ("details", 1, 0.288, (1, 2, 2), (36.864, 73.728)),
}
"""Variant -> part, depth, standard deviation, widths and waves of the network.

For details it is one of twice their sides. There is a period per grey level of a pixel;
in means over four per level of theirs too, which noise hides in means over sixteen."""


def get_config(variant: str = "") -> ConfigDict:
    """The config of digits with other data and a larger network, for one stage.

    Args:
        variant: of `STAGES` or `PARTS`; 'all' or 'likelihood' for the last stage with
            those before it.
    """
    known = [*STAGES, *PARTS, "all", "likelihood"]
    if variant not in known:
        raise ValueError(f"{variant!r} is no variant; choose from {known}.")
    if variant in ("all", "likelihood"):
        return _with_earlier(variant)
    config = default()
    config.train.num_steps = 30_000
    config.network.update(channels=64, multipliers=(1, 2, 2), blocks_per_level=2)
    config.network.input_frequencies = ()
    config.likelihood.num_train = 0
    if variant in PARTS:
        _part(config, *PARTS[variant])
    else:
        _stage(config, variant)
    return config.lock()


def _stage(config: ConfigDict, variant: str) -> None:
    """Make a stage of the cascade of small pictures, told their classes."""
    config.data = {"batch_size": 128, "sigma_data": 0.71}
    config.conditions = dict(CLASSES)
    config.train.condition_dropout = 0.1
    if variant == "":
        config.data.update(**SOURCE)
    else:
        factor = 28 // int(variant)
        config.data.update(name="smaller", source=SOURCE, factor=factor)
    if variant != "7":
        config.conditions["low_resolution"] = dict(TOLD)
    else:
        config.network.multipliers = (1,)


def _with_earlier(variant: str) -> ConfigDict:
    """Make the config of a last stage with the stages before it."""
    names = ("14", "7") if variant == "all" else ("_details2", "_coarse")
    first = {"run": f"runs/fashion{names[1]}"}
    middle = {
        "run": f"runs/fashion{names[0]}",
        "changes": {"companions": {"low_resolution": first}},
    }
    config = get_config("" if variant == "all" else "details").unlock()
    config.companions = {"low_resolution": middle}
    return config.lock()


def _part(
    config: ConfigDict,
    part: str,
    depth: int,
    sigma_data: float,
    multipliers: tuple[int, ...],
    waves: tuple[float, ...],
) -> None:
    """Make a stage of the cascade over wavelets, trained by the bound."""
    config.data = {
        "name": "wavelet",
        "source": SOURCE,
        "part": part,
        "depth": depth,
        "points": "centres",
        "batch_size": 128,
        "sigma_data": sigma_data,
    }
    # A bin is six sigma wide; means over 4x4 pixels have a quarter of the noise.
    config.sde.t_min = 0.0013 / (2**depth if part == "coarse" else 1)
    config.noise_levels = {"name": "likelihood_importance", "stratified": True}
    config.weight = {"name": "noise"}
    config.likelihood.dequantisation = "truncated_normal"
    config.network.update(multipliers=multipliers, input_frequencies=waves)
    if part == "details":
        config.conditions = {"coarse": {}}
