"""The last stage of an iteration: the model it made is measured, as a judge and by its answers.

It judges held-out responses that people ranked, and canaries, in the form and with the template of
the run's judge; of a jury, those of the member that is the policy. It is the policy that is
measured, whatever ``judge.model`` is: the one that judges the next iteration, or would. Then it
answers held-out questions, and is compared with the models before it, see ``contests.py``. Before
all that it takes the benchmarks.
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
from selfreward.measures.reports import Answers, FunctionValues, JudgeReport, Rewards, Verified
from selfreward.records import Comparison, Judgment
from selfreward.stages.evaluate import Pair, compare_pairs, judge_texts, pairs_of
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker
from selfreward.workers.benchmark import (
    REPORT,
    num_choices,
    read_benchmarks,
    take_benchmarks,
)
from selfreward.workers.contests import (
    REFERENCE,
    answer_questions,
    hold_contests,
    opponents_of,
    reward_answers,
    verify_answers,
)


async def evaluate_iteration(run: Run, store: Store, iteration: int, sessions: Sessions) -> None:
    """Measure ``models/M<iteration + 1>`` and commit the reports with the stage, all at once.

    Whatever cuts it off leaves nothing but whole benchmarks; the rest is begun anew.

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
    scorers = len(settings.functions) + len(settings.reward_models)
    scored = len(questions) * len(_unknown(own, opponents)) * scorers
    choices = sum(num_choices(asked) for _, asked in read_benchmarks(run))
    total = choices + len(texts) + len(pairs) + len(questions) + contested + scored
    with Tracker(store, iteration, "evaluate", total) as tracker:
        done = count(choices + 1)

        def step() -> None:
            tracker.advance(next(done))

        juror = config.judge.jurors[config.judge.evaluated]
        own_engine = juror.engine if juror.model == "policy" else None
        reports: dict[str, object] = {}
        if choices:
            await sessions.close()  # which may hold all memory of the device
            reports[REPORT] = take_benchmarks(run, store, iteration, tracker.advance)
        if texts:
            session = await sessions.get(own_engine or config.engine, run.policy(iteration + 1))
            reports |= await _as_judge(run, store, iteration, session, rankings, canaries, step)
        if questions:
            reports |= await _by_answers(run, store, iteration, sessions, questions, step)
        tracker.finish(run, rows=total, drops=0, reports=reports)


async def _by_answers(
    run: Run,
    store: Store,
    iteration: int,
    sessions: Sessions,
    questions: Sequence[Question],
    step: Callable[[], None],
) -> dict[str, object]:
    """The reports on the answers of the model."""
    settings, own = run.config.evaluation, f"M{iteration + 1}"
    opponents = opponents_of(store, iteration, questions)
    session = await sessions.get(run.config.engine, run.policy(iteration + 1))
    answers = await answer_questions(run, session, own, questions, step)
    reports: dict[str, object] = {"answers": answers}
    given = _given(store, iteration)
    for name in _unknown(own, opponents):
        asked = (answers if name == own else opponents[name]).answers
        verified = await verify_answers(run, questions, asked, step)
        rewards = await reward_answers(run, sessions, questions, asked, step)
        given[name] = [*verified.functions, *rewards.judges]
        if name == own:
            reports |= {"verified": verified} if settings.functions else {}
            reports |= {"rewards": rewards} if settings.reward_models else {}
    if opponents and settings.judges:
        reports["contests"] = await hold_contests(
            run, sessions, questions, answers, opponents, given, step
        )
    return reports


def _unknown(own: str, opponents: Mapping[str, Answers]) -> list[str]:
    """Whose answers functions and reward models have not been given before."""
    return [own, *(name for name in opponents if name == REFERENCE)]


def _given(store: Store, iteration: int) -> dict[str, Sequence[FunctionValues]]:
    """What functions and reward models gave the answers of earlier models, by model."""
    found: dict[str, Sequence[FunctionValues]] = {}
    for before in range(iteration):
        verified = store.report(before, "verified", Verified)
        rewards = store.report(before, "rewards", Rewards)
        found[f"M{before + 1}"] = [
            *(verified.functions if verified else ()),
            *(rewards.judges if rewards else ()),
        ]
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
