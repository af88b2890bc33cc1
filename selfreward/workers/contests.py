"""The models of a run against each other: what they answer to held-out questions, and how well.

A new model's answers are compared with those of M1 and of the model it was made from, which are
kept, and with references where there are any. Judges that do not learn along compare them.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from selfreward.config.judging import REWARD, REWARD_ENGINE, ContestConfig
from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs.columns import values_of
from selfreward.inputs.conversations import conversations_of
from selfreward.inputs.judge_templates import run_template
from selfreward.inputs.questions import Question
from selfreward.measures.contests import (
    by_value,
    contest,
    contests_of,
    function_values,
    result,
    settled,
    verified,
)
from selfreward.measures.reports import (
    Answer,
    Answers,
    Contests,
    FunctionValues,
    Rewards,
    Verified,
)
from selfreward.records import Comparison, Response
from selfreward.stages.evaluate import Pair, answer_prompts, compare_pairs, in_flight
from selfreward.stages.functions import Scorer, finite, share_of
from selfreward.stages.rewards import RewardScorer
from selfreward.storage.directory import Run
from selfreward.storage.starts import start_of
from selfreward.storage.store import Store
from selfreward.workers.functions import function_process

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
        conversations=conversations_of(questions),
    )  # fmt: skip
    return Answers(model, tuple(answers[number] for number in range(len(questions))))


def opponents_of(store: Store, iteration: int, questions: Sequence[Question]) -> dict[str, Answers]:
    """Whom the model that an iteration makes is compared with: the answers by name."""
    found: dict[str, Answers] = {}
    for before in dict.fromkeys((0, start_of(store, iteration) - 1)) if iteration else ():
        if kept := store.report(before, "answers", Answers):
            found[kept.model] = kept
    if questions and questions[0].reference is not None:
        texts = (Answer(q.reference or "", 0, False, None) for q in questions)
        found[REFERENCE] = Answers(REFERENCE, tuple(texts))
    return found


async def hold_contests(
    run: Run,
    sessions: Sessions,
    questions: Sequence[Question],
    mine: Answers,
    opponents: Mapping[str, Answers],
    given: Mapping[str, Sequence[FunctionValues]],
    on_done: Callable[[], None],
) -> Contests:
    """Have each judge compare a model's answers with those of each opponent.

    Args:
        opponents: See ``opponents_of``.
        given: What functions and reward models gave the answers of the model, and of each opponent.
        on_done: Called after each question of each contest.

    Raises:
        PreflightError: A judge cannot be asked.
    """
    found = []
    for judge in run.config.evaluation.judges:
        session = await _open(run, sessions, judge) if judge.traits.template else None
        for name, others in opponents.items():
            if session is None:
                results = _by_values(judge, mine, others, given)
                for _ in results:
                    on_done()
            else:
                results = await _compare(
                    run, session, judge, questions, mine.answers, others.answers, on_done
                )
            rivals = (mine.answers, others.answers)
            found.append(contest(mine.model, name, judge.name, results, *rivals))
    return contests_of(found)


def _by_values(
    judge: ContestConfig,
    mine: Answers,
    others: Answers,
    given: Mapping[str, Sequence[FunctionValues]],
) -> list[float | None]:
    """The results by question; see ``reports.Contest``."""
    own, theirs = (
        next(each.values for each in given[answers.model] if each.judge == judge.name)
        for answers in (mine, others)
    )
    return results_by_value(mine.answers, others.answers, own, theirs)


def results_by_value(
    mine: Sequence[Answer],
    others: Sequence[Answer],
    own: Sequence[float | None],
    theirs: Sequence[float | None],
) -> list[float | None]:
    """The results by question, see ``reports.Contest``, by the values given to both answers."""
    known = map(settled, mine, others)
    return [
        by_value(*values) if found is None else found
        for found, *values in zip(known, own, theirs, strict=True)
    ]


async def verify_answers(
    run: Run, questions: Sequence[Question], answers: Sequence[Answer], on_done: Callable[[], None]
) -> Verified:
    """Have each function of the contests score answers to all questions.

    Args:
        on_done: Called after each answer, by each function.

    Raises:
        PreflightError: A function ends call after call without an answer.
    """
    names, found = column_names_of(questions), []
    for number, judge in enumerate(run.config.evaluation.contests):
        if judge.function is not None:
            key = f"evaluation.contests.{number}"
            async with function_process(run, judge, key, names) as process:
                found.append(await score_answers(judge, process, questions, answers, on_done))
    return verified(found)


async def reward_answers(
    run: Run,
    sessions: Sessions,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    on_done: Callable[[], None],
) -> Rewards:
    """Have each reward model of the contests score answers to all questions.

    Args:
        on_done: Called after each answer, by each.

    Raises:
        PreflightError: One cannot be asked.
    """
    found = []
    for judge in run.config.evaluation.reward_models:
        session = await sessions.get(REWARD_ENGINE, judge.model)
        scorer = RewardScorer(session.engine, session.chat)
        found.append(await score_answers(judge, scorer, questions, answers, on_done))
    return Rewards(tuple(found))


def column_names_of(questions: Sequence[Question]) -> list[str]:
    """Names of the further columns that any question has."""
    return sorted({name for question in questions for name in values_of(question.columns)})


async def score_answers(
    judge: ContestConfig,
    process: Scorer,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    on_done: Callable[[], None] = lambda: None,
) -> FunctionValues:
    """What a function gives the answers to all questions; one that was dropped has 0.

    A reward model gives the reward itself, and one that was dropped has none.

    Args:
        judge: Of the contests, a function or a reward model.
        process: Runs it.
        on_done: Called after each answer.

    Raises:
        PreflightError: It ends call after call without an answer.
    """
    values: dict[int, tuple[float | None, str | None]] = {}

    async def ask(at: int, asked: tuple[Question, Answer]) -> None:
        question, answer = asked
        is_reward = judge.form == REWARD
        values[at] = (None, answer.dropped) if is_reward else (0.0, None)
        if not answer.dropped:
            columns = values_of(question.columns)
            given = await process.score(question.prompt, answer.text, columns)
            values[at] = finite(given) if is_reward else share_of(given, judge.scale)
        on_done()

    both = list(zip(questions, answers, strict=True))
    await in_flight(ask, both, len(both))
    ordered = [values[at] for at in range(len(both))]
    return function_values(judge.name, *zip(*ordered, strict=True))


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
        conversations=conversations_of(questions),
    )  # fmt: skip
    return results
