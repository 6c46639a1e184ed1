"""Numerics that let no mistake pass: float64, strict ranks and types, many devices."""

import ctypes
import gc
import os
import sys
from pathlib import Path

import jax
import jax.random as jr
import jaxlib
import jaxtyping
import pytest
import typecheck
from as_a_user import ROOT

# Most of the time of these tests is compilation: less than half of it this way.
FLAGS = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if jaxlib.version.__version_info__ < (0, 11):  # a program ends at a flag it lacks
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + FLAGS
jax.config.update("jax_num_cpu_devices", 4)
# See `training.mesh.start_devices`: collectives hang if threads are few.
os.environ.setdefault("PJRT_NPROC", "16")
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
typecheck.install()  # before score_sde is imported


@pytest.fixture
def unchecked():
    """Call functions without checks of shapes, as users do, to meet their errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def key():
    return jr.key(0)


@pytest.fixture
def standard_promotion():
    """For libraries that don't hold themselves to strict types."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True)
def forget_programs():
    """Compiled programs fill the memory: they are forgotten above 1.75 GiB.

    glibc keeps what was freed, several GB after a large network, unless it is told.
    """
    yield
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    if pages * os.sysconf("SC_PAGE_SIZE") > 1.75 * 2**30:
        jax.clear_caches()
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A clean folder, in which `score-sde` is that of this checkout."""
    command = tmp_path / "bin/score-sde"
    command.parent.mkdir()
    program = "import sys; from experiments.cli import main; sys.exit(main())"
    call = f"PYTHONPATH='{ROOT}' exec '{sys.executable}' -c '{program}'"
    command.write_text(f'#!/bin/sh\n{call} "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("XLA_FLAGS")  # those of the tests are for short programs
    work = tmp_path / "work"
    work.mkdir()
    return work
