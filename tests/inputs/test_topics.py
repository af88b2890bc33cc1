"""Topics: from a list or rows of several kinds, and what is wrong with them in one line."""

import json
from pathlib import Path

import pytest

from selfreward.config import SeedSource
from selfreward.config.load import build_config
from selfreward.errors import ConfigError
from selfreward.inputs.collect import run_inputs
from selfreward.inputs.topics import dump_topics, read_topics

TOPIC = "prompts.template=instruct/topic.jinja"


def rows(path: Path, *found: dict[str, object]) -> SeedSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return SeedSource(path=str(path))


def test_topics_come_from_a_column_of_several_names_each_once_and_on_one_line(
    tmp_path: Path,
) -> None:
    for name in ("topic", "persona", "prompt"):
        source = rows(tmp_path / f"{name}.jsonl", {name: "old\n clocks"}, {name: "old clocks"})
        assert read_topics(source) == ["old clocks"]
    other = rows(tmp_path / "other.jsonl", {"who": "a sailor", "prompt": "no"})
    named = other.model_copy(update={"columns": {"topic": "who"}})
    assert read_topics(named) == ["a sailor"]
    (tmp_path / "lines.txt").write_text("tea\n\nold  clocks\n")
    assert read_topics(SeedSource(path=str(tmp_path / "lines.txt"))) == ["tea", "old clocks"]


def test_a_run_keeps_its_own_copy_that_reads_back_to_the_same(tmp_path: Path) -> None:
    inputs = run_inputs(build_config({}, ['prompts.topics=[tea, "Größe: 3"]', TOPIC]), None)
    copy = tmp_path / "topics.jsonl"
    copy.write_text(inputs["seeds/topics.jsonl"])
    assert read_topics(SeedSource(path=str(copy))) == ["tea", "Größe: 3"]
    assert dump_topics(["tea"]) == '{"topic": "tea"}\n'


def test_a_row_without_a_topic_is_named(tmp_path: Path) -> None:
    source = rows(tmp_path / "t.jsonl", {"topic": "tea"}, {"subject": "x"})
    with pytest.raises(ConfigError, match=r"t\.jsonl:2: needs a text in column 'topic'"):
        read_topics(source)
    with pytest.raises(ConfigError, match=r"t\.jsonl:1: needs a text .*, which is empty"):
        read_topics(rows(tmp_path / "t.jsonl", {"topic": " "}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prompts.topics=[tea]"], "few_shot.jinja does not use 'topic'"),
        ([TOPIC], "uses 'topic', and there are no prompts.topics"),
        (["prompts.topics=[]", TOPIC], "needs a topic at least"),
        (["prompts.topics=[tea, tea]", TOPIC], "has 'tea' twice"),
        (["prompts.topics=[3]", TOPIC], r"a topic is a text \(quote it\), found 3"),
        (["prompts.evolve.operations=[shorten]"], "asks for nothing .* 'shorten'"),
        (["prompts.evolve.operations=[]"], "needs an operation at least"),
        (["prompts.evolve.share=0"], "greater than 0"),
        (["prompts.evolve={}", "prompts.count=1"], "prompts.count=1 is no prompt"),
        (["prompts.evolve.template=judge/additive.jinja"], "'response', which it is not given"),
        (["prompts.multiline=true", "prompts.dataset=x.txt"], "prompts.dataset draws them"),
    ],
)
def test_what_cannot_be_written_with_is_refused_before_a_run(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_inputs(build_config({}, words), None)
