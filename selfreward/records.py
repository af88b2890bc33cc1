"""The records that a run is made of; each is a row of its table in ``records.db``.

    Prompt (iteration, attempt)
      Response (iteration, attempt, sample)          N per accepted prompt
        Judgment (iteration, attempt, sample, juror, vote)  K per response and judge
      Criterion (iteration, attempt, juror, number)  what a judge asks of answers to the prompt
      Comparison (iteration, attempt, first, second) two responses, judged against each other
      MetaJudgment (iteration, attempt, sample, first, second) two votes on a response, the same
      PreferencePair (iteration, attempt, chosen, rejected)
      JudgePair (iteration, attempt, sample, chosen, rejected)
    Drop: what a stage left out, and why
    Stage, Progress: which stages are finished, and how far the others are

``attempt`` numbers the tries at writing a prompt, from 0, and names the prompt ever after.
Records are frozen and hold plain values only.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

TRAINING = ("sft", "train")
"""Stages that make a model."""
META, JUDGE_PAIRS = "meta_judgments", "judge_pairs"
"""Stages of Meta-Rewarding: judgments are judged, and become pairs."""


def stage_order(
    iteration: int,
    *,
    trained: bool = True,
    selected: bool = False,
    anchors: bool = False,
    jurors: int = 1,
    compared: bool = False,
    meta_judged: bool = False,
    evaluated: bool = True,
) -> tuple[str, ...]:
    """The stages of an iteration; nothing else knows their order.

    A run asks its config, see ``Config.stages``; who only reads a run asks ``Store.planned``.

    Args:
        trained: Iteration 0: whether there is a seed step.
        selected: Iteration 0: whether judgments are selected for it.
        anchors: Iterations above 0, like the next three: whether M1 answers, too.
        jurors: Number of judges.
        compared: Whether ties are broken.
        meta_judged: Whether judgments are judged.
        evaluated: Whether the new model is measured.
    """
    last = ("evaluate",) if evaluated else ()
    if iteration == 0:
        before = ("sft", "prompts", "responses", "judgments", "selection") if selected else ()
        return (*before, *(("train",) if trained else ()), *last)
    answered = ("responses", "anchors") if anchors else ("responses",)
    judged = (*map(judge_stage, range(jurors)), *(("comparisons",) if compared else ()))
    if meta_judged:
        return ("prompts", *answered, *judged, META, "pairs", JUDGE_PAIRS, "train", *last)
    return ("prompts", *answered, *judged, "pairs", "train", *last)


def stages_of(iteration: int, begun: Collection[str], evaluated: bool = True) -> tuple[str, ...]:
    """The same, as far as it shows in the stages that have begun, where there is no config."""
    numbers = [int(stage.partition("/")[2]) for stage in begun if stage.startswith("judgments/")]
    return stage_order(
        iteration,
        trained="train" in begun or "evaluate" not in begun,  # else M1 = M0
        selected="sft" in begun,
        anchors="anchors" in begun,
        jurors=1 + max(numbers, default=0),
        compared="comparisons" in begun,
        meta_judged=META in begun or JUDGE_PAIRS in begun,
        evaluated=evaluated,
    )


def model_name(iteration: int, stage: str) -> str:
    """Name of the model that a training stage makes: ``SFT`` or ``M1``, ``M2``, ..."""
    return "SFT" if stage == "sft" else f"M{iteration + 1}"


def judge_stage(juror: int) -> str:
    """The stage in which one of ``judge.jurors`` judges: ``judgments``, ``judgments/1``, ..."""
    return f"judgments/{juror}" if juror else "judgments"


def judge_key(juror: int) -> str:
    """Where one of ``judge.jurors`` is in the config: ``judge``, ``judge.jury.0``, ..."""
    return f"judge.jury.{juror - 1}" if juror else "judge"


FinishReason = Literal["stop", "length", "error"]
"""``stop``: end of turn or a stop string. ``length``: cut off at ``max_new_tokens``. ``error``: the
engine could not answer the request, and ``dropped`` says why; nothing was sampled."""


GateName = Literal[
    "parse_rate", "mass", "truncated", "ceiling", "spread", "ties", "length_ratio",
    "length_correlation", "accuracy", "over_longest", "drift", "canary",
]  # fmt: skip
"""The health gates; ``measures.health`` says what each holds against its limit."""


FormName = Literal[
    "written", "expected", "written_expected", "criteria", "reward", "implicit", "function",
    "imported",
]  # fmt: skip
"""The forms of judging, see ``judge.form``."""


@dataclass(frozen=True, slots=True)
class Form:
    """What sets a form of judging apart; ``stages.judgments`` has what it does.

    A form that neither writes nor goes by criteria has one vote on each response.
    """

    template: str
    """The shipped template; empty where nothing is asked in words."""
    writes: bool = False
    """Whether the judge writes something about each response, as often as ``judge.votes``."""
    weighs: bool = False
    """Whether the score is the one expected under the probabilities of the score tokens; else it is
    read from the text, and the judge may be one whose tokenizer is not known."""
    by_criterion: bool = False
    """Whether the judge first writes the criteria of a prompt, and a vote is by one of them."""

    @property
    def variables(self) -> set[str]:
        """What the template is given."""
        return {"prompt", "response"} | ({"criterion"} if self.by_criterion else set())


FORMS: dict[str, Form] = {
    "written": Form("judge/additive.jinja", writes=True),
    "expected": Form("judge/expected.jinja", weighs=True),
    "written_expected": Form("judge/additive.jinja", writes=True, weighs=True),
    "criteria": Form("judge/criterion.jinja", weighs=True, by_criterion=True),
    "reward": Form(""),
    "implicit": Form(""),
    "function": Form(""),
    "imported": Form(""),
}
"""By ``FormName``."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One attempt at writing a new prompt, accepted or dropped."""

    iteration: int
    attempt: int
    text: str
    """The instruction after cutting, empty if nothing usable was written; of a conversation all of
    its turns, see ``inputs.conversations``."""
    raw: str
    """What the author wrote, untouched."""
    dropped: str | None
    """Why the attempt was not accepted; None for an accepted prompt."""
    detail: str = ""
    """What the reason is about, such as the pooled prompt that it resembles; of an accepted prompt
    of iteration 0, the other request that its worse response answers."""
    num_tokens: int = 0
    columns: str | None = None
    """What else belongs to it, as a JSON object; None where there is nothing. Of a row of
    ``prompts.dataset`` its further columns, and the ``messages`` of a conversation, which are what
    the model is asked. Of a written prompt its ``topic``; of one that was
    rewritten ``operation`` and ``parent``, which is ``iteration`` and ``attempt`` of another, or
    the place of a ``seed``, from 0."""


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
    author: str = "policy"
    """``policy``, ``M1`` for an anchor, which is never chosen, or ``human``."""
    token_ids: tuple[int, ...] | None = None
    """As sampled, thinking included and the end of turn not; None where tokenizing ``text`` gives
    the same ids, and of an answer that cannot be paired."""

    @property
    def truncated(self) -> bool:
        """Whether the answer was cut off: never paired, and judged with ``judge.truncated``."""
        return self.finish_reason == "length"

    @property
    def is_anchor(self) -> bool:
        """Whether M1 gave it, as an anchor for the rejected one."""
        return self.author == "M1"


@dataclass(frozen=True, slots=True)
class Judgment:
    """One vote of a judge on one response."""

    iteration: int
    attempt: int
    sample: int
    vote: int
    """0 .. K-1 within the response."""
    form: str
    """One of ``FORMS``."""
    raw: str
    """The judge's own completion; empty in the forms that sample no text here. Of a function or a
    reward model what it gave, or what went wrong; of an imported vote what was noted beside it."""
    score: float | None
    """Points on the rubric scale, 0 to 5; None if there is no verdict."""
    reason: str | None = None
    """Why the score is None; None where there is a score."""
    probabilities: tuple[float, ...] | None = None
    """Of each score 0..5 before renormalizing, but in the ``written`` form; their sum is the share
    of probability the judge gives to scores at all."""
    num_tokens: int = 0
    juror: int = 0
    """Which of ``judge.jurors`` voted."""
    weight: float = 1.0
    """Of the vote in its judge's mean: that of the criterion in the ``criteria`` form."""

    @property
    def item(self) -> str:
        """What names it among the drops: ``attempt/sample/vote``."""
        return f"{self.attempt}/{self.sample}/{self.vote}"


@dataclass(frozen=True, slots=True)
class Criterion:
    """Something that a good answer to a prompt needs, as a judge wrote it."""

    iteration: int
    attempt: int
    juror: int
    number: int
    """0, 1, ... within the prompt; the ``vote`` of the judgments by this criterion."""
    text: str
    weight: float
    """Above 0, relative to the other criteria of the prompt."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two responses to one prompt judged against each other, in one of the two orders."""

    iteration: int
    attempt: int
    first: int
    """``sample`` of the response that was shown first."""
    second: int
    form: str
    """``written`` or ``expected``."""
    raw: str
    winner: int | None
    """``sample`` of the better one; None for a tie, and where there is no verdict."""
    reason: str | None = None
    """Why there is no verdict; None where there is one, be it a tie."""
    probabilities: tuple[float, ...] | None = None
    """``expected`` form: of naming the first and the second, not renormalized."""
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class MetaJudgment:
    """Two votes of the policy on one response judged against each other, in one of two orders."""

    iteration: int
    attempt: int
    sample: int
    """Of the response."""
    first: int
    """``vote`` of the judgment that was shown first."""
    second: int
    form: str
    """``written`` or ``expected``."""
    raw: str
    winner: int | None
    """``vote`` of the better one; None for a tie, and where there is no verdict."""
    reason: str | None = None
    """Why there is no verdict; None where there is one, be it a tie."""
    probabilities: tuple[float, ...] | None = None
    """``expected`` form: of naming the first and the second, not renormalized."""
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
    """Weighted mean over the judges, of each over its votes that have a score, 0 to 5."""
    rejected_score: float

    @property
    def margin(self) -> float:
        """Score difference in points; 0 where comparisons broke a tie."""
        return self.chosen_score - self.rejected_score


@dataclass(frozen=True, slots=True)
class JudgePair:
    """A chosen and a rejected judgment of one response."""

    iteration: int
    attempt: int
    sample: int
    """Of the response."""
    chosen: int
    """``vote`` of the chosen judgment."""
    rejected: int
    chosen_elo: float
    """Elo points; the mean over the judgments that were compared is 0."""
    rejected_elo: float


@dataclass(frozen=True, slots=True)
class Drop:
    """Something a stage left out: rows in = rows out + drops."""

    iteration: int
    stage: str
    item: str
    """What was left out: ``attempt``, ``attempt/sample``, a vote as ``attempt/sample/vote``, a pair
    as ``attempt/chosen/rejected`` or a row of a file such as ``eft:12`` or ``preferences:3``."""
    reason: str
    detail: str = ""


def kept(judgments: Iterable[Judgment], drops: Iterable[Drop]) -> list[Judgment]:
    """The judgments that the stage ``selection`` kept, given all its drops."""
    dropped = {drop.item for drop in drops if drop.stage == "selection"}
    return [judgment for judgment in judgments if judgment.item not in dropped]


Record = (
    Prompt | Response | Judgment | Criterion | Comparison | MetaJudgment | PreferencePair
    | JudgePair | Drop
)  # fmt: skip
"""What stages make."""
R = TypeVar(
    "R", Prompt, Response, Judgment, Criterion, Comparison, MetaJudgment, PreferencePair, JudgePair,
    Drop,
)  # fmt: skip


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


MAX_SCORE = 5
"""Points on the additive scale (arXiv 2401.10020, figure 2)."""

REPORTS = (
    "judge", "canaries", "positions", "answers", "contests", "verified", "rewards", "benchmarks",
)  # fmt: skip
"""Names of all reports of an evaluation."""

REPORTS_OF: dict[str, tuple[str, ...]] = {
    "selection": ("selection",), "train": ("trained", "consistency"), "evaluate": REPORTS,
}  # fmt: skip
"""Names of the reports that are committed with a stage."""
