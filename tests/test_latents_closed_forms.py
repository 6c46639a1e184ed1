"""Autoencoders whose optimum is known: probabilistic PCA, k-means, exact evidence."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import unless
from jax.flatten_util import ravel_pytree
from scipy import optimize, stats

import score_sde as ss
from score_sde.data import Dataset
from score_sde.data.units import Units
from score_sde.latents import Coder, Posterior, codebook, fsq, reconstruction
from score_sde.latents.posterior import posterior_from_moments
from score_sde.run.latents import latent_moments, points_of_images
from score_sde.run.model import COMPANIONS


@pytest.mark.slow
def test_a_linear_kl_autoencoder_is_probabilistic_pca():
    """The bound at its optimum is the evidence of PCA (Tipping and Bishop 1999)."""
    random = np.random.default_rng(0)
    spread = (
        np.diag([3.0, 1.5, 0.4, 0.3, 0.3]) @ np.linalg.qr(random.normal(size=(5, 5)))[0]
    )
    x = random.normal(size=(400, 5)) @ spread
    x = jnp.asarray(x - x.mean(0))
    sizes = {"encoder": (5, 2), "log_variance": (2,), "decoder": (2, 5), "scale": ()}
    flat, unflatten = ravel_pytree(
        {
            name: 0.3 * jr.normal(jr.key(i), shape, jnp.float64)
            for i, (name, shape) in enumerate(sizes.items())
        }
    )

    @jax.jit
    @jax.value_and_grad
    def bound(flat):
        p = unflatten(flat)
        mean = x @ p["encoder"]
        variances = jnp.broadcast_to(p["log_variance"][None], mean.shape)
        posterior = posterior_from_moments(jnp.concatenate([mean, variances], 1))
        # The expectation of the squared error over draws of the posterior.
        error = reconstruction.ERRORS["l2"](x, posterior.mean @ p["decoder"])
        error += posterior.std**2 @ p["decoder"] ** 2
        nll = reconstruction.negative_log_likelihood(error, p["scale"])
        nats = 0.5 * (nll + np.log(2 * np.pi)).sum(1) + posterior.divergence()
        return nats.mean()

    found = optimize.minimize(
        bound,
        flat,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 3000, "ftol": 1e-14},
    )
    covariance = np.asarray(x.T @ x) / len(x)
    values, vectors = np.linalg.eigh(covariance)
    noise = values[:3].mean()
    model = vectors @ np.diag([noise] * 3 + list(values[3:])) @ vectors.T
    evidence = stats.multivariate_normal(np.zeros(5), model).logpdf(x).mean()
    assert found.fun == pytest.approx(-evidence, abs=1e-4)
    p = unflatten(jnp.asarray(found.x))
    assert np.exp(p["scale"]) == pytest.approx(noise, rel=1e-2)
    # The decoder spans the leading eigenvectors.
    outside = np.asarray(p["decoder"]) @ vectors[:, :3]
    assert np.abs(outside).max() < 1e-2


@pytest.mark.parametrize("moving_average", [True, False])
def test_a_codebook_comes_to_the_distortion_of_k_means(moving_average):
    from sklearn.cluster import KMeans

    random = np.random.default_rng(1)
    centres = random.normal(size=(6, 3)) * 4
    z = jnp.asarray(
        centres[random.integers(6, size=600)] + random.normal(size=(600, 3))
    )
    start = jnp.asarray(centres + 0.5)  # near the optimum that both then find
    batch = z[:, None]

    def by_average(carry, key):
        state, rows = carry
        codes = codebook.nearest(batch, rows)
        new = codebook.next_statistics(key, state, batch, codes)
        return codebook.revived(new, rows, dead_share=0.0), None

    def by_gradient(rows, key):
        del key

        def loss(rows):
            chosen = rows[codebook.nearest(batch, rows)]
            return codebook.codebook_loss(batch, chosen, commitment=0.25).mean()

        return rows - 2.0 * jax.grad(loss)(rows), None

    keys = jr.split(jr.key(0), 3000)
    if moving_average:
        first = {
            "usage": jnp.full(6, 100.0),
            "sums": 100 * start,
            "candidates": jnp.zeros((6, 3)),
        }
        (_, rows), _ = jax.lax.scan(by_average, (first, start), keys)
    else:
        rows, _ = jax.lax.scan(by_gradient, start, keys)
    distortion = ((z - rows[codebook.nearest(z, rows)]) ** 2).sum()
    known = KMeans(6, init=np.asarray(start), n_init=1, tol=1e-10, max_iter=1000)
    assert distortion == pytest.approx(known.fit(np.asarray(z)).inertia_, rel=2e-3)


def linear_coder(weights, std):
    """The coder of x = W z + std n, W of orthogonal columns: the exact posterior."""
    lengths = jnp.diag(weights.T @ weights)
    variance = 1 / (1 + lengths / std**2)

    def encode(params, x):
        del params
        mean = (x.reshape(len(x), -1) @ weights) * (variance / std**2)[None]
        log_variance = jnp.broadcast_to(jnp.log(variance)[None], mean.shape)
        return Posterior(mean, log_variance)

    def decode(params, z):
        del params
        return (z @ weights.T).reshape(len(z), 2, 2, 1)

    return Coder(encode, decode, None, None, None, 0, 2, ())


@pytest.mark.slow
def test_the_bound_of_images_is_their_evidence_where_the_posterior_is_exact():
    """For a Gaussian prior of latents by the exact flow, and any draw of them."""
    std, levels = 0.2, 256
    weights = jnp.asarray([[0.3, 0.1], [0.2, -0.3], [0.1, 0.25], [-0.05, 0.2]])
    weights = jnp.linalg.qr(weights)[0] * jnp.asarray([[0.35, 0.2]])
    weights = weights.astype(jnp.float32)
    coder = linear_coder(weights, std)
    origin = Dataset("images", (2, 2, 1), levels, 0, None)
    units = Units((0.1, -0.2), (1.1, 0.9))
    dataset = Dataset(
        "latents",
        (2,),
        None,
        0,
        None,
        units,
        origin=origin,
        made_by={"autoencoder": ""},
        decoder_std=std,
    )
    params = {COMPANIONS: {"autoencoder": {"network": {}}}}
    random = np.random.default_rng(0)
    covariance = np.asarray(weights @ weights.T) + std**2 * np.eye(4)
    x = random.multivariate_normal(np.zeros(4), covariance, size=20)
    values = np.clip((x + 1) * levels / 2, 8, levels - 9).astype(np.uint8)
    centres = (2 * values.astype(float) + 1) / levels - 1
    exact = stats.multivariate_normal(np.zeros(4), covariance).logpdf(centres)
    exact += 4 * np.log(2 / levels)
    sde = ss.EDM(t_min=1e-3, t_max=80.0)
    # z ~ N(0, I): as a model sees it, (z - shift) / scale.
    mean = -np.asarray(units.shift) / np.asarray(units.scale)
    oracle = ss.oracles.Gaussian(
        jnp.asarray(mean), jnp.diag(1 / jnp.asarray(units.scale) ** 2)
    )
    images = jnp.asarray(values.reshape(20, 2, 2, 1))
    for seed in (0, 1):
        keys = jr.split(jr.key(seed), 20)
        points = points_of_images(coder, dataset, "autoencoder", params, keys, images)
        points = jax.tree.map(lambda a: a.astype(jnp.float64), points)
        prior = oracle.log_prob(points.x, 0.0, sde=sde)
        # Centres and float32 levels stand for bins: second order in their width.
        np.testing.assert_allclose(prior - points.log_density, exact, atol=2e-3)
    flow = ss.log_prob(
        points.x,
        sde=sde,
        score=ss.make_score(oracle.denoise, sde),
        key=jr.key(0),
        divergence="exact",
        rtol=1e-7,
        atol=1e-7,
        # That of N(0, t_max^2) is off by the mean of the latents, some 3e-3.
        prior=lambda z: oracle.log_prob(z, sde.t_max, sde=sde),
    )
    np.testing.assert_allclose(flow.nats - points.log_density, exact, atol=2e-3)


def test_moments_of_channels_are_those_of_draws():
    random = np.random.default_rng(0)
    means = random.normal(size=(500, 2, 2, 3)) * [1.0, 2.0, 3.0] + [0.0, 1.0, -1.0]
    stds = np.broadcast_to(np.asarray([0.5, 1.0, 0.1]), means.shape)
    found = latent_moments(means, stds)
    draws = means[None] + stds * random.normal(size=(50, *means.shape))
    np.testing.assert_allclose(found.mean, draws.mean((0, 1, 2, 3)), atol=0.02)
    np.testing.assert_allclose(found.std, draws.std((0, 1, 2, 3)), rtol=0.01)
    still = latent_moments(means, None)
    np.testing.assert_allclose(still.std, means.std((0, 1, 2)))


@pytest.mark.parametrize("levels", unless((8, 5).__eq__, [(3,), (8, 5), (4, 4, 7)]))
def test_fsq_has_as_many_codes_as_the_product_of_its_levels(levels):
    z = jnp.linspace(-6, 6, 4001)
    grid = jnp.stack([jr.permutation(jr.key(i), z) for i in range(len(levels))], -1)
    rounded = fsq.rounded(fsq.bounded(grid, levels), levels)
    for channel, number in enumerate(levels):
        assert len(np.unique(rounded[:, channel])) == number
    codes = np.arange(np.prod(levels))
    channels = fsq.channels_of(jnp.asarray(codes), levels)
    assert (fsq.code_of(channels, levels) == codes).all()
    assert jnp.abs(channels).max() <= 1
    # Rounding is idempotent, nearest, and passes gradients.
    np.testing.assert_array_equal(fsq.rounded(channels, levels), channels)
    inside = fsq.bounded(grid, levels)
    assert jnp.abs(rounded - inside).max() <= 0.51 / min(n // 2 for n in levels)
    slope = jax.grad(lambda x: fsq.rounded(x, levels).sum())(inside)
    np.testing.assert_allclose(slope, 1)


def test_fsq_levels_are_centred():
    # An odd number of levels has 0 among them, an even one has 0 between two.
    zero = jnp.zeros((1, 2))
    assert fsq.bounded(zero, (5, 4))[0, 0] == 0
    assert fsq.bounded(zero, (5, 4))[0, 1] == pytest.approx(0.0, abs=1e-6)
    far = fsq.rounded(
        fsq.bounded(jnp.asarray([[-9.0, -9.0], [9.0, 9.0]]), (5, 4)), (5, 4)
    )
    np.testing.assert_allclose(far, [[-1, -1], [1, 0.5]])


def test_perplexity_counts_codes_that_are_used_evenly():
    assert codebook.perplexity(jnp.asarray([5.0, 5.0, 5.0, 5.0])) == pytest.approx(4)
    assert codebook.perplexity(jnp.asarray([7.0, 0.0, 0.0])) == pytest.approx(1)
