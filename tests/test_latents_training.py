"""Autoencoders are trained like all else: layouts, resuming, two optimisers."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import Mesh
from safetensors.numpy import save_file

from configs import digits
from score_sde.data import batch_at
from score_sde.latents import representation
from score_sde.networks.features import dinov2
from score_sde.run.autoencoding import CRITIC
from score_sde.run.build import ConfigError, build
from score_sde.run.model import project_params
from score_sde.run.train import initial_params, make_loss
from score_sde.runtime.mesh import Devices, make_mesh, put_batch, put_state
from score_sde.training.compile import prepare_training
from score_sde.training.optimizer import make_group_optimizer
from score_sde.training.step import StepContext, init_state
from score_sde.types import UserError
from score_sde.weights import published_arrays
from score_sde.weights.published.features import own_tables

pytestmark = pytest.mark.usefixtures("standard_promotion")

TINY = {"channels": 8, "multipliers": (1, 2), "groups": 4, "blocks_per_level": 1}
VQ = {
    "name": "vq_autoencoder",
    "latent_channels": 2,
    "codebook_size": 16,
    "moving_average": True,
    "dead_share": 0.5,
    **TINY,
}
OBJECTIVE = {
    "name": "autoencoder",
    "discriminator": "hinge",
    "discriminator_layers": 1,
    "discriminator_channels": 8,
    "discriminator_norm": "batch",
    "adversarial_start": 0,
    "adversarial_ramp": 0,
}
LAYOUTS = {
    "pmap": Devices(compiled_by="pmap"),
    "four devices": Devices(),
    "fsdp": Devices(fsdp=4),
    "several steps a call": Devices(steps_per_call=3),
}
NUM_STEPS = 3
ONE = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))


def config_of(network=None, objective=None, **sections):
    config = digits.get_config("autoencoder").to_dict()
    config["network"] = network or VQ
    config["objective"] = objective or OBJECTIVE
    config["data"] |= {"batch_size": 8}
    config["optimizer"] = {"learning_rate": 1e-3}
    return config | sections


def prepared(experiment, devices, mesh):
    """(compiled step, state on the mesh)."""
    return prepare_training(
        make_loss(experiment),
        initial_params(experiment),
        experiment.optimizer,
        experiment.train,
        devices,
        mesh,
        seed=0,
        project=functools.partial(project_params, experiment.model),
        groups=experiment.objective.optimizers(experiment.optimizer),
    )


def trained(experiment, devices, step, state, mesh, *, num_steps=NUM_STEPS):
    """(losses of the steps, state) after some steps."""
    losses, stream = [], itertools.count(int(state.step))
    for _ in range(num_steps // devices.steps_per_call):
        rows = [
            batch_at(experiment.dataset, seed=0, step=next(stream), batch_size=8)
            for _ in range(devices.steps_per_call)
        ]
        several = devices.steps_per_call > 1
        batch = jax.tree.map(lambda *a: np.stack(a), *rows) if several else rows[0]
        state, metrics = step(state, put_batch(batch, mesh, axis=int(several)))
        losses += np.atleast_1d(metrics["loss"]).tolist()
    return losses, state


@functools.cache
def reference():
    """(experiment, its step on one device, what that makes of the first state)."""
    experiment = build(config_of())
    step, state = prepared(experiment, Devices(), ONE)
    return experiment, step, trained(experiment, Devices(), step, state, ONE)


def first_state(experiment):
    """The state before the first step, on one device."""
    params = initial_params(experiment)
    optimizer = make_group_optimizer(
        experiment.optimizer,
        params,
        num_steps=experiment.train.num_steps,
        groups=experiment.objective.optimizers(experiment.optimizer),
    )
    return put_state(init_state(params, optimizer), ONE)


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_like_one_device(name):
    """With batch norm, the adaptive weight, a codebook of averages and revived codes.

    Adam's first steps are signs of gradients: rounding moves few parameters by up to
    twice the learning rate, and the losses by a share of that.
    """
    experiment, _, (losses, state) = reference()
    devices = LAYOUTS[name]
    mesh = make_mesh(devices)
    found, other = trained(
        experiment, devices, *prepared(experiment, devices, mesh), mesh
    )
    np.testing.assert_allclose(found, losses, rtol=2e-3)
    for path in ("usage", "sums", "candidates"):
        here, there = (s.params["network"]["statistics"][path] for s in (state, other))
        np.testing.assert_allclose(there, here, atol=2e-2 * np.abs(here).max())


@pytest.mark.slow
def test_statistics_and_both_optimisers_move_in_one_step():
    experiment, _, (_, state) = reference()
    first = initial_params(experiment)
    before = first["network"]["statistics"]["usage"]
    after = state.params["network"]["statistics"]["usage"]
    # Sixteen positions of eight images, moved by a hundredth in each step.
    assert before.sum() == 16
    expected = 16 * 0.99**3 + 16 * 8 * (1 - 0.99**3)
    # Rows that were revived count as the average one.
    assert after.sum() == pytest.approx(expected, rel=0.3)
    moved = jax.tree.map(lambda a, b: (a != b).any(), first, state.params)
    assert all(jax.tree.leaves(moved[CRITIC]["main_0"]))
    assert all(jax.tree.leaves(moved["network"]["decoder"]))
    running = state.params[CRITIC]["main_3"]["statistics"]
    assert (running["mean"] != 0).any()
    # Each by its own rate: Adam's first updates have the size of the rate.
    for group, rate in (("network", 1e-3), (CRITIC, 2e-4)):
        leaf = {"network": "encoder", CRITIC: "main_0"}[group]
        kernel = state.params[group][leaf]
        old = first[group][leaf]
        if group == "network":
            kernel, old = kernel["conv_in"], old["conv_in"]
        change = np.abs(kernel["kernel"] - old["kernel"]).max()
        assert 0.9 * rate < change < 3.1 * rate


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    from score_sde.training.checkpoints import Checkpoints

    experiment, step, (losses, state) = reference()
    start = first_state(experiment)
    _, half = trained(experiment, Devices(), step, start, ONE, num_steps=2)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(half)
        checkpoints.wait()
        restored = checkpoints.restore(half)
    rest, again = trained(experiment, Devices(), step, restored, ONE, num_steps=1)
    assert rest == losses[2:]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), state, again)
    assert all(jax.tree.leaves(same))


def loss_and_gradient(objective, network=None, step=0):
    experiment = build(config_of(network, OBJECTIVE | objective))
    params = initial_params(experiment)
    rows = batch_at(experiment.dataset, seed=0, step=0, batch_size=8)
    context = StepContext(jnp.asarray(step, jnp.int32), params)
    loss = make_loss(experiment)
    return jax.jit(
        jax.value_and_grad(lambda p: loss(jr.key(0), p, rows, context).mean())
    )(params)


KL = {"name": "kl_autoencoder", "latent_channels": 2, **TINY}


@pytest.mark.slow
def test_the_decoder_hears_of_the_discriminator_only_once_it_may():
    without, alone = loss_and_gradient({"discriminator": "none"}, KL)
    late = {"adversarial_start": 10, "discriminator_norm": "group"}
    _, early = loss_and_gradient(late, KL, step=9)
    # The discriminator is trained; the autoencoder's gradient is that without one.
    assert np.abs(early[CRITIC]["main_0"]["kernel"]).max() > 0
    for a, b in zip(
        *(jax.tree.leaves(g["network"]) for g in (early, alone)), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    _, later = loss_and_gradient(late, KL, step=10)
    decoder = later["network"]["decoder"]["conv_out"]["kernel"]
    there = alone["network"]["decoder"]["conv_out"]["kernel"]
    assert np.abs(decoder - there).max() > 1e-3
    # And the discriminator learns from its own loss alone.
    np.testing.assert_allclose(
        later[CRITIC]["main_0"]["kernel"], early[CRITIC]["main_0"]["kernel"], atol=1e-6
    )
    assert without > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "objective",
    [
        {"latent_noise": 0.5},
        {"equivariance_weight": 0.5, "equivariance_shrink": 2},
        {"learn_scale": True, "reconstruction": "l2"},
        {"perceptual": "classifier"},
        {"discriminator": "vanilla"},
    ],
)
def test_every_term_changes_the_loss_and_has_finite_gradients(objective):
    plain = {"discriminator": "none"}
    value, _ = loss_and_gradient(plain, KL)
    found, gradient = loss_and_gradient(plain | objective, KL)
    assert np.isfinite(found)
    assert found != value or "learn_scale" in objective
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"network": {"name": "mlp"}}, "needs a network that is an autoencoder"),
        (
            {"objective": OBJECTIVE | {"discriminator_layers": 3}},
            "discriminator_layers is 3; its patches need images of 24 pixels",
        ),
        (
            {"objective": OBJECTIVE | {"perceptual": "lpips_vgg"}},
            "objective.perceptual_weights must name the file",
        ),
        (
            {
                "objective": OBJECTIVE
                | {"equivariance_weight": 1.0, "equivariance_shrink": 3}
            },
            "equivariance_shrink is 3; it must divide the sides of the latents, 4",
        ),
        (
            {"devices": {"accumulate": 2}},
            "devices.accumulate is 2; the objective needs the whole batch at once",
        ),
        (
            {
                "objective": {"name": "denoising"},
                "weight": {"name": "edm"},
                "noise_levels": {"name": "log_normal"},
            },
            "network.name is 'vq_autoencoder', an autoencoder",
        ),
        ({"network": VQ | {"groups": 3}}, "network.groups is 3; it must divide"),
    ],
)
def test_what_does_not_suit_is_said_before_anything_is_computed(changes, text):
    with pytest.raises(ConfigError, match="problem") as caught:
        build(config_of(**changes))
    assert text in str(caught.value)


def test_held_out_images_are_scored_without_the_discriminator():
    objective = build(config_of()).objective
    assert objective.needs_whole_batch
    assert not objective.scored().needs_whole_batch
    assert dataclasses.replace(objective.scored(), discriminator="hinge") == objective


TINY_ENCODER = functools.partial(dinov2.vision_transformer, 48, 1, 3)
REPRESENTATION = {
    "name": "representation_autoencoder",
    "encoder": "tiny",
    "patch": 4,
    "width": 16,
    "depth": 1,
    "num_heads": 2,
}


@pytest.fixture
def encoder_file(tmp_path, monkeypatch):
    """A file of the published names, and the parameters in it."""
    monkeypatch.setitem(representation.ENCODERS, "tiny", TINY_ENCODER)
    image = jnp.zeros((1, 28, 28, 3), jnp.float32)
    params = TINY_ENCODER().init(jr.key(5), image)["params"]
    path = tmp_path / "encoder.safetensors"
    (table,) = own_tables(params).values()
    save_file(published_arrays(params, table), path)
    return path, params


@pytest.mark.slow
def test_a_frozen_encoder_is_read_once_and_never_trained(encoder_file):
    path, published = encoder_file
    objective = OBJECTIVE | {"encoder_weights": str(path), "latent_noise": 0.5}
    experiment = build(config_of(REPRESENTATION, objective))
    first = initial_params(experiment)["network"]
    for found, expected in zip(
        jax.tree.leaves(first["frozen"]), jax.tree.leaves(published), strict=True
    ):
        np.testing.assert_array_equal(found, expected)
    step, state = prepared(experiment, Devices(), ONE)
    path.unlink()  # what was read is in the state
    losses, state = trained(experiment, Devices(), step, state, ONE)
    assert np.isfinite(losses).all()
    for params in (state.params, state.ema_params):
        for found, expected in zip(
            jax.tree.leaves(params["network"]["frozen"]),
            jax.tree.leaves(published),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)
    moved = state.params["network"]["decoder"]["conv_out"]["kernel"]
    assert abs(moved - first["decoder"]["conv_out"]["kernel"]).max() > 0
    # Shapes are known without the file, as when a trained run is opened.
    shapes = jax.eval_shape(lambda: initial_params(experiment))["network"]
    assert jax.tree.structure(shapes) == jax.tree.structure(first)


def test_a_frozen_encoder_needs_its_file(encoder_file):
    path, _ = encoder_file
    with pytest.raises(ConfigError, match="encoder_weights must name the file"):
        build(config_of(REPRESENTATION, {"name": "autoencoder"}))
    given = {"name": "autoencoder", "encoder_weights": str(path)}
    with pytest.raises(ConfigError, match="the encoder of this network is trained"):
        build(config_of(VQ, given))
    path.unlink()
    with pytest.raises(UserError, match="objective.encoder_weights: there is no file"):
        initial_params(build(config_of(REPRESENTATION, given)))
