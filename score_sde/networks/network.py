"""Networks as the rest of the library knows them: pure functions of their parameters.

A Linen module, an `nnx.Module` or two plain functions become a `Network` by
`as_network`. A module may state what it needs, as `StatesItsNeeds` says; one that does
not is taken as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from score_sde.networks.calling import call_options, reject_state
from score_sde.types import Array, Key, Params, UserError

FROZEN = ("freqs", "phases", "pos_embed")
"""Names of parameters that are never trained, wherever they are."""
FROZEN_MODULE = "frozen"
"""Name of a module of which no parameter is trained."""
STATISTICS = "statistics"
"""Name of a module of statistics, which move by their gradients at a rate of 1."""


def unchanged(params: Params) -> Params:
    """The parameters themselves, for a network that allows any value of them."""
    return params


def as_initialised(params: Params, companions: Mapping[str, Any]) -> Params:
    """The parameters themselves, for a network that starts from no other run."""
    del companions
    return params


class Network(NamedTuple):
    """Parameters are a pytree of arrays; nothing else is state.

    apply(params, x, noise, cond=None, *, dropout_key=None) maps x, [batch, *dims], and
    noise, [batch], to an array like x. Without a dropout key it is deterministic. A
    network that also predicts variances has their channels after those of x.

    cond is None or a dict with what the network was built for: "label", int [batch], -1
    for none, "vector", [batch, dims], "augment", [batch, dims], how the example was
    augmented, which may be absent and is then zero, "tokens", [batch, length, dims],
    where "mask", bool [batch, length], is False for those that aren't there, "words",
    int [batch, length], -1 for none, "image", of the sides of x, "guidance", [batch],
    the weight of a student's teacher, "input_noise", [batch], the standard deviation of
    the noise in x, or "ratio", [batch], of a jump's second noise level to the first
    (`flow_map.make_jump`). An entry "divergence", None, asks for the divergence of that
    jump: a channel behind the others, whose mean is what `make_jump` reads.

    project(params) brings parameters back to where training keeps them, and
    log_variance(params, noise) is the network's own learned log of its loss, [batch].

    companions are the roles of other runs whose parameters, frozen, stand among its own
    under that name where it is applied; start(params, companions) gives the initial
    parameters, which may begin as those of such a run.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Array]
    project: Callable[[Params], Params] = unchanged
    log_variance: Callable[[Params, Array], Array] | None = None
    companions: tuple[str, ...] = ()
    start: Callable[[Params, Mapping[str, Any]], Params] = as_initialised
    parts: Any = None
    """Further functions of its parameters, such as the `latents.Coder` of an
    autoencoder; None for a network that is a map alone."""


class StatesItsNeeds(Protocol):
    """A module that states which data and conditions it takes.

    Modules need no such attributes: those without are asked by `reads`, `problems_of`
    and `predicts_variance` all the same, which then give the defaults.
    """

    reads: ClassVar[frozenset[str]]
    """Names of the entries of `cond` that its options can make it read. A network that
    does not read "image" can still see one, as further channels (`with_image`)."""

    @property
    def predicts_variance(self) -> bool:
        """Whether its output has channels of variances behind those of x."""

    def problems(self, shape: tuple[int, ...]) -> list[str]:
        """Texts of what is wrong with its options for examples of this shape.

        A text about an option begins with its name, so that "network." may be put in
        front.
        """


def reads(module: Any) -> frozenset[str] | None:
    """Names of the entries of `cond` that a module can be told; None if it is mute."""
    return getattr(module, "reads", None)


def problems_of(module: Any, shape: tuple[int, ...]) -> list[str]:
    """Texts of what a module states is wrong with its options for data of a shape."""
    return module.problems(shape) if hasattr(module, "problems") else []


def predicts_variance(module: Any) -> bool:
    """Whether a module states that its output has variances behind x's channels."""
    return bool(getattr(module, "predicts_variance", False))


F = TypeVar("F", bound=Callable[..., Any])


def part_of_network(method: F) -> F:
    """Mark a module's `project`, `log_variance`, `start` or `parts` as its `Network`'s.

    A method of this name without the mark belongs to the module alone.
    """
    method.is_part_of_network = True  # type: ignore[attr-defined]
    return method


def _marked(module: Any, name: str, default: Any) -> Any:
    method = getattr(module, name, None)
    return method if getattr(method, "is_part_of_network", False) else default


def from_linen(module: nn.Module, shape: tuple[int, ...], cond: Any = None) -> Network:
    """A Network from a Linen module called as module(x, noise, cond).

    A module whose `__call__` has the argument `deterministic` gets it too. Methods
    `project` and `log_variance` that are marked by `part_of_network` are taken over.
    Flax's own dropout draws for the whole array that it sees, so that what it drops
    depends on how a batch is cut over devices; `blocks.Dropout` draws by example.

    Args:
        module: the module, without parameters.
        shape: of one example.
        cond: an example of the condition, a batch of one.

    Raises:
        UserError: by `init`, if the module keeps state beside its parameters.

    Examples:
        >>> from score_sde.networks import MLP
        >>> network = from_linen(MLP(width=8, depth=1), shape=(2,))
        >>> params = network.init(jax.random.key(0))
        >>> print(network.apply(params, jnp.ones((4, 2)), jnp.zeros(4)).shape)
        (4, 2)
    """

    def init(key: Key) -> Params:
        x, noise = jnp.zeros((1, *shape), jnp.float32), jnp.zeros(1, jnp.float32)
        options = call_options(module, deterministic=True)
        # Compiled, since op-by-op initialisation takes seconds for a deep network.
        build = jax.jit(lambda key: module.init(key, x, noise, cond, **options))
        variables = build(key)
        reject_state(module, [name for name in variables if name != "params"])
        return nn.meta.unbox(variables.get("params", {}))

    def apply(
        params: Params,
        x: Array,
        noise: Array,
        cond: Any = None,
        *,
        dropout_key: Key | None = None,
    ) -> Any:
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        options = call_options(module, deterministic=dropout_key is None)
        return module.apply({"params": params}, x, noise, cond, rngs=rngs, **options)

    project = _marked(module, "project", unchanged)
    log_variance, parts = (_marked(module, n, None) for n in ("log_variance", "parts"))
    return Network(init, apply, project, log_variance, parts=parts and parts())


def from_nnx(make: Any, shape: tuple[int, ...], cond: Any = None) -> Network:
    """A Network from an `nnx.Module`, or from a function that makes one.

    The module is called as module(x, noise, cond); it gets `deterministic` too if its
    `__call__` has that argument. Parameters are a nested dict of arrays. Arrays that
    are no parameters, such as fixed frequencies, are among them under "frozen", and are
    not trained. The dropout key reaches every `nnx.Dropout`, which draws for the whole
    array that it sees: what it drops depends on how a batch is cut over devices.

        from_nnx(functools.partial(MyNetwork, width=64), shape=(32, 32, 3))

    Args:
        make: function of `nnx.Rngs` that returns the module, such as its class with its
            options bound; or a module, whose own values are then the initial ones,
            whatever the key.
        shape: of one example.
        cond: an example of the condition, a batch of one.

    Raises:
        UserError: if the module keeps state beside its parameters.
    """
    from score_sde.networks.nnx_modules import make_network

    network = make_network(make)
    _traced(network, shape, cond)
    return network


def as_network(module: Any, shape: tuple[int, ...], cond: Any = None) -> Network:
    """The Network of whatever a constructor of networks returns.

    Args:
        module: a Linen module, an `nnx.Module`, a function of `nnx.Rngs` that makes
            one, a `Network`, or an object with functions `init` and `apply` like those
            of a `Network`.
        shape: of one example.
        cond: an example of the condition, a batch of one.

    Raises:
        UserError: if the module can't be a network of such data. One that states its
            `problems` is believed; any other is traced once, without device work.
    """
    name = _name_of(module)
    try:
        network = _made(module, shape, cond)
        if not hasattr(module, "problems"):
            _check(network, shape, cond, predicts_variance(module))
    except UserError as error:
        raise UserError(f"network {name}: {error}") from None
    except Exception as error:  # whatever a stranger's module says
        told = f" and cond {sorted(cond)}" if isinstance(cond, dict) else ""
        first_line = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"network {name} can't be initialised for data of shape {shape}{told}: "
            f"{type(error).__name__}: {first_line}"
        ) from error
    return network


def _made(module: Any, shape: tuple[int, ...], cond: Any) -> Network:
    if isinstance(module, Network):
        return module
    if isinstance(module, nn.Module):
        return from_linen(module, shape, cond)
    nnx = sys.modules.get("flax.nnx")  # whoever has such a module has imported it
    if nnx is not None and isinstance(module, nnx.Module):
        return from_nnx(module, shape, cond)
    if callable(getattr(module, "init", None)) and not isinstance(module, type):
        if callable(getattr(module, "apply", None)):
            return Network(module.init, module.apply)
    elif callable(module):
        return from_nnx(module, shape, cond)
    raise UserError(
        "it must be a Linen module, an nnx.Module, a function of nnx.Rngs that makes "
        "one, or have functions init and apply."
    )


def with_companions(network: Network, module: Any, roles: tuple[str, ...]) -> Network:
    """The network of a module whose arguments with these names are other runs' modules.

    Args:
        network: of the module; its `init` gives parameters of the others too, under the
            names of the arguments, which are left out here.
        module: which may have a method `start`, marked by `part_of_network`.
        roles: names of the arguments.
    """

    def init(key: Key) -> Params:
        params = network.init(key)
        return {name: p for name, p in params.items() if name not in roles}

    start = _marked(module, "start", as_initialised)
    return network._replace(init=init, companions=roles, start=start)


def _name_of(module: Any) -> str:
    function = getattr(module, "func", module)  # of a functools.partial
    return getattr(function, "__name__", type(function).__name__)


def _traced(network: Network, shape: tuple[int, ...], cond: Any) -> tuple[Any, Any]:
    """(shapes of the parameters, shape of the output) for a batch of one example."""
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    noise = jax.ShapeDtypeStruct((1,), jnp.float32)
    params = jax.eval_shape(lambda: network.init(jax.random.key(0)))
    return params, jax.eval_shape(network.apply, params, x, noise, cond)


def _check(
    network: Network, shape: tuple[int, ...], cond: Any, has_variance: bool
) -> None:
    """Trace a network once.

    Raises: UserError if its output is not like its input, or if a parameter of it has a
    name that means that it is not trained.
    """
    params, out = _traced(network, shape, cond)
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        names = [getattr(entry, "key", None) for entry in path]
        if (last := names[-1]) in FROZEN and FROZEN_MODULE not in names:
            raise UserError(
                f"its parameter {last!r} would never be trained, since this name is "
                "that of a constant here; give it another."
            )
    expected = (1, *shape)
    if has_variance:
        expected = (*expected[:-1], 2 * expected[-1])
    if isinstance(cond, dict) and "divergence" in cond:
        expected = (*expected[:-1], expected[-1] + 1)
    if getattr(out, "shape", None) != expected:
        found = jax.tree.map(lambda a: a.shape, out)
        raise UserError(
            f"its output for one example must have the shape {expected}, not {found}."
        )


def is_frozen(path: Sequence[Any]) -> bool:
    """Whether the parameter at this path, of `jax.tree_util`, is never trained."""
    names = [getattr(entry, "key", None) for entry in path]
    return names[-1] in FROZEN or FROZEN_MODULE in names


def is_statistic(path: Sequence[Any]) -> bool:
    """Whether the parameter at this path, of `jax.tree_util`, is a statistic."""
    return STATISTICS in [getattr(entry, "key", None) for entry in path]


def count_parameters(params: Params) -> int:
    """Number of scalars in a pytree of arrays, or of their shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
