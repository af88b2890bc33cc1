"""No command line whatever is told as a bug: every verb with odd arguments and options."""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from selfreward.cli import main as cli
from selfreward.errors import StoppedError
from selfreward.storage.directory import runs_root
from selfreward.verbs import judge, parity
from selfreward.workers import children
from tests.support import fuzz_configs
from tests.support.fuzz import Draw, Law
from tests.support.preflight import Preflight
from tests.support.runs import at_runs, runs  # noqa: F401

PLACES = [
    "whole", "hostile", "whole", "whole", "nobody", "", ".", "..", "/", "whole/", "./whole", "a/b",
    "-x",
    "whole\0", "\ud800", "x" * 300, "é", "~", "~nobody/x", "RUN", "whole:M1", "records.db", "*",
]  # fmt: skip
NUMBERS = [
    "0",
    "1",
    "2",
    "-1",
    "3",
    "99",
    "1e3",
    "1.5",
    "nan",
    "inf",
    "-0.5",
    "",
    "a",
    "٣",
    "9" * 40,
    "0x1",
    " 1",
]
FILES = ["x.png", "x.svg", "x.pdf", "x", ".png", "no/such/x.png", "/", ".", "", "a\0.png",
    "x" * 300 + ".png",
         "data.jsonl", "/dev/null", "/dev/full", "/proc/x.svg", "quickstart", "é.svg"]  # fmt: skip
TEXTS = ["all", "best_worst", "M1", "M0", "SFT", "M9", "whole:M1", "whole:M2", "whole:SFT",
    "hostile:M1", "whole:",
         ":", "judge", "prompts", "criteria", "judge-1", "dpo.beta", "dpo", "sft.ift.path",
         "judge.jury.0.model",
         "written", "expected", "criteria", "kind=vllm", "kind=server", "train", "quickstart",
         "self-rewarding"]  # fmt: skip
WORDS = ["iterations=3", "iterations=0", "dpo.beta=0.2", "pairs.rule=all_pairs",
    "pairs.min_margin=0.5",
         "judge.votes=1", "system_prompt=a", "seed=7", "health.max_ties=null",
         "responses.anchors=1"]  # fmt: skip


def verbs() -> dict[tuple[str, ...], Any]:
    """Every verb, by its words."""
    found: dict[tuple[str, ...], Any] = {}

    def walk(command: Any, at: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            walk(inner, (*at, name))
        if not hasattr(command, "commands"):
            found[at] = command

    walk(typer.main.get_command(cli.app), ())
    return found


def odd_value(draw: Draw, name: str) -> str:
    """A value for an option or an argument, which may well fit."""
    if draw.random() < 0.12:
        return draw.choice([*PLACES, *NUMBERS, *FILES, *TEXTS])
    if name in ("name", "like") or "run" in name:
        return draw.choice(PLACES)
    if name in ("plot", "out", "directory", "data", "source", "template"):
        return draw.choice(FILES)
    if name in (
        "start",
        "tried",
        "show",
        "key",
        "form",
        "engine",
        "model",
        "recipe",
        "config",
        "parity",
        "split",
    ):
        return draw.choice(TEXTS)
    if name == "overrides":
        return (
            draw.choice(WORDS)
            if draw.random() < 0.7
            else fuzz_configs.odd_word(draw, fuzz_configs.OPTIONS)
        )
    return draw.choice(NUMBERS)


def odd_words(draw: Draw, known: dict[tuple[str, ...], Any]) -> list[str]:
    """A command line."""
    verb = draw.choice(list(known))
    words = list(verb)
    for parameter in known[verb].params:
        required = parameter.required
        if parameter.param_type_name == "argument":
            if draw.random() < (0.95 if required else 0.3):
                words.append(odd_value(draw, parameter.name))
        elif draw.random() < (0.9 if required else 0.2):
            option = draw.choice(parameter.opts)
            if getattr(parameter, "is_flag", False):
                words.append(option)
            else:
                value = odd_value(draw, parameter.name)
                words += [f"{option}={value}"] if draw.random() < 0.5 else [option, value]
    how = draw.random()
    if how < 0.1:
        words.insert(draw.randrange(len(words) + 1), draw.choice([
            "--", "-", "--json", "--help", "-h", "--nope", "--debug", "--version", "", "--=", "-1",
            "\ud800", "@x",
            "--json=1", "---", "--install-completion-x", "resume",
        ]))  # fmt: skip
    elif how < 0.15:
        draw.shuffle(words)
    elif how < 0.2 and words:
        words.pop(draw.randrange(len(words)))
    return words


def check(law: Law, tmp_path: Path, originals: Path, cases: range) -> None:
    law.patch.setattr(children, "Children", Preflight)
    law.patch.setattr(judge.models, "resolve", _stop)
    law.patch.setattr(parity, "measure", _stop)
    law.patch.setattr("uvicorn.server.Server.run", lambda server, sockets: None)  # for ever
    root = tmp_path / "runs"
    law.patch.setenv("SELFREWARD_RUNS", str(root))
    law.patch.setenv("SELFREWARD_DEBUG", "")
    known = verbs()
    for case in cases:
        if case == cases.start or case % 50 == 0:
            for path in tmp_path.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copytree(originals, root)
            law.patch.chdir(tmp_path)
        draw = random.Random(case)
        before = sorted(os.listdir(root))
        words = odd_words(draw, known)
        said = law.obey(words, case)
        if words[:1] == ["run"] and said.code:
            assert sorted(os.listdir(root)) == before, (case, words, said.err)


def _stop(*args: object, **more: object) -> None:
    raise StoppedError("so far nothing was wrong")


@pytest.mark.slow
@pytest.mark.usefixtures("at_runs")
def test_no_command_line_whatever_is_told_as_a_bug(
    law: Law,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    check(law, tmp_path, runs_root(), range(300))


@pytest.mark.long
@pytest.mark.parametrize("start", range(300, 12_300, 1000))
@pytest.mark.usefixtures("at_runs")
def test_no_command_line_of_many_more_is_told_as_a_bug(
    law: Law,
    tmp_path: Path,
    start: int,
) -> None:
    check(law, tmp_path, runs_root(), range(start, start + 1000))
