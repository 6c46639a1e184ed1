"""What restoration is given: y out of the range of A, an origin, complex numbers."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import score_sde as ss
from score_sde import editing, measurements
from score_sde.editing import DDRM, DiffPIR, REDDiff
from score_sde.measurements import Magnitude, Mask, Matrix, Operator

KEY = jr.key(5)
TALL = np.asarray(jr.normal(jr.key(1), (12, 4)))
DEFICIENT = TALL[:, :2] @ np.asarray(jr.normal(jr.key(2), (2, 4)))
GRID = ss.grids.karras(5, sigma_min=0.1, sigma_max=20.0)


def operator(matrix):
    """A matrix that is known by what it does."""
    a = jnp.asarray(matrix)
    return Operator(lambda x: x @ a.T, lambda y: y @ a)


def smooth(x, sigma, cond=None):
    return jnp.tanh(x) / (1 + jnp.asarray(sigma, x.dtype))


# What only noise can give.


@pytest.mark.parametrize("matrix", [TALL, DEFICIENT], ids=["tall", "deficient"])
def test_an_operator_solves_what_its_matrix_solves_whatever_y_is(matrix):
    known, y = operator(matrix), jr.normal(jr.key(3), (3, 12))
    inverse = np.linalg.pinv(matrix, rcond=1e-6)
    found = jax.jit(known.pseudo_inverse)(y)
    np.testing.assert_allclose(found, y @ inverse.T, atol=1e-9)
    np.testing.assert_allclose(known.project(y), y @ (matrix @ inverse).T, atol=1e-8)
    x = jr.normal(jr.key(4), (3, 4))
    nearest = x + (y - x @ matrix.T) @ inverse.T
    np.testing.assert_allclose(known.nearest(x, y), nearest, atol=1e-9)
    np.testing.assert_allclose(editing.keep_measured(x, known, y), nearest, atol=1e-9)
    # The shift of one example is 0, of others it is not.
    scale, shift = jnp.asarray([0.5, 2.0, 1.0]), jnp.asarray([0.0, 0.3, 1e-4])
    solved, lifted = known.solve(y, scale, shift), known.lift(y, scale, shift)
    for i in range(3):
        gram = scale[i] * matrix @ matrix.T + shift[i] * np.eye(12)
        expected = np.linalg.pinv(gram, rcond=1e-9) @ y[i]
        np.testing.assert_allclose(solved[i], expected, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(lifted[i], matrix.T @ expected, atol=1e-8)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_noise_in_waves_does_not_grow(dtype):
    """Of a real picture waves k and -k are one, and noise in them may differ."""
    mask = np.asarray(jr.bernoulli(jr.key(1), 0.4, (64, 64)))
    known = measurements.fourier(mask)
    x = jr.normal(jr.key(2), (2, 64, 64, 1), dtype)
    y = known(x) + 0.05 * jr.normal(jr.key(3), (2, 64, 64, 2), dtype)
    found = jax.jit(known.pseudo_inverse)(y)
    both = mask | np.roll(np.flip(mask), (1, 1), (0, 1))  # waves k and -k are one
    waves = np.fft.fft2(np.asarray(x)[..., 0], norm="ortho") * both
    clean = np.fft.ifft2(waves, norm="ortho").real[..., None]
    error = np.asarray(found) - clean
    # Of waves k and -k one or both are measured; the mean of two has half the noise.
    expected = 0.05 * np.sqrt(4 * 0.4 * 0.6 + 0.4**2)
    # Some 8,000 numbers, whose spread is known to 1 %; the mask's own share varies.
    assert error.std() == pytest.approx(expected, rel=0.05)
    again = known.pseudo_inverse(known.project(y))
    tolerance = 2e-5 if dtype == jnp.float32 else 1e-12
    np.testing.assert_allclose(again, found, atol=tolerance)


RULES = {
    "diffpir": lambda known, y: DiffPIR(known, y, noise_std=0.0),
    "red_diff": lambda known, y: REDDiff(known, y, noise_std=0.05),
    "pseudo_inverse": lambda known, y: editing.pseudo_inverse(
        smooth, known, y, noise_std=0.0, sigma_data=0.5
    ),
    "moment_matching": lambda known, y: editing.moment_matching(
        smooth, known, y, noise_std=0.0
    ),
    "replace": lambda known, y: editing.replace(smooth, known, y),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("matrix", [TALL, DEFICIENT], ids=["tall", "deficient"])
def test_methods_restore_by_an_operator_as_by_its_matrix(name, matrix):
    x0 = jr.normal(jr.key(6), (3, 4))
    y = x0 @ matrix.T + 0.05 * jr.normal(jr.key(7), (3, 12))
    x, found = 20 * jr.normal(jr.key(8), (3, 4)), []
    for known in (operator(matrix), Matrix(jnp.asarray(matrix))):
        made = RULES[name](known, y)
        is_rule = isinstance(made, ss.samplers.Sampler)
        sampler, denoise = (made, smooth) if is_rule else ("euler", made)
        found.append(ss.sample(sampler, denoise, x, GRID, key=KEY).x)
    assert float(jnp.abs(found[0]).max()) < 20
    np.testing.assert_allclose(*found, atol=1e-7)


# Where a picture is painted over.


def first_seen(rule, x):
    """What the denoiser is given first."""
    seen = []

    def denoise(x, sigma, cond=None):
        jax.debug.callback(lambda x, s: seen.append((float(s), x)), x, sigma)
        return smooth(x, sigma)

    jax.block_until_ready(ss.sample(rule, denoise, x, GRID, key=KEY).x)
    jax.effects_barrier()
    return max(seen, key=lambda at: at[0])[1]


def test_ddrm_keeps_the_origin_and_damps_the_noise_around_it():
    known = np.asarray([1.0, 1.0, 0.0, 0.0])
    origin = np.asarray([[1.5, -0.7, 0.4, 2.0]])
    noise = GRID[0] * jr.normal(jr.key(2), (3, 4))
    for noise_std in (0.0, 3.0):
        kept = np.sqrt(1 - (noise_std / float(GRID[0])) ** 2)
        # y says 1 where the origin is 1.5, and nothing of the last two.
        y = np.asarray([[1.0, -0.7, 9.0, 9.0]])
        rule = DDRM(Mask(known), y, noise_std=noise_std, origin=origin)
        centre = np.where(known > 0, y, origin)
        expected = centre + np.where(known > 0, kept, 1.0) * np.asarray(noise)
        np.testing.assert_allclose(
            first_seen(rule, origin + noise), expected, rtol=1e-9
        )


def test_red_diff_starts_at_the_origin_moved_to_y():
    origin = np.asarray([[1.5, -0.7, 0.4, 2.0]])
    y = np.asarray([[0.3, -0.2]])
    matrix = np.asarray([[1.0, 0.5, 0.0, -1.0], [0.0, 2.0, 1.0, 0.0]])
    x = origin + GRID[0] * jr.normal(jr.key(2), (3, 4))
    key = jr.key(9)
    noise = ss.samplers.noise.from_key(key, x)(0, GRID[0], GRID[0])
    rule = REDDiff(Matrix(jnp.asarray(matrix)), y, noise_std=0.0, origin=origin)
    path = ss.sample(rule, smooth, x, GRID, key=key, return_path=True)
    start = origin + (y - origin @ matrix.T) @ np.linalg.pinv(matrix).T
    np.testing.assert_allclose(
        path.denoised[0], smooth(start + GRID[0] * noise, GRID[0]), rtol=1e-9
    )
    picture = np.ones((1, 8, 8, 1))
    rule = REDDiff(Magnitude(), Magnitude()(picture), noise_std=0.0, origin=picture)
    x = picture + GRID[0] * jr.normal(jr.key(2), (1, 8, 8, 1))
    path = ss.sample(rule, smooth, x, GRID, key=key, return_path=True)
    np.testing.assert_allclose(
        path.path[0], picture + (x - picture) / GRID[0], rtol=1e-9
    )


@pytest.mark.parametrize("name", ["ddrm", "red_diff"])
def test_a_config_s_method_is_told_the_origin(name):
    origin = np.asarray([[1.5, -0.7, 0.4, 2.0]])
    made = editing.restore_by(
        editing.METHODS[name],
        *(smooth, Mask(np.ones(4)), origin),
        noise_std=0.0,
        grid=GRID,
        origin=origin,
    )
    np.testing.assert_array_equal(made.sampler.origin, origin)


# Complex numbers.


@pytest.mark.parametrize("name", [*RULES, "ddrm", "dps"])
def test_complex_measurements_are_refused_with_the_way_on(name):
    rules = RULES | {
        "ddrm": lambda known, y: DDRM(known, y, noise_std=0.0),
        "dps": lambda known, y: editing.dps(smooth, known, y, sigmas=GRID),
    }
    y, x = np.ones((1, 2)) * (1 + 1j), 20 * jnp.ones((3, 4))
    made = rules[name](Matrix(jnp.ones((2, 4))), y)
    is_rule = isinstance(made, ss.samplers.Sampler)
    sampler, denoise = (made, smooth) if is_rule else ("euler", made)
    with pytest.raises(ValueError, match="y is complex; stack real and imaginary"):
        ss.sample(sampler, denoise, x, GRID, key=KEY)


def test_operators_that_give_complex_numbers_are_refused():
    apply = lambda x: jnp.fft.fft(x, axis=1)  # noqa: E731
    known = Operator(apply, lambda y: jnp.fft.ifft(y, axis=1).real)
    with pytest.raises(ValueError, match="A x of Operator is complex; stack real"):
        measurements.adjoint_error(known, KEY, (4,))
    with pytest.raises(ValueError, match="A x of Operator is complex"):
        editing.keep_measured(jnp.ones((1, 4)), known, np.ones((1, 4)))


# Translation.


def test_a_translation_between_conditions_has_its_own_cost_and_verdict():
    """Of N(m, 1), m by the condition: the flow moves the mean and nothing else."""
    sde = ss.EDM(t_min=1e-3, t_max=1e3)

    def score(xt, t, cond):
        return (cond[:, None] - xt) / (1 + sde.sigma(t) ** 2)

    x0 = jr.normal(KEY, (3, 4))
    first, second = jnp.zeros(3), jnp.asarray([2.0, 2.0, jnp.nan])
    found = jax.jit(
        lambda x0: editing.translated(
            score, sde, x0, cond_from=first, cond_to=second, rtol=1e-6, atol=1e-6
        )
    )(x0)
    assert found.success.tolist() == [True, True, False]
    # t_max moves a mean by 2 / t_max.
    np.testing.assert_allclose(found.x[:2], x0[:2] + 2.0, atol=5e-3)
    assert np.isnan(found.x[2]).all()
    # Under its own condition the third comes back too.
    assert (np.asarray(found.returned) < 1e-3).all()


# Numbers of other types.


@pytest.mark.parametrize("kind", [float, np.float32, np.asarray, jnp.asarray])
def test_the_noise_of_a_measurement_is_known_whatever_its_type(kind):
    known, y = Matrix(jnp.asarray(TALL)), np.ones((1, 12))
    for name in ("replace", "repaint"):
        with pytest.raises(ValueError, match=f"{name} takes what was measured as free"):
            editing.METHODS[name](smooth, known, y, noise_std=kind(0.1))
        editing.METHODS[name](smooth, known, y, noise_std=kind(0.0))
    with pytest.raises(ValueError, match="needs a noise_std above 0"):
        editing.DAPS(known, y, noise_std=kind(0.0), langevin_steps=5)
