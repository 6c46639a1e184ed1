"""What networks are told: attributes, pictures, and by a control branch."""

import copy
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

from experiments import launch
from score_sde import conditions, guidance
from score_sde.conditions import attributes
from score_sde.data import DATASETS, centres
from score_sde.networks import (
    ControlledUNet,
    Network,
    UNet,
    from_linen,
    with_companions,
)
from score_sde.run import build, train
from score_sde.training.optimizer import Optimizer, make_optimizer
from score_sde.training.step import (
    StepContext,
    init_state,
    make_train_step,
    whole_batch_gradient,
)

NAMES = ("ink", "slant", "width")
DIGITS = DATASETS["digits"]()
HELD_OUT = DIGITS.test[np.arange(len(DIGITS.test))]


def config_of(name, **fields):
    """A variant of the digits config with section__field=value."""
    config = copy.deepcopy(launch.load_config(f"digits:{name}", Path()))
    for path, value in fields.items():
        *parents, last = path.split("__")
        holder = config
        for part in parents:
            holder = holder.setdefault(part, {})
        holder[last] = value
    return config


# Attributes.


def blob(covariance, size=64):
    """Ink like a Gaussian over (row, column), in shares of the side."""
    at = (np.arange(size) - (size - 1) / 2) / size
    r, c = np.meshgrid(at, at, indexing="ij")
    points = np.stack([r, c], axis=-1)
    power = np.einsum("hwi,ij,hwj->hw", points, np.linalg.inv(covariance), points)
    return 2 * np.exp(-0.5 * power)[None, ..., None] - 1


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray])
def test_attributes_of_a_gaussian_blob_are_its_moments(array):
    covariance = np.asarray([[0.01, -0.003], [-0.003, 0.004]])
    ink, slant, width = attributes.measured(NAMES, array(blob(covariance)))[0]
    # Sums over pixels far finer than the blob; the ink beyond the edge is 1e-5 of it.
    assert slant == pytest.approx(0.3, rel=1e-3)
    assert width == pytest.approx(np.sqrt(0.004), rel=1e-3)
    total = 2 * np.pi * np.sqrt(np.linalg.det(covariance))
    assert ink == pytest.approx(total, rel=1e-3)


def test_attributes_of_mirrored_digits_lean_the_other_way():
    x = centres(DIGITS.test.values, num_levels=17)
    here, there = (attributes.measured(NAMES, a) for a in (x, x[:, :, ::-1]))
    np.testing.assert_allclose(there, here * [[1, -1, 1]], atol=1e-6)
    assert np.isfinite(attributes.measured(NAMES, np.full((1, 8, 8, 1), -1.0))).all()


# Conditions.


def vector(samples=()):
    return conditions.vector(dataset=DIGITS, attributes=NAMES, samples=samples)


def picture(picture="silhouette", **options):
    return conditions.image(dataset=DIGITS, picture=picture, **options)


def test_a_vector_is_in_standard_deviations_and_says_that_it_is_told():
    told = vector().of_examples({"values": DIGITS.train.values})["vector"]
    np.testing.assert_allclose(told[:, :3].mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(told[:, :3].std(0), 1, rtol=1e-4)
    assert (told[:, 3] == 1).all()
    # What a config states in their own units is what such an example is told.
    x = centres(DIGITS.test.values[:1], num_levels=17)
    own = tuple(float(a) for a in attributes.measured(NAMES, x)[0])
    assert len(vector((own, own)).samples["vector"]) == 2
    stated = vector(own).samples
    of_example = vector().of_examples({"values": DIGITS.test.values[:1]})
    np.testing.assert_allclose(stated["vector"], of_example["vector"], atol=1e-5)


def test_pictures_are_block_means_and_sides_of_the_middle():
    values = DIGITS.test.values[:3]
    image = picture("small", factor=4).of_examples({"values": values})["image"]
    mean = values.astype(float).reshape(3, 2, 4, 2, 4, 1).mean((2, 4))
    expected = np.kron((2 * mean[..., 0] + 1) / 17 - 1, np.ones((1, 4, 4)))
    np.testing.assert_allclose(image[..., 0], expected, atol=1e-6)
    image = picture().of_examples({"values": values})["image"]
    # Level 8 of 0 to 16 is the middle itself.
    np.testing.assert_array_equal(image[..., :1], np.where(values > 8, 1, -1))
    assert (image[..., 1] == 1).all()


def test_told_nothing_is_told_apart_from_every_value():
    made = (vector(), picture())
    batch = {"values": DIGITS.test.values[:200]}
    cond = conditions.of_examples(made, batch)
    dropped = guidance.drop_condition(jr.key(0), cond, 0.5)
    gone = np.asarray(dropped["vector"][:, 3] == 0)
    assert 0 < gone.sum() < 200
    for name, part in dropped.items():
        assert (np.asarray(part)[gone] == 0).all()
        np.testing.assert_array_equal(part[~gone], cond[name][~gone])


def test_samples_are_told_in_turn_whatever_their_batch():
    label = conditions.label(dataset=DIGITS)
    index = np.arange(8, 23)
    found = conditions.of_samples((label,), DIGITS, index)
    np.testing.assert_array_equal(found["label"], index % 10)
    stated = conditions.label(dataset=DIGITS, samples=(3, -1))
    found = conditions.of_samples((stated,), DIGITS, index)
    np.testing.assert_array_equal(found["label"], np.where(index % 2, -1, 3))
    # Held-out digits one after the other, and the class that belongs to the picture.
    index = np.arange(355, 365)
    found = conditions.of_samples((label, picture()), DIGITS, index)
    np.testing.assert_array_equal(found["label"], DIGITS.test.labels[index % 360])
    part = conditions.of_samples((label, picture()), DIGITS, index[3:5])
    np.testing.assert_array_equal(part["image"], found["image"][3:5])
    expected = picture().of_examples({"values": DIGITS.test.values[index % 360]})
    np.testing.assert_array_equal(found["image"], expected["image"])
    assert conditions.of_samples((), DIGITS, index) is None


def test_a_picture_file_is_what_all_samples_are_told(tmp_path):
    levels = DIGITS.test.values[5, ..., 0]
    file = tmp_path / "digit.png"
    Image.fromarray(np.round(levels * (255 / 16)).astype(np.uint8)).save(file)
    config = config_of("image", conditions__image__samples=(str(file),))
    told = build.build(config).model.conditions
    found = conditions.of_samples(told, DIGITS, np.arange(3))["image"]
    expected = conditions.of_examples(told, {"values": DIGITS.test.values[5:6]})
    # Half a step of 255 in each pixel.
    np.testing.assert_allclose(found, np.repeat(expected["image"], 3, 0), atol=0.005)


def test_training_tells_what_the_examples_are_and_drops_a_share():
    heard = []

    def apply(params, x, noise, cond, *, dropout_key=None):
        heard.append(cond)
        return jnp.zeros_like(x)

    network = Network(lambda key: (), apply)
    for name in ("vector", "image", "words", "label"):
        made = build.build(config_of(name, train__condition_dropout=0.5))
        made = made._replace(model=made.model._replace(network=network))
        batch = {"values": DIGITS.train.values[:40], "label": DIGITS.train.labels[:40]}
        heard.clear()
        context = StepContext(jnp.zeros((), jnp.int32), ())
        train.make_loss(made)(jr.key(1), {"network": ()}, batch, context)
        (cond,) = heard
        (part,) = cond.values()
        null = guidance.null_condition(cond)
        told = np.any(np.reshape(part != next(iter(null.values())), (40, -1)), axis=1)
        assert 8 < told.sum() < 32
        if name != "words":  # which are drawn
            (known,) = conditions.of_examples(made.model.conditions, batch).values()
            np.testing.assert_allclose(part[told], known[told], atol=1e-5)


def test_augmentation_tells_what_it_did_and_is_never_dropped():
    told = (conditions.CONDITIONS["augment"](dataset=DIGITS, probability=1.0),)
    x0 = jnp.asarray(centres(DIGITS.train.values[:20], num_levels=17))
    changed, how = conditions.augmented(told, jr.key(0), x0)
    assert changed.shape == x0.shape
    # The mirror alone is drawn half of the time; all others always.
    assert (np.abs(how["augment"]).sum(1) > 0).all()
    assert conditions.in_training(told, jr.key(0), {"values": x0}) is None
    scored = conditions.of_examples(told, {"values": DIGITS.test.values[:3]})
    assert not scored["augment"].any()


# The control branch.

SMALL = {"channels": 4, "multipliers": (1,), "blocks_per_level": 1, "num_classes": 3}
X = jr.normal(jr.key(1), (4, 4, 4, 1), jnp.float32)
NOISE = jnp.linspace(-1, 1, 4, dtype=jnp.float32)
TOLD = {"label": jnp.asarray([0, 2, -1, 1])}
SEEN = TOLD | {"image": jr.normal(jr.key(2), (4, 4, 4, 2), jnp.float32)}


def controlled():
    """(the network, its first own parameters, the trunk's, the trunk's output)."""
    trunk = from_linen(UNet(**SMALL), (4, 4, 1), {"label": np.zeros(1, np.int32)})
    random = np.random.RandomState(2)
    frozen = jax.tree.map(
        lambda p: jnp.asarray(0.2 * random.normal(size=p.shape), p.dtype),
        jax.eval_shape(trunk.init, jr.key(0)),
    )
    cond = {"label": np.zeros(1, np.int32), "image": np.zeros((1, 4, 4, 2))}
    module = ControlledUNet(trunk=UNet(**SMALL))
    network = with_companions(from_linen(module, (4, 4, 1), cond), module, ("trunk",))
    companions = {"trunk": {"network": frozen}}
    params = network.start(network.init(jr.key(0)), companions)
    return network, params, frozen, jax.jit(trunk.apply)(frozen, X, NOISE, TOLD)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # optax mixes its counters with floats
def test_a_control_branch_starts_as_the_frozen_network_and_leaves_it_alone():
    network, params, frozen, expected = controlled()
    branch = params["branch"]
    assert params.keys() == {"branch"}  # the trunk's are not its own
    # A copy of the way down, and zeros where it comes in and goes out.
    shared = branch.keys() & frozen.keys()
    assert {"Conv_0", "NoiseAndCondition_0", "ResidualBlock_1"} <= shared
    for name in shared:
        jax.tree.map(np.testing.assert_array_equal, branch[name], frozen[name])
    apply = jax.jit(lambda own, *rest: network.apply({**own, "trunk": frozen}, *rest))
    # To rounding: XLA fuses the sums with zeros into what follows.
    found = apply(params, X, NOISE, SEEN)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def loss(key, params, batch, context):
        whole = {**params, "trunk": context.companions["trunk"]}
        out = network.apply(whole, batch["values"], NOISE, SEEN, dropout_key=key)
        return ((out - SEEN["image"][..., :1]) ** 2).mean((1, 2, 3))

    optimizer = make_optimizer(
        Optimizer(learning_rate=0.1, weight_decay=0.1), num_steps=9
    )
    step = jax.jit(
        make_train_step(
            whole_batch_gradient(loss),
            optimizer,
            seed=0,
            ema_halflife_steps=1.0,
            ema_rampup_ratio=1.0,
        )
    )
    state = init_state(params, optimizer)
    for _ in range(3):
        state, _ = step(state, {"values": X}, {"trunk": frozen})
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params, params)
    assert all(jax.tree.leaves(moved["branch"]["out_middle"]["kernel"]))
    # Once its zeros are gone, the picture is seen.
    told = apply(state.params, X, NOISE, SEEN)
    other = apply(state.params, X, NOISE, TOLD | {"image": 0 * SEEN["image"]})
    assert np.abs(told - other).max() > 1e-3
    with pytest.raises(ValueError, match=r"it needs cond\['image'\]"):
        network.apply({**params, "trunk": frozen}, X, NOISE, TOLD)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "vector",
            {"conditions__vector__attributes": ("ink", "hue")},
            "conditions.vector: attributes has 'hue'; choose from",
        ),
        ("vector", {"network__vector_dims": 3}, "leave it out: conditions.vector det"),
        (
            "vector",
            {"conditions__vector__samples": (0.3,)},
            r"conditions.vector: samples: \(0.3,\) must be one finite number for each",
        ),
        (
            "vector",
            {"conditions__vector__samples": (0.3, float("nan"), 0.1)},
            "conditions.vector.samples is .*; it must be a number",
        ),
        (
            "vector",
            {"guidance__name": "classifier"},
            r"needs a network that is told 'label', and it is told \['vector'\]",
        ),
        (
            "image",
            {"conditions__image__picture": "big"},
            "picture is 'big'; choose from",
        ),
        ("image", {"conditions__image__factor": 3}, "factor is 3; it must divide"),
        ("image", {"conditions__image__factor": 0}, "factor is 0; it must be >= 1"),
        (
            "image",
            {"conditions__image__samples": ("none.png",)},
            "samples: .*No such file",
        ),
        (
            "image",
            {"conditions__augment": {"probability": 0.1}},
            "would not be true of one that conditions.augment transforms",
        ),
        ("control", {}, "it needs the network of another run: --config.companions.tr"),
        (
            "words",
            {"guidance__name": "classifier_free", "guidance__negative_label": 3},
            r"needs a network that is told 'label', and it is told \['words'\]",
        ),
        (
            "words",
            {"guidance__name": "classifier_free", "guidance__negative_caption": "cat"},
            "guidance.negative_caption: unknown word 'cat'",
        ),
        (
            "label",
            {"guidance__name": "classifier_free", "guidance__negative_caption": "one"},
            "needs a network that is told 'words'",
        ),
        ("words", {"guidance__name": "classifier"}, "is told 'label', and it is told"),
        (
            "label",
            {"guidance__name": "auto"},
            "it needs another run: --config.companions.worse.run=FOLDER",
        ),
        (
            "label",
            {
                "guidance__name": "scheduled",
                "guidance__sigmas": (1.0, 0.1),
                "guidance__weights": (3.0, 1.0),
            },
            r"guidance: sigmas must be > 0 and ascend",
        ),
        (
            "label",
            {"guidance__name": "composed", "guidance__labels": (3, 10)}
            | {"guidance__weights": (1.0, 1.0)},
            "guidance.labels: 10 is no class; choose from 0 to 9",
        ),
        (
            "label",
            {"guidance__name": "composed", "guidance__labels": (3, 4)},
            r"guidance: weights is \(\); it needs one number for each .*captions, 2",
        ),
        (
            "words",
            {"guidance__name": "composed", "guidance__labels": (3,)}
            | {"guidance__weights": (1.0,)},
            "needs a network that is told 'label'",
        ),
        (
            "words",
            {"guidance__name": "composed", "guidance__captions": ("a horse",)}
            | {"guidance__weights": (1.0,)},
            "unknown word 'horse'",
        ),
        (
            "label",
            {"guidance__name": "composed", "guidance__captions": ("",)}
            | {"guidance__weights": (1.0,)},
            "needs a network that is told 'words'",
        ),
        (
            "label",
            {"threshold__name": "temperature", "threshold__tau": 0.0},
            "threshold.tau is 0.0; it must be > 0",
        ),
        ("label", {"data__name": "patches"}, "patches has no classes to tell"),
        ("words", {"data__name": "patches"}, "patches has no captions"),
    ],
)
def test_mistakes_are_named(name, fields, message):
    config = config_of(name, **fields)
    with pytest.raises(build.ConfigError, match=message):
        build.build(config)
