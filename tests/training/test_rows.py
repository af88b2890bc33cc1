"""Rows of preference pairs: the ids that were sampled, thinking included or left out."""

from pathlib import Path

import pytest

from selfreward.config.load import build_config
from selfreward.inputs.collect import create_run
from selfreward.records import PreferencePair, Prompt, Response
from selfreward.training.rows import dpo_rows
from tests.support.scripted import ScriptedChat

PLAIN = Response(1, 0, 0, "An apple.", "stop", 9)
ODD = Response(1, 0, 1, "No.", "stop", 2, token_ids=(777, 46))
THOUGHT = Response(
    1, 0, 2, "A pear.", "stop", 9, "Hm.", token_ids=tuple(map(ord, "<think>Hm.</think>A pear."))
)


@pytest.mark.parametrize(
    ("words", "chosen"),
    [
        ([], (*map(ord, "<think>Hm.</think>A pear."), 0)),
        (["dpo.train_thinking=false"], (*map(ord, "A pear."), 0)),
    ],
)
def test_dpo_trains_the_ids_that_were_sampled(
    words: list[str], chosen: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    run = create_run(build_config({}, words), "run")
    pairs = [PreferencePair(1, 0, 2, 1, 4.0, 1.0), PreferencePair(1, 0, 0, 1, 3.0, 1.0)]
    with run.owned() as store:
        store.add([Prompt(1, 0, "Name a fruit.", "", None), PLAIN, ODD, THOUGHT, *pairs])
        rows, drops = dpo_rows(run, store, 1, ScriptedChat())  # type: ignore[arg-type]
    assert drops == []
    assert {row.prompt_ids for row in rows} == {ScriptedChat().prompt_ids("Name a fruit.")}
    assert {row.rejected_ids for row in rows} == {(777, 46, 0)}
    assert [row.chosen_ids for row in rows] == [(*map(ord, "An apple."), 0), chosen]
