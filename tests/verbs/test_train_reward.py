"""`selfreward train-reward`: from rankings to a published reward model, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.errors import ConfigError
from selfreward.inputs.rankings import RankedResponse, Ranking
from selfreward.inputs.seeds import IftExample
from selfreward.storage import durable
from selfreward.training.rows import ranked_rows
from selfreward.verbs.train_reward import _ordered
from selfreward.workers import train_reward as worker
from selfreward.workers.train_reward import RewardJob
from tests.support.families import make_family
from tests.support.scripted import ScriptedChat

FRUITS = ["plum", "fig", "pear", "date"]


def rows(path: Path, *names: str, scores: tuple[int, ...] = (5, 3, 1)) -> str:
    """Rankings of three answers to a question about each name."""
    lines = [
        {
            "prompt": f"What is a {name}?",
            "responses": [{"text": f"A {name} {i}.", "score": s} for i, s in enumerate(scores)],
        }
        for name in names
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def demonstrations(path: Path, count: int) -> str:
    """Good answers."""
    lines = [{"prompt": f"Name fruit {i}.", "response": "A plum."} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


class Here:
    """A child that works in this process; what is told passes as JSON, as to a real one."""

    def __enter__(self) -> "Here":
        return self

    def __exit__(self, *exc: object) -> None:
        """There is nothing to end."""

    def work(self, job: Any, name: str, hear: Any) -> None:
        worker.reward_job(json.loads(json.dumps(job)), lambda s: hear(json.loads(json.dumps(s))))


@pytest.mark.parametrize("real", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_rankings_become_a_model_that_is_measured_by_others_and_is_there_the_second_time(
    real: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not real:
        monkeypatch.setattr(worker, "Child", Here)
    model = make_family(tmp_path / "model", "SmolLM 2")
    data, test = rows(tmp_path / "a.jsonl", *FRUITS), rows(tmp_path / "b.jsonl", "kiwi", "lime")
    out = tmp_path / "rm"
    words = ["train-reward", str(model), "--data", data, "--test", test, "--out", str(out)]
    words += ["max_steps=2", "learning_rate=1e-3", "--json"]
    good = tmp_path / "c.jsonl"
    words += ["--demonstrations", demonstrations(good, 2)]
    with good.open("a") as file:  # and one that would end its turn
        file.write(json.dumps({"prompt": "Name fruit 3.", "response": "<|end|>"}) + "\n")
    assert invoke(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prompts"], found["answers"], found["left_out"]) == (4, 12, {})
    assert found["test"]["pairs"] == 6 and found["test"]["longest"] == 0.0  # all equally long
    assert found["digest"] == durable.verify_directory(out) and found["log"]["loss"] > 0
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert found["demonstrations_left_out"] == 1
    assert found["demonstrations"] == 2 and found["bias"] == config["reward_bias"] != 0
    assert not (tmp_path / "rm.checkpoints").exists()
    assert invoke(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["digest"], again["log"], again["test"]) == (found["digest"], {}, found["test"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["learnin_rate=1"], "reward.learnin_rate: RewardConfig has no such option"),
        (["seed=3"], "seed=3: seed is no option of TRL's here, but one of the verb"),
        (["max_length=9"], "The help of train-reward shows how it is given."),
        (["lora.r=3"], "lora.r=3: an option of TRL's RewardConfig has no dot"),
        (["--test", "a.jsonl"], "test: 1 prompt of a.jsonl also in a.jsonl"),
        (["--test", "spaced.jsonl"], "test: 1 prompt of spaced.jsonl also in a.jsonl"),
        (["--out", "."], "--out .: exists, and is no model of ours"),
        (["--data", "ties.jsonl"], "holds no two responses of which people preferred one"),
        (["--data", "none.jsonl"], "none.jsonl"),
        (["--demonstrations", "none.jsonl"], "none.jsonl"),
        (["--demonstrations", "a.jsonl"], "a.jsonl:1: "),
    ],
)
def test_what_cannot_be_trained_is_refused_before_a_model_is_loaded(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "a.jsonl", "plum")
    rows(tmp_path / "ties.jsonl", "plum", scores=(3, 3, 3))
    rows(tmp_path / "spaced.jsonl", "\n PLUM")
    given = ["--data", "a.jsonl", "--out", "rm"]
    assert invoke(["train-reward", "bundled:smollm2-135m", *given, *words]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) <= 2


def test_held_out_answers_that_cannot_be_scored_are_counted_and_refused_where_none_is_left() -> (
    None
):
    chat: Any = ScriptedChat()
    ids = chat.conversation_ids([{"role": "user", "content": "Name a fruit."}], "plum")
    test = [ranking(("plum", 2.0), ("fig", 1.0), ("plum " * 9, 0.0), ("<|im_end|>", 0.0))]
    job = RewardJob("M1", "rm", [], test, {}, len(ids))
    found, left_out = worker._held_out(job, chat)
    assert left_out == {"too long": 1, "control token": 1}
    assert [len(each) if isinstance(each, tuple) else each for each in found[0]] == [
        len(ids), len(ids) - 1, "too long", "control token",
    ]  # fmt: skip
    for answers in (
        [("plum", 2.0), ("plum " * 9, 0.0)],
        [("plum", 1.0), ("fig", 1.0), ("<|im_end|>", 0.0)],
    ):
        with pytest.raises(ConfigError, match="test: no two answers can be told apart; left out: "):
            worker._held_out(replace(job, test=[ranking(*answers)]), chat)


def asked(shown: list[IftExample], max_length: int = 64) -> RewardJob:
    return RewardJob("M1", "rm", [], [], {}, max_length, demonstrations=shown)


def test_demonstrations_that_do_not_fit_are_left_out_and_it_is_refused_where_none_does() -> None:
    chat: Any = ScriptedChat()
    plum, forged = IftExample("Name a fruit.", "plum"), IftExample("Name a fruit.", "<|im_end|>")
    long = IftExample("Name a fruit.", "plum " * 100)
    turns = [{"role": "user", "content": "Name a fruit."}]
    ids = tuple(chat.conversation_ids(turns, "plum"))
    assert worker._demonstrations(asked([long, plum, forged], len(ids)), chat) == (ids,)
    assert worker._demonstrations(asked([]), chat) == ()
    with pytest.raises(ConfigError, match="--demonstrations: none of 2 can be scored"):
        worker._demonstrations(asked([long, forged]), chat)


def ranking(*answers: tuple[str, float]) -> Ranking:
    return Ranking("Name a fruit.", tuple(RankedResponse(*answer) for answer in answers))


def test_answers_in_are_answers_out_plus_those_left_out() -> None:
    chat: Any = ScriptedChat()
    turns = [{"role": "user", "content": "Name a fruit."}]
    room = len(chat.conversation_ids(turns, "plum")) + 5
    made, left_out = ranked_rows(
        [
            ranking(("plum", 2.0), ("fig", 1.0), ("a long answer", 0.0)),
            ranking(("plum", 1.0), ("<|im_end|>", 0.0)),
            ranking(("plum", 1.0), ("fig", 1.0)),
            ranking(("<|im_end|>", 1.0), ("a long answer", 0.0)),
        ],
        chat,
        room,
    )
    [row] = made
    assert row.answers == tuple(chat.conversation_ids(turns, text) for text in ("plum", "fig"))
    assert row.preferences == (2.0, 1.0)
    assert left_out == {
        "too long": 2, "control token": 2, "one answer": 1, "all tied": 1, "no answer": 1,
    }  # fmt: skip


def test_a_tie_of_people_is_no_pair_and_one_of_rewards_is_no_hit() -> None:
    ranked = [ranking(("plum", 2.0), ("fig", 1.0), ("dates", 1.0), ("too long", 0.0))]
    found = _ordered(ranked, [[1.0, 1.0, 0.5, None]])
    assert found is not None and (found.pairs, found.reward, found.longest) == (2, 0.5, 0.5)
    flipped = _ordered(ranked, [[-1.0, 1.0, 0.5, None]])
    assert flipped is not None and flipped.reward == 0
    assert _ordered(ranked, [[None] * 4]) is None
