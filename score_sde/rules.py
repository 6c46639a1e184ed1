"""Rules that values of fields obey, and the words in which errors state them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from typing import Any

from score_sde.types import choices_text


@dataclasses.dataclass(frozen=True, eq=False)
class Rule:
    """A condition on a value, and the words that end the sentence "it must be ..."."""

    text: str
    holds: Callable[[Any], bool]
    choices: Collection[str] = ()
    """The values that may be chosen, if there are few: errors name the nearest."""

    def complaint(self, value: Any) -> str:
        """The end of the sentence about a value that breaks the rule."""
        if self.choices:
            return choices_text(value, self.choices)
        return f"; it must be {self.text}"


Positive = Rule("> 0 and finite", lambda v: 0 < v < math.inf)
NonNegative = Rule(">= 0 and finite", lambda v: 0 <= v < math.inf)
Finite = Rule("finite", lambda v: math.isfinite(v))
PositiveOrInfinite = Rule("> 0 (inf is allowed)", lambda v: v > 0)


def at_least(low: float) -> Rule:
    """The rule low <= value < inf."""
    return Rule(f">= {low} and finite", lambda v: low <= v < math.inf)


def between(low: float, high: float) -> Rule:
    """The rule low < value < high, both ends excluded."""
    return Rule(f"> {low} and < {high}", lambda v: low < v < high)


def up_to(high: float) -> Rule:
    """The rule 0 < value <= high."""
    return Rule(f"> 0 and <= {high}", lambda v: 0 < v <= high)


def within(low: float, high: float) -> Rule:
    """The rule low <= value <= high, both ends included."""
    return Rule(f"from {low} to {high}", lambda v: low <= v <= high)


def below(high: float) -> Rule:
    """The rule 0 <= value < high."""
    return Rule(f">= 0 and < {high}", lambda v: 0 <= v < high)


Share = within(0, 1)


def one_of(choices: Collection[str]) -> Rule:
    """The rule that a value is one of these words; a registry may grow later on."""
    return Rule(f"one of {sorted(choices)}", lambda v: v in choices, choices)


def each(rule: Rule, *, at_least_one: bool = False) -> Rule:
    """The rule that every item of a tuple obeys another rule."""
    some = "one or more numbers" if at_least_one else "numbers"
    return Rule(
        f"{some} {rule.text}",
        lambda v: len(v) >= at_least_one and all(rule.holds(a) for a in v),
    )
