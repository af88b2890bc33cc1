"""What is found of a judge and of an iteration, as ``records.db`` keeps it and JSON shows it.

Plain values only, so that what reads them imports no NumPy. Shares go from 0 to 1, scores and
differences of scores are in points, lengths in characters.
"""

from dataclasses import dataclass
from typing import Generic, TypeVar

from selfreward.records import GateName


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95% interval over prompts; see ``Bootstrap.estimate``."""

    value: float | None
    """None: there is nothing that it could be had from."""
    low: float | None
    """Lower end of the interval, at most ``value``; None where fewer than ten prompts count."""
    high: float | None
    n: int
    """How many things the figure is about."""


# How far an order agrees with that of people


@dataclass(frozen=True, slots=True)
class PairShares:
    """Of pairs of responses of which people preferred one."""

    accuracy: Estimate
    """Share that is ordered as people do, a tie half a hit; without a verdict it is a miss."""
    accuracy_strict: Estimate
    """The same, a tie a miss."""
    ties: Estimate
    """Share to which equal scores are given, or whose two orders disagree when compared."""


@dataclass(frozen=True, slots=True)
class JudgedPairs(PairShares):
    """The same of a judge, which may go by length."""

    prefers_longer: Estimate
    """Share of pairs with two verdicts and unequal lengths in which the longer one has the higher
    score, a tie half."""


@dataclass(frozen=True, slots=True)
class RankedShares(PairShares):
    """Of pairs and of whole rankings."""

    exact: Estimate
    """Share of rankings of which every pair is in order, no tie."""
    spearman: Estimate
    """Rank correlation, -1 to 1, mean over rankings; 0 where all scores are equal or one is
    missing."""
    kendall: Estimate
    """The same by Kendall's tau-b."""


@dataclass(frozen=True, slots=True)
class JudgedRankings(JudgedPairs):
    """The same of a judge."""

    exact: Estimate
    """See ``RankedShares``, like the next two."""
    spearman: Estimate
    kendall: Estimate
    five_best: Estimate
    """Of the responses given exactly 5, the share that people preferred most."""


A = TypeVar("A")
M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class Parts(Generic[A, M]):
    """A figure of all pairs, and of those of about the same length."""

    all: A
    matched: M


@dataclass(frozen=True, slots=True)
class JudgeParts(Generic[A, M]):
    """The same of a judge, and of ``parsed``: only responses (or pairs) with a verdict."""

    all: A
    parsed: A
    matched: M


@dataclass(frozen=True, slots=True)
class PairCounts:
    """How much was compared."""

    prompts: int
    pairs: int
    """Of which people preferred one."""
    matched: int
    """Pairs of about the same length."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How much was scored."""

    prompts: int
    rankings: int
    ordered: int
    """Rankings with pairs."""
    responses: int
    pairs: int
    """Of which people preferred one."""
    matched: int
    """Pairs of about the same length."""


# The figures of a judge that scores, and of one that compares


@dataclass(frozen=True, slots=True)
class VoteCount:
    """How good the first votes alone would be."""

    votes: int
    """How many, from 1."""
    accuracy: Estimate
    """See ``PairShares``, like the next."""
    ties: Estimate


@dataclass(frozen=True, slots=True)
class VoteAgreement:
    """Over the pairs of verdicts on one response."""

    same: Estimate
    """Share with equal scores."""
    difference: Estimate
    """Mean, in points."""
    alpha: Estimate
    """Krippendorff's for interval data, see ``vote_agreement``: 1 where votes agree within
    responses, 0 where they differ as much as votes on different ones; no value if all are equal."""


@dataclass(frozen=True, slots=True)
class CalibrationBin:
    """What people think of the responses that a judge gives about the same score."""

    low: float
    """Lowest score in it, 0 to 5."""
    high: float
    score: float
    """Mean."""
    n: int
    """Responses."""
    standing: Estimate
    """Share of the ranking's other responses that people like less."""
    human_score: Estimate
    """Points from people, 0 to 5."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Figures of a judge that scores."""

    counts: Counts
    length_ratio: float
    """Responses are of about the same length up to this ratio, above 1."""
    resamples: int
    """Of the bootstrap."""
    parse_rate: Estimate
    """Share of votes with a verdict."""
    answered: Estimate
    """Share of responses with any verdict."""
    judge: JudgeParts[JudgedRankings, JudgedPairs]
    longest: Parts[RankedShares, PairShares]
    """Of the judge that gives the length as its score."""
    gain: Parts[Estimate, Estimate]
    """Accuracy of the judge less that of the length, -1 to 1."""
    by_votes: tuple[VoteCount, ...]
    """For the first 1, 2, ... K votes; empty for one vote."""
    votes: VoteAgreement | None
    """None where no response has two verdicts."""
    calibration: tuple[CalibrationBin, ...]
    """The lowest scores first; empty without verdicts."""
    confusion: tuple[tuple[int, ...], ...] | None
    """Counts by points from people (rows, 0 to 5) and from the judge (columns, 0 to 5, none),
    halves rounded up; None where people gave no points."""


@dataclass(frozen=True, slots=True)
class Positions:
    """Figures of a judge that compares two responses, in both orders."""

    counts: PairCounts
    length_ratio: float
    """Responses are of about the same length up to this ratio, above 1."""
    resamples: int
    """Of the bootstrap."""
    parse_rate: Estimate
    """Share of single verdicts asked for that were given."""
    answered: Estimate
    """Share of pairs with a verdict in both orders."""
    consistent: Estimate
    """Share of pairs with two verdicts in which both are the same."""
    names_first: Estimate
    """Of single verdicts that name a response, the share that names the first one."""
    judge: JudgeParts[JudgedPairs, JudgedPairs]
    averaged: Parts[JudgedPairs, JudgedPairs] | None
    """Where the probability averaged over both orders decides; None in the ``written`` form, which
    has none."""
    longest: Parts[PairShares, PairShares]
    """Of the judge that names the longer response."""
    gain: Parts[Estimate, Estimate]
    """Accuracy of the judge less that of the length, -1 to 1."""


# What the evaluation of an iteration keeps


@dataclass(frozen=True, slots=True)
class JudgedText:
    """A held-out response with its votes."""

    ranking: int
    """Place of its ranking, from 0."""
    score: float | None
    """Mean over the votes with a verdict, 0 to 5."""
    votes: tuple[float | None, ...]
    """None without a verdict."""
    reasons: tuple[str | None, ...]
    """Why there is none, by vote."""


@dataclass(frozen=True, slots=True)
class JudgeReport:
    """How a model judges what people ranked."""

    agreement: Agreement
    drift: Estimate | None
    """Points by which the responses' mean score differs from what M1 gave, over those that both
    scored; None for M1 itself."""
    responses: tuple[JudgedText, ...]
    """In the order of the rankings."""


@dataclass(frozen=True, slots=True)
class Attack:
    """A response with and without words that ask for a high score."""

    kind: str
    honest: float | None
    """Mean score without them, 0 to 5; None where there is no verdict."""
    attacked: float | None

    @property
    def uplift(self) -> float | None:
        """Points that the words win; None where one of the scores is missing."""
        if self.honest is None or self.attacked is None:
            return None
        return self.attacked - self.honest


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """How far a judge is talked into higher scores."""

    uplift: Estimate
    """Mean of attacked minus honest score, in points, over the attacks with both."""
    attacks: tuple[Attack, ...]


# What the models answer to held-out questions, and who answers better


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to a question."""

    text: str
    num_tokens: int
    truncated: bool
    """Cut off at ``responses.max_new_tokens``."""
    dropped: str | None
    """Why it can be compared with nothing (``empty``, ``control token``, ...); None if it can."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said to all of them."""

    model: str
    """``M1``, ``M2``, ..."""
    answers: tuple[Answer, ...]
    """In the order of the questions."""


@dataclass(frozen=True, slots=True)
class Contest:
    """A model's answers against those of another, as one judge compares them in both orders."""

    model: str
    opponent: str
    """``M1``, ``M2``, ..., or ``reference``."""
    judge: str
    results: tuple[float | None, ...]
    """By question: 1 won, 0 lost, 0.5 a tie: the orders disagree, or the answers are the same; None
    where an order has no verdict."""
    win_rate: Estimate
    """Mean of the results that there are, 0 to 1."""
    length_controlled: Estimate
    """The same if both answers were as long as each other; see ``contests.length_controlled``."""
    longer: Estimate
    """Share of the questions to which the model answers at greater length, as long as each other
    half."""


@dataclass(frozen=True, slots=True)
class Contests:
    """All of a model's, or of several models'."""

    contests: tuple[Contest, ...]
    agreement: Estimate | None
    """Share of the results of two judges of the same contest that are the same; None for one."""


@dataclass(frozen=True, slots=True)
class FunctionValues:
    """What one function, or one reward model, gives a model's answers."""

    judge: str
    values: tuple[float | None, ...]
    """By question: where the value lies on the function's scale, 0 to 1; 0 of an answer that cannot
    be shown, as of a model that says nothing. Of a reward model the reward itself, and of such an
    answer None."""
    reasons: tuple[str | None, ...]
    """Why there is no value."""
    rate: Estimate
    """Mean of the values that there are."""


@dataclass(frozen=True, slots=True)
class Rewards:
    """What the reward models of the contests give a model's answers, on scales of their own."""

    judges: tuple[FunctionValues, ...]


@dataclass(frozen=True, slots=True)
class Verified:
    """What the functions of the contests give a model's answers."""

    functions: tuple[FunctionValues, ...]
    rate: Estimate
    """Mean over the functions, of the questions to which any gave a value, 0 to 1."""


# What the models know


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """What a model made of one benchmark."""

    name: str
    version: str
    """sha256 of its questions."""
    style: str
    """See ``evaluation.benchmarks``."""
    right: dict[str, tuple[int, ...]]
    """By metric (``acc``, ``acc_norm``) 1 for each question that is right, else 0."""
    scores: dict[str, Estimate]
    """Share that is right, 0 to 1, by metric."""
    gains: dict[str, Estimate] | None
    """By how much these are above those of M1, -1 to 1, question by question; None of M1 itself."""


@dataclass(frozen=True, slots=True)
class BenchmarkResults:
    """What it made of all of them."""

    results: tuple[BenchmarkResult, ...]
    """In the order of the config; fewer while the evaluation goes on."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One figure of an iteration against its limit; ``health`` says what it is about."""

    name: GateName
    value: float | None
    """None: not measured (yet), so neither passed nor failed."""
    limit: float
    passed: bool | None
    stops: bool
    """Whether the run stops where it is not passed; else it warns."""


@dataclass(frozen=True, slots=True)
class Health:
    """The gates of an iteration as they were last checked."""

    gates: tuple[Gate, ...]
