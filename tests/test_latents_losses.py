"""Losses of autoencoders: other programs' numbers, differences, closed forms."""

import jax
import jax.numpy as jnp
import jax.random as jr
import latents_cases as cases
import numpy as np
import pytest

from score_sde.latents import Posterior, adversarial, codebook, reconstruction
from score_sde.latents.discriminator import PatchDiscriminator, statistics_of
from score_sde.weights import StateDict, fit
from score_sde.weights.published.autoencoders import discriminator_tensors

LOSSES = cases.CASES["losses"]
START = 10  # the adversarial part, in the reference


def discriminator(channels, layers, prefix=""):
    """(a reference discriminator, its parameters)."""
    module = PatchDiscriminator(channels, layers, "batch")
    table = discriminator_tensors(module)
    like, state = module.shapes(), {}
    for tensor in table:
        if tensor.path:
            leaf = like
            for word in tensor.path:
                leaf = leaf[word]
            empty = np.broadcast_to(np.float32(0), leaf.shape)
            shape = tensor.layout.to_published(empty).shape
            name = prefix + tensor.name
            state[tensor.name] = cases.seeded_weights.tensor(name, shape, 0)
    _, params = fit(StateDict(state, []), {"": table}, like)
    return module, cases.doubled(params)


def test_the_patch_discriminator_computes_what_the_published_one_does():
    case = cases.CASES["patch3"]
    module, params = discriminator(8, 3)
    assert sum(a.size for a in jax.tree.leaves(params)) == (
        # Running moments are buffers there: two for each scale.
        case["out"]["num_params"] + 2 * sum(8 * m for m in (2, 4, 8))
    )
    # Images of discriminators are numbers already.
    real, fake = (jnp.asarray(cases.value(case["in"][k])) for k in ("real", "fake"))
    real, fake = (
        a.astype(float) / 127.5 - 1 if a.dtype == jnp.uint8 else a for a in (real, fake)
    )
    out = case["out"]

    @jax.jit
    def both(params):
        scored = [module.apply({"params": params}, a, False) for a in (real, fake)]
        first, moved = module.logits(params, real)
        second, moved = module.logits(moved, fake)
        return scored, (first, second), moved

    scored, trained, moved = both(params)
    for found, name in zip(
        (*scored, *trained),
        ("real_eval", "fake_eval", "real_train", "fake_train"),
        strict=True,
    ):
        expected = cases.value(out[name])
        cases.assert_near(found.reshape(expected.shape), expected)
    running = moved["main_3"]["statistics"]
    cases.assert_near(running["mean"], cases.value(out["running_mean_main3"]))
    cases.assert_near(running["var"], cases.value(out["running_var_main3"]))
    for loss, logits, name in (
        (adversarial.hinge, scored, "hinge_eval"),
        (adversarial.hinge, trained, "hinge_train"),
        (adversarial.vanilla, trained, "vanilla_train"),
    ):
        np.testing.assert_allclose(loss(*logits).mean(), out[name], rtol=1e-9)
    found = adversarial.generator_loss(trained[1]).mean()
    np.testing.assert_allclose(found, out["generator_train"], rtol=1e-9)


def test_names_of_the_discriminator_are_the_published_ones():
    module = PatchDiscriminator(64, 3, "batch")
    names = {tensor.name for tensor in discriminator_tensors(module)}
    assert names == {
        name for name, *_ in cases.published()["discriminator-3"]["tensors"]
    }
    count = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(module.shapes())
        if "statistics" not in jax.tree_util.keystr(path)
    )
    assert count == cases.published()["discriminator-3"]["num_params"]
    assert PatchDiscriminator(64, 2, "batch").smallest_side == 12


def toy_distance(x, y):
    """That of the reference: squared differences of means of 2x2 blocks."""

    def blocks(a):
        n, h, w, c = a.shape
        return a.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))

    return ((blocks(x) - blocks(y)) ** 2).mean((1, 2, 3))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kl", pytest.param("vq", marks=pytest.mark.slow)])
def test_losses_weights_and_gradients_are_those_of_the_published_programs(kind):
    coder, params = cases.loaded(f"{kind}_compvis")
    critic, critic_params = discriminator(64, 2, "disc.")
    x = cases.images(LOSSES["in"]["images"])
    noise = cases.ARRAYS["losses/kl/noise"] if kind == "kl" else None
    log_scale = jnp.asarray(np.float32(0.3), jnp.float64) if kind == "kl" else None

    def parts(params, log_scale):
        posterior = coder.encode(params, x)
        if kind == "kl":
            z, penalty = posterior.mean + posterior.std * noise, posterior.divergence()
        else:
            z, penalty = coder.bottleneck(params, jr.key(0), posterior, 1)
        r = coder.render(params, z)

        def nll(r):
            distance = toy_distance(x, r)
            found = reconstruction.errors(
                x, r, kind="l1", distance=distance, distance_weight=0.7
            )
            if kind == "vq":
                return found.mean()
            found = reconstruction.negative_log_likelihood(found, log_scale)
            return found.sum() / len(x)

        def generator(r):
            return adversarial.generator_loss(critic.logits(critic_params, r)[0]).mean()

        fixed = jax.lax.stop_gradient(r)
        norms = adversarial.last_layer_norms(
            coder, params, z, (jax.grad(nll)(fixed), jax.grad(generator)(fixed))
        )
        scale = 0.5 if kind == "kl" else 0.75
        weight = adversarial.adaptive_weight(*norms, scale=scale)
        return nll(r), generator(r), penalty.mean(), weight, r

    def loss(params, log_scale, step):
        nll, generator, penalty, weight, r = parts(params, log_scale)
        factor = adversarial.ramp(step, start=START, steps=0).astype(jnp.float64)
        total = nll + (1e-6 if kind == "kl" else 1) * penalty
        total += weight * factor * generator
        return total, (nll, generator, penalty, weight, r)

    scale = jnp.zeros((), jnp.float64) if log_scale is None else log_scale
    slope = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    for step in (5, 10):
        expected = LOSSES["out"][f"{kind}/step{step}"]
        (total, found), (gradient, of_scale) = slope(params, scale, jnp.asarray(step))
        nll, generator, penalty, weight, r = found
        names = {
            "total_loss": total,
            "nll_loss": nll,
            "g_loss": generator,
            ("kl_loss" if kind == "kl" else "quant_loss"): penalty,
        }
        for name, number in names.items():
            np.testing.assert_allclose(number, expected[name], rtol=1e-8)
        np.testing.assert_allclose(weight, expected["d_weight"], rtol=1e-8)
        folder = f"losses/{kind}/{step}"
        for path, name in (("decoder", "gco"), ("encoder", "gci")):
            layer = "conv_out" if path == "decoder" else "conv_in"
            kernel = gradient[path][layer]["kernel"].transpose(3, 2, 0, 1)
            cases.assert_near(kernel, cases.ARRAYS[f"{folder}/{name}"], 1e-8)
        squares = sum((a**2).sum() for a in jax.tree.leaves(gradient))
        if kind == "kl":
            np.testing.assert_allclose(of_scale, expected["grad_logvar"], rtol=1e-9)
        norm = np.sqrt(squares)
        # The norm there has the log-scale's gradient too, or not.
        both = np.sqrt(squares + of_scale**2)
        assert (
            min(
                abs(norm / expected["grad_global_norm"] - 1),
                abs(both / expected["grad_global_norm"] - 1),
            )
            < 1e-8
        )
    logits = [critic.logits(critic_params, a)[0] for a in (x, r)]
    found = adversarial.hinge(*logits).mean()
    np.testing.assert_allclose(found, expected["disc_loss"], rtol=1e-8)


@pytest.mark.slow
def test_the_codebook_of_moving_averages_follows_the_published_one():
    case = cases.CASES["ema"]
    rows = jnp.asarray(cases.value(case["in"]["codebook"]), jnp.float64)
    usage = jnp.asarray(cases.value(case["in"]["cluster_size"]), jnp.float64)
    z0 = jnp.asarray(cases.value(case["in"]["z"]), jnp.float64)
    # Sums of the reference start at the rows themselves.
    state = {"usage": usage, "sums": rows, "candidates": jnp.zeros_like(rows)}
    for step, out in enumerate(case["out"]):
        z = z0 * (1 + 0.1 * step)
        z = z.reshape(len(z), -1, z.shape[-1])
        codes = codebook.nearest(z, rows)
        assert (codes.reshape(-1) == cases.value(out["indices"]).reshape(-1)).all()
        chosen = rows[codes]
        loss = codebook.codebook_loss(z, chosen, commitment=0.0, legacy=True)
        np.testing.assert_allclose(
            0.25 * loss.mean(), out["commitment_loss"], rtol=1e-9
        )
        new = codebook.next_statistics(jr.key(step), state, z, codes)
        # By gradient descent at rate 1, as training does it.
        slope = jax.grad(codebook.statistics_term)(state, new)
        state = jax.tree.map(lambda a, s: a - s, state, slope)
        state, rows = codebook.revived(state, rows, dead_share=0.0)
        cases.assert_near(state["usage"], cases.value(out["cluster_size"]))
        cases.assert_near(state["sums"], cases.value(out["embed_avg"]))
        cases.assert_near(rows, cases.value(out["codebook"]))


@pytest.mark.slow
def test_statistics_of_parts_average_to_those_of_the_whole():
    from score_sde.arrays import part_of_batch

    key = jr.key(3)
    z = jr.normal(key, (8, 5, 2), jnp.float64)
    rows = jr.normal(jr.key(4), (6, 2), jnp.float64)
    old = {"usage": jnp.ones(6), "sums": rows, "candidates": jnp.zeros((6, 2))}
    codes = codebook.nearest(z, rows)
    whole = codebook.next_statistics(key, old, z, codes)
    parts = []
    for first in range(0, 8, 2):
        with part_of_batch(first + jnp.arange(2), 8):
            part = z[first : first + 2], codes[first : first + 2]
            parts.append(codebook.next_statistics(key, old, *part))
    mean = jax.tree.map(lambda *a: sum(a) / 4, *parts)
    for name, array in whole.items():
        np.testing.assert_allclose(mean[name], array, rtol=1e-12, err_msg=name)
    # Candidates are latents of the batch.
    distances = jnp.abs(whole["candidates"][:, None] - z.reshape(1, 40, 2)).sum(-1)
    assert (distances.min(1) == 0).all()


def test_dead_codes_are_revived_and_live_ones_are_left():
    rows = jnp.arange(8.0).reshape(4, 2)
    usage = jnp.asarray([5.0, 0.001, 3.0, 0.0])
    drawn = 100 + rows
    state = {"usage": usage, "candidates": drawn}
    new, found = codebook.revived(state, rows, dead_share=0.1)
    assert (found == jnp.stack([rows[0], drawn[1], rows[2], drawn[3]])).all()
    average = usage.mean()
    assert (new["usage"] == jnp.asarray([5.0, average, 3.0, average])).all()
    _, unchanged = codebook.revived(state, rows, dead_share=0.0)
    assert (unchanged == rows).all()
    # Before the first batch nothing is known to put in their place.
    none = state | {"candidates": jnp.zeros((4, 2))}
    assert (codebook.revived(none, rows, dead_share=0.1)[1] == rows).all()
    sums = state | {"sums": usage[:, None] * rows}
    new, found = codebook.revived(sums, rows, dead_share=0.1)
    # Laplace smoothing changes a row by about 1e-5 over its count.
    np.testing.assert_allclose(found[1], drawn[1], rtol=1e-4)
    np.testing.assert_allclose(found[2], rows[2], rtol=1e-4)


def test_straight_through_by_value_and_by_difference():
    rows = jnp.asarray([[-1.0], [0.0], [1.0]], jnp.float64)
    z = jnp.asarray([[0.3], [0.8]], jnp.float64)

    def loss(z, passed):
        chosen = rows[codebook.nearest(z, rows)]
        return (jnp.asarray([[2.0], [3.0]]) * passed(z, chosen) ** 2).sum()

    def through(z):
        return loss(z, codebook.straight_through)

    assert (
        codebook.straight_through(z, rows[codebook.nearest(z, rows)])
        == jnp.asarray([[0.0], [1.0]])
    ).all()
    # 2 w q: the derivative of w q^2 at the code, as if q moved with z.
    np.testing.assert_allclose(jax.grad(through)(z), [[0.0], [6.0]])
    small = 1e-6

    def moved(shift):
        chosen = rows[codebook.nearest(z, rows)]
        return (jnp.asarray([[2.0], [3.0]]) * (chosen + shift) ** 2).sum(1)

    difference = (moved(small) - moved(-small)) / (2 * small)
    np.testing.assert_allclose(jax.grad(through)(z)[:, 0], difference, atol=1e-8)
    # The value itself is constant between the borders of the cells.
    assert through(z) == through(z + small)


@pytest.mark.parametrize("legacy", [False, True])
def test_codebook_gradients_are_on_the_side_that_they_are_meant_for(legacy):
    z = jnp.asarray([[[1.0, 2.0]], [[0.0, -1.0]]], jnp.float64)
    q = jnp.asarray([[[0.5, 1.0]], [[1.0, 1.0]]], jnp.float64)

    def loss(z, q):
        return codebook.codebook_loss(z, q, commitment=0.25, legacy=legacy).sum()

    assert loss(z, q) == pytest.approx(1.25 * float(((z - q) ** 2).mean((1, 2)).sum()))
    of_z, of_q = jax.grad(loss, argnums=(0, 1))(z, q)
    on_z, on_q = (1.0, 0.25) if legacy else (0.25, 1.0)
    np.testing.assert_allclose(of_z, on_z * (z - q))  # 2 (z - q) over 2 numbers
    np.testing.assert_allclose(of_q, on_q * (q - z))


def test_the_adaptive_weight_balances_the_gradients_and_has_none():
    def weight(a):
        return adversarial.adaptive_weight(a, jnp.asarray(2.0), scale=0.5)

    assert weight(jnp.asarray(8.0)) == pytest.approx(2.0, rel=1e-4)
    assert jax.grad(weight)(jnp.asarray(8.0)) == 0
    nothing = adversarial.adaptive_weight(jnp.asarray(8.0), jnp.asarray(0.0), scale=1.0)
    assert nothing == 1e4  # hinge of zero logits: the limit holds


def test_the_ramp_begins_at_its_start():
    steps = jnp.arange(8)
    found = adversarial.ramp(steps, start=3, steps=4)
    np.testing.assert_allclose(found, [0, 0, 0, 0, 0.25, 0.5, 0.75, 1])
    found = adversarial.ramp(steps, start=3, steps=0)
    np.testing.assert_allclose(found, [0, 0, 0, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_likelihood_of_pixels_is_that_of_laplace_and_gauss(kind):
    from scipy import stats

    x, r, s = 0.3, -0.4, 0.7
    error = reconstruction.ERRORS[kind](jnp.asarray(x), jnp.asarray(r))
    found = float(reconstruction.negative_log_likelihood(error, jnp.asarray(s)))
    if kind == "l1":
        expected = -stats.laplace.logpdf(x, r, np.exp(s)) - np.log(2)
    else:
        exact = stats.norm.logpdf(x, r, np.exp(s / 2))
        expected = -2 * exact - np.log(2 * np.pi)
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_transformed_pairs_are_the_same_turn_of_both():
    key = jr.key(0)
    x = jr.normal(key, (16, 8, 8, 1), jnp.float64)
    # Latents that are means of blocks: turning and shrinking commute with them.
    z = x.reshape(16, 4, 2, 4, 2, 1).mean((2, 4))
    for shrink in (1, 2):
        turned, latents = reconstruction.transformed(key, x, z, shrink=shrink)
        side = 8 // shrink
        blocks = turned.reshape(16, side // 2, 2, side // 2, 2, 1).mean((2, 4))
        np.testing.assert_allclose(latents, blocks, atol=1e-12)
    turned, _ = reconstruction.transformed(key, x, z, shrink=1)
    turns = [
        next(k for k in range(4) if (turned[i] == jnp.rot90(x[i], k)).all())
        for i in range(16)
    ]
    assert set(turns) == {0, 1, 2, 3}
    wide = jnp.concatenate([x, x], 2)
    turned, _ = reconstruction.transformed(key, wide, wide, shrink=1)
    assert turned.shape == wide.shape
    whole = [
        (turned[i] == wide[i]).all() or (turned[i] == wide[i, ::-1, ::-1]).all()
        for i in range(16)
    ]
    assert all(whole)


def test_the_distance_of_features_ignores_their_scale():
    def layers(x):
        return [x, 2 * x[:, ::2]]

    distance = reconstruction.feature_distance(layers)
    x = jr.normal(jr.key(0), (3, 4, 4, 5), jnp.float64)
    np.testing.assert_allclose(distance(x, 3 * x), 0, atol=1e-12)
    # Opposite directions of length 1 are 2 apart.
    np.testing.assert_allclose(distance(x, -x), 4, rtol=1e-6)


def test_posteriors_draw_by_example_and_have_the_density_of_what_they_draw():
    key = jr.key(0)
    mean = jr.normal(key, (6, 2, 2, 3), jnp.float64)
    posterior = Posterior(mean, jnp.full_like(mean, -1.0))
    whole = posterior.sample(key)
    part = Posterior(mean[:3], jnp.full_like(mean[:3], -1.0)).sample(key)
    assert (whole[:3] == part).all()
    from scipy import stats

    expected = stats.norm.logpdf(whole, mean, np.exp(-0.5)).reshape(6, -1).sum(1)
    np.testing.assert_allclose(posterior.log_prob(whole), expected, rtol=1e-12)
    still = Posterior(mean)
    assert (still.sample(key) == mean).all()
    assert (still.divergence() == 0).all()
    with pytest.raises(ValueError, match="no noise"):
        still.log_prob(mean)


def test_statistics_are_apart_from_what_is_trained():
    module = PatchDiscriminator(8, 1, "batch")
    params = module.init(jr.key(0), jnp.zeros((2, 8, 8, 3), jnp.float32))["params"]
    assert statistics_of(params).keys() == {"main_3"}
    assert statistics_of(params)["main_3"].keys() == {"mean", "var"}
