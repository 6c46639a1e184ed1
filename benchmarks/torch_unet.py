"""DDPM++ and NCSN++ in PyTorch, to compare with: EDM's names, written from ours.

    published_arrays(params, edm.song_unet_tensors(module, shape))

loads into `TorchSongUNet(module, shape)` by name, strictly. Images are [batch,
channels, height, width]. Halving and doubling by the taps (1, 1) is pooling and the
nearest neighbour, attention is PyTorch's fused function: what is fastest there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from score_sde.networks import SongUNet
from score_sde.networks.resampling import Taps
from score_sde.networks.unet_blocks import Style
from score_sde.networks.unet_plan import PlannedBlock
from score_sde.weights.published.edm import filter_matrix


class Resample(nn.Module):
    """A depthwise filter with the stride 2 ('down'), its adjoint ('up'), or none ('').

    'aux' filters for a 3x3 kernel of stride 2, as `resampling.filter_for_strides`.
    """

    def __init__(self, kind: str, taps: Taps) -> None:
        super().__init__()
        self.kind, self.is_box = kind, tuple(taps) == (1, 1)
        if kind:
            self.register_buffer("resample_filter", torch.tensor(filter_matrix(taps)))

    def resampled(self, x: torch.Tensor) -> torch.Tensor:
        if not self.kind:
            return x
        if self.is_box and self.kind == "down":
            return functional.avg_pool2d(x, 2)
        if self.is_box and self.kind == "up":
            return functional.interpolate(x, scale_factor=2, mode="nearest")
        channels, half = x.shape[1], self.resample_filter.shape[-1] // 2
        taps = self.resample_filter.to(x.dtype).repeat(channels, 1, 1, 1)
        if self.kind == "up":
            return functional.conv_transpose2d(
                x, 4 * taps, stride=2, padding=half - 1, groups=channels
            )
        stride, padding = (2, half - 1) if self.kind == "down" else (1, half)
        return functional.conv2d(
            x, taps, stride=stride, padding=padding, groups=channels
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resampled(x)


class Conv(Resample):
    """Resampling, and then a convolution with this kernel."""

    def __init__(
        self, reads: int, width: int, size: int, kind: str = "", taps: Taps = (1, 1)
    ) -> None:
        super().__init__(kind, taps)
        self.weight = nn.Parameter(torch.empty(width, reads, size, size))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stride, padding = (2, 0) if self.kind == "aux" else (1, "same")
        x = self.resampled(x)
        return functional.conv2d(x, self.weight, self.bias, stride, padding)


def norm(width: int, style: Style) -> nn.GroupNorm:
    groups = min(32, width // style.layers.min_group)
    return nn.GroupNorm(groups, width, style.layers.norm_eps)


class TorchBlock(nn.Module):
    """`unet_blocks.Block`, for one head and an embedding that is added."""

    def __init__(self, step: PlannedBlock, style: Style, embedding: int) -> None:
        super().__init__()
        self.style, width = style, step.width
        kind, taps = step.resample, style.resample_filter
        self.norm0 = norm(step.reads, style)
        self.conv0 = Conv(step.reads, width, 3, kind, taps)
        self.affine = nn.Linear(embedding, width)
        self.norm1 = norm(width, style)
        self.conv1 = Conv(width, width, 3)
        changes = style.projects(step.reads, width, kind)
        self.skip = Conv(step.reads, width, 1, kind, taps) if changes else None
        self.attends = step.attends
        if step.attends:
            self.norm2 = norm(width, style)
            self.qkv = Conv(width, 3 * width, 1)
            self.proj = Conv(width, width, 1)

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        h = self.conv0(functional.silu(self.norm0(x)))
        h = h + self.affine(embedding)[:, :, None, None].to(h.dtype)
        h = functional.silu(self.norm1(h))
        h = functional.dropout(h, self.style.dropout, self.training)
        h = self.conv1(h)
        x = self.style.add(x if self.skip is None else self.skip(x), h)
        return self.style.add(x, self.attention(x)) if self.attends else x

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm2(x)).reshape(batch, 1, channels, 3, height * width)
        q, k, v = qkv.permute(3, 0, 1, 4, 2).unbind(0)
        h = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(h.transpose(2, 3).reshape(x.shape))


class Frequencies(nn.Module):
    """Those of Fourier features."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.empty(size))


class Body(nn.Module):
    """The network itself; see `networks.SongUNet`, whose options it takes."""

    def __init__(self, like: SongUNet, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.like, style, channels = like, like.style, like.channels
        taps, steps = like.resample_filter, like.plan(shape[0])
        self.steps, wide = steps, 4 * channels
        size = channels * (2 if like.embedding == "fourier" else 1)
        if like.embedding == "fourier":
            self.map_noise = Frequencies(channels)
        self.map_layer0, self.map_layer1 = nn.Linear(size, wide), nn.Linear(wide, wide)
        side = shape[0]
        self.enc = nn.ModuleDict({f"{side}x{side}_conv": Conv(shape[2], channels, 3)})
        reads = shape[2]
        for step in steps.encoder:
            self.enc[step.name] = TorchBlock(step, style, wide)
            if step.resample and like.progressive_input == "residual":
                name = step.name.replace("down", "aux_residual")
                self.enc[name] = Conv(reads, step.width, 3, "aux", taps)
                reads = step.width
        self.dec = nn.ModuleDict()
        for step in steps.decoder:
            self.dec[step.name] = TorchBlock(step, style, wide)
        self.dec[f"{side}x{side}_aux_norm"] = norm(steps.decoder[-1].width, style)
        self.dec[f"{side}x{side}_aux_conv"] = Conv(steps.decoder[-1].width, shape[2], 3)
        self.side = side

    def embedding(self, noise: torch.Tensor) -> torch.Tensor:
        half = self.like.channels // 2
        if self.like.embedding == "fourier":
            angles = 2 * math.pi * noise[:, None] * self.map_noise.freqs
        else:
            powers = torch.arange(half, device=noise.device) / (half - 1)
            angles = noise[:, None] * 10_000.0**-powers
        h = torch.cat([angles.sin(), angles.cos()], 1)
        return functional.silu(self.map_layer1(functional.silu(self.map_layer0(h))))

    def forward(self, x: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        embedding, pyramid = self.embedding(noise), x
        h = self.enc[f"{self.side}x{self.side}_conv"](x)
        skips = [h]
        for step in self.steps.encoder:
            h = self.enc[step.name](h, embedding)
            name = step.name.replace("down", "aux_residual")
            if step.resample and name in self.enc:
                h = pyramid = self.like.style.add(self.enc[name](pyramid), h)
            skips.append(h)
        for step in self.steps.decoder:
            if step.joins:
                h = torch.cat([h, skips.pop()], 1)
            h = self.dec[step.name](h, embedding)
        h = functional.silu(self.dec[f"{self.side}x{self.side}_aux_norm"](h))
        return self.dec[f"{self.side}x{self.side}_aux_conv"](h)


class TorchSongUNet(nn.Module):
    """EDM's preconditioner around the network: x0 from x0 + sigma eps.

    Raises: ValueError for what isn't here: conditions, outputs of several levels and
    progressive input 'input_skip'.
    """

    def __init__(self, like: SongUNet, shape: tuple[int, ...]) -> None:
        super().__init__()
        told = like.num_classes or like.vector_dims or like.augment_dims
        if told or like.progressive != "none" or "skip" in like.progressive_input:
            raise ValueError(
                f"no PyTorch network like {like}; it must have no conditions, "
                "progressive 'none' and progressive_input 'none' or 'residual'."
            )
        self.model = Body(like, shape)

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> Any:
        at = sigma[:, None, None, None]
        total = (at**2 + 0.25).sqrt()
        out = self.model(x / total, sigma.log() / 4).float()
        return (0.5 / total) ** 2 * x + 0.5 * at / total * out
