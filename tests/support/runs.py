"""Runs for the tests of everything that shows a run: one whole, one with hostile text."""

from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.inputs.collect import create_run
from selfreward.records import (
    Comparison,
    Criterion,
    Drop,
    Judgment,
    PreferencePair,
    Prompt,
    Response,
    Stage,
)
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.tables import digest
from tests.support.loop_driver import ScriptedWorkers

SMALL = [
    "prompts.count=6", "prompts.window=4", "responses.n=3", "judge.votes=3",
    "prompts.seeds=seed/ift.jsonl",
    "judge.min_parse_rate=0", "sft.ift.path=seed/ift.jsonl", "sft.ift.limit=6",
    "sft.eft.path=seed/eft.jsonl", "sft.eft.limit=3", "sft.max_length=4096",
]  # fmt: skip

# Clears the screen, sets title and clipboard, hides text, overprints, reverses, in C0 and C1.
PAYLOADS = [
    "\x1b[2J\x1b[H", "\x1b]0;owned\x07", "\x1b]52;c;ZXZpbA==\x07", "\x1b]8;;http://evil\x1b\\x",
    "\x1b[8mhidden\x1b[0m", "ok\rno", "ab\x08\x08cd", "\x9b2J", "\x90q\x9c", "\x07", "\x00", "\x7f",
    "\u202eevil\u202c", "\u2066iso\u2069", "\u200f", "\u061c", "\u2028", "\U000e0041", "\ufeff",
    "\ufdd0bold\ufdd2",
]  # fmt: skip
HOSTILE = " ".join(PAYLOADS)
UNSAFE = {c for payload in PAYLOADS for c in payload if not c.isprintable()} - {" "}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs directory with the finished run ``whole`` and the half-done run ``hostile``."""
    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(root))
        whole = create_run(build_config({}, SMALL), "whole")
        launch(whole, lambda: None, ScriptedWorkers(whole))
        _make_hostile(create_run(build_config({"model": f"org/{HOSTILE}"}, SMALL), "hostile"))
    return root


@pytest.fixture
def at_runs(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the runs directory in force."""
    monkeypatch.setenv("SELFREWARD_RUNS", str(runs))
    return runs


KINDS = (Prompt, Response, Judgment, Criterion, Comparison, PreferencePair, Drop)


def facts(run: Run) -> dict[str, Any]:
    """Everything of a run that must not depend on how it came about."""
    iterations = range(run.config.iterations + 1)
    models = {t: run.model_directory(t + 1) for t in iterations}
    with run.store() as store:
        return {
            "records": {
                f"{kind.__name__} {t}": digest(store.records(kind, t))  # type: ignore[type-var]
                for t in iterations
                for kind in KINDS
            },
            "stages": [[s.iteration, s.stage, s.rows, s.drops, s.digest] for s in store.stages()],
            "models": {
                path.name: durable.verify_directory(path)
                for t, path in models.items()
                if t or run.config.sft is not None
            },
        }


def _make_hostile(run: Run) -> None:
    prompts = [
        Prompt(1, 0, HOSTILE, HOSTILE, None, "", 9),
        Prompt(1, 1, HOSTILE, HOSTILE, "similar", HOSTILE, 9),
    ]
    responses = [Response(1, 0, i, HOSTILE * (i + 1), "stop", 9, HOSTILE) for i in range(2)]
    judgments = [
        Judgment(1, 0, sample, vote, "written", HOSTILE, score, None if score else HOSTILE)
        for sample, scores in enumerate([(1.0, 2.0), (5.0, None)])
        for vote, score in enumerate(scores)
    ]
    drops = [Drop(1, "pairs", "0/1", HOSTILE, HOSTILE), Drop(1, "train", "0", HOSTILE, HOSTILE)]
    with run.owned() as store:
        store.plan({1: run.config.stages(1)})
        store.add([*prompts, *responses, *judgments, *drops])
        store.finish_stage(
            Stage(1, "pairs", 1, 1, digest([]), "", 1.0, {}), [PreferencePair(1, 0, 1, 0, 5.0, 1.5)]
        )
        store.set_progress(1, "train", 1, 9, 2.0, HOSTILE)
        store.add_event("error", HOSTILE)
