from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import GAUSSIAN, LABELLED

import score_sde as ss
from experiments.launch import load_config
from score_sde import conditions, guidance
from score_sde.conditions import captions
from score_sde.fields import checks_rules
from score_sde.networks import MLP, Network, from_linen
from score_sde.rules import Positive
from score_sde.run.build import build
from score_sde.run.likelihoods import class_log_probs
from score_sde.run.model import denoiser, with_companions
from score_sde.run.sample import guided_denoiser
from score_sde.run.train import initial_params

NUM = 50_000
# Starting from pure noise moves the mean by mean * scale / sigma_max: 400 makes that a
# tenth of the tolerance.
SIGMAS = ss.grids.karras(50, sigma_min=0.01, sigma_max=400.0)
ROW, COLUMN = 1, 4  # classes of LABELLED: rows 0 to 2, columns 3 and 4


def label(value, num=NUM):
    return {"label": jnp.full(num, value)}


def points(num=5):
    return jr.normal(jr.key(7), (num, 2))


def smooth(x, sigma, cond=None):
    """A denoiser that depends on all of its arguments, and is no oracle."""
    level = jnp.asarray(sigma, x.dtype)
    level = level[:, None] if level.ndim else level
    shift = 0.0 if cond is None else 0.3 * cond["label"][:, None].astype(x.dtype)
    return jnp.tanh(x + shift) / (1 + level)


def draw(denoise, cond, num=NUM, sampler="heun", sigmas=SIGMAS):
    x = sigmas[0] * jr.normal(jr.key(3), (num, 2))
    run = jax.jit(
        lambda x, cond: (
            ss.sample(sampler, denoise, x, sigmas, cond=cond, key=jr.key(4)).x
        )
    )
    return np.asarray(run(x, cond))


def assert_has_law(samples, oracle):
    """Mean, covariance and proportions within four standard errors."""
    num, scale = len(samples), np.sqrt(np.diag(oracle.covariance()))
    gap = np.abs(samples.mean(0) - oracle.mean())
    assert (gap < 4 * scale / np.sqrt(num)).all()
    # Of a product of two coordinates; the fourth moments are those of the samples.
    centred = samples - samples.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(0) / np.sqrt(num)
    assert (np.abs(products.mean(0) - oracle.covariance()) < 4 * error).all()
    weights = np.asarray(oracle.weights / oracle.weights.sum())
    component = np.argmax(oracle.log_joint(samples, 1e-3), axis=1)
    share = np.bincount(component, minlength=len(weights)) / num
    assert (np.abs(share - weights) <= 4 * np.sqrt(weights * (1 - weights) / num)).all()


# Against exact conditional laws.


def test_the_conditional_oracle_is_the_mixture_of_its_class():
    x = points()
    for sigma in (0.3, jnp.linspace(0.1, 2.0, 5)):
        given = LABELLED.given(ROW).denoise(x, sigma)
        told = LABELLED.denoise(x, sigma, label(ROW, 5))
        np.testing.assert_allclose(told, given, rtol=1e-12)
        whole = LABELLED.denoise(x, sigma, label(-1, 5))
        np.testing.assert_array_equal(whole, LABELLED.denoise(x, sigma))


def test_bayes_rule_of_the_oracle():
    x, sigma = points(), 0.7
    given = LABELLED.given(ROW).log_prob(x, sigma)
    log_class = LABELLED.log_class(x, sigma, label(ROW, 5))
    weights = LABELLED.weights / LABELLED.weights.sum()
    log_prior = jnp.log((weights * LABELLED.classes[ROW]).sum())
    expected = given + log_prior - LABELLED.log_prob(x, sigma)
    np.testing.assert_allclose(log_class, expected, rtol=1e-10)


@pytest.mark.slow
def test_conditional_samples_have_the_law_of_their_class():
    assert_has_law(draw(LABELLED.denoise, label(ROW)), LABELLED.given(ROW))


def by_noisy_classifier(weight):
    unconditional = guidance.without_condition(LABELLED.denoise)
    return guidance.classifier(unconditional, LABELLED.log_class, weight)


def test_weight_one_by_a_noisy_classifier_is_the_conditional_denoiser():
    guided = by_noisy_classifier(1.0)
    x, sigmas = points(), jnp.asarray([0.05, 0.3, 1.0, 5.0, 30.0])
    exact = LABELLED.denoise(x, sigmas, label(ROW, 5))
    np.testing.assert_allclose(guided(x, sigmas, label(ROW, 5)), exact, atol=1e-9)


@pytest.mark.slow
def test_samples_by_a_noisy_classifier_have_the_conditional_law():
    samples = draw(by_noisy_classifier(1.0), label(ROW))
    assert_has_law(samples, LABELLED.given(ROW))


def given_both():
    weights = LABELLED.weights * LABELLED.classes[ROW] * LABELLED.classes[COLUMN]
    return ss.oracles.GaussianMixture(LABELLED.means, LABELLED.covariances, weights)


def test_composed_conditions_are_the_denoiser_given_both():
    """Exact, since row and column are independent given the noisy point."""
    both = guidance.compose(LABELLED.denoise, [1.0, 1.0])
    x, sigmas = points(), jnp.asarray([0.05, 0.3, 1.0, 5.0, 30.0])
    found = both(x, sigmas, (label(ROW, 5), label(COLUMN, 5)))
    np.testing.assert_allclose(found, given_both().denoise(x, sigmas), atol=1e-9)


@pytest.mark.slow
def test_composed_samples_have_the_law_given_both_classes():
    both = guidance.compose(LABELLED.denoise, [1.0, 1.0])
    assert_has_law(draw(both, (label(ROW), label(COLUMN))), given_both())


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["dpmpp_sde", "dpmpp_2m_sde"])
def test_stochastic_samplers_are_guided_too(sampler):
    guided = by_noisy_classifier(1.0)
    # Of second order: that of first order is off by 5 % in the covariance here.
    sigmas = ss.grids.karras(400, sigma_min=0.01, sigma_max=400.0)
    samples = draw(guided, label(ROW), sampler=sampler, sigmas=sigmas)
    assert_has_law(samples, LABELLED.given(ROW))


def test_temperature_is_exact_for_an_isotropic_gaussian():
    """p^(1/tau) of N(m, c) is N(m, tau c)."""
    mean, tau, c = jnp.asarray([0.3, -1.0]), 0.4, 0.25
    wide, narrow = (ss.oracles.Gaussian(mean, s * jnp.eye(2)) for s in (c, tau * c))
    tempered = guidance.temperature(wide.denoise, tau, sigma_data=c**0.5)
    sigma = jnp.linspace(0.1, 3.0, 5)
    expected = narrow.denoise(points(), sigma)
    np.testing.assert_allclose(tempered(points(), sigma), expected, rtol=1e-12)


@pytest.mark.slow
def test_the_likelihood_takes_a_guided_denoiser():
    """The flow of a guided denoiser is a flow: at weight 1 it has the exact density."""
    guided = guidance.classifier_free(
        LABELLED.denoise, guidance.interval(1.0, 0.1, 2.0), negative=label(2, 1)
    )
    sde = ss.EDM(t_min=0.05, t_max=80.0)
    x = jnp.asarray([[-1.1, 0.1], [0.8, -0.2]])
    out = ss.log_prob(
        x,
        sde=sde,
        score=ss.make_score(guided, sde),
        divergence="exact",
        rtol=1e-5,
        atol=1e-5,
        cond=label(ROW, 2),
    )
    exact = LABELLED.given(ROW).log_prob(x, 0.05)
    # The prior at t_max ignores the mean and variance of the data, as in `log_prob`.
    np.testing.assert_allclose(out.nats, exact, atol=5e-3)


@pytest.mark.slow
def test_the_exact_classifier_minimises_its_loss():
    """The gradient with respect to anything added to its logits has mean zero."""
    num, sigma, x0 = 20_000, 0.5, LABELLED.sample(jr.key(1), 20_000)
    # The first three classes are rows, one of which every component has.
    row = jnp.argmax(LABELLED.log_joint(x0, 1e-3), axis=1) // 2
    levels = ss.noise_levels.Ladder(sigmas=(sigma, 0.8))

    def logits(x, sigma):
        rows = [LABELLED.log_class(x, sigma, label(k, len(x))) for k in range(3)]
        return jnp.stack(rows, axis=1)

    def losses(shift):
        return ss.losses.classification_loss(
            jr.key(2),
            lambda x, sigma: logits(x, sigma) + shift * jnp.sin(3 * x[:, :1]) * slopes,
            x0,
            row,
            noise_levels=levels,
        )

    slopes = jnp.asarray([[1.0, -0.5, 0.2]])
    value, slope = jax.jvp(losses, (0.0,), (1.0,))
    assert abs(slope.mean()) < 5 * slope.std() / np.sqrt(num)
    assert losses(0.5).mean() > value.mean()
    log_class = guidance.from_logits(logits)(x0[:5], sigma, label(ROW, 5))
    exact = LABELLED.log_class(x0[:5], sigma, label(ROW, 5))
    np.testing.assert_allclose(log_class, exact, atol=1e-9)
    assert guidance.from_logits(logits)(x0[:5], sigma, label(-1, 5)).tolist() == [0] * 5


def test_dropped_conditions_are_a_share_and_each_examples_own():
    cond = {"label": jnp.arange(4_000) % 7, "vector": jnp.ones((4_000, 2))}
    dropped = guidance.drop_condition(jr.key(1), cond, 0.1)
    gone = dropped["label"] == -1
    # Five standard errors of a share of 0.1 in 4,000.
    assert abs(float(gone.mean()) - 0.1) < 5 * np.sqrt(0.09 / 4_000)
    np.testing.assert_array_equal(dropped["label"][~gone], cond["label"][~gone])
    np.testing.assert_array_equal(dropped["vector"][:, 0], jnp.where(gone, 0.0, 1.0))
    part = jax.tree.map(lambda c: c[:100], cond)
    part = guidance.drop_condition(jr.key(1), part, 0.1)
    np.testing.assert_array_equal(part["label"], dropped["label"][:100])


@pytest.mark.slow
def test_log_probs_under_each_class_are_those_of_the_oracle():
    """By an experiment whose network is the oracle itself."""

    def apply(params, x, noise, cond, *, dropout_key=None):
        sigma = jnp.exp(4 * noise)  # as `precondition.x0` gives it
        return LABELLED.denoise(x * jnp.hypot(sigma, 1.0)[:, None], sigma, cond)

    config = load_config(str(Path(__file__).parents[1] / "configs/points.py"), Path())
    experiment = build(config)
    model = experiment.model._replace(
        network=Network(lambda key: (), apply),
        precondition=ss.precondition.x0,
        conditions=(conditions.label(dataset=SimpleNamespace(num_classes=5)),),
        sde=ss.EDM(t_min=0.02, t_max=80.0),
    )
    x = jnp.asarray([[-1.1, 0.1], [0.8, -0.2]], jnp.float32)
    keys = jr.split(jr.key(0), 2)
    params = {"network": ()}
    score = partial(class_log_probs, model, experiment.likelihood, num_classes=5)
    found = jax.jit(lambda x: score(params, keys, keys, x))(x)
    exact = [LABELLED.given(c).log_prob(x.astype(jnp.float64), 0.02) for c in range(5)]
    # A solver at 1e-5 in float32, and the prior without the variance of the data.
    np.testing.assert_allclose(found, np.stack(exact, axis=1), rtol=5e-3, atol=2e-2)


# Against the algebra.


@pytest.mark.parametrize("one_call", [True, False])
@pytest.mark.parametrize("sigma", [0.5, jnp.linspace(0.1, 2.0, 5)], ids=["one", "each"])
def test_classifier_free_guidance_is_its_algebra(one_call, sigma):
    x, cond = points(), label(2, 5)
    there, none, other = (smooth(x, sigma, label(k, 5)) for k in (2, -1, 3))
    for weight in (3.0, 0.0, 1.0, -0.5):
        guided = guidance.classifier_free(smooth, weight, one_call=one_call)
        expected = none + weight * (there - none)
        np.testing.assert_allclose(guided(x, sigma, cond), expected, rtol=1e-12)
        # In the convention of Ho and Salimans: (1 + w') D_c - w' D_u.
        ho = weight - 1
        np.testing.assert_allclose(expected, (1 + ho) * there - ho * none, atol=1e-12)
    away = guidance.classifier_free(
        smooth, 3.0, negative=label(3, 1), one_call=one_call
    )
    expected = other + 3.0 * (there - other)
    np.testing.assert_allclose(away(x, sigma, cond), expected, rtol=1e-12)


def test_a_weight_may_depend_on_the_noise_level():
    x, cond, sigma = points(), label(2, 5), jnp.asarray([0.1, 0.2, 0.5, 1.0, 2.0])
    guided = guidance.classifier_free(smooth, lambda sigma: 1 + sigma)
    there, none = smooth(x, sigma, cond), smooth(x, sigma, label(-1, 5))
    expected = none + (1 + sigma)[:, None] * (there - none)
    np.testing.assert_allclose(guided(x, sigma, cond), expected, rtol=1e-12)
    # An interval has its upper end, not its lower one.
    weights = guidance.interval(3.0, 0.2, 1.0)(sigma)
    assert weights.tolist() == [1.0, 1.0, 3.0, 3.0, 1.0]


def test_weights_between_levels_are_linear_in_log_sigma():
    schedule = guidance.interpolated((0.1, 1.0, 100.0), (1.0, 3.0, 0.0))
    sigma = jnp.asarray([1e-3, 0.1, 10**-0.5, 1.0, 10.0, 1e3])
    # In float32.
    np.testing.assert_allclose(schedule(sigma), [1, 1, 2, 3, 1.5, 0], atol=1e-6)
    x, cond = points(6), label(2, 6)
    guided = guidance.GUIDANCES["scheduled"](
        smooth, sigmas=(0.1, 1.0, 100.0), weights=(1.0, 3.0, 0.0)
    )
    there, none = smooth(x, sigma, cond), smooth(x, sigma, label(-1, 6))
    weight = jnp.asarray([1, 1, 2, 3, 1.5, 0])[:, None]
    expected = none + weight * (there - none)
    np.testing.assert_allclose(guided(x, sigma, cond), expected, atol=1e-6)


def test_configs_go_away_from_a_label_or_a_caption_and_keep_the_rest():
    def heard(x, sigma, cond=None):
        """Linear in the sum of what it is told."""
        told = [
            jnp.asarray(c, x.dtype).reshape(len(x), -1).sum(1) for c in leaves(cond)
        ]
        return x + sum(told)[:, None]

    leaves, x = jax.tree.leaves, points()
    make = guidance.GUIDANCES["classifier_free"]
    rest = {"vector": jnp.ones((5, 2))}
    guided = make(heard, weight=3.0, negative_label=4)
    cond = label(1, 5)
    expected = x + 4 + 3.0 * (1 - 4)
    np.testing.assert_allclose(guided(x, 0.5, cond), expected, rtol=1e-12)
    # The vector is told on both sides: 2 stays 2.
    found = guided(x, 0.5, cond | rest)
    np.testing.assert_allclose(found, expected + 2, rtol=1e-12)
    words = jnp.asarray(captions.tokens("a three"))
    cond = {"words": jnp.broadcast_to(words, (5, 6))}
    guided = make(heard, weight=3.0, negative_caption="the digit seven")
    there, here = int(words.sum()), int(captions.tokens("the digit seven").sum())
    expected = x + here + 3.0 * (there - here)
    np.testing.assert_allclose(guided(x, 0.5, cond), expected, rtol=1e-12)


@pytest.mark.slow
def test_an_experiment_goes_away_from_a_worse_one():
    config = load_config(str(Path(__file__).parents[1] / "configs/points.py"), Path())
    config["network"] |= {"width": 8, "depth": 1}
    made = build(config)
    guide = partial(guidance.GUIDANCES["auto"], weight=3.0, sigma_low=0.2)
    drawing = made.drawing._replace(guidance=guide, roles=("worse",))
    offers = {"worse": partial(made.objective.offer, made.model)}

    def drawn(seed):
        random = np.random.RandomState(seed)
        shapes = jax.eval_shape(lambda: initial_params(made))
        return jax.tree.map(
            lambda p: jnp.asarray(random.normal(size=p.shape), p.dtype), shapes
        )

    params, worse = drawn(0), drawn(1)
    x = points().astype(jnp.float32)
    whole = with_companions(params, {"worse": worse})
    denoise = guided_denoiser(made.model, drawing, whole, offers)
    for sigma, weight in ((0.5, 3.0), (0.1, 1.0)):
        good, bad = (denoiser(made.model, p)(x, sigma) for p in (params, worse))
        np.testing.assert_allclose(
            denoise(x, sigma), bad + weight * (good - bad), rtol=1e-4, atol=1e-5
        )
        assert int(guidance.network_evals(denoise, sigma)) == (2 if weight > 1 else 1)


def test_autoguidance_goes_away_from_the_worse_model():
    x, sigma = points(), 0.5
    good, bad = LABELLED.denoise(x, sigma), smooth(x, sigma)
    guided = guidance.autoguidance(LABELLED.denoise, smooth, 2.0)
    np.testing.assert_allclose(guided(x, sigma), bad + 2 * (good - bad), rtol=1e-12)


def test_rescaling_gives_back_the_contrast_of_the_conditional():
    x, cond = 3 * points(), label(2, 5)
    there, none = smooth(x, 0.5, cond), smooth(x, 0.5, label(-1, 5))
    mixed = none + 4.0 * (there - none)
    matched = mixed * there.std(1, keepdims=True) / mixed.std(1, keepdims=True)
    for share in (1.0, 0.7):
        guided = guidance.classifier_free(smooth, 4.0, rescale=share)
        expected = share * matched + (1 - share) * mixed
        np.testing.assert_allclose(guided(x, 0.5, cond), expected, rtol=1e-12)


def test_negative_weights_and_nests_compose():
    """Two of one condition are that condition at twice the weight."""
    x, cond = points(), label(2, 5)
    twice = guidance.compose(smooth, [1.0, 2.0])(x, 0.5, (cond, cond))
    once = guidance.classifier_free(smooth, 3.0)
    np.testing.assert_allclose(twice, once(x, 0.5, cond), rtol=1e-12)
    # Weights of nested guidance multiply.
    nested = guidance.classifier_free(guidance.classifier_free(smooth, 3.0), 2.0)
    plain = guidance.classifier_free(smooth, 6.0)
    np.testing.assert_allclose(
        nested(x, 0.5, cond), plain(x, 0.5, cond), rtol=1e-10, atol=1e-12
    )


def test_a_config_composes_the_samples_own_condition_with_others():
    x, own = points(), {"label": jnp.asarray([0, 1, 2, 1, 0])}
    composed = guidance.GUIDANCES["composed"]
    named = composed(smooth, weight=2.0, labels=(1,), weights=(-0.5,))
    other = {"label": jnp.full(5, 1)}
    expected = guidance.compose(smooth, [2.0, -0.5])(x, 0.5, [own, other])
    np.testing.assert_array_equal(named(x, 0.5, own), expected)
    assert guidance.network_evals(named, 0.5) == 3
    with pytest.raises(ValueError, match="needs a condition"):
        named(x, 0.5)


def test_thresholds_are_those_computed_directly():
    x0 = 2 * np.asarray(jr.normal(jr.key(5), (4, 3, 5)))
    given = lambda x, sigma, cond=None: jnp.asarray(x0)  # noqa: E731
    out = guidance.static_threshold(given)(x0, 0.5)
    np.testing.assert_array_equal(out, np.clip(x0, -1, 1))
    out = guidance.dynamic_threshold(given, percentile=80.0)(x0, 0.5)
    for image, found in zip(x0, out, strict=True):
        s = max(1.0, np.percentile(np.abs(image), 80.0))
        np.testing.assert_allclose(found, np.clip(image, -s, s) / s, rtol=1e-12)
    # Predictions that are in range stay as they are.
    small = lambda x, sigma, cond=None: jnp.asarray(0.1 * x0)  # noqa: E731
    np.testing.assert_array_equal(guidance.dynamic_threshold(small)(x0, 0.5), 0.1 * x0)


# The same everywhere.


def nested(denoise):
    """A bit of everything."""
    guided = guidance.classifier_free(denoise, guidance.interval(3.0, 0.1, 5.0))
    better = guidance.autoguidance(guided, guidance.without_condition(denoise), 1.5)
    cool = guidance.temperature(better, 0.8, sigma_data=0.5)
    return guidance.dynamic_threshold(cool, percentile=90.0)


def test_nests_work_under_jit_vmap_grad_and_in_float32():
    x, sigma, cond = points(), jnp.linspace(0.05, 6.0, 5), label(2, 5)
    guided = nested(smooth)
    whole = jax.jit(guided)(x, sigma, cond)

    def one(x, sigma, cond):
        cond = jax.tree.map(lambda c: c[None], cond)
        return guided(x[None], sigma, cond)[0]

    each = jax.jit(jax.vmap(one))(x, sigma, cond)
    np.testing.assert_allclose(each, whole, rtol=1e-12)

    def slopes(x):
        total = lambda x: guided(x, sigma, cond).sum()  # noqa: E731
        return jax.grad(total)(x), jax.jvp(total, (x,), (x,))[1]

    slope, tangent = jax.jit(slopes)(x)
    assert float((slope * x).sum()) == pytest.approx(float(tangent), rel=1e-9)
    single = jax.eval_shape(guided, x.astype(jnp.float32), 0.5, cond)
    assert single.dtype == jnp.float32


def test_evaluations_are_counted_as_they_are_made():
    calls = []

    def counted(x, sigma, cond=None):
        jax.debug.callback(lambda: calls.append(len(x)))
        return smooth(x, sigma, cond)

    x, cond = points(), label(2, 5)
    guided = {
        "plain": counted,
        "weight 1": guidance.classifier_free(counted, 1.0),
        "cfg": guidance.classifier_free(counted, 2.0),
        "cfg apart": guidance.classifier_free(counted, 2.0, one_call=False),
        "nested": nested(counted),
    }
    expected = {"plain": 1, "weight 1": 1, "cfg": 2, "cfg apart": 2}
    for name, denoise in guided.items():
        for sigma in (0.5, 50.0):
            calls.clear()
            jax.block_until_ready(denoise(x, sigma, cond))
            jax.effects_barrier()
            made = sum(calls) / len(x)
            assert float(guidance.network_evals(denoise, sigma)) == made
            if name == "nested":  # guided, and guided by itself without condition
                assert made == (3 if sigma == 0.5 else 2)
            else:
                assert made == expected[name]
    both = guidance.compose(counted, [1.0, 1.0])
    assert guidance.network_evals(both, jnp.ones(3)).tolist() == [3, 3, 3]


def test_two_conditions_in_one_call_move_nothing_between_devices():
    mesh = jax.make_mesh((4,), ("data",), (jax.sharding.AxisType.Auto,))
    cut = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    guided = guidance.classifier_free(smooth, 2.0)
    x, cond = points(8), label(2, 8)
    run = jax.jit(lambda x, cond: guided(x, 0.5, cond))
    args = jax.device_put((x, cond), cut)
    program = run.lower(*args).compile().as_text()
    assert not any(w in program for w in ("all-gather", "all-to-all", "permute"))
    np.testing.assert_allclose(run(*args), run(x, cond), atol=1e-12)


def test_a_label_of_a_network_may_be_missing(key):
    module = MLP(width=8, depth=1, num_classes=3)
    network = from_linen(module, (2,), {"label": np.zeros(1, np.int32)})
    random = np.random.RandomState(2)
    params = jax.tree.map(
        lambda p: np.float32(random.normal(size=p.shape)), network.init(key)
    )
    x, noise = jnp.ones((4, 2), jnp.float32), jnp.zeros(4, jnp.float32)
    labels = jnp.asarray([-1, 0, 2, -1])
    out = jax.jit(network.apply)(params, x, noise, {"label": labels})
    np.testing.assert_allclose(out[0], out[3], rtol=1e-6)
    assert not np.allclose(out[0], out[1])
    assert not np.allclose(out[0], out[2])
    with pytest.raises(ValueError, match=r"label 3 is no class; choose from 0 to 2"):
        network.apply(params, x, noise, {"label": jnp.full(4, 3)})
    plain = from_linen(MLP(width=8, depth=1), (2,))
    with pytest.raises(ValueError, match=r"without num_classes.*cond\['label'\]"):
        plain.apply(plain.init(key), x, noise, {"label": labels})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda g: g.classifier_free(smooth, float("nan")), "weight is nan"),
        (lambda g: g.compose(smooth, [1.0, float("inf")]), "weight is inf"),
        (lambda g: g.classifier(smooth, None, float("nan")), "weight is nan"),
        (lambda g: g.classifier_free(smooth, 2.0, rescale=2.0), "rescale is 2.0"),
        (lambda g: g.interval(2.0, 3.0, 1.0), "0 <= low < high, got 3.0 and 1.0"),
        (lambda g: g.interval(2.0, float("nan")), "0 <= low < high"),
        (lambda g: g.interpolated((1.0, 2.0), (3.0,)), "2 sigmas need as many weights"),
        (lambda g: g.interpolated((0.0, 2.0), (3.0, 1.0)), "must be > 0 and ascend"),
        (lambda g: g.interpolated((1.0,), (float("nan"),)), "weight is nan"),
        (lambda g: g.static_threshold(smooth, low=1.0), "needs low < high"),
        (lambda g: g.dynamic_threshold(smooth, percentile=0.0), "percentile is 0.0"),
        (lambda g: g.dynamic_threshold(smooth, limit=-1.0), "limit is -1.0"),
        (lambda g: g.temperature(smooth, 0.0, sigma_data=1.0), "tau is 0.0"),
        (lambda g: g.static_threshold(smooth, high=float("inf")), "high is inf"),
        (
            lambda g: g.GUIDANCES["auto"](smooth, worse=smooth, weight=float("nan")),
            "nan",
        ),
        (
            lambda g: g.GUIDANCES["classifier_free"](
                smooth, sigma_low=2.0, sigma_high=1.0
            ),
            "sigma_low 2.0 must be below sigma_high 1.0",
        ),
        (
            lambda g: g.GUIDANCES["classifier"](
                smooth, classifier=None, sigma_low=1.0, sigma_high=1.0
            ),
            "sigma_low 1.0 must be below sigma_high 1.0",
        ),
        (
            lambda g: g.GUIDANCES["classifier_free"](smooth, negative_label=-2),
            "negative_label is -2; it must be >= -1",
        ),
        (lambda g: g.GUIDANCES["scheduled"](smooth, sigmas=(1.0, -1.0)), "sigmas is"),
        (lambda g: g.GUIDANCES["scheduled"](smooth), "0 sigmas need as many weights"),
        (
            lambda g: g.GUIDANCES["composed"](smooth, labels=(1,), weights=(1.0, 2.0)),
            "it needs one number for each of labels and captions, 1",
        ),
        (lambda g: g.check_labels(np.asarray([0, 7]), 5), "label 7 is no class"),
        (lambda g: g.check_labels(np.asarray([-2]), 5), "label -2 is no class"),
        (lambda g: g.check_labels(np.asarray([0.5]), 5), "must be integers"),
        (lambda g: g.check_labels(np.asarray([0]), 0), "without classes"),
        (
            lambda g: g.classifier_free(smooth, 2.0)(points(), 0.5),
            "needs a condition, but cond is None",
        ),
        (
            lambda g: g.classifier_free(smooth, 2.0, negative={"vector": points()})(
                points(), 0.5, label(1, 5)
            ),
            "must have the same parts",
        ),
        (
            lambda g: g.compose(smooth, [1.0])(points(), 0.5, (label(1, 5),) * 2),
            "1 weights need as many conditions, got 2",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(guidance)


def test_guidance_says_what_it_needs():
    needs = {
        name: (guidance.condition_needed(make), guidance.models_needed(make))
        for name, make in guidance.GUIDANCES.items()
    }
    assert needs == {
        "none": (None, ()),
        "classifier_free": ((), ()),
        "scheduled": ((), ()),
        "composed": ((), ()),
        "classifier": (("label",), ("classifier",)),
        "auto": (None, ("worse",)),
        "projected": ((), ()),
        "plus_plus": ((), ("grid",)),
        "zero_star": ((), ()),
        "tangential": ((), ()),
        "frequency": ((), ()),
        "perturbed": (None, ("perturbed",)),
    }
    for make in guidance.THRESHOLDS.values():
        assert guidance.condition_needed(make) is None


def test_what_guidance_needs_depends_on_the_options_that_are_bound():
    make = guidance.GUIDANCES["composed"]
    assert guidance.condition_needed(partial(make, labels=())) == ()
    both = partial(partial(make, labels=(1,)), captions=("a three",))
    assert guidance.condition_needed(both) == ("label", "words")
    away = partial(guidance.GUIDANCES["classifier_free"], negative_label=3)
    assert guidance.condition_needed(away) == ("label",)
    auto = partial(guidance.GUIDANCES["auto"], worse=smooth)
    assert guidance.models_needed(auto) == ()


def test_options_are_checked_when_they_are_bound_also_a_strangers():
    def stranger(denoise, *, worse, strength: Annotated[float, Positive] = 1.0):
        return guidance.autoguidance(denoise, worse, strength)

    assert guidance.models_needed(stranger) == ("worse",)
    bound = guidance.bind(checks_rules(stranger), strength=2.0)
    x = points()
    found = bound(smooth, worse=lambda x, sigma, cond=None: x)(x, 0.5)
    np.testing.assert_allclose(found, x + 2 * (smooth(x, 0.5) - x), rtol=1e-12)
    with pytest.raises(ValueError, match="stranger: strength is 0.0; it must be > 0"):
        guidance.bind(checks_rules(stranger), strength=0.0)
    with pytest.raises(ValueError, match="low 1.0 must be below sigma_high 0.5"):
        guidance.bind(guidance.GUIDANCES["auto"], sigma_low=1.0, sigma_high=0.5)
    with pytest.raises(ValueError, match="needs low < high"):
        guidance.bind(guidance.THRESHOLDS["static"], low=2.0)


def test_gaussian_data_guided_by_their_own_condition_stay_gaussian():
    """Composing with itself at weights that sum to one changes nothing."""
    x = jr.normal(jr.key(2), (5, 4))
    same = guidance.autoguidance(GAUSSIAN.denoise, GAUSSIAN.denoise, 3.0)
    np.testing.assert_allclose(same(x, 0.5), GAUSSIAN.denoise(x, 0.5), rtol=1e-12)
