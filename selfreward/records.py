"""The records a run is made of; each is a row of the table of the same name in ``records.db``.

    Prompt (iteration, attempt)
      Response (iteration, attempt, sample)          N per accepted prompt
        Judgment (iteration, attempt, sample, vote)  K per response
      PreferencePair (iteration, attempt, chosen, rejected)
    Drop: what a stage left out, and why
    Stage, Progress: which stages are finished, and how far the others are

``attempt`` numbers the tries at writing a prompt, from 0, and names the prompt ever after.
Records are frozen and hold plain values only.
"""

from dataclasses import dataclass
from typing import Literal

STAGES = ("prompts", "responses", "judgments", "pairs", "train")
"""The stages of an iteration in order; iteration 0 has ``train`` alone."""

FinishReason = Literal["stop", "length", "error"]
"""``stop``: end of turn or a stop string. ``length``: cut off at ``max_new_tokens``. ``error``: the
engine could not answer the request, and ``dropped`` says why; nothing was sampled."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One attempt at writing a new prompt, accepted or dropped."""

    iteration: int
    attempt: int
    text: str
    """The instruction after cutting; empty if nothing usable was written."""
    raw: str
    """What the author wrote, untouched."""
    dropped: str | None
    """Why the attempt was not accepted; None for an accepted prompt."""
    detail: str = ""
    """What the reason is about, such as the pooled prompt that it resembles."""
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Response:
    """One sampled answer."""

    iteration: int
    attempt: int
    sample: int
    """0 .. N-1 within the prompt."""
    text: str
    """The answer as judged and paired: thinking split off, surrounding space stripped."""
    finish_reason: FinishReason
    num_tokens: int
    """Sampled tokens, thinking included."""
    thinking: str = ""
    dropped: str | None = None
    """Why the answer is not judged (``empty``, ``control token``, ...); None if it is."""
    logprob: float | None = None
    """Natural log-probability of the answer under the model that gave it, see
    ``engines.base.Generation``; None where the engine does not tell."""

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut off; it may be judged but is never paired."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Judgment:
    """One vote of the judge on one response."""

    iteration: int
    attempt: int
    sample: int
    vote: int
    """0 .. K-1 within the response."""
    form: str
    """``written`` or ``expected``."""
    raw: str
    """The judge's own completion; empty in the ``expected`` form, which samples no text."""
    score: float | None
    """Points on the rubric scale, 0 to 5; None if there is no verdict."""
    reason: str | None = None
    """Why the score is None; None where there is a score."""
    probabilities: tuple[float, ...] | None = None
    """``expected`` form: probability of each score 0..5 before renormalizing; their sum is the
    share of probability the judge gives to scores at all."""
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """A chosen and a rejected response to one prompt."""

    iteration: int
    attempt: int
    chosen: int
    """``sample`` of the chosen response."""
    rejected: int
    chosen_score: float
    """Mean over the votes that have a score, 0 to 5."""
    rejected_score: float

    @property
    def margin(self) -> float:
        """Score difference in points, above 0."""
        return self.chosen_score - self.rejected_score


@dataclass(frozen=True, slots=True)
class Drop:
    """Something a stage left out: rows in = rows out + drops."""

    iteration: int
    stage: str
    item: str
    """What was left out: ``attempt``, ``attempt/sample``, a pair as ``attempt/chosen/rejected`` or
    a seed row such as ``eft:12``."""
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A finished stage."""

    iteration: int
    stage: str
    rows: int
    """Records it made; rows trained on for ``train``."""
    drops: int
    digest: str
    """sha256 over its records in key order; for ``train`` the digest of the model directory."""
    fingerprint: str
    """sha256 over all that went in: config, templates, seed data, start model, earlier stages."""
    seconds: float
    """Time spent, over all launches."""
    versions: dict[str, str]
    """Versions of the libraries that made it."""
    finished: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is; written while it runs, for people only."""

    iteration: int
    stage: str
    done: int
    total: int
    seconds: float
    """Time spent on ``done``, over all launches."""
    note: str
    """Such as ``312 tokens/s``."""
    at: str
