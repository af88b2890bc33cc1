"""No file of seed data, ranked data or a data set whatever is told as a bug."""

import random
from pathlib import Path

import pytest

from selfreward.errors import StoppedError
from selfreward.verbs import judge
from tests.support import fuzz_data
from tests.support.fuzz import Draw, Law

BARE = (
    "sft: null\nprompts: {seeds: seed/ift.jsonl, count: 1}\niterations: 1\n"
    "evaluation: {ranked: null, canaries: false}\n"
)
IFT = "sft={ift: FILE, eft: null}"
KINDS: dict[str, tuple[list[list[object]], list[str]]] = {
    "ift": (fuzz_data.INSTRUCTIONS, [IFT]),
    "eft": (fuzz_data.SCORED, ["sft={ift: seed/ift.jsonl, eft: FILE}"]),
    "seeds": (
        fuzz_data.INSTRUCTIONS,
        ["prompts.seeds=FILE", "prompts.human_shots=1", "prompts.generated_shots=0"],
    ),
    "dataset": (fuzz_data.INSTRUCTIONS, ["prompts.dataset=FILE"]),
    "ranked": (fuzz_data.RANKED, ["evaluation.ranked=FILE"]),
    "selection": (fuzz_data.RANKED, ["sft={ift: seed/ift.jsonl, selection: {ranked: FILE}}"]),
    "preferences": (fuzz_data.RANKED, ["train.preferences=FILE"]),
}  # fmt: skip
COLUMNS = ["", "", "", "{prompt: x}", "{score: rank, text: x}", "{response: prompt}", "{'': ''}"]


def words_of(draw: Draw, config: Path, kind: str, file: Path) -> list[str]:
    """A command line that reads the file."""
    if kind in ("ranked", "selection") and draw.random() < 0.3:
        return ["judge", "bundled:smollm2-135m", "--data", str(file)]
    if kind == "ift" and draw.random() < 0.1:
        source = draw.choice([str(file), str(file.parent)])
        return ["data", "oasst", source, "--out", str(file.parent / "out")]
    verb = draw.choice([["validate"], ["validate"], ["plan"]])
    columns = draw.choice(COLUMNS)
    source = f"{{path: {file}, columns: {columns}}}" if columns else str(file)
    limit = [f"evaluation.limit={draw.choice([1, 2])}"] if draw.random() < 0.2 else []
    return [*verb, str(config), *(word.replace("FILE", source) for word in KINDS[kind][1]), *limit]


def check(law: Law, tmp_path: Path, cases: range) -> None:
    law.patch.setattr(judge.models, "resolve", _resolved)  # after the data was read
    config = tmp_path / "config.yaml"
    config.write_text(BARE)
    for case in cases:
        draw = random.Random(case)
        kind = list(KINDS)[case % len(KINDS)]
        rows = fuzz_data.odd_rows(draw, KINDS[kind][0])
        if draw.random() < 0.03:
            rows = []
        file = fuzz_data.write_rows(draw, tmp_path / f"{case}", rows)
        said = law.obey(words_of(draw, config, kind, file), (case, kind, file.read_bytes()[:300]))
        assert said.code in (0, 2, 6), (case, said.words, said.err)
        file.unlink()


def _resolved(*args: object, **more: object) -> None:
    raise StoppedError("the data was read")


@pytest.mark.slow
def test_no_data_file_whatever_is_told_as_a_bug(law: Law, tmp_path: Path) -> None:
    check(law, tmp_path, range(350))


@pytest.mark.long
@pytest.mark.parametrize("start", range(350, 20_350, 1000))
def test_no_data_file_of_many_more_is_told_as_a_bug(law: Law, tmp_path: Path, start: int) -> None:
    check(law, tmp_path, range(start, start + 1000))
