"""Whatever is registered as a network becomes one, or is refused with the reason."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from cases import unless
from flax import nnx

from score_sde.networks import (
    EDM2,
    MLP,
    Network,
    as_network,
    from_linen,
    from_nnx,
    part_of_network,
    predicts_variance,
    problems_of,
    reads,
)
from score_sde.networks.network import is_frozen
from score_sde.types import UserError

# Strangers write for the promotion that JAX has by default.
pytestmark = pytest.mark.usefixtures("standard_promotion")
SHAPE = (8, 8, 2)
LABEL = {"label": jnp.zeros(1, jnp.int32)}


class Stranger(nn.Module):
    """A Linen module as somebody else writes it, with the layers of Flax."""

    width: int = 4
    norm: bool = False
    table: str = "embedding"

    @nn.compact
    def __call__(self, x, noise, cond=None, deterministic=True):
        h = nn.Conv(self.width, (3, 3))(x)
        h += nn.Dense(self.width)(noise[:, None])[:, None, None]
        ones = nn.initializers.ones
        h += self.param(self.table, ones, (1, 1, 1, self.width), x.dtype)
        if cond is not None:
            h += nn.Embed(3, self.width)(cond["label"])[:, None, None]
        if self.norm:
            h = nn.BatchNorm(use_running_average=deterministic)(h)
        h = nn.Dropout(0.5)(nn.silu(h), deterministic=deterministic)
        return nn.Conv(x.shape[-1], (3, 3))(h)

    def project(self, h):
        """Unlike that of a `Network`."""
        raise AssertionError("called")

    log_variance = 3


class InNNX(nnx.Module):
    """The network of `Stranger`, with fixed frequencies and a list of layers."""

    def __init__(self, width=4, norm=None, *, rngs):
        self.frequencies = jr.normal(rngs.params(), (width,), jnp.float32)
        self.first = nnx.Conv(2, width, (3, 3), rngs=rngs)
        self.hidden = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(2)])
        self.label = nnx.Embed(3, width, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.norm = norm and norm(width, rngs=rngs)
        self.last = nnx.Conv(width, 2, (3, 3), rngs=rngs)

    def __call__(self, x, noise, cond=None):
        h = (
            self.first(x)
            + jnp.sin(noise[:, None] * self.frequencies[None])[:, None, None]
        )
        if cond is not None:
            h += self.label(cond["label"])[:, None, None]
        for layer in self.hidden:
            h = nnx.silu(layer(h))
        if self.norm:
            h = self.norm(h)
        return self.last(self.drop(h))


class Switched(nnx.Module):
    """A module that is told by an argument when to drop out."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, noise, cond=None, *, deterministic):
        return self.linear(self.drop(x, deterministic=deterministic))


class Counting(nnx.Module):
    """A module that counts its calls."""

    def __init__(self, rngs):
        self.calls = nnx.Variable(jnp.zeros(()))

    def __call__(self, x, noise, cond=None):
        return x


class Adapting(nnx.Module):
    """A module that changes a parameter of its own when it is called."""

    def __init__(self, rngs):
        self.scale = nnx.Param(jnp.ones((1, 1, 1, 1)))

    def __call__(self, x, noise, cond=None):
        self.scale[...] = self.scale[...] * 0.9
        return x * self.scale[...]


def inputs(num=3):
    x = jr.normal(jr.key(1), (num, *SHAPE), jnp.float32)
    return x, jnp.linspace(-1, 1, num, dtype=jnp.float32)


KINDS = {
    "linen": Stranger(),
    "nnx": functools.partial(InNNX, width=4),
    "nnx_switched": Switched,
}


@pytest.mark.parametrize("kind", unless("nnx".__eq__, KINDS))
def test_a_strangers_module_is_a_pure_function_of_its_parameters(kind, key):
    network = as_network(KINDS[kind], SHAPE)
    x, noise = inputs()
    params = network.init(key)
    same = jax.tree.map(np.array_equal, params, network.init(key))
    assert jax.tree.all(same)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    assert all(isinstance(entry.key, str) for path, _ in leaves for entry in path)
    apply = jax.jit(network.apply)
    out = apply(params, x, noise)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    np.testing.assert_array_equal(apply(params, x, noise), out)
    dropped, other = (
        apply(params, x, noise, dropout_key=k) for k in (key, jr.fold_in(key, 1))
    )
    assert (dropped != out).any()
    assert (dropped != other).any()
    np.testing.assert_array_equal(apply(params, x, noise, dropout_key=key), dropped)
    gradient = jax.grad(lambda p: (network.apply(p, x, noise) ** 2).sum())(params)
    for path, slope in jax.tree_util.tree_leaves_with_path(gradient):
        used = path[0].key != "label" and not is_frozen(path)
        assert (slope != 0).any() == used, path


def test_an_nnx_module_computes_what_it_computes_by_itself(key):
    module = InNNX(rngs=nnx.Rngs(3))
    network = from_nnx(module, SHAPE, LABEL)
    x, noise = inputs()
    cond = {"label": jnp.arange(3)}
    params = network.init(key)
    out = network.apply(params, x, noise, cond)
    made = from_nnx(lambda rngs: InNNX(rngs=rngs), SHAPE, LABEL).init(jr.key(3))
    assert jax.tree.structure(made) == jax.tree.structure(params)
    module.eval()
    np.testing.assert_allclose(out, module(x, noise, cond), rtol=1e-6)
    assert (network.apply(params, x, noise, {"label": jnp.zeros(3, int)}) != out).any()
    assert params["frozen"].keys() == {"frequencies"}


@pytest.mark.slow
def test_fixed_arrays_of_an_nnx_module_depend_on_the_key(key):
    network = from_nnx(lambda rngs: InNNX(rngs=rngs), SHAPE)
    first, second = (network.init(k)["frozen"]["frequencies"] for k in jr.split(key))
    assert (first != second).any()


def test_plain_functions_are_a_network(key):
    class Plain:
        @staticmethod
        def init(key):
            return {"scale": jnp.ones((), jnp.float32)}

        @staticmethod
        def apply(params, x, noise, cond=None, *, dropout_key=None):
            return params["scale"] * x

        @staticmethod
        def project(params):
            raise AssertionError("it is not ours")

    network = as_network(Plain(), SHAPE)
    params = network.init(key)
    x, noise = inputs()
    np.testing.assert_array_equal(network.apply(params, x, noise), x)
    assert network.project(params) is params
    whole = Network(Plain.init, Plain.apply, Plain.project)
    assert as_network(whole, SHAPE) is whole


def test_state_that_is_not_parameters_is_refused(key):
    with pytest.raises(UserError, match=r"batch_stats.*example depend.*use GroupNorm"):
        as_network(Stranger(norm=True), SHAPE)
    with pytest.raises(UserError, match="Stranger keeps state .*batch_stats"):
        from_linen(Stranger(norm=True), SHAPE).init(key)
    with pytest.raises(UserError, match=r"norm.mean \(BatchStat\), norm.var \(Batch"):
        from_nnx(functools.partial(InNNX, norm=nnx.BatchNorm), SHAPE)
    with pytest.raises(UserError, match=r"network Counting: .*calls \(Variable\)"):
        as_network(Counting, SHAPE)
    with pytest.raises(UserError, match=r"Adapting keeps .*scale \(it changes\)"):
        as_network(Adapting, SHAPE)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        (Stranger(), r"network Stranger can't be initialised for .* \(2,\): .*: "),
        (object(), "network object: it must be a Linen module, an nnx.Module"),
        (3, "network int: it must be"),
        (Stranger, "network Stranger: it made a .*, not an nnx.Module"),
        (lambda rngs: nn.Dense(3), "it made a Dense, not an nnx.Module"),
    ],
)
def test_what_is_no_network_is_refused_in_one_line(module, text):
    with pytest.raises(UserError, match=text) as caught:
        as_network(module, (2,))
    assert "\n" not in str(caught.value)


def test_a_network_whose_output_is_unlike_its_input_is_refused():
    class Wide(nn.Module):
        predicts_variance = False

        @nn.compact
        def __call__(self, x, noise, cond=None):
            return nn.Dense(2 * x.shape[-1])(x)

    class WithVariance(Wide):
        predicts_variance = True

    with pytest.raises(UserError, match=r"network Wide: .*\(1, 5\), not \(1, 10\)"):
        as_network(Wide(), (5,))
    as_network(WithVariance(), (5,))


def test_a_name_that_means_frozen_is_refused():
    with pytest.raises(UserError, match="'pos_embed' would never be trained"):
        as_network(Stranger(table="pos_embed"), SHAPE)


def test_a_method_is_the_networks_only_by_its_mark(key):
    network = as_network(Stranger(), SHAPE)
    params = network.init(key)
    assert network.project(params) is params
    assert network.log_variance is None

    class Marked(Stranger):
        @nn.nowrap
        @part_of_network
        def project(self, params):
            return jax.tree.map(jnp.zeros_like, params)

    assert not jax.tree.leaves(as_network(Marked(), SHAPE).project(params))[0].any()
    edm2 = from_linen(EDM2(channels=8), SHAPE)
    assert edm2.log_variance is not None
    assert edm2.project is not network.project


def test_a_stranger_that_states_nothing_is_taken_as_it_is():
    module = Stranger()
    assert reads(module) is None
    assert problems_of(module, (1, 2, 3, 4)) == []
    assert predicts_variance(module) is False
    found = {"label", "vector", "ratio", "guidance", "divergence"}
    assert reads(MLP()) == found
