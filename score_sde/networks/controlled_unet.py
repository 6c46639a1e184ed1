"""A trained U-Net, frozen, with a branch that sees a picture (Zhang et al. 2023).

The branch is a copy of the U-Net's way down. The picture comes in behind its first
convolution, and what it makes of each level is added to what the frozen way up reads,
both through convolutions that start at zero: at first the network is the frozen one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from score_sde.networks.blocks import kernel_of
from score_sde.networks.cond import require_condition
from score_sde.networks.network import FROZEN_MODULE
from score_sde.networks.unet import UNet, UNetEncoder
from score_sde.types import Array

Params = dict[str, Any]
BRANCH = "branch"


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


class ControlledUNet(UNetEncoder):
    """F(x, noise) for data in space, which cond["image"], of the sides of x, controls.

    The rest of cond is the frozen U-Net's, which drops nothing out. Options are those
    of `UNet`.
    """

    reads: ClassVar = frozenset({"label", "vector", "image"})

    @nn.compact
    def __call__(
        self, x: Array, noise: Array, cond: Any = None, deterministic: bool = True
    ) -> Array:
        require_condition(cond, "image")
        rest = {name: a for name, a in cond.items() if name != "image"} or None
        options = {name: getattr(self, name) for name in OPTIONS}
        picture = cond["image"].astype(x.dtype)
        branch = ControlBranch(**options, name=BRANCH)
        h_added, added = branch(x, picture, noise, rest, deterministic)

        def between(h: Array, skips: list[Array]) -> tuple[Array, list[Array]]:
            return h + h_added, [s + a for s, a in zip(skips, added, strict=True)]

        trunk = _FrozenUNet(**options, name=FROZEN_MODULE)
        return trunk(x, noise, rest, True, between)


OPTIONS = [
    field.name
    for field in dataclasses.fields(UNetEncoder)
    if field.name not in ("parent", "name")
]

_FrozenUNet = nn.map_variables(
    UNet,
    "params",
    trans_in_fn=lambda params: jax.tree.map(jax.lax.stop_gradient, params),
    init=True,
)


def controlling(params: Params, frozen: Params) -> Params:
    """Make parameters of a `ControlledUNet` that starts as this U-Net.

    Its branch starts as a copy.

    Args:
        params: initial parameters of the `ControlledUNet`.
        frozen: parameters of the U-Net.
    """
    branch = params[BRANCH]
    copied = {name: frozen.get(name, branch[name]) for name in branch}
    return {FROZEN_MODULE: frozen, BRANCH: copied}
