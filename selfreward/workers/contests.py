"""The models of a run against each other: what they answer to held-out questions, and how well.

A new model's answers are compared with those of M1 and of the model before it, which are kept, and
with references where there are any. Judges that do not learn along compare them.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from selfreward.config.judging import ContestConfig
from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs.judge_templates import run_template
from selfreward.inputs.questions import Question
from selfreward.measures.contests import contest, contests_of, result, settled
from selfreward.measures.reports import Answer, Answers, Contests
from selfreward.records import Comparison, Response
from selfreward.stages.evaluate import Pair, answer_prompts, compare_pairs
from selfreward.storage.directory import Run
from selfreward.storage.store import Store

REFERENCE = "reference"
"""The opponent that is no model."""


async def answer_questions(
    run: Run,
    session: Session,
    model: str,
    questions: Sequence[Question],
    on_done: Callable[[], None],
) -> Answers:
    """Have a model answer all questions.

    Args:
        on_done: Called after each.
    """
    answers: dict[int, Answer] = {}

    def keep(number: int, response: Response) -> None:
        answers[number] = Answer(
            response.text, response.num_tokens, response.truncated, response.dropped
        )
        on_done()

    sampled = {"n": 1, "temperature": run.config.evaluation.temperature}
    await answer_prompts(
        session.engine, session.chat, {i: q.prompt for i, q in enumerate(questions)},
        run.config.responses.model_copy(update=sampled), keep,
        concurrency=run.config.engine.concurrency, seed=run.config.seed,
    )  # fmt: skip
    return Answers(model, tuple(answers[number] for number in range(len(questions))))


def opponents_of(
    store: Store, iteration: int, questions: Sequence[Question]
) -> dict[str, Sequence[Answer]]:
    """Whom the model that an iteration makes is compared with: the answers by name."""
    found: dict[str, Sequence[Answer]] = {}
    for before in dict.fromkeys((0, iteration - 1)) if iteration else ():
        if kept := store.report(before, "answers", Answers):
            found[kept.model] = kept.answers
    if questions and questions[0].reference is not None:
        found[REFERENCE] = [Answer(q.reference or "", 0, False, None) for q in questions]
    return found


async def hold_contests(
    run: Run,
    sessions: Sessions,
    questions: Sequence[Question],
    mine: Answers,
    opponents: dict[str, Sequence[Answer]],
    on_done: Callable[[], None],
) -> Contests:
    """Have each judge compare a model's answers with those of each opponent.

    Args:
        opponents: See ``opponents_of``.
        on_done: Called after each question of each contest.

    Raises:
        PreflightError: A judge cannot be asked.
    """
    found = []
    for judge in run.config.evaluation.judges:
        session = await _open(run, sessions, judge)
        for name, others in opponents.items():
            results = await _compare(run, session, judge, questions, mine.answers, others, on_done)
            found.append(contest(mine.model, name, judge.model, results, mine.answers, others))
    return contests_of(found)


async def _open(run: Run, sessions: Sessions, judge: ContestConfig) -> Session:
    model: Path | str = run.policy(1) if judge.model == "M1" else judge.model
    return await sessions.get(judge.engine or run.config.engine, model)


async def _compare(
    run: Run,
    session: Session,
    judge: ContestConfig,
    questions: Sequence[Question],
    mine: Sequence[Answer],
    others: Sequence[Answer],
    on_done: Callable[[], None],
) -> list[float | None]:
    """The results by question; see ``reports.Contest``."""
    results = [settled(a, b) for a, b in zip(mine, others, strict=True)]
    asked = [number for number, known in enumerate(results) if known is None]
    pairs: list[Pair] = [(questions[i].prompt, mine[i].text, others[i].text) for i in asked]
    for _ in range(len(results) - len(asked)):
        on_done()

    def keep(at: int, given: list[Comparison]) -> None:
        results[asked[at]] = result(given)
        on_done()

    await compare_pairs(
        session.engine, session.chat, run_template(run, "compare"), pairs, judge, keep,
        concurrency=run.config.engine.concurrency, seed=run.config.seed,
    )  # fmt: skip
    return results
