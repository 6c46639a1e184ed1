"""Fields of a part: what they are, and the rules their values obey.

A rule stands in the signature, of a dataclass, a Linen module or a function alike:

    @checks_rules
    def min_snr(sigma, *, gamma: Annotated[float, Positive] = 5.0): ...

Whoever builds the part from a config checks every value by `value_problem`. A dataclass
made by `pytree` or `settings` checks its own when it is constructed, and a function
decorated by `checks_rules` when it is called. A field
without a rule is checked against its type alone; no number may be NaN, and none may be
infinite unless its rule says so or its default is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import sys
import types
import typing
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, NamedTuple, ParamSpec, TypeVar, dataclass_transform

import jax

from score_sde.rules import Rule


class Field(NamedTuple):
    """One named argument of a constructor or a function."""

    name: str
    kind: Any
    """The type without the rules; None if it is not known."""
    rules: tuple[Rule, ...]
    default: Any
    """`MISSING` if there is none."""


MISSING = inspect.Parameter.empty
_LITERALS = (bool, int, float, str)


def fields_of(
    constructor: Callable[..., Any], *, skip: int = 0, without: Collection[str] = ()
) -> dict[str, Field]:
    """The fields that a config may set of a class or a function, by name.

    Args:
        constructor: a class, whose fields are the arguments of its constructor, or a
            function.
        skip: how many leading arguments the caller gives by place, such as sigma.
        without: names that come from elsewhere.
    """
    # A metaclass, as NNX modules have one, may hide the signature of the constructor.
    called = constructor.__init__ if inspect.isclass(constructor) else constructor
    skip += inspect.isclass(constructor)  # self
    parameters = list(inspect.signature(called).parameters.values())[skip:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    hints = _hints(constructor)
    found = {}
    for p in parameters:
        if p.kind not in named or p.name in without:
            continue
        hint = hints.get(p.name)
        rules: tuple[Rule, ...] = ()
        if typing.get_origin(hint) is Annotated:
            hint, *extra = typing.get_args(hint)
            rules = tuple(r for r in extra if isinstance(r, Rule))
        if hint is None and type(p.default) in (*_LITERALS, tuple):
            hint = type(p.default)
        found[p.name] = Field(p.name, hint, rules, p.default)
    return found


@functools.cache
def _hints(constructor: Callable[..., Any]) -> Mapping[str, Any]:
    """Annotations with their rules; none of a name that can't be resolved.

    Each field of a class is resolved where its class was written, so that a subclass in
    another module inherits its rules.
    """
    if not inspect.isclass(constructor):
        return _hints_of_function(constructor)
    found: dict[str, Any] = {}
    if "__init__" in vars(constructor):
        found |= _hints_of_function(constructor.__init__)
    for base in reversed(constructor.__mro__):
        module = sys.modules.get(base.__module__)
        annotations = vars(base).get("__annotations__", {})
        found |= _resolved(annotations, vars(module) if module else {})
    return found


def _hints_of_function(function: Any) -> dict[str, Any]:
    function = inspect.unwrap(function)
    annotations = getattr(function, "__annotations__", {})
    return _resolved(annotations, getattr(function, "__globals__", {}))


def _resolved(annotations: Mapping[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """Resolve annotations to types, and leave out those that have unknown names."""
    found: dict[str, Any] = {}
    for name, hint in annotations.items():
        one = types.SimpleNamespace(__annotations__={name: hint})
        # A name that is imported for type checkers alone is not there.
        with contextlib.suppress(NameError, TypeError):
            found |= typing.get_type_hints(one, names, include_extras=True)
    return found


def value_problem(field: Field, value: Any) -> str | None:
    """The end of the sentence "FIELD is VALUE" for a value that is wrong, or None."""
    kinds = kinds_of(field.kind)
    if value is None:
        allowed = not kinds or type(None) in kinds or field.default is None
        return None if allowed else f"; it must be {kinds_text(kinds)}"
    if kinds and not any(_is(value, kind) for kind in kinds):
        return f"; it must be {kinds_text(kinds)}"
    for number in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(number, float) and math.isnan(number):
            return "; it must be a number"
    for rule in field.rules:
        if not rule.holds(value):
            return rule.complaint(value)
    free = field.rules or field.default in (math.inf, -math.inf)
    if not free and isinstance(value, float) and math.isinf(value):
        return "; it must be finite"
    return None


def is_literal(field: Field) -> bool:
    """Whether a literal of a config can be the value of a field, by its type."""
    kinds = [typing.get_origin(k) or k for k in kinds_of(field.kind)]
    allowed = (*_LITERALS, tuple, dict, typing.Literal, type(None), jax.Array)
    return all(k in allowed for k in kinds) and kinds != [type(None)]


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The types that a hint allows; () for any."""
    if hint is None or hint is Any:
        return ()
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        kinds = typing.get_args(hint)
        # A traced number is allowed beside a literal one; a config has the latter.
        return tuple(k for k in kinds if k is not jax.Array)
    return (hint,)


def kinds_text(kinds: Sequence[Any]) -> str:
    """The words for some types, as an error says them."""
    names = []
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            item = typing.get_args(kind)[0]
            names.append(f"a tuple of {getattr(item, '__name__', item)}")
        elif typing.get_origin(kind) is typing.Literal:
            names.append(f"one of {list(typing.get_args(kind))}")
        else:
            names.append("None" if kind is type(None) else kind.__name__)
    return " or ".join(names)


def _is(value: Any, kind: Any) -> bool:
    """Return whether a value has a type; an int is a float, a bool is neither."""
    origin = typing.get_origin(kind)
    if origin is typing.Literal:
        return value in typing.get_args(kind)
    if kind is tuple or origin is tuple:
        items = typing.get_args(kind)
        return isinstance(value, (tuple, list)) and (
            not items or all(_is(v, items[0]) for v in value)
        )
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, Any])):
        return isinstance(value, Mapping)
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str, dict):
        return isinstance(value, kind)
    return True


Requirement = tuple[str, Callable[[Any], bool]]


def require(instance: Any, *tests: Requirement) -> None:
    """Check (text, test) pairs between the fields of `instance`; name all that fail.

    A dataclass that holds tracers, or the placeholders that JAX puts in a pytree
    while it rearranges one, has no values to check and passes.

    Raises: ValueError.
    """
    values = (getattr(instance, f.name) for f in dataclasses.fields(instance))
    if not all(map(_has_a_value, values)):
        return
    broken = [text for text, holds in tests if not holds(instance)]
    if broken:
        raise ValueError(
            f"{type(instance).__name__} needs {' and '.join(broken)}, got {instance}."
        )


def _has_a_value(value: Any) -> bool:
    literal = isinstance(value, (int, float, str, tuple, type(None)))
    return literal or dataclasses.is_dataclass(value) or callable(value)


def check_fields(instance: Any) -> None:
    """Check the fields of a dataclass against their types and rules.

    Values that are not literals, such as tracers, pass.

    Raises: ValueError naming every field that is wrong, its value and its rule.
    """
    cls = type(instance)
    fields = _known_fields(cls)  # type: ignore[arg-type]
    _refuse(cls.__name__, fields, {k: getattr(instance, k, None) for k in fields})


def _refuse(owner: str, fields: Mapping[str, Field], given: Mapping[str, Any]) -> None:
    """Raise ValueError if a literal value breaks the rules of its field."""
    wrong = []
    for name, value in given.items():
        field = fields.get(name)
        if field and field.rules and isinstance(value, (*_LITERALS, tuple)):
            problem = value_problem(field, value)
            if problem:
                wrong.append(f"{name} is {value!r}{problem}")
    if wrong:
        raise ValueError(f"{owner}: {', and '.join(wrong)}.")


@functools.cache
def _known_fields(constructor: Callable[..., Any]) -> dict[str, Field]:
    return fields_of(constructor)


P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def checks_rules(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function check its literal arguments against the rules in its signature.

    A function that makes another, such as a guided denoiser, so refuses wrong options
    before anything is computed. Values that are not literals, such as tracers, pass.

    Raises: ValueError, when called, naming every argument that is wrong.
    """
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        _refuse(function.__name__, _known_fields(function), given)
        return function(*args, **kwargs)

    return checked


def takes(
    function: Callable[..., R],
    parameters: Sequence[inspect.Parameter],
    *sources: Callable[..., Any],
) -> Callable[..., R]:
    """Say what arguments a function takes that hands **options on to another.

    Args:
        function: given the signature, and what is said of it elsewhere.
        parameters: of the signature.
        sources: the functions and classes that have the types and rules of the
            parameters, where two do the first; the last gives name and docstring too.
    """
    inner: Any = inspect.unwrap(function)  # where a signature is read, if it is wrapped
    inner.__signature__ = inspect.Signature(parameters)
    inner.__annotations__ = dict(ChainMap(*(dict(_hints(s)) for s in sources)))
    _hints.cache_clear()  # the function may have been one of the sources
    for name in ("__name__", "__qualname__", "__module__", "__doc__"):
        for one in (function, inner):
            setattr(one, name, getattr(sources[-1], name))
    return function


def static(*, default: Any, kw_only: bool = False) -> Any:
    """`dataclasses.field` that JAX treats as structure, not as a number."""
    return dataclasses.field(
        default=default, kw_only=kw_only, metadata={"static": True}
    )


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def pytree(cls: type[T]) -> type[T]:
    """A frozen dataclass that is a pytree: jit, vmap and grad reach its fields.

    Fields marked `static()` are part of the structure instead (names, counts). Rules in
    the annotations are checked when an instance is made.
    """
    return jax.tree_util.register_dataclass(settings(cls))


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """A frozen dataclass whose annotated rules are checked when an instance is made."""
    before = getattr(cls, "__post_init__", None)
    if not getattr(before, "checks_fields", False):

        def __post_init__(self: Any) -> None:  # noqa: N807
            check_fields(self)
            if before is not None:
                before(self)

        __post_init__.checks_fields = True  # type: ignore[attr-defined]
        cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True)(cls)
