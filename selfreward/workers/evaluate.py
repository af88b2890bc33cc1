"""The last stage of an iteration: the model it made is measured, as a judge and by its answers.

It judges held-out responses that people ranked, and canaries, in the form and with the template of
the run's judge; of a jury, those of the member that is the policy. It is the policy that is
measured, whatever ``judge.model`` is: the one that judges the next iteration, or would. Then it
answers held-out questions, and is compared with the models before it, see ``contests.py``.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import count

from selfreward.engines.sessions import Session, Sessions
from selfreward.inputs.conversations import conversations_of
from selfreward.inputs.heldout import Canary, read_canaries, read_held_out, texts_asked
from selfreward.inputs.judge_templates import run_judge_templates, run_template
from selfreward.inputs.questions import Question, copied_questions
from selfreward.inputs.rankings import Ranking, Text
from selfreward.measures.judge import Votes, canary_report, judge_report
from selfreward.measures.positions import compared_pairs, positions
from selfreward.measures.reports import JudgeReport, Verified
from selfreward.records import Comparison, Judgment
from selfreward.stages.evaluate import Pair, compare_pairs, judge_texts, pairs_of
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker
from selfreward.workers.contests import (
    REFERENCE,
    answer_questions,
    hold_contests,
    opponents_of,
    verify_answers,
)


async def evaluate_iteration(run: Run, store: Store, iteration: int, sessions: Sessions) -> None:
    """Measure ``models/M<iteration + 1>`` and commit the reports with the stage, all at once.

    Whatever cuts it off leaves nothing; it is begun anew.

    Raises:
        PreflightError: The engine cannot go on.
    """
    config, settings = run.config, run.config.evaluation
    rankings: list[Ranking] = []
    canaries: list[Canary] = []
    questions: list[Question] = []
    if settings.ranked is not None:
        rankings = read_held_out(run.seed_file("heldout"), settings.limit)
    if settings.canaries:
        canaries = read_canaries(run.seed_file("canaries"))
    if settings.questions is not None:
        questions = copied_questions(run.seed_file("questions"))
    texts = texts_asked(rankings, canaries)
    pairs = pairs_of(rankings) if settings.compares else []
    own, opponents = f"M{iteration + 1}", opponents_of(store, iteration, questions)
    contested = len(questions) * len(opponents) * len(settings.judges)
    unknown = [name for name in (own, REFERENCE) if name == own or name in opponents]
    scored = len(questions) * len(unknown) * len(settings.functions)
    total = len(texts) + len(pairs) + len(questions) + contested + scored
    with Tracker(store, iteration, "evaluate", total) as tracker:
        done = count(1)

        def step() -> None:
            tracker.advance(next(done))

        juror = config.judge.jurors[config.judge.evaluated]
        own_engine = juror.engine if juror.model == "policy" else None
        reports: dict[str, object] = {}
        if texts:
            session = await sessions.get(own_engine or config.engine, run.policy(iteration + 1))
            reports = await _as_judge(run, store, iteration, session, rankings, canaries, step)
        if questions:
            session = await sessions.get(config.engine, run.policy(iteration + 1))
            answers = await answer_questions(run, session, own, questions, step)
            reports["answers"] = answers
            given: dict[str, Verified] = {}
            if settings.functions:
                given = _given(store, iteration)
                for name in unknown:
                    asked = answers if name == own else opponents[name]
                    given[name] = await verify_answers(run, questions, asked.answers, step)
                reports["verified"] = given[own]
            if contested:
                reports["contests"] = await hold_contests(
                    run, sessions, questions, answers, opponents, given, step
                )
        tracker.finish(run, rows=total, drops=0, reports=reports)


def _given(store: Store, iteration: int) -> dict[str, Verified]:
    """What functions gave the answers of earlier models, by model."""
    found = {}
    for before in range(iteration):
        if (kept := store.report(before, "verified", Verified)) is not None:
            found[f"M{before + 1}"] = kept
    return found


async def _as_judge(
    run: Run,
    store: Store,
    iteration: int,
    session: Session,
    rankings: Sequence[Ranking],
    canaries: Sequence[Canary],
    step: Callable[[], None],
) -> dict[str, object]:
    """The reports on the model as a judge."""
    conversations = conversations_of(rankings)
    votes = await _judge(run, session, texts_asked(rankings, canaries), conversations, step)
    reports: dict[str, object] = {}
    if rankings:
        first = store.report(0, "judge", JudgeReport) if iteration else None
        reports["judge"] = judge_report(rankings, votes, first)
    if canaries:
        reports["canaries"] = canary_report(canaries, votes)
    if run.config.evaluation.compares:
        comparisons = await _compare(run, session, pairs_of(rankings), conversations, step)
        reports["positions"] = positions(compared_pairs(rankings, comparisons))
    return reports


async def _judge(
    run: Run,
    session: Session,
    texts: Sequence[Text],
    conversations: Mapping[str, str],
    step: Callable[[], None],
) -> Votes:
    votes: dict[Text, Sequence[Judgment]] = {}

    def keep(at: int, judgments: list[Judgment]) -> None:
        votes[texts[at]] = judgments
        step()

    number = run.config.judge.evaluated
    juror = run.config.judge.jurors[number]
    templates = run_judge_templates(run, number)
    await judge_texts(
        session.engine, session.chat, templates["judge"], texts, juror, keep,
        concurrency=run.config.engine.concurrency, seed=run.config.seed,
        criteria_template=templates.get("criteria"), conversations=conversations,
    )  # fmt: skip
    return votes


async def _compare(
    run: Run,
    session: Session,
    pairs: Sequence[Pair],
    conversations: Mapping[str, str],
    step: Callable[[], None],
) -> Mapping[Pair, Sequence[Comparison]]:
    comparisons: dict[Pair, Sequence[Comparison]] = {}

    def keep(at: int, given: list[Comparison]) -> None:
        comparisons[pairs[at]] = given
        step()

    juror = run.config.judge.jurors[run.config.judge.evaluated]
    await compare_pairs(
        session.engine, session.chat, run_template(run, "compare"), pairs, juror, keep,
        concurrency=run.config.engine.concurrency, seed=run.config.seed,
        conversations=conversations,
    )  # fmt: skip
    return comparisons
