"""Texts of what is wrong between a network's options and the shape of its data."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

SPACES = {
    1: ("series", "[length, channels]"),
    2: ("images", "[height, width, channels]"),
    3: ("volumes", "[depth, height, width, channels]"),
}
"""Data by their number of axes in space: what they are called, and their axes."""
IMAGES = (2,)
ANY_SPACE = (1, 2, 3)


def space_problems(shape: tuple[int, ...], ranks: Collection[int]) -> list[str]:
    """A text if data of this shape have no such number of axes before the channels."""
    if len(shape) - 1 in ranks and all(side > 0 for side in shape):
        return []
    *most, last = (" ".join(SPACES[rank]) for rank in ranks)
    taken = f"{', '.join(most)} or {last}" if most else last
    return [f"it takes {taken}, not data of shape {shape}"]


def level_problems(
    shape: tuple[int, ...],
    multipliers: Sequence[float],
    attention_resolutions: Sequence[int],
) -> list[str]:
    """Texts of what is wrong with the levels of a U-Net for data in space."""
    *sides, _ = shape
    halvings = len(multipliers) - 1
    if any(side % 2**halvings for side in sides):
        name = {1: "series", 2: "image", 3: "volume"}[len(sides)]
        return [
            f"multipliers halve the {name} {halvings} times; its sides, "
            f"{tuple(sides)}, must be multiples of {2**halvings}"
        ]
    levels = level_sides(shape, multipliers)
    return [
        f"attention_resolutions has {resolution}; choose from {levels}"
        for resolution in attention_resolutions
        if resolution not in levels
    ]


def level_sides(shape: tuple[int, ...], multipliers: Sequence[float]) -> list[int]:
    """The length of the first axis at each level, halved between them."""
    return [shape[0] >> i for i in range(len(multipliers))]


def head_problems(option: str, size: int, widths: Iterable[int]) -> list[str]:
    """Texts about an option that must divide the channels of attention.

    Args:
        option: its name.
        size: its value.
        widths: channels of all levels that have attention.
    """
    if size <= 0:
        return [f"{option} is {size}; it must be > 0"]
    return [
        f"{option} is {size}; it must divide the {width} channels of a level with "
        "attention"
        for width in sorted(set(widths))
        if width % size
    ]
