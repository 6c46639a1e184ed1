"""Step rules of restoration: exact posteriors, and their papers' own coordinates."""

import io
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import unless
from PIL import Image

import score_sde as ss
from score_sde import editing, measurements
from score_sde.editing import DAPS, DDRM, METHODS, DiffPIR, FlowDPS, REDDiff
from score_sde.fields import fields_of
from score_sde.measurements import JPEG, Magnitude, Mask, Matrix, Operator
from score_sde.measurements.nonlinear import CHROMINANCE, LUMINANCE, quantisation

A = np.asarray([[1.0, 0.5, 0.0, -1.0], [0.0, 2.0, 1.0, 0.0]])
PARTLY = Matrix(jnp.asarray(A))
Y = np.asarray([[0.3, -0.2]])
GRID = ss.grids.karras(5, sigma_min=0.1, sigma_max=20.0)
ISOTROPIC = ss.oracles.Gaussian(jnp.zeros(4), 0.49 * jnp.eye(4))


def smooth(x, sigma, cond=None):
    level = jnp.asarray(sigma, x.dtype)
    level = level.reshape(level.shape + (1,) * (x.ndim - 1) * level.ndim)
    return jnp.tanh(x + 0.1 * jnp.roll(x, 1, 1)) / (1 + level)


def posterior(covariance, noise_std):
    """Mean and covariance of x0 ~ N(0, covariance) given y = A x0 + s n."""
    gram = A @ covariance @ A.T + noise_std**2 * np.eye(2)
    gain = np.linalg.solve(gram, A @ covariance).T
    return gain @ Y[0], covariance - gain @ A @ covariance


def path(sampler, x, bank):
    return ss.sample(sampler, smooth, x, GRID, noise=bank)


@pytest.fixture
def start():
    return 20 * jr.normal(jr.key(1), (3, 4)), jr.normal(jr.key(2), (20, 3, 4))


# The papers' own coordinates.


@pytest.mark.parametrize("noise_std", [0.0, 0.4])
def test_ddrm_is_its_rule_in_singular_coordinates(start, noise_std):
    eta, eta_b, (x, bank) = 0.85, 0.9, start
    rule = DDRM(PARTLY, Y, noise_std=noise_std, eta=eta, eta_b=eta_b)
    found = jax.jit(partial(path, rule))(x, bank).x
    u, s, vt = np.linalg.svd(A)
    s = np.concatenate([s, [0.0, 0.0]])
    ybar = np.zeros(4)
    ybar[:2] = (u.T @ Y[0]) / s[:2]
    seen = s > 0
    spread = np.where(seen, noise_std / np.where(seen, s, 1), np.inf)
    sigmas = np.asarray(GRID)
    at = np.asarray(x) @ vt.T
    kept = np.sqrt(1 - np.where(seen, spread, 0) ** 2 / sigmas[0] ** 2)
    at = np.where(seen, ybar + kept * at, at)
    for k, (sigma, below) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        x0 = np.asarray(smooth(jnp.asarray(at @ vt), sigma)) @ vt.T
        z = np.asarray(bank[k]) @ vt.T
        hidden = x0 + np.sqrt(1 - eta**2) * below * (at - x0) / sigma + eta * below * z
        with np.errstate(invalid="ignore", divide="ignore"):
            noisy = (
                x0
                + np.sqrt(1 - eta**2) * below * (ybar - x0) / spread
                + eta * below * z
            )
            sure = (1 - eta_b) * x0 + eta_b * ybar
            sure = sure + np.sqrt(below**2 - (eta_b * spread) ** 2) * z
        at = np.where(seen, np.where(below < spread, noisy, sure), hidden)
    np.testing.assert_allclose(found, at @ vt, rtol=1e-8, atol=1e-9)


def test_ddrm_of_nothing_measured_is_ddim(start):
    x, bank = start
    rule = DDRM(Mask(np.zeros(4)), np.zeros((1, 4)), noise_std=0.0, eta=0.0)
    found, flow = path(rule, x, bank).x, ss.sample("euler", smooth, x, GRID).x
    np.testing.assert_allclose(found, flow, rtol=1e-10)


def test_diffpir_moves_to_the_minimum_and_keeps_a_share_of_the_noise(start):
    noise_std, strength, zeta, (x, bank) = 0.3, 7.0, 0.4, start
    rule = DiffPIR(PARTLY, Y, noise_std=noise_std, strength=strength, zeta=zeta)
    found = path(rule, x, bank).x
    at, sigmas = np.asarray(x), np.asarray(GRID)
    for k, (sigma, below) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        x0 = np.asarray(smooth(jnp.asarray(at), sigma))
        # The normal equations of |y - A u|^2 / (2 s^2) + strength |u - x0|^2 / (2 v).
        weight = strength / sigma**2
        left = A.T @ A / noise_std**2 + weight * np.eye(4)
        nearer = np.linalg.solve(left, (A.T @ Y[0] / noise_std**2 + weight * x0).T).T
        eps = (at - nearer) / sigma
        at = nearer + below * (np.sqrt(1 - zeta) * eps + np.sqrt(zeta) * bank[k])
    np.testing.assert_allclose(found, at, rtol=1e-8, atol=1e-10)


def test_flow_dps_is_its_algorithm_along_a_straight_line(start):
    """In z = (1 - t) x0 + t noise, by the velocity."""
    rate, num_steps, (x, bank) = 0.1, 3, start
    found = path(
        FlowDPS(PARTLY, Y, noise_std=0.0, rate=rate, num_steps=num_steps), x, bank
    ).x
    times = np.asarray(GRID) / (1 + np.asarray(GRID))
    z = np.asarray(x) * (1 - times[0])
    for k, (t, later) in enumerate(zip(times[:-1], times[1:], strict=True)):
        x0 = np.asarray(smooth(jnp.asarray(z / (1 - t)), t / (1 - t)))
        velocity = (z - x0) / t
        clean, noise = z - t * velocity, z + (1 - t) * velocity
        moved = clean.copy()
        for _ in range(num_steps):
            moved = moved + rate * (Y - moved @ A.T) @ A
        mixed = (1 - t) * clean + t * moved
        noise = np.sqrt(later) * noise + np.sqrt(1 - later) * np.asarray(bank[k])
        z = (1 - later) * mixed + later * noise
    np.testing.assert_allclose(found, z, rtol=1e-9, atol=1e-11)


def test_red_diff_is_its_algorithm(start):
    strength, rate, (x, bank) = 0.25, 0.1, start
    found = path(REDDiff(PARTLY, Y, noise_std=0.0), x, bank).x
    mu = np.broadcast_to(np.linalg.pinv(A) @ Y[0], (3, 4))
    mean = square = np.zeros((3, 4))
    for k, sigma in enumerate(np.asarray(GRID)[:-1]):
        xt = mu + sigma * np.asarray(bank[k])
        # Their gradient: lambda sigma (eps_hat - eps), and that of |y - A mu|^2 / 2.
        eps = (xt - np.asarray(smooth(jnp.asarray(xt), sigma))) / sigma
        gradient = strength * sigma * (eps - bank[k]) - (Y - mu @ A.T) @ A
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        step = (mean / (1 - 0.9 ** (k + 1))) / (
            np.sqrt(square / (1 - 0.99 ** (k + 1))) + 1e-8
        )
        mu = mu - rate * step
    np.testing.assert_allclose(found, mu, rtol=1e-8, atol=1e-10)


# Exact posteriors.


def assert_moments(samples, mean, covariance):
    """Mean and covariance within 4.5 standard errors; 0 where nothing varies."""
    num, scale = len(samples), np.sqrt(np.diag(covariance).clip(0))
    gap = np.abs(samples.mean(0) - mean)
    assert (gap < 4.5 * scale / np.sqrt(num) + 1e-5).all()
    products = np.outer(scale**2, scale**2) + covariance**2
    error = np.abs(np.cov(samples.T) - covariance)
    assert (error < 4.5 * np.sqrt(products / num) + 1e-5).all()


@pytest.mark.parametrize("noise_std", [0.0, 0.3])
@pytest.mark.parametrize("num_steps", [2, 6])
def test_daps_is_exact_for_isotropic_gaussians_on_any_grid(noise_std, num_steps):
    sigmas = ss.grids.karras(num_steps, sigma_min=0.2, sigma_max=400.0)
    rule = DAPS(PARTLY, Y, noise_std=noise_std, sigma_data=0.7, ode_steps=1)
    x = sigmas[0] * jr.normal(jr.key(3), (20_000, 4))
    run = jax.jit(lambda x: ss.sample(rule, ISOTROPIC.denoise, x, sigmas, key=KEY).x)
    assert_moments(np.asarray(run(x)), *posterior(0.49 * np.eye(4), noise_std))


KEY, AXES = jr.key(5), (0.1, 0.5, 1.0, 2.0)


def test_langevin_draws_what_is_drawn_exactly():
    """One step from a high level: x0 given y, where the prior is the model's."""
    sigmas = jnp.asarray([400.0, 0.0])
    rule = DAPS(
        PARTLY,
        Y,
        noise_std=0.5,
        sigma_data=0.7,
        ode_steps=1,
        langevin_steps=400,
        langevin_rate=0.02,
    )
    x = sigmas[0] * jr.normal(jr.key(3), (4_000, 4))
    run = jax.jit(lambda x: ss.sample(rule, ISOTROPIC.denoise, x, sigmas, key=KEY).x)
    samples = np.asarray(run(x))
    mean, covariance = posterior(0.49 * np.eye(4), 0.5)
    # A step of 0.02 biases the variance by about 0.02 / 2 of it in the stiffest axis.
    scale = np.sqrt(np.diag(covariance))
    assert (np.abs(samples.mean(0) - mean) < 5 * scale / np.sqrt(4_000)).all()
    off = np.abs(np.cov(samples.T) - covariance) / np.outer(scale, scale)
    assert off.max() < 5 * np.sqrt(2 / 4_000) + 0.03


def test_a_flow_solved_in_steps_nears_the_exact_flow():
    """Towards where the flow of a Gaussian leads, by first order."""
    gaussian = ss.oracles.Gaussian(
        jnp.ones(4), jnp.diag(jnp.asarray([0.1, 0.5, 1, 2.0]))
    )
    x, sigma = 2 * jr.normal(jr.key(1), (3, 4)), jnp.asarray(2.0)
    exact, errors = gaussian.flow(x, sigma, 0.0), []
    for ode_steps in (20, 40, 80):
        rule = DAPS(PARTLY, Y, noise_std=0.1, ode_steps=ode_steps)
        clean = jax.jit(partial(rule._solved, gaussian.denoise))(x, sigma)[1]
        errors.append(float(jnp.abs(clean - exact).max()))
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]
    assert errors[2] < 0.05


# The same everywhere.

IMAGE = (8, 8, 1)
OPTIONS = {"sigma_data": 0.5}


def bound(method):
    options = {k: v for k, v in OPTIONS.items() if k in fields_of(method, skip=3)}
    return partial(method, **options)


@pytest.mark.parametrize(
    "name", unless(("dps", "ddrm", "repaint").__contains__, METHODS)
)
def test_methods_treat_examples_alone_count_evaluations_and_keep_float32(name):
    known = Mask(jr.bernoulli(jr.key(1), 0.5, IMAGE))
    y, calls = jr.normal(jr.key(2), (4, *IMAGE)), []

    def counted(x, sigma, cond=None):
        jax.debug.callback(lambda: calls.append(1))
        return smooth(x, sigma)

    def draw(denoise, x, y):
        made = editing.restore_by(
            bound(METHODS[name]), denoise, known, known(y), noise_std=0.0, grid=GRID
        )
        sampler = made.sampler or "ddpm"
        return ss.sample(sampler, made.denoise, x, GRID, key=KEY)

    x = 20 * jr.normal(jr.key(3), (4, *IMAGE))
    out = jax.block_until_ready(jax.jit(partial(draw, counted))(x, y))
    jax.effects_barrier()
    # Tangents are of the same call.
    assert int(out.num_evals) == len(calls)
    alone = jax.jit(partial(draw, smooth))(x[:2], y[:2])
    np.testing.assert_allclose(alone.x, out.x[:2], rtol=1e-9, atol=1e-10)
    single = jax.eval_shape(
        partial(draw, smooth), *(a.astype(jnp.float32) for a in (x, y))
    )
    assert single.x.dtype == jnp.float32
    assert np.isfinite(out.x).all()


@pytest.mark.parametrize("name", METHODS)
def test_every_draw_of_a_method_is_counted(name):
    known = Mask(np.ones(4))
    made = editing.restore_by(
        bound(METHODS[name]),
        smooth,
        known,
        Y[:, [0, 1, 0, 1]],
        noise_std=0.0,
        grid=GRID,
    )
    if made.sampler is None:
        return
    needed, x = made.sampler.draws_needed(5, to_zero=True), jnp.ones((1, 4))
    bank = jr.normal(KEY, (needed, 1, 4))
    out = ss.sample(made.sampler, made.denoise, x, GRID, noise=bank)
    assert np.isfinite(out.x).all()
    with pytest.raises(ValueError, match="draws of noise over 5 steps"):
        ss.sample(made.sampler, made.denoise, x, GRID, noise=bank[1:])


def test_a_method_of_ones_own_is_called_with_what_it_wants():
    def shrunk(denoise, measurement, y, *, noise_std, by=0.5):
        del measurement, y
        return editing.Restorer(lambda x, s, c=None: by * noise_std * denoise(x, s, c))

    made = editing.restore_by(shrunk, smooth, PARTLY, Y, noise_std=2.0, grid=GRID)
    x = jnp.ones((1, 4))
    np.testing.assert_allclose(made.denoise(x, 0.5), smooth(x, 0.5))


# Measurements that have no matrix.


def test_an_adjoint_is_derived_and_a_wrong_one_is_seen():
    apply = lambda x: x[:, ::2] - 3 * x[:, 1::2]  # noqa: E731
    derived = Operator(apply, shape=IMAGE)
    y = jr.normal(jr.key(1), (2, 4, 8, 1))
    given = jnp.stack([y, -3 * y], axis=2).reshape(2, 8, 8, 1)
    np.testing.assert_allclose(derived.transpose(y), given, rtol=1e-12)
    wrong = Operator(apply, lambda y: jnp.repeat(y, 2, axis=1))
    assert measurements.adjoint_error(derived, KEY, IMAGE) < 1e-12
    assert measurements.adjoint_error(wrong, KEY, IMAGE) > 0.01
    waves = measurements.fourier(np.ones((8, 8)))
    assert measurements.adjoint_error(waves, KEY, IMAGE) < 1e-12
    x = jr.normal(KEY, (2, *IMAGE))
    np.testing.assert_allclose(waves.transpose(waves(x)), x, atol=1e-12)


def test_magnitudes_are_those_of_numpy_and_have_their_slope():
    x = jr.normal(KEY, (2, *IMAGE))
    found = Magnitude()(x)[..., 0]
    padded = np.fft.fft2(np.asarray(x)[..., 0], s=(16, 16), norm="ortho")
    np.testing.assert_allclose(found, np.abs(padded), atol=1e-12)
    y, step = jr.normal(jr.key(1), (2, 16, 16, 1)), 1e-5 * jr.normal(jr.key(2), x.shape)
    slope = (Magnitude().pull(x, y) * step).sum()
    change = (y * (Magnitude()(x + step) - Magnitude()(x - step))).sum() / 2
    np.testing.assert_allclose(slope, change, rtol=1e-6)


def picture(channels):
    """A smooth picture of levels, [16, 24, channels]."""
    rows, columns = np.mgrid[:16, :24] / 8.0
    waves = [np.sin(rows + k) * np.cos(columns * (1 + k)) for k in range(channels)]
    return np.round(127.5 + 100 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [10, 50, 92])
def test_jpeg_is_what_a_file_gives_back(channels, quality):
    levels, file = picture(channels), io.BytesIO()
    Image.fromarray(levels.squeeze()).save(file, "JPEG", quality=quality, subsampling=0)
    with Image.open(file) as opened:
        decoded = np.asarray(opened).reshape(levels.shape).astype(float)
        tables = [np.asarray(t).reshape(8, 8) for t in opened.quantization.values()]
    for ours, theirs in zip((LUMINANCE, CHROMINANCE), tables, strict=False):
        np.testing.assert_array_equal(quantisation(quality, ours), theirs)
    found = JPEG(quality)(jnp.asarray(levels[None] / 127.5 - 1))[0]
    gap = np.abs(np.clip(127.5 * (found + 1), 0, 255) - decoded)
    # Grey levels are rounded; colours are rounded before the transform too, which puts
    # a coefficient here and there into the next bin.
    assert np.quantile(gap, 1.0 if channels == 1 else 0.95) <= 1.02 * channels


def test_the_nearest_picture_has_this_file_and_is_the_nearest():
    y = JPEG(20)(jnp.asarray(picture(3)[None] / 127.5 - 1))
    x = y + 0.5 * jr.normal(KEY, y.shape)
    near = JPEG(20).nearest(x, y)
    inside = y + (1 - 1e-9) * (near - y)  # not at the edge of a bin, where it may flip
    np.testing.assert_allclose(JPEG(20)(inside), y, atol=1e-9)
    np.testing.assert_allclose(JPEG(20).nearest(near, y), near, atol=1e-12)
    np.testing.assert_allclose(editing.keep_measured(x, JPEG(20), y), near, atol=1e-12)
    grey_y, grey_x = y[..., :1], x[..., :1]
    grey = JPEG(20)(grey_y)
    found = JPEG(20).nearest(grey_x, grey)
    distance = ((found - grey_x) ** 2).sum()
    for k in range(5):  # other pictures of the same file are farther
        other = JPEG(20).nearest(found + 0.2 * jr.normal(jr.key(k), grey.shape), grey)
        assert ((other - grey_x) ** 2).sum() >= distance


def test_a_phase_is_retrieved_where_the_prior_is_near():
    """DAPS finds magnitudes that agree, from a prior of some spread around x0."""
    x0 = jnp.asarray(picture(1)[None, :8, :8] / 127.5 - 1, float)
    prior = ss.oracles.Gaussian(x0.ravel(), 0.05 * jnp.eye(64))

    def denoise(x, sigma, cond=None):
        return prior.denoise(x.reshape(len(x), -1), sigma).reshape(x.shape)

    truth = x0 + 0.2 * jr.normal(jr.key(7), x0.shape)
    y = Magnitude()(truth)
    rule = DAPS(
        Magnitude(), y, noise_std=0.05, sigma_data=0.25, ode_steps=1, langevin_steps=60
    )
    sigmas = ss.grids.karras(8, sigma_min=0.02, sigma_max=10.0)
    x = sigmas[0] * jr.normal(KEY, (64, *x0.shape[1:]))
    out = jax.jit(lambda x: ss.sample(rule, denoise, x, sigmas, key=KEY).x)(x)
    before = float(jnp.sqrt(((x0 - truth) ** 2).mean()))
    after = float(jnp.sqrt(((out.mean(0, keepdims=True) - truth) ** 2).mean()))
    # Six other keys give 0.58 to 0.62.
    assert after < 0.65 * before
    off = [float(jnp.abs(Magnitude()(x) - y).mean()) for x in (x0, out)]
    assert off[1] < 0.4 * off[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Operator(), "Operator needs apply, and either its adjoint or"),
        (lambda: Operator(lambda x: x), "the shape of an example"),
        (lambda: JPEG(0), "quality is 0; it must be from 1 to 100"),
        (lambda: JPEG(50)(jnp.ones((1, 9, 8, 1))), "multiples of 8, got shape"),
        (
            lambda: DDRM(Operator(lambda x: x, shape=(4,)), Y, noise_std=0.0),
            "ddrm needs the singular values of the measurement, which Operator",
        ),
        (
            lambda: DiffPIR(JPEG(50), Y, noise_std=0.0),
            "diffpir is for linear measurements, and JPEG is not one",
        ),
        (
            lambda: editing.pseudo_inverse(
                smooth, Magnitude(), Y, noise_std=0.0, sigma_data=1.0
            ),
            "pseudo_inverse is for linear measurements",
        ),
        (
            lambda: DAPS(JPEG(50), Y, noise_std=0.1),
            "daps is for linear measurements",
        ),
        (
            lambda: DAPS(JPEG(50), Y, noise_std=0.0, langevin_steps=5),
            "needs a noise_std above 0",
        ),
        (
            lambda: METHODS["replace"](smooth, PARTLY, Y, noise_std=0.1),
            "replace takes what was measured as free of noise",
        ),
        (lambda: Magnitude().pseudo_inverse(Y), "Magnitude has no inverse"),
        (
            lambda: path(DDRM(PARTLY, Y[:, :1], noise_std=0.0), jnp.ones((3, 4)), None),
            "give it a key",
        ),
        (
            lambda: ss.sample(
                DiffPIR(PARTLY, Y[:, :1], noise_std=0.0),
                *(smooth, jnp.ones((3, 4)), GRID),
                key=KEY,
            ),
            r"y has shape \(1, 1\); data of shape \(3, 4\)",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
