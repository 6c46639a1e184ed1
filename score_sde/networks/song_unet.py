"""DDPM++ and NCSN++ (Song et al. 2021, app. H), with EDM's conditions (Karras 2022)."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import flax.linen as nn

from score_sde.networks.blocks import add_told_later, with_divergence
from score_sde.networks.cond import beside_image
from score_sde.networks.embeddings import FourierFeatures, conditions, sine_embedding
from score_sde.networks.options import Count, Embedding, FilterTaps
from score_sde.networks.resampling import (
    filter_down,
    filter_for_strides,
    filter_up,
    resampled,
)
from score_sde.networks.unet_blocks import Layers, Style, checkpointed, norm_problems
from score_sde.networks.unet_plan import Plan, PlannedBlock, PlannedUNet, concatenate
from score_sde.rules import one_of
from score_sde.types import Array

PROGRESSIVE_INPUTS = ("none", "residual", "strided_residual", "input_skip")
PROGRESSIVES = ("none", "output_skip")
COMBINES = ("sum", "cat")
BLOCKS = ("biggan", "ddpm")


class SongUNet(PlannedUNet):
    """F(x, noise) for images in [-1, 1], [batch, height, width, channels].

    DDPM++ by its defaults; NCSN++ with embedding 'fourier', resample_filter
    (1, 3, 3, 1) and progressive_input 'residual'. The noise is what its preconditioning
    gives: 999 t or log(sigma) / 4 for 'positional', log(sigma / 2) for 'fourier'. A
    picture, cond["image"], is seen beside x.

    Attention follows each block on the way down, and the last one on the way up. More
    arguments are those of `PlannedUNet`.

    Args:
        embedding: 'positional' or 'fourier' (fixed random frequencies), of the noise.
        resample_filter: taps of the filter with which images are halved and doubled.
        progressive_input: how the image, halved, comes into the encoder: 'none',
            'residual' (a sum through a 3x3 convolution, which becomes the image),
            'strided_residual' (the same without a filter, as score_sde has it without
            `fir`) or 'input_skip' (a 1x1 convolution of the image).
        progressive_combine: whether that of 'input_skip' is added, 'sum', or stands in
            front of the channels, 'cat', which doubles them.
        progressive: 'output_skip' for an output that is the sum of those of all levels.
        block: 'biggan' halves and doubles inside of blocks; between those of 'ddpm'
            the filter alone does.
        skip_rescale: whether residual sums are divided by sqrt(2).
        vector_dims: size of cond["vector"]; 0 for none.
        augment_dims: size of cond["augment"], which may be absent and is then zero; 0
            for none.
    """

    reads: ClassVar = frozenset(
        {"label", "vector", "augment", "ratio", "guidance", "divergence", "image"}
    )

    embedding: Embedding = "positional"
    resample_filter: FilterTaps = (1, 1)
    progressive_input: Annotated[str, one_of(PROGRESSIVE_INPUTS)] = "none"
    progressive_combine: Annotated[str, one_of(COMBINES)] = "sum"
    progressive: Annotated[str, one_of(PROGRESSIVES)] = "none"
    block: Annotated[str, one_of(BLOCKS)] = "biggan"
    skip_rescale: bool = True
    vector_dims: Count = 0
    augment_dims: Count = 0

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        embedding = self._embedding(noise, cond)
        style, steps = self.style, self.plan(x.shape[1])
        block = checkpointed(self.remat)

        def apply(h: Array, step: PlannedBlock, name: str) -> Array:
            if step.resample and self.block == "ddpm":
                return resampled(h, step.resample, self.resample_filter)
            heads = 1 if step.attends else 0
            made = block(style, step.width, heads, step.resample, name=name)
            return made(h, embedding, deterministic)

        image, x = x, beside_image(x, cond)
        if self.dtype != "float32":
            x = x.astype(self.dtype)
        pyramid = x
        h = style.layers.conv(x, self.channels, f"enc_{_side(x)}_conv")
        skips = [h]
        for step in steps.encoder:
            h = apply(h, step, f"enc_{step.name}")
            if step.resample:
                h, pyramid = self._with_input(h, pyramid)
            skips.append(h)
        out = None
        for step in steps.decoder:
            if step.joins:
                h = concatenate(h, skips.pop())
            h = apply(h, step, f"dec_{step.name}")
            if self.ends_level(step):
                out = self._with_output(h, out, image)
        assert out is not None
        return with_divergence(out, h, cond)

    def _with_input(self, h: Array, pyramid: Array) -> tuple[Array, Array]:
        """Join h with the pyramid's next level; returns both."""
        style, width = self.style, h.shape[-1]
        at = f"enc_{_side(h)}"
        if self.progressive_input in ("residual", "strided_residual"):
            padding = "SAME"
            if self.progressive_input == "residual":
                pyramid = filter_for_strides(pyramid, self.resample_filter)
                padding = "VALID"
            pyramid = style.layers.conv(
                pyramid, width, f"{at}_aux_residual", stride=2, padding=padding
            )
            h = pyramid = style.add(pyramid, h)
        elif self.progressive_input == "input_skip":
            pyramid = filter_down(pyramid, self.resample_filter)
            seen = style.layers.dense(pyramid, width, f"{at}_aux_skip")
            h = concatenate(seen, h) if self.progressive_combine == "cat" else h + seen
        return h, pyramid

    def _with_output(self, h: Array, out: Array | None, image: Array) -> Array | None:
        """Add the output at the height of h to the running sum of outputs."""
        is_last = h.shape[1] == image.shape[1]
        if self.progressive == "none" and not is_last:
            return None
        layers, at = self.style.layers, f"dec_{_side(h)}"
        h = nn.silu(layers.norm(h, f"{at}_aux_norm"))
        h = layers.conv(h, image.shape[-1], f"{at}_aux_conv", last=True)
        h = h.astype(image.dtype)
        return h if out is None else h + filter_up(out, self.resample_filter)

    def _embedding(self, noise: Array, cond: Any) -> Array:
        if self.embedding == "fourier":
            h = FourierFeatures(self.channels, name="map_noise")(noise)
        else:
            h = sine_embedding(noise, self.channels)
        layers, size = self.style.layers._replace(dtype="float32"), h.shape[-1]
        sources = conditions(
            cond,
            noise,
            num_classes=self.num_classes,
            vector_dims=self.vector_dims,
            augment_dims=self.augment_dims,
        )
        for name, source in sources.items():
            if name == "label":
                source = source * math.sqrt(self.num_classes)
            has_bias = name != "augment"
            h = h + layers.dense(source, size, f"map_{name}", use_bias=has_bias)
        h = add_told_later(h, cond)
        for i in range(2):
            h = nn.silu(layers.dense(h, 4 * self.channels, f"map_layer{i}"))
        return h

    @property
    def resampling_sees_time(self) -> bool:
        """Whether residual blocks halve and double; a plain filter is told nothing."""
        return self.block != "ddpm"

    @property
    def style(self) -> Style:
        """The style that all blocks have in common."""
        layers = Layers("xavier", norm_eps=1e-6, min_group=4, dtype=self.dtype)
        return Style(
            layers,
            self.dropout,
            self.attention,
            tuple(self.resample_filter),
            skip_rescale=self.skip_rescale,
            project_resampled=True,
            qkv_gain=math.sqrt(0.2),
        )

    @nn.nowrap
    def block_problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with the blocks for images of this shape."""
        is_alone = self.progressive_input != "input_skip"
        if is_alone and self.progressive_combine == "cat":
            needs = "it needs progressive_input 'input_skip'"
            return [f"progressive_combine is 'cat'; {needs}"]
        return norm_problems(self.style.layers, self.plan(shape[0]))

    @nn.nowrap
    def plan(self, height: int) -> Plan:
        """The blocks for images of this height."""
        return self.planned(
            height, self.channels, doubles_below=self.progressive_combine == "cat"
        )

    @nn.nowrap
    def ends_level(self, step: PlannedBlock) -> bool:
        """Whether a block is the last of its level on the way up."""
        return step.name.endswith(f"_block{self.blocks_per_level}")


def _side(h: Array) -> str:
    return f"{h.shape[1]}x{h.shape[1]}"
