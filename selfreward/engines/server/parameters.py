"""Which parameters an endpoint takes: what it refuses by name is left out, or renamed.

Hosted models differ in what they take: no ``seed`` (Mistral), ``max_completion_tokens`` for
``max_tokens`` and no ``temperature`` but 1 (OpenAI's reasoning models), ``temperature`` or
``top_p`` but not both (Claude). All say so in the error, and none in advance.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from selfreward.errors import ConfigError

OMITTABLE = ("seed", "top_k", "top_p", "temperature")
"""In the order in which one of several is given up: first what changes the least."""
_RENAMED = {"max_tokens": "max_completion_tokens"}
"""The limit is never left out: without one a judge may write as long as it likes."""
_REFUSES = re.compile(
    r"unsupported|not (?:\w+ )?(?:supported|permitted|allowed|recognized|accepted|available)|"
    r"(?:does not|doesn't|cannot|can't) (?:support|accept|allow|be|both)|unrecognized|unknown|"
    r"unexpected|extra_forbidden|extra inputs|extra fields|only one of|deprecated",
    re.IGNORECASE,
)
"""That a parameter itself is refused, and not a value which the user may correct."""
_TOGETHER = re.compile(r"\bboth\b|\btogether\b|\bone of\b|\beither\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Parameters:
    """What is known of the parameters of one endpoint."""

    omitted: frozenset[str] = frozenset()
    renamed: frozenset[str] = frozenset()

    def fit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """A request's body as the endpoint takes it."""
        return {
            _RENAMED[name] if name in self.renamed else name: value
            for name, value in body.items()
            if name not in self.omitted
        }

    def without(self, refusal: str, body: Mapping[str, Any]) -> "Parameters | None":
        """What to try next after a refusal; None if it refuses no parameter by name.

        Args:
            refusal: The words of the endpoint.
            body: The request, before ``fit``.
        """
        sent = [name for name in (*OMITTABLE, *_RENAMED) if name in self.fit(body)]
        for clause in re.split(r"[.;\n](?=\s|$)", refusal):
            named = [name for name in sent if (name in _names(clause))]
            if not named or not _REFUSES.search(clause):
                continue
            if not _TOGETHER.search(clause):
                named.sort(key=_names(clause).index)
            if (name := named[0]) in _RENAMED:
                return replace(self, renamed=self.renamed | {name})
            return replace(self, omitted=self.omitted | {name})
        return None

    def joined(self, other: "Parameters") -> "Parameters":
        """What both know."""
        return Parameters(self.omitted | other.omitted, self.renamed | other.renamed)

    def said(self, before: "Parameters") -> str:
        """What is done now that was not before, such as ``seed is left out``."""
        lines = [f"{name} is left out" for name in sorted(self.omitted - before.omitted)]
        new = sorted(self.renamed - before.renamed)
        return ", ".join([*lines, *(f"{name} is called {_RENAMED[name]}" for name in new)])


def chosen(options: Mapping[str, Any]) -> Parameters:
    """What the user has left out: ``engine.omit``.

    Raises:
        ConfigError: It is no list of names, or holds one that cannot be left out.
    """
    names = options.get("omit") or []
    if not isinstance(names, list | tuple):
        raise ConfigError(
            f"engine.omit: {names!r}, expected a list of parameters", "Such as omit: [seed]."
        )
    for name in names:
        if name not in OMITTABLE:
            close = difflib.get_close_matches(str(name), OMITTABLE, 1)
            raise ConfigError(
                f"engine.omit: {name!r} cannot be left out",
                f"Did you mean {close[0]}?" if close else f"One of: {', '.join(OMITTABLE)}.",
            )
    return Parameters(frozenset(names))


def _names(clause: str) -> list[str]:
    """Words that may be names of parameters, in order."""
    return re.findall(r"[a-z][a-z_]+", clause)
