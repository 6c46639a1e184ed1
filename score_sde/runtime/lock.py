"""One program at a time writes a run, on however many hosts."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from score_sde.runtime.mesh import is_main_host, start_devices
from score_sde.types import UserError


@contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Hold the lock of a run; the system frees it when the program ends, however.

    Raises: UserError that names who holds it, or the directory that can't be written.
    """
    if not is_main_host():
        yield
        return
    path = workdir / ".lock"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"--workdir: {workdir}: {error.strerror}.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"--workdir: another program writes {workdir}: {file.read() or '?'}."
            ) from None
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        owner = {"host": platform.node(), "pid": os.getpid(), "since": now}
        file.truncate(0)
        file.write(json.dumps(owner))
        file.flush()
        yield


@contextmanager
def writing(folder: Path, hosts: Mapping[str, Any] | None) -> Iterator[None]:
    """Start the devices, and hold the lock of a folder: one program writes it.

    On one host the lock comes first, so that a refusal takes no devices.
    """
    if hosts is not None:
        start_devices(hosts)
    with locked(folder):
        if hosts is None:
            start_devices()
        yield
