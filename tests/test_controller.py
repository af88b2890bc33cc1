"""The loop with a scripted engine and trainer: order, resume, and when it must stop."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import IntegrityError, StoppedError
from selfreward.inputs.collect import create_run
from selfreward.measures.figures import IterationFigures
from selfreward.records import (
    Drop,
    FinishReason,
    Judgment,
    PreferencePair,
    Prompt,
    Response,
)
from selfreward.sigterm import Terminated
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.workers import children
from tests.support.loop_driver import ScriptedWorkers, run_until_done
from tests.support.scripted import Reply, scripted_reply, scripted_words

SMALL = [
    "prompts.count=4", "prompts.window=2", "prompts.rouge_l_max=1.0", "judge.votes=2",
    "prompts.seeds=seed/ift.jsonl", "sft.max_length=9999",
    "sft.ift={path: seed/ift.jsonl, limit: 3}", "sft.eft={path: seed/eft.jsonl, limit: 1}",
]  # fmt: skip


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    return tmp_path


def loop(run: Run, reply: Reply | None = None) -> None:
    launch(run, tick=lambda: None, workers=ScriptedWorkers(run, reply=reply))


def make(*overrides: str, name: str = "run") -> Run:
    return create_run(build_config({}, [*SMALL, *overrides]), name)


def stages(run: Run) -> list[tuple[int, str]]:
    with run.store() as store:
        return [(stage.iteration, stage.stage) for stage in store.stages()]


def test_two_iterations_finish_their_stages_in_order() -> None:
    run = make("iterations=2")
    loop(run)
    seed = [(0, "train"), (0, "evaluate")]
    each = ("prompts", "responses", "judgments", "pairs", "train", "evaluate")
    assert stages(run) == [*seed, *((t, s) for t in (1, 2) for s in each)]
    with run.store() as store:
        assert [(t, s) for t in range(4) for s in store.planned(t)] == stages(run)
    assert all(durable.is_whole(run.model_directory(i)) for i in (1, 2, 3))
    with run.store() as store:
        assert all(store.figures(t, IterationFigures) for t in (0, 1, 2))
        kinds = [kind for _, kind, _ in store.events() if kind != "warning"]
        assert kinds == ["launched", "finished"]


def test_rows_in_are_rows_out_plus_drops_at_every_stage() -> None:
    run = make("iterations=1")
    loop(run)
    with run.store() as store:
        prompts = store.records(Prompt, 1)
        responses = store.records(Response, 1)
        judgments = store.records(Judgment, 1)
        pairs = store.records(PreferencePair, 1)
        drops = [drop for drop in store.records(Drop, 1) if drop.stage == "pairs"]
        train = store.finished(1, "train")
    accepted = [prompt for prompt in prompts if prompt.dropped is None]
    assert len(accepted) == 4
    assert len(responses) == 4 * len(accepted)
    assert len(judgments) == 2 * sum(response.dropped is None for response in responses)
    assert len(accepted) == len(pairs) + sum("/" not in drop.item for drop in drops)
    assert train is not None and train.rows + train.drops == len(pairs)


def test_without_a_seed_step_the_first_iteration_starts_from_the_base_model() -> None:
    run = make("iterations=1", "sft=null")
    loop(run)
    assert stages(run)[:2] == [(0, "evaluate"), (1, "prompts")]
    assert run.policy(1) == Path(run.base_model()["path"])


def test_a_finished_run_does_nothing_when_resumed_and_can_be_extended() -> None:
    run = make("iterations=1")
    loop(run)
    before = stages(run)
    loop(run)
    assert stages(run) == before
    run.configure(["iterations=2"])
    loop(run)
    assert stages(run)[: len(before)] == before
    assert stages(run)[-1] == (2, "evaluate")


class DroppedInAFinalizer:
    def __del__(self) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)  # Python looks for signals


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("where", ["finalizer", "task"])
def test_sigterm_ends_a_run_also_where_python_or_asyncio_would_drop_what_it_raises(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Workers(ScriptedWorkers):
        def __init__(self, run: Run, store: Store, tick: Callable[[], None]) -> None:
            super().__init__(run)
            self.tick = tick

        def generate(self, iteration: int) -> None:
            if where == "task":
                run_until_done(work_on_in_spite_of_a_task())
            else:
                DroppedInAFinalizer()
            self.tick()
            pytest.fail("it went on")

    async def work_on_in_spite_of_a_task() -> None:
        task = asyncio.ensure_future(terminate())
        await asyncio.wait([task])

    async def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)

    monkeypatch.setattr(children, "Children", Workers)
    run = make()
    with pytest.raises(Terminated) as raised:
        launch(run, tick=lambda: None)
    assert raised.value.code == 143
    with run.store() as store:
        assert store.events()[-1][1:] == ("stopped", "Terminated")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_sigterm_that_is_dropped_at_the_very_end_still_ends_what_follows_the_run() -> None:
    class Workers(ScriptedWorkers):
        def close(self) -> None:
            DroppedInAFinalizer()

    run = make()
    with pytest.raises(Terminated):
        launch(run, tick=lambda: None, workers=Workers(run))
    with run.store() as store:
        assert store.events()[-1][1] == "finished"


def prose(prompt: str, number: int) -> tuple[str, FinishReason]:
    return scripted_words(number), "stop"


def always_four(prompt: str, number: int) -> tuple[str, FinishReason]:
    judging = "Score: <" in prompt[-200:]
    return (f"Fine.\nScore: {4}" if judging else scripted_words(number)), "stop"


def test_a_judge_that_never_gives_a_verdict_stops_with_the_reasons_and_trains_nothing() -> None:
    run = make("iterations=1")
    with pytest.raises(StoppedError, match=r"0 of 32 judgments have a verdict.*no score line 32"):
        loop(run, prose)
    assert stages(run)[-1] == (1, "responses")
    run.configure(["judge.min_parse_rate=0"])
    with pytest.raises(StoppedError, match=r"0 pairs, but .* is 1; dropped: no verdict"):
        loop(run, prose)
    assert not run.model_directory(2).exists()


def test_a_judge_that_always_says_the_same_stops_with_ties() -> None:
    run = make("iterations=1")
    with pytest.raises(StoppedError, match=r"0 pairs, .*dropped: tie 4"):
        loop(run, always_four)
    assert not run.model_directory(2).exists()


def cut_off(prompt: str, number: int) -> tuple[str, FinishReason]:
    """Answers that never end; prompts and judgments do."""
    said, reason = scripted_reply(prompt, number)
    judging, writing = "Score: <" in prompt[-200:], "\n" in prompt.strip()
    return (said, reason) if judging or writing else (said, "length")


@pytest.mark.parametrize(
    ("reply", "words", "named"),
    [
        (cut_off, [], "responses.max_new_tokens=512"),
        (always_four, [], "A judge that always says the same"),
        (None, ["pairs.min_margin=5", "pairs.min_pairs=4"], "pairs.min_margin=5 keeps few"),
        (prose, ["judge.min_parse_rate=0"], "The judge's replies hold no score"),
        (None, ["prompts.min_words=99"], "A smaller prompts.min_words than 99"),
        (None, ["prompts.max_new_tokens=3"], "More prompts.max_new_tokens than 3"),
    ],
)
def test_a_run_that_cannot_go_on_names_what_it_was_lost_to(
    reply: Reply | None, words: list[str], named: str
) -> None:
    def tell(prompt: str, number: int) -> tuple[str, FinishReason]:
        said, reason = (reply or scripted_reply)(prompt, number)
        return said, "length" if words == ["prompts.max_new_tokens=3"] else reason

    with pytest.raises(StoppedError) as error:
        loop(make("iterations=1", "prompts.max_attempts=40", *words), tell)
    assert named in error.value.hint
    assert ("judge" in error.value.hint.lower()) == ("judge" in named.lower())


def test_margins_too_small_stop_with_the_counts_and_promote_no_model() -> None:
    run = make("iterations=1", "pairs.min_margin=5", "pairs.min_pairs=4")
    with pytest.raises(StoppedError, match=r"1 pairs, but pairs.min_pairs is 4; dropped: margin 3"):
        loop(run)
    assert not run.model_directory(2).exists()
    assert stages(run)[-1] == (1, "pairs")


def test_a_generator_that_writes_nothing_new_stops_within_its_budget() -> None:
    run = make("iterations=1", "prompts.min_words=99", "prompts.max_attempts=6")
    with pytest.raises(StoppedError, match="of 4 prompts after 6 attempts; dropped: too short"):
        loop(run)
    with run.store() as store:
        assert len(store.records(Prompt, 1)) == 6


def test_a_budget_raised_on_resume_goes_on_after_the_attempts_already_made() -> None:
    words = "prompts.count=8", "prompts.max_attempts=8", "prompts.min_words=7"
    run = make("iterations=1", *words)
    with pytest.raises(StoppedError):
        loop(run)
    run.configure(["prompts.max_attempts=40"])
    loop(run)
    assert stages(run)[-1] == (1, "evaluate")


def test_altered_inputs_are_refused_on_resume() -> None:
    run = make("iterations=1")
    loop(run)
    template = run.path / "templates" / "judge.jinja"
    template.write_text(template.read_text() + "\n{# another rubric #}\n")
    with pytest.raises(IntegrityError, match="train of iteration 0 was made from another"):
        loop(Run(run.path))


def test_another_base_model_is_refused_on_resume() -> None:
    run = make("iterations=1")
    loop(run)
    facts = run.path / "models" / "M0.json"
    base = Path(json.loads(facts.read_text())["path"])
    (base / "weights").write_text("other")
    (base / durable.MANIFEST).unlink()
    durable.seal_directory(base)
    with pytest.raises(IntegrityError):
        loop(Run(run.path))
