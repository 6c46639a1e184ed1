"""Functions that take a grid refuse one that is none; warnings name the caller."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from as_a_user import ROOT

import score_sde as ss
from score_sde import editing, guidance, steering
from score_sde.measurements import Grey

X = 4 * jnp.ones((2, 3))


def still(x, sigma, cond=None):
    return 0 * x


TAKES_A_GRID = {
    "sample": lambda grid: ss.sample("euler", still, X, grid),
    "steer": lambda grid: steering.steer(
        jr.key(0), steering.tempered(still, 2.0), X, grid
    ),
    "invert": lambda grid: editing.invert(still, X, grid),
    "tail": lambda grid: editing.tail(grid, 0.5),
    "dps": lambda grid: editing.dps(still, Grey(), jnp.ones(1), sigmas=grid),
    "plus_plus": lambda grid: guidance.plus_plus(still, 0.5, grid=grid),
}


@pytest.mark.parametrize("name", TAKES_A_GRID)
@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ([0.0, 1.0, 4.0], "finite and decrease"),
        ([4.0, 1.0, 2.0, 0.0], "finite and decrease"),
        ([4.0, 1.0, 1.0, 0.0], "finite and decrease"),
        ([4.0, 1.0, -1.0], "not be negative"),
        ([4.0, float("nan")], "finite and decrease"),
        ([4.0], "one row of at least two"),
        ([[4.0, 1.0]], "one row of at least two"),
    ],
)
def test_what_is_no_grid_is_refused(name, grid, message, unchecked):
    grid = jnp.asarray(grid)
    with pytest.raises(ValueError, match=message):
        TAKES_A_GRID[name](grid)
    # Also where the program around it is compiled, and the grid is known.
    with pytest.raises(ValueError, match=message):
        jax.jit(lambda: TAKES_A_GRID[name](grid) and None)()


PROGRAM = """
import jax.numpy as jnp, score_sde as ss
x, sde = 1e-3 * jnp.ones((16, 8)), ss.VP()
flat = lambda x, t, cond=None: -x
still = lambda x, sigma, cond=None: 0 * x
ss.sample("euler", still, x, jnp.asarray([4.0, 1.0]))
ss.solve_ode(flat, sde, x)
ss.solve_sde(__import__("jax").random.key(0), flat, sde, x)
"""


@pytest.mark.slow
def test_a_start_without_noise_is_warned_of_where_the_user_calls(tmp_path):
    """In a program of its own: tests wrap every function once more."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, str(file)],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    told = [line for line in done.stderr.splitlines() if "root mean square" in line]
    places = [f"{file}:{n}: UserWarning: x has a root mean square" for n in (6, 7, 8)]
    assert len(told) == 3
    assert all(line.startswith(at) for line, at in zip(told, places, strict=True))
