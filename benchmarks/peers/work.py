"""The work of one iteration, what a contender tells of it, and what is the same for all by rule.

Every contender imports this, each in an environment of its own, so it needs no more than jinja2.
"""

import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jinja2 import Environment

STAGES = ("sample", "judge", "train")
BETA, LEARNING_RATE, PAIRS_A_BATCH, BATCHES_A_STEP = 0.1, 1e-5, 2, 2
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "top_k": 64}
"""Of answers and of written judgments."""
_SCORE_LINE = re.compile(
    r"\W*(?:final |total |overall )*score\W*(?:is\W*)?(?P<score>[0-9](?:\.[0-9]+)?)"
    r"(?: points?)?(?: ?(?:/|out of) ?5)?(?: points?)?\W*",
    re.IGNORECASE,
)
_environment = Environment(trim_blocks=True, lstrip_blocks=True)


@dataclass(frozen=True)
class Work:
    """What there is to do; the driver writes it for each contender and repeat."""

    model: str
    """Directory of safetensors."""
    scratch: str
    """Empty; what is made goes there, the trained model to ``scratch/next``."""
    prompts: list[str]
    responses: int
    tokens: int
    """Of an answer, at most."""
    judge_tokens: int
    """Of a written judgment, at most."""
    templates: dict[str, str]
    """What the judge is asked, by the form: sources of shipped templates."""
    seed: int

    def judge_prompt(self, form: str, prompt: str, answer: str) -> str:
        """What the judge is told of an answer."""
        template = _environment.from_string(self.templates[form])
        return template.render(prompt=prompt, response=answer).strip()

    @property
    def next_model(self) -> Path:
        """Where the trained model goes."""
        return Path(self.scratch) / "next"


@dataclass
class Answer:
    """A sampled answer and its score."""

    prompt: str
    text: str
    tokens: int
    ended: bool
    """False where it was cut off."""
    score: float | None = None
    """0 to 5; None without a verdict."""


@dataclass
class Report:
    """What a contender tells of its run."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    """By stage; what is left of the whole process is for starting, loading and the rest."""
    sampled_tokens: int = 0
    judge_tokens: int = 0
    answers: int = 0
    judged: int = 0
    parsed: int = 0
    pairs: int = 0
    loads: int = 0
    """How often the weights were read into a process."""
    note: str = ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time within to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start

    def count(self, answers: Sequence[Answer]) -> None:
        """Take over what the judged answers tell."""
        self.answers = self.judged = len(answers)
        self.sampled_tokens = sum(answer.tokens for answer in answers)
        self.parsed = sum(answer.score is not None for answer in answers)

    def print(self) -> None:
        """Tell the driver: the last line of the output."""
        print(json.dumps(asdict(self)), flush=True)


def read_work(path: str) -> Work:
    """What the driver wrote."""
    return Work(**json.loads(Path(path).read_text()))


def read_report(output: str) -> Report | None:
    """The report in the last line of an output, if there is one."""
    lines = output.strip().splitlines()
    try:
        return Report(**json.loads(lines[-1]))
    except (IndexError, TypeError, ValueError):
        return None


def parse_score(text: str, ended: bool) -> float | None:
    """The score in the last line of a judgment; None without one, or where it was cut off."""
    lines = text.strip().splitlines()
    found = _SCORE_LINE.fullmatch(lines[-1].strip()) if lines and ended else None
    score = float(found["score"]) if found else None
    return score if score is not None and score <= 5 else None


def expected_score(probabilities: Sequence[float]) -> float:
    """The mean of the scores 0, 1, ... by their probabilities, whatever these add up to."""
    weighted = sum(score * share for score, share in enumerate(probabilities))
    return weighted / sum(probabilities)


def best_and_worst(answers: Sequence[Answer]) -> list[tuple[str, str, str]]:
    """Prompt, best and worst answer of each prompt that has a usable pair.

    As in selfreward, an answer that was cut off is judged and never paired, nor is one without a
    verdict, and equal scores make no pair.
    """
    by_prompt: dict[str, list[Answer]] = {}
    for answer in answers:
        if answer.ended and answer.score is not None:
            by_prompt.setdefault(answer.prompt, []).append(answer)
    pairs = []
    for prompt, usable in by_prompt.items():
        ordered = sorted(usable, key=lambda answer: answer.score or 0.0)
        worst, best = ordered[0], ordered[-1]
        if best.score != worst.score and best.text != worst.text:
            pairs.append((prompt, best.text, worst.text))
    return pairs
