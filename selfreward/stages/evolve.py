"""Rewriting prompts to be harder or rarer: which, by which operation, and what is no new prompt.

    prompts of the iteration before, or seeds -> an order -> (parent, operation) of each rewrite

Evol-Instruct (WizardLM, arXiv 2304.12244, section 3) has the operations and what is eliminated.
eva (arXiv 2411.00062) chooses what to evolve by how far the rewards of its answers lie apart: its
proxy A*_min is the difference of the best and the worst, by which it draws prompts, weighted.
"""

import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfreward.config.generation import EvolveConfig
from selfreward.inputs.templates import Template
from selfreward.stages.words import words

_COPIED = 5
"""Words in a row from the template that a request of its own does not have by chance; ours."""
_REFUSED = re.compile(
    r"^\W*(?:(?:i['\u2019]?m|i am) (?:very |really )?sorry\b|sorry, (?:but )?i\b|as an ai\b"
    r"|i(?:['\u2019]m| am) (?:unable|not able) to\b"
    r"|i (?:cannot|can['\u2019]t|can not|won['\u2019]t|will not) "
    r"(?:help|assist|rewrite|fulfil|comply|provide|create|generate|write|answer|do)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Parent:
    """A prompt that may be rewritten."""

    text: str
    iteration: int | None
    """In which it was accepted; None for one of the seeds."""
    number: int
    """Its attempt, or its place among the seeds, from 0."""
    weight: float = 1.0
    """How much sooner than others it is taken, 0 or more: in eva, its spread in points."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A parent and what is done to it."""

    parent: Parent
    operation: str

    @property
    def columns(self) -> dict[str, object]:
        """What the record keeps: ``operation`` and ``parent``."""
        parent = self.parent
        if parent.iteration is None:
            return {"operation": self.operation, "parent": {"seed": parent.number}}
        key = {"iteration": parent.iteration, "attempt": parent.number}
        return {"operation": self.operation, "parent": key}


class Rewriter:
    """Says what the rewrites of an iteration are, by number.

    Args:
        parents: One or more.
        seed: Of the order in which they are taken.
    """

    def __init__(
        self, template: Template, parents: Sequence[Parent], settings: EvolveConfig, seed: int
    ) -> None:
        self._template, self._operations = template, settings.operations
        self._parents = drawn_order(parents, seed)

    def rewrite(self, number: int) -> Rewrite:
        """Rewrite 0, 1, ...: all parents once, then all again by their next operations."""
        again, at = divmod(number, len(self._parents))
        operations = self._operations
        return Rewrite(self._parents[at], operations[(at + again) % len(operations)])

    def render(self, rewrite: Rewrite, prompt: str) -> tuple[str, str]:
        """User turn and start of the model's turn.

        Args:
            prompt: The parent, as it is shown.

        Raises:
            TooLongError: It is too long for the template.
        """
        return self._template.render(prompt=prompt, operation=rewrite.operation)

    def why_failed(self, text: str, rewrite: Rewrite) -> tuple[str | None, str]:
        """Return (reason, detail) if the text is no request of its own, else (None, "")."""
        parent = rewrite.parent.text
        if words(text) == words(parent):
            return "same as the parent", ""
        if found := _REFUSED.match(text):
            return "refused", found[0].strip()
        user, started = self.render(rewrite, "")
        label = words(started.split("\n")[-1])
        copied = {*_runs(user, _COPIED), *_runs(started, _COPIED)} - {*_runs(parent, _COPIED)}
        labels = {tuple(label)} - {*_runs(parent, len(label))} if label[1:] else set()
        for said, length in ((copied, _COPIED), (labels, len(label))):
            if run := next((run for run in _runs(text, length) if run in said), None):
                return "copies the template", " ".join(run)
        return None, ""


def drawn_order(parents: Sequence[Parent], seed: int) -> list[Parent]:
    """Draw all of them without replacement, each with a chance in proportion to its weight.

    Those of weight 0 come last, all alike (Efraimidis and Spirakis 2006: by u^(1/w), descending).
    """
    rng = random.Random(seed)
    drawn = [1 - rng.random() for _ in parents]  # above 0
    keys = [
        (parent.weight > 0, math.log(u) / parent.weight if parent.weight else u)
        for parent, u in zip(parents, drawn, strict=True)
    ]
    order = sorted(range(len(parents)), key=keys.__getitem__, reverse=True)
    return [parents[at] for at in order]


def dump_columns(values: dict[str, object]) -> str | None:
    """The columns of a record; None without any."""
    return json.dumps(values, ensure_ascii=False, sort_keys=True) if values else None


def _runs(text: str, length: int) -> list[tuple[str, ...]]:
    """Each so many words in a row, in order."""
    found = words(text)
    return [tuple(found[at : at + length]) for at in range(len(found) - length + 1)]
