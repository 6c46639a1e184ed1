"""A network with parts left out: skipped blocks, attention that looks nowhere.

Nothing of the architecture changes. The calls of Linen modules are intercepted while
the network is traced, so that this serves any module, also a user's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any

import flax.linen as nn

from score_sde.networks.attention import blind
from score_sde.networks.network import Network
from score_sde.types import Array, UserError, choices_text

_inside: ContextVar[bool] = ContextVar("inside", default=False)


def perturbed(
    network: Network, *, skip: Sequence[str] = (), attention: Sequence[str] = ()
) -> Network:
    """The network without some of its parts; parameters are the same.

    Names are those of Linen modules, joined by "/", or the last part of them:
    "ResidualBlock_3" or "encoder/ResidualBlock_3". They are patterns as `fnmatch` reads
    them.

    Args:
        network: of a Linen module.
        skip: modules that return their first argument, such as residual blocks. What
            they return must be shaped like it.
        attention: modules in which each position attends to itself alone, so that
            self-attention returns the values; "*" for all.

    Raises: UserError, when it is applied, for a network without Linen modules, a name
        that no module has, a module that can't be skipped, and attention where there
        is none.
    """

    def apply(params: Any, *args: Any, **options: Any) -> Array:
        found = _Found(skip, attention)
        with nn.intercept_methods(found.intercept):
            out = network.apply(params, *args, **options)
        found.check()
        return out

    return network._replace(apply=apply)


class _Found:
    """The modules that are intercepted during one trace, and those that were found."""

    def __init__(self, skip: Sequence[str], attention: Sequence[str]):
        self.skip, self.attention = tuple(skip), tuple(attention)
        self.names: list[str] = []
        self.used: set[str] = set()
        self.num_blind = 0

    def intercept(
        self, call: Any, args: Any, options: Any, context: nn.module.InterceptorContext
    ) -> Any:
        if context.method_name != "__call__":
            return call(*args, **options)
        path = context.module.path
        self.names.append("/".join(path))
        if self._matches(self.skip, path):
            out = call(*args, **options)
            if not args or out.shape != args[0].shape:
                raise UserError(
                    f"{self.names[-1]} can't be skipped: it is given shape "
                    f"{args[0].shape if args else None} and returns {out.shape}."
                )
            return args[0]
        if not self._matches(self.attention, path) or _inside.get():
            return call(*args, **options)
        token = _inside.set(True)
        try:
            with blind() as count:
                return call(*args, **options)
        finally:
            _inside.reset(token)
            self.num_blind += count[0]

    def _matches(self, patterns: Sequence[str], path: tuple[str, ...]) -> bool:
        names = ("/".join(path), path[-1] if path else "")
        hits = {p for p in patterns if any(fnmatchcase(n, p) for n in names)}
        self.used |= hits
        return bool(hits)

    def check(self) -> None:
        """Raise UserError for patterns that met nothing."""
        if not self.names:
            raise UserError(
                "parts of a network are left out by the names of its Linen modules, "
                "and this network has none (one of NNX, or of functions): choose "
                "guidance other than 'perturbed'."
            )
        for pattern in (*self.skip, *self.attention):
            if pattern not in self.used:
                known = sorted({n for n in self.names if n})
                hint = choices_text(pattern, known)
                raise UserError(f"the network has no module {pattern!r}{hint}")
        if self.attention and not self.num_blind:
            raise UserError(
                f"attention is {self.attention}; there is no self-attention in these "
                "modules of the network."
            )
