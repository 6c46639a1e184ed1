"""A trained U-Net, frozen, with a branch that sees a picture (Zhang et al. 2023).

The branch is a copy of the U-Net's way down. The picture comes in behind its first
convolution, and what it makes of each level is added to what the frozen way up reads,
both through convolutions that start at zero: at first the network is the frozen one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn

from score_sde.networks.blocks import kernel_of
from score_sde.networks.cond import require_condition
from score_sde.networks.network import part_of_network
from score_sde.networks.unet import UNet, UNetEncoder
from score_sde.types import Array

Params = dict[str, Any]
BRANCH, TRUNK = "branch", "trunk"
"""Names of the two parts among the parameters."""


class ControlBranch(UNetEncoder):
    """The branch whose outputs are added to the middle and skips of the frozen U-Net.

    Its parameters have the names of the U-Net's, and some have names of their own.
    """

    @nn.compact
    def __call__(
        self, x: Array, picture: Array, noise: Array, cond: Any, deterministic: bool
    ) -> tuple[Array, list[Array]]:
        def enter(h: Array) -> Array:
            hint = picture
            for i in range(2):
                conv = nn.Conv(self.channels, kernel_of(picture), name=f"hint_{i}")
                hint = nn.silu(conv(hint))
            return h + self._zero(hint, "hint_out")

        h, skips, _ = self.encode(x, noise, cond, deterministic, enter)
        added = [self._zero(s, f"out_{i}") for i, s in enumerate(skips)]
        return self._zero(h, "out_middle"), added

    def _zero(self, h: Array, name: str) -> Array:
        zeros = nn.initializers.zeros
        sides = (1,) * (h.ndim - 2)
        return nn.Conv(h.shape[-1], sides, kernel_init=zeros, name=name)(h)


class ControlledUNet(nn.Module):
    """F(x, noise) for data in space, which cond["image"], of the sides of x, controls.

    The rest of cond is the trunk's, which drops nothing out.

    Attributes:
        trunk: the U-Net of a trained run, which is not trained on.
    """

    trunk: nn.Module

    reads: ClassVar = frozenset({"label", "vector", "image", "input_noise"})

    @nn.nowrap
    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Say why it can't be a network of data of this shape, a text each."""
        if not isinstance(self.trunk, UNet):
            return [f"trunk is a {type(self.trunk).__name__}; it must be a 'unet'"]
        return self.trunk.problems(shape)

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        require_condition(cond, "image")
        rest = {name: a for name, a in cond.items() if name != "image"} or None
        options = {name: getattr(self.trunk, name) for name in OPTIONS}
        picture = cond["image"].astype(x.dtype)
        branch = ControlBranch(**options, name=BRANCH)
        h_added, added = branch(x, picture, noise, rest, deterministic)

        def between(h: Array, skips: list[Array]) -> tuple[Array, list[Array]]:
            return h + h_added, [s + a for s, a in zip(skips, added, strict=True)]

        return self.trunk(x, noise, rest, True, between)

    @nn.nowrap
    @part_of_network
    def start(self, params: Params, companions: Mapping[str, Any]) -> Params:
        """Initial parameters whose branch is a copy of the trunk where it can be."""
        trunk, branch = companions[TRUNK]["network"], params[BRANCH]
        return {BRANCH: {name: trunk.get(name, branch[name]) for name in branch}}


OPTIONS = [
    field.name
    for field in dataclasses.fields(UNetEncoder)
    if field.name not in ("parent", "name")
]
