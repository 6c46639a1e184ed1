"""Reading one picture file, with Pillow.

A picture is turned upright as its EXIF data say. `decode` reads a file without changing
a number: colours of a palette are looked up, black and white is two levels of grey.
What it refuses `convert.pictures` converts.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from score_sde.data.dataset import Format
from score_sde.types import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp"),
    *(".tif", ".tiff", ".gif", ".ppm", ".pgm"),
)
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""PIL's name of images with so many channels of 8 bits."""
CHANNELS = {"1": 1, "L": 1, "P": 3, "RGB": 3, "RGBA": 4}
"""PIL's name -> channels of what `decode` makes of it."""
ORIENTATION = 0x0112
"""The number of EXIF's entry for the orientation."""
MAY_TURN = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
"""What Pillow has of a decoded picture that may say how it is turned."""


def decode(file: bytes, format: Format, where: str) -> np.ndarray:
    """Decode a picture file that is what a format says.

    Args:
        file: its content.
        format: of shape [height, width, channels]; size and colour are compared before
            anything is decoded.
        where: what errors call the file.

    Raises:
        UserError: for a file that is broken, has several frames, or is of another size
            or colour.
    """
    height, width, channels = format.shape
    with _refusing(where, format), opened(file) as picture:
        found = (picture.width, picture.height, picture.mode)
        frames = num_frames(picture)
        is_turned = picture.size != (width, height)
        if is_turned and picture.size != (height, width):
            channels = 0
        if CHANNELS.get(picture.mode) == channels and frames == 1:
            whole = upright(picture)
            if whole.mode == "P" and "transparency" in whole.info:
                found = (*found[:2], "P with transparency")
            elif whole.size == (width, height):
                if whole.mode != MODES[channels]:
                    whole = whole.convert(MODES[channels])
                return np.asarray(whole).reshape(format.shape)
    also = f", {frames} frames" if frames > 1 else ""
    raise UserError(
        f"{where} is {found[0]} x {found[1]} pixels, {found[2]}{also}; "
        f"expected {format}."
    )


def shape_of(file: bytes, where: str) -> tuple[int, int, int]:
    """Find [height, width, channels] of what `decode` makes of a file.

    Raises:
        UserError: for a file that is broken, or of a kind that `decode` refuses.
    """
    with _refusing(where), opened(file) as picture:
        mode, turned = picture.mode, upright(picture)
        if mode not in CHANNELS:
            raise UserError(f"{where} is {mode}; expected one of {list(CHANNELS)}.")
        return turned.height, turned.width, CHANNELS[mode]


@contextmanager
def opened(file: bytes) -> Iterator[Picture]:
    """Open the content of a picture file; nothing is decoded yet.

    Raises:
        OSError: for a file that is broken or no picture, as all of this context does.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(file)) as picture:
            yield picture
    except UserError:
        raise
    except UnidentifiedImageError:  # its text is an address in memory
        raise OSError("it is no picture, or of an unknown format") from None
    except (SyntaxError, ValueError, zlib.error, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from None


def upright(picture: Picture) -> Picture:
    """Decode a picture, and turn it as its EXIF data say."""
    from PIL import ImageOps

    picture.load()
    if MAY_TURN.isdisjoint(picture.info) or orientation(picture) == 1:
        return picture
    return ImageOps.exif_transpose(picture)


def orientation(picture: Picture) -> int:
    """Read how a picture is turned, as EXIF numbers it from 1, upright, to 8."""
    return picture.getexif().get(ORIENTATION, 1)


def num_frames(picture: Picture) -> int:
    """Number of pictures in a file; a telephone's second view (MPO) is not counted."""
    return 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)


def read_picture(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read a picture file as floats in [0, 1], [height, width, channels].

    Colours are turned into grey, or grey into colours, as the shape asks.

    Args:
        path: of the file.
        shape: of the result.

    Raises:
        OSError: for a file that is missing or no picture.
        ValueError: for a picture of another size.
    """
    height, width, channels = shape
    with opened(path.read_bytes()) as file:
        picture = upright(file)
        if picture.size == (width, height):
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
            return pixels.reshape(shape).astype(np.float32) / 255
        size = picture.size
    raise ValueError(
        f"{path} is {size[0]} x {size[1]}; it must be {width} x {height} pixels."
    )


@contextmanager
def _refusing(where: str, format: Format | None = None) -> Iterator[None]:
    """Answer what is wrong with a file by one line with its name."""
    expected = f"; expected {format}" if format else ""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{where} is no picture, or a broken one ({error}){expected}."
        ) from None
