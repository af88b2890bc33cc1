"""A reward model in a child process, for who compares models outside of a run."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from selfreward.config.judging import REWARD, ContestConfig
from selfreward.engines.chat import Chat
from selfreward.engines.reward import RewardModel
from selfreward.inputs.questions import Question
from selfreward.measures.reports import Answer, FunctionValues
from selfreward.stages.rewards import RewardScorer
from selfreward.workers.contests import score_answers
from selfreward.workers.process import Child


def rewards_in_child(
    model: Path,
    questions: Sequence[Question],
    answers: Sequence[Sequence[Answer]],
    on_done: Callable[[int], None],
) -> list[FunctionValues]:
    """What a reward model gives answers to the same questions; see ``score_answers``.

    Args:
        model: Model directory.
        answers: Of each contestant.
        on_done: Told how many answers are scored, first 0, when the model is loaded.

    Raises:
        SelfRewardError: Whatever the child raised, or that it died.
    """
    found: list[FunctionValues] = []

    def hear(said: Any) -> None:
        if isinstance(said, int):
            on_done(said)
        else:
            found.extend(msgspec.convert(said, list[FunctionValues]))

    job = {"work": "rewards", "model": str(model), "questions": msgspec.to_builtins(questions),
           "answers": msgspec.to_builtins(answers)}  # fmt: skip
    with Child() as child:
        child.work(job, "judging process", hear=hear)
    return found


def rewards_job(job: dict[str, Any], say: Callable[[Any], None]) -> None:
    """Do that in the child."""
    questions = msgspec.convert(job["questions"], list[Question])
    answers = msgspec.convert(job["answers"], list[list[Answer]])
    judge = ContestConfig(model=job["model"], form=REWARD)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        say(done)

    async def score() -> list[FunctionValues]:
        chat = Chat(Path(job["model"]))
        engine = RewardModel(Path(job["model"]), chat)
        scorer = RewardScorer(engine, chat)
        say(0)
        try:
            return [await score_answers(judge, scorer, questions, each, step) for each in answers]
        finally:
            await engine.close()

    say(msgspec.to_builtins(asyncio.run(score())))
