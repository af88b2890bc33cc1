"""Health gates: what the figures of an iteration have to be for the next one to be worth it.

    figures of an iteration, limits of ``config.health`` -> a Gate each

Nothing here reads a store or a config file.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selfreward.measures.figures import IterationFigures
from selfreward.measures.reports import Gate
from selfreward.records import FORMS, GateName

if TYPE_CHECKING:
    from selfreward.config import HealthConfig


@dataclass(frozen=True, slots=True)
class _Measure:
    key: str
    """Of ``health``; ``min_`` or ``max_`` says which side is the good one."""
    of: Callable[[IterationFigures], float | None]
    form: str
    """How a value is written."""
    says: str
    """A clause about the value."""
    remedy: str
    is_strict: bool = False
    """Whether a value that equals the limit fails, too."""
    computed: str = ""
    """The remedy where a function or a reward model judges, which no EFT data teaches; empty: the
    same."""


def _length_ratio(figures: IterationFigures) -> float | None:
    chosen, rejected = figures.pairs.chosen_length, figures.pairs.rejected_length
    return chosen / rejected if chosen is not None and rejected else None


def _truncated(figures: IterationFigures) -> float | None:
    responses = figures.responses
    return responses.truncated / responses.n if responses.n else None


_MEASURES: dict[GateName, _Measure] = {
    "parse_rate": _Measure(
        "min_parse_rate", lambda f: f.judgments.parse_rate, "{:.1%}",
        "{} of the votes have a verdict",
        "Read those without one (show RUN --failed); give the judge EFT data, or set "
        "judge.form=expected.",
        computed="Read those without one, with their reasons (show RUN --failed); docs/rewards.md "
        "says what each reason means.",
    ),
    "mass": _Measure(
        "min_mass", lambda f: f.judgments.mass, "{:.2g}",
        "the judge gives scores at all a probability of {}",
        "It wants to say something else, so the scores are those that it hardly means: give it EFT "
        "data in judge.form, or check that judge.template asks this model for a score.",
    ),
    "truncated": _Measure(
        "max_truncated", _truncated, "{:.1%}",
        "{} of the responses were cut off, and are never paired",
        "Raise responses.max_new_tokens, or give the policy IFT data with shorter responses.",
    ),
    "ceiling": _Measure(
        "max_ceiling", lambda f: f.scores.fives, "{:.1%}",
        "{} of the responses score 4.5 or more",
        "Scores that are all high choose nothing: go back to an earlier model, judge with "
        "judge.model=M1, or give EFT data with more low scores. Where judgments are judged, take "
        "iterations from meta.iterations: pairs of judgments may teach to give more points.",
        computed="Scores that are all high choose nothing: take harder prompts, or a judge that "
        "asks for more.",
    ),
    "spread": _Measure(
        "min_spread", lambda f: f.scores.prompt_std, "{:.3f}",
        "the scores of one prompt have a standard deviation of {} points",
        "The judge hardly tells the responses apart: raise responses.temperature or responses.n, "
        "or give the judge more EFT data.",
        computed="The responses are hardly told apart: raise responses.temperature or "
        "responses.n, or let a function give shares in place of 0 or 1.",
    ),
    "ties": _Measure(
        "max_ties", lambda f: f.pairs.tie_rate, "{:.1%}",
        "{} of the prompts have no pair because all their scores are equal",
        "Set judge.form=expected or judge.break_ties=true, raise judge.votes, or give the judge "
        "EFT data.",
        computed="Raise responses.temperature or responses.n, or let a function give shares in "
        "place of 0 or 1.",
    ),
    "length_ratio": _Measure(
        "max_length_ratio", _length_ratio, "{:.2f}",
        "chosen responses are {} times as long as rejected ones",
        "Set pairs.rule=length_control or length_regularized; `pairs RUN --try` compares them.",
    ),
    "length_correlation": _Measure(
        "max_length_correlation", lambda f: f.scores.spearman_length, "{:+.2f}",
        "length and score correlate by {} (Spearman)",
        "Set pairs.rule=length_control, or give the judge EFT data in which length tells nothing.",
        computed="Set pairs.rule=length_control, or take a judge that gives less for what "
        "only longer answers have.",
    ),
    "accuracy": _Measure(
        "min_accuracy", lambda f: f.judge.accuracy.low if f.judge else None, "{:.1%}",
        "the new model as a judge may order no more than {} of the held-out pairs as people do "
        "(lower end of the 95% interval)",
        "Its scores may be no better than chance: give it more EFT data, or judge with another "
        "judge.model; evaluation.limit=null tells more surely.",
        is_strict=True,
    ),
    "over_longest": _Measure(
        "min_over_longest", lambda f: f.judge.gain.low if f.judge else None, "{:+.1%}",
        "the new model as a judge may lead the longer response by no more than {} of the held-out "
        "pairs (lower end of the 95% interval)",
        "It may have learned no more than to count: give it EFT data in which length tells "
        "nothing, or set pairs.rule=length_control; evaluation.limit=null tells more surely.",
        is_strict=True,
    ),
    "drift": _Measure(
        "max_drift", lambda f: f.drift.value if f.drift else None, "{:+.2f}",
        "the new model scores the held-out responses {} points from where M1 did",
        "Scores of different iterations do not compare: set judge.model=M1, or a smaller "
        "dpo.learning_rate.",
    ),
    "canary": _Measure(
        "max_canary", lambda f: f.canaries.uplift.value if f.canaries else None, "{:+.2f}",
        "responses that ask for a high score get {} points more than without asking",
        "Give the judge EFT data with such responses scored low, or use another judge.model.",
    ),
}  # fmt: skip

BEFORE_TRAINING: tuple[GateName, ...] = (
    "parse_rate", "mass", "truncated", "ceiling", "spread", "ties", "length_ratio",
    "length_correlation",
)  # fmt: skip
"""Gates that are known once there are pairs, before DPO is paid for."""
AFTER_EVALUATION: tuple[GateName, ...] = ("accuracy", "over_longest", "drift", "canary")
"""Gates on the model that the iteration made."""


def gates(figures: IterationFigures, limits: "HealthConfig") -> list[Gate]:
    """Hold the figures of an iteration against the limits.

    A value that equals its limit passes, but for accuracy and over_longest: a judge that always
    says the same is right as often as chance, for certain. Correlation and drift count by their
    size, whatever their sign.

    Args:
        limits: Where a limit is None there is no gate.
    """
    found = []
    for name, measure in _MEASURES.items():
        limit = getattr(limits, measure.key)
        if limit is None:
            continue
        value, passed = measure.of(figures), None
        if value is not None:
            signed = name in ("length_correlation", "drift")
            size = abs(value) if signed else value
            passed = size >= limit if measure.key.startswith("min_") else size <= limit
            passed = passed and not (measure.is_strict and size == limit)
        found.append(Gate(name, value, limit, passed, name in limits.stop_on))
    return found


def key_of(gate: Gate) -> str:
    """The key of the config that holds the limit."""
    return f"health.{_MEASURES[gate.name].key}"


def finding(gate: Gate) -> str:
    """What was found, and the limit, in words."""
    measure = _MEASURES[gate.name]
    assert gate.value is not None
    said = measure.says.format(measure.form.format(gate.value))
    return f"{said} ({key_of(gate)}: {gate.limit:g})"


def remedy(gate: Gate, figures: IterationFigures) -> str:
    """What to do where an iteration does not pass it."""
    measure = _MEASURES[gate.name]
    form = figures.judgments.form
    asks_no_model = form is not None and not FORMS[form].template
    return (measure.computed if asks_no_model else "") or measure.remedy
