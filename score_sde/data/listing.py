"""The pictures of a folder or a zip archive: which files they are, and which are not.

Links to folders are followed, but not in circles. A single folder around everything in
it, as archives often have, is passed over. Hidden files and what macOS adds
(`__MACOSX`, `._*`, `.DS_Store`) are no pictures, whatever they are called.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from score_sde.data.picture_file import SUFFIXES
from score_sde.types import UserError

TABLE = "dataset.json"
"""The file that has the labels."""
FOREIGN = "__MACOSX"


class Listing(NamedTuple):
    """The pictures at a place."""

    place: Path
    names: list[str]
    """Names of the pictures below `root`, sorted."""
    has_table: bool
    """Whether there is a `TABLE` beside them."""
    left_out: list[str]
    """Kinds of the files that are no pictures, a word for each file."""
    root: str
    """The folder around all of them, with a slash; "" for none."""
    content: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        """Read a file by its name below `root`."""
        return self.content(self.root + name)

    def note(self) -> str | None:
        """Say what was left out; None if nothing was."""
        if not self.left_out:
            return None
        kinds = ", ".join(sorted(set(self.left_out)))
        plural = "s" if len(self.left_out) > 1 else ""
        return f"{self.place}: left out: {len(self.left_out)} file{plural} ({kinds})"

    def paths(self) -> list[Path]:
        """The files of a folder that are read."""
        table = [TABLE] if self.has_table else []
        return [self.place / (self.root + name) for name in [*table, *self.names]]


def listing(place: Path) -> Listing:
    """List the pictures of a folder or a zip archive.

    Raises:
        UserError: if it is neither, a name in the archive leads out of it, or there
            are no pictures.
    """
    if place.is_dir():
        names = [*_files_in(place)]
        content: Callable[[str], bytes] = lambda name: (place / name).read_bytes()
        return _sorted_out(place, names, content)
    status = place.stat()
    return _in_archive(place, (status.st_mtime_ns, status.st_ctime_ns, status.st_ino))


@lru_cache(maxsize=2)
def _in_archive(place: Path, stamp: tuple[int, ...]) -> Listing:
    """List an archive, once for both splits as long as the file is the same."""
    del stamp
    try:
        archive = zipfile.ZipFile(place)
    except (zipfile.BadZipFile, struct.error) as error:
        raise UserError(
            f"{place} is no folder, .zip or .npz file, or a broken one ({error})."
        ) from None
    names = archive.namelist()
    for name in names:
        if _leads_out(name):
            raise UserError(f"{place} is refused: its file {name!r} is outside of it.")
    return _sorted_out(place, names, partial(_read_member, archive))


HEADER = struct.Struct("<26xHH")
"""What stands before a member of an archive; its last two numbers are lengths."""


def _read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Read a file of an archive, five times faster than zipfile where it is small.

    Raises:
        zipfile.BadZipFile: if it is damaged.
        OSError, RuntimeError, zlib.error: if it can't be read.
    """
    info, file = archive.getinfo(name), archive.fp
    is_plain = not info.flag_bits & 1 and hasattr(os, "pread")  # not encrypted
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if file is None or not is_plain or info.compress_type not in kinds:
        return archive.read(name)
    head = os.pread(file.fileno(), HEADER.size, info.header_offset)
    if len(head) < HEADER.size:
        raise zipfile.BadZipFile("Truncated file header")
    begin = info.header_offset + HEADER.size + sum(HEADER.unpack(head))
    content = os.pread(file.fileno(), info.compress_size, begin)
    if info.compress_type == zipfile.ZIP_DEFLATED:
        # No more than it says, so that a small file can't fill the memory.
        content = zlib.decompressobj(-15).decompress(content, info.file_size + 1)
    if len(content) != info.file_size or zlib.crc32(content) != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {name!r}")
    return content


@cache
def say_once(text: str) -> None:
    """Print a line on the terminal, once in a program, and not in its workers."""
    if multiprocessing.parent_process() is None:
        print(text, file=sys.stderr)


def _sorted_out(
    place: Path, names: list[str], content: Callable[[str], bytes]
) -> Listing:
    pictures, left_out = [], []
    for name in names:
        last = name.rpartition("/")[2]
        _, dot, suffix = last.rpartition(".")
        kind = (dot + suffix if dot else "no suffix").lower()
        if not last:
            continue
        if "/." in f"/{name}" or f"/{FOREIGN}/" in f"/{name}":
            left_out.append("hidden")
        elif kind in SUFFIXES:
            pictures.append(name)
        elif last != TABLE:
            left_out.append(kind)
    if not pictures:
        is_idx = any("-ubyte" in name for name in names)
        hint = f" Read idx files by --config.data.name=idx, .folder={place}."
        raise UserError(
            f"{place} has no pictures ({', '.join(SUFFIXES)}).{hint if is_idx else ''}"
        )
    root = _common_root(pictures, {n for n in names if n.split("/")[-1] == TABLE})
    inside = sorted(name.removeprefix(root) for name in pictures)
    return Listing(place, inside, f"{root}{TABLE}" in names, left_out, root, content)


def _common_root(pictures: list[str], tables: set[str]) -> str:
    """The folders around all pictures, but for a last one that may be a class."""
    root = ""
    while root + TABLE not in tables:
        inside = [name.removeprefix(root) for name in pictures]
        folder = inside[0].partition("/")[0] + "/"
        if not all(name.startswith(folder) for name in inside):
            break
        is_class = not all("/" in name.removeprefix(folder) for name in inside)
        if is_class and root + folder + TABLE not in tables:
            break
        root += folder
    return root


def _files_in(folder: Path) -> Iterator[str]:
    """Names of all files in a folder and, through links too, in those below it."""

    def below(
        path: str, prefix: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[str]:
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if not entry.is_dir():
                    yield prefix + entry.name
                    continue
                status = os.stat(entry.path)
                here = (status.st_dev, status.st_ino)
                if here not in above:
                    yield from below(
                        entry.path, f"{prefix}{entry.name}/", above | {here}
                    )

    top = os.stat(folder)
    yield from below(str(folder), "", frozenset({(top.st_dev, top.st_ino)}))


def _leads_out(name: str) -> bool:
    """Whether the name of a file in an archive is that of a file elsewhere."""
    folders = name.replace("\\", "/").split("/")
    return folders[0] == "" or ".." in folders or ":" in folders[0]
