"""What the documentation shows to be typed works, page by page, from top to bottom.

Workers are scripted; where a command would load a model to measure it, it has come as far as that.
"""

import csv
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.engines import likelihood
from selfreward.errors import StoppedError
from selfreward.inputs.collect import create_run
from selfreward.storage import durable
from selfreward.verbs import parity
from selfreward.workers import children, process
from tests.support import ROOT
from tests.support.cli_driver import Workers
from tests.support.fuzz import Law
from tests.support.labels import label_all
from tests.support.models import make_model
from tests.support.preflight import REACHED
from tests.support.runs import SMALL

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOT_RUN = {
    "make quickstart": "installs and takes minutes; .ci/run runs it, killed once in the middle",
    "selfreward benchmark * --tasks *": "needs lm-eval; tests/workers/test_benchmarks.py runs it",
    "selfreward data oasst OpenAssistant/oasst2 *": "asks the hub; tests/inputs/test_oasst.py",
    "selfreward push RUN:M2 owner/name --pairs": "asks the hub; tests/verbs/test_push.py has one",
    "selfreward track RUN --to wandb": "needs wandb; tests/tracking/test_tracking.py",
    "selfreward view /data/runs/other": "is on no machine",
    "selfreward pairs RUN --try RULE ... *": "is a synopsis",
    "selfreward resume big &": "needs Slurm",
    "selfreward run big.yaml --name big &": "needs Slurm",
}
"""Lines that are not run, as patterns, and why."""
GIVEN: dict[str, list[dict[str, object]]] = {
    "my/answers.jsonl": [
        *({"instruction": f"Why is rose {i} red?", "output": f"Rose {i} is."} for i in range(40)),
        {"instruction": "なぜ", "input": "バラ", "output": "赤い。" * 2000},
    ],
    "my/questions.jsonl": [
        {"question": f"What is {i} and 1?", "choices": [f"{i + 1}", "a fish"], "answer": 0}
        for i in range(4)
    ],
    "ranked.jsonl": [
        {
            "prompt": f"Name {i} fruits.",
            "responses": [{"text": "A pear.", "rank": 1}, {"text": "A brick.", "rank": 2}],
        }
        for i in range(6)
    ],
    "DIR/scored.train.jsonl": [
        {"prompt": f"Name {i} berries.", "response": "A grape.", "score_0_5": i % 6}
        for i in range(12)
    ],
    "mine.jsonl": [
        {"prompt": f"{i} fruits, please.", "response": "A pear.", "user_id": f"u{i}"}
        for i in range(40)
    ],
}
"""Files that readers are told to bring, as they may look."""
GIVEN["my/alpaca.json"] = GIVEN["my/answers.jsonl"]
GIVEN["heldout.jsonl"] = GIVEN["held-out.jsonl"] = GIVEN["DIR/rankings.valid.jsonl"] = [
    row | {"prompt": f"{row['prompt']} Red ones."} for row in GIVEN["ranked.jsonl"]
]
for name in ("openbookqa/test.jsonl", "arc_challenge/validation.jsonl", "OBQA.jsonl", "ARC.jsonl"):
    GIVEN[name] = GIVEN["my/questions.jsonl"]
SHAPE = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 8,
    "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 128,
}  # fmt: skip
SCALED = {"run": SMALL, "compare": ["sft.max_length=9999"]}
"""More words for a verb, as a token of scripted workers is a character."""
WRITTEN = re.compile(r"--(?:export|out|output|plot) (\S+)")
"""What a line makes, which is not to be brought."""


class Line(NamedTuple):
    """A line of a page that is to be typed, and the exit code that its comment tells."""

    text: str
    words: list[str]
    code: int


def lines(page: Path) -> Iterator[str]:
    """Command lines in the page's blocks for a shell."""
    text = page.read_text(encoding="utf-8")
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if language not in ("", "bash"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(\$ )?(\.venv/bin/)?(selfreward|make) ", line):
                yield line.strip().removeprefix("$ ").removeprefix(".venv/bin/")


def reason(line: str) -> str | None:
    """The pattern by which a line is not run."""
    bare = line.partition("  #")[0].strip()
    return next((pattern for pattern in NOT_RUN if fnmatchcase(bare, pattern)), None)


def typed(page: Path) -> list[Line]:
    """The lines that are run."""
    found = []
    for line in lines(page):
        if reason(line) is None:
            told = re.search(r"#.*exit code (\d+)", line)
            words = shlex.split(re.sub(r"\b(RUN|NAME)\b", "demo", line), comments=True)[1:]
            found.append(Line(line, words, int(told[1]) if told else 0))
    return found


def test_what_is_not_run_is_in_the_documentation() -> None:
    written = [line for page in PAGES for line in lines(page)]
    assert sorted(NOT_RUN.keys() - {reason(line) for line in written}) == []
    assert sum(reason(line) is None for line in written) > 40


def _stop(*args: object, **more: object) -> None:
    raise StoppedError(REACHED)


class WithFiles(Workers):
    """Whose models have the files of one, so that what loads them comes as far as that."""

    def prepare(self) -> None:
        base = self.run.path / "models" / "M0"
        if not base.exists():
            with durable.publish_directory(base) as directory:
                durable.write_file(directory / "weights", "M0")
                for path in (self.run.path.parents[1] / "org" / "model").iterdir():
                    durable.copy_file(path, directory / path.name)
        super().prepare()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory as a reader has it: recipes, a model, and a finished run."""
    root = tmp_path_factory.mktemp("made")
    for folder in ("runs", "benchmarks"):
        (root / folder).mkdir()
        for recipe in (ROOT / folder).glob("*.yaml"):
            shutil.copy(recipe, root / folder)
    model = make_model(root / "org" / "model", config=SHAPE)
    save_file(
        {"model.embed_tokens.weight": np.zeros((8, 8), np.float32)}, model / "model.safetensors"
    )
    for name in ("org/other-model", "a/model", "b/model"):
        shutil.copytree(model, root / name)
    (root / "llama-3-8b").mkdir()
    shutil.copy(model / "config.json", root / "llama-3-8b")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(root / "runs"))
        run = create_run(build_config({}, SMALL), "demo")
        launch(run, lambda: None, WithFiles(run, None, lambda: None))
        label_all(run)
    return root


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own copy of it, where nothing that is started loads a model."""
    place = tmp_path / "place"
    shutil.copytree(made, place)
    monkeypatch.chdir(place)
    monkeypatch.delenv("SELFREWARD_RUNS", raising=False)
    monkeypatch.setattr(children, "Children", WithFiles)
    monkeypatch.setattr(process.Child, "__init__", _stop)
    monkeypatch.setattr(likelihood, "loaded", _stop)
    monkeypatch.setattr(parity, "measure", _stop)  # which takes what stops an engine for its answer
    monkeypatch.setattr("uvicorn.server.Server.run", lambda server, sockets: None)  # for ever
    return place


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", [pytest.param(p, id=p.stem) for p in PAGES if typed(p)])
def test_a_reader_can_type_what_a_page_shows_in_order(page: Path, law: Law, place: Path) -> None:
    text = page.read_text(encoding="utf-8")
    runs, named = place / "runs", re.findall(r"--name (\S+)", text)
    shutil.copytree(runs / "demo", runs / "quickstart")
    if "models/SFT" in text:
        shutil.copytree(runs / "demo/models/M1", runs / "demo/models/SFT")
    if "demo" in named:
        shutil.rmtree(runs / "demo")
    for name in (name for name in GIVEN if name not in WRITTEN.findall(text)):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text("".join(json.dumps(row) + "\n" for row in GIVEN[name]))
    if "mine.yaml" in text:
        (place / "mine.yaml").write_text(text.partition("```yaml\n")[2].partition("```")[0])
    for line in typed(page):
        if line.words[0] == "import":
            fill_in(place / line.words[-1])
        said = law.obey([*line.words, *SCALED.get(line.words[0], [])])
        assert said.code == line.code or REACHED in said.err, (line.text, said)


def fill_in(path: Path) -> None:
    """Give each answer of a table a score, as people do between two commands."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"score": str(number % 6)} for number, row in enumerate(rows))
