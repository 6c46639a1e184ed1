"""Arguments as users bring them, generated, and what must come back of any of them."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FLOATS = ("float16", "bfloat16", "float32", "float64")
SHAPES = ((0, 2), (1, 1), (3, 2), (2, 3), (1, 2, 3), (2, 1, 1, 1), (2, 2, 2, 2, 1))
LEVELS = (1e-6, 0.002, 1, np.float32(0.5), np.int8(3), jnp.float16(7), 80.0, 1e6)
few = settings(
    max_examples=5,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@st.composite
def points(draw, types=FLOATS):
    """Examples of any shape, of JAX or NumPy, of about unit size."""
    shape, dtype = draw(st.sampled_from(SHAPES)), draw(st.sampled_from(types))
    x = jr.normal(jr.key(draw(st.integers(0, 9))), shape).astype(dtype)
    return np.asarray(x) if draw(st.booleans()) and dtype != "bfloat16" else x


def smooth(x, sigma, cond=None):
    """A cheap denoiser that answers in the type it is asked in."""
    level = jnp.asarray(sigma, x.dtype)
    level = level.reshape(level.shape + (1,) * (x.ndim * level.ndim - level.ndim))
    return jnp.tanh(x) / (1 + level**2)


def half(x, sigma, cond=None):
    """The same, of a network that computes in bfloat16."""
    return smooth(x, sigma).astype(jnp.bfloat16)


def like(out, x):
    """Whether a result is finite, and of the shape and type of x."""
    assert out.shape == x.shape
    assert out.dtype == x.dtype
    return np.isfinite(np.asarray(out, np.float64)).all()
