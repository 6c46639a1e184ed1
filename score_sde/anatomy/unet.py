"""The plan of a U-Net as a table: sides, channels and skips, down and up.

Prince 2023, figure 18.9.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from score_sde.networks.unet_plan import Plan


class Planned(Protocol):
    """A network that plans its blocks, as the published U-Nets do."""

    @property
    def resampling_sees_time(self) -> bool:
        """Whether the blocks that halve and double are told the noise level."""

    def problems(self, shape: tuple[int, ...], /) -> list[str]:
        """Texts of what is wrong with the options for data of this shape."""

    def plan(self, height: int, /) -> Plan:
        """The blocks for images of this height."""


class UNetTable(NamedTuple):
    """The blocks of a U-Net in their order, a value for each."""

    name: tuple[str, ...]
    """The names of the blocks' modules."""
    side: tuple[int, ...]
    """The height of the output in pixels."""
    reads: tuple[int, ...]
    """Channels of the input, with those of the skip."""
    width: tuple[int, ...]
    """Channels of the output."""
    skip: tuple[int, ...]
    """Channels that come from an encoder block; 0 for none."""
    attends: tuple[bool, ...]
    """Whether the block ends with self-attention."""
    sees_time: tuple[bool, ...]
    """Whether the time enters here; what only resamples is told nothing."""


def unet_table(module: Planned, height: int) -> UNetTable:
    """Tabulate the blocks of a published U-Net (DDPM, NCSN++, ADM, EDM2).

    Args:
        module: the network, such as `networks.ADM()`.
        height: the height of the images in pixels.

    Raises: ValueError for images that the network can't halve as often as it must.
    """
    problems = module.problems((height, height, 3))
    if problems:
        raise ValueError(f"height is {height}: {'; '.join(problems)}.")
    steps = module.plan(height)
    rows, last = [], steps.encoder[0].reads
    for half, blocks in (("enc", steps.encoder), ("dec", steps.decoder)):
        for block in blocks:
            skip = block.reads - last if block.joins else 0
            side = int(block.name.partition("x")[0])
            name = f"{half}_{block.name}"
            told = not block.resample or module.resampling_sees_time
            row = (name, side, block.reads, block.width, skip, block.attends, told)
            rows.append(row)
            last = block.width
    return UNetTable(*(tuple(column) for column in zip(*rows, strict=True)))
