"""Models compared by their answers: who is asked what, what is kept, and what is refused."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.errors import ConfigError, IntegrityError, NotFoundError, PreflightError
from selfreward.inputs.models import Model
from selfreward.records import Comparison, Response
from selfreward.stages.evaluate import Pair
from selfreward.storage.lines import Lines
from selfreward.verbs import asked_models, named_models
from selfreward.verbs.compare_models import ComparedModels, compare_models
from selfreward.verbs.compared_text import compared_text
from selfreward.verbs.console import unmarked
from selfreward.workers.judge import Answering, Asking
from tests.support.runs import at_runs, runs  # noqa: F401

PROMPTS = 12


class World:
    """Stands for the child processes: what each model says, and how each judge decides."""

    def __init__(self) -> None:
        self.says: dict[str, Callable[[int], str]] = {}
        self.judges: dict[str, Callable[[str, str], int | None]] = {}
        self.asked: list[tuple[str, int]] = []
        """(model, prompts or pairs) of each child."""
        self.dies_after = 10_000

    def answer(
        self, answering: Answering, prompts: dict[int, str], show: Any, keep: Callable[..., None]
    ) -> None:
        name = Path(answering.model).name
        self.asked.append((name, len(prompts)))
        for number, prompt in prompts.items():
            if self.dies_after == 0:
                raise PreflightError("out of memory")
            self.dies_after -= 1
            assert prompt == f"What is {number}?"
            keep({number: [Response(0, number, 0, self.says[name](number), "stop", 3)]})

    def compare(
        self, asking: Asking, pairs: Sequence[Pair], show: Any, keep: Callable[..., None]
    ) -> None:
        name = Path(asking.model).name
        self.asked.append((name, len(pairs)))
        for number, (_, *texts) in enumerate(pairs):
            given = []
            for first, second in ((0, 1), (1, 0)):
                place = self.judges[name](texts[first], texts[second])
                winner = None if place is None else (first, second)[place]
                given.append(Comparison(0, number, first, second, "expected", "", winner))
            keep({number: given})


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    def resolve(source: str, **more: object) -> Model:
        return Model(tmp_path / source, f"digest of {source.rstrip('_')}", source, None)

    monkeypatch.setattr(named_models.models, "resolve", resolve)
    monkeypatch.setattr(asked_models, "answer_in_child", world.answer)
    monkeypatch.setattr(asked_models, "compare_in_child", world.compare)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "p.jsonl")
    world.says = {
        "a": lambda i: f"{i} is a number",
        "b": lambda i: "x" * (3 + i * 7 % 25),
        "c": lambda i: "no",
    }
    world.judges = {"longest": longest, "by_hash": by_hash}
    return world


def write(path: Path, **more: str) -> Path:
    rows = [{"prompt": f"What is {i}?", **more} for i in range(PROMPTS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def longest(a: str, b: str) -> int | None:
    return None if len(a) == len(b) else int(len(b) > len(a))


def by_hash(a: str, b: str) -> int:
    """Goes by nothing that matters, but by the same in both orders."""
    return int((len(b) * 7919) % 1009 > (len(a) * 7919) % 1009)


def compare(*names: str, judges: Sequence[str] = ("longest",), **more: Any) -> ComparedModels:
    more = {"prompts": "p.jsonl", "report": lambda line: None, **more}
    return compare_models(names, judges=judges, **more)


def test_a_model_against_itself_wins_half_and_no_judge_is_asked(world: World) -> None:
    world.says["a_"] = world.says["a"]
    [found] = compare("a", "a_").contests
    assert found.results == (0.5,) * PROMPTS and found.win_rate.value == 0.5
    assert ("longest", 0) not in world.asked and len(world.asked) == 2


def test_a_function_judges_by_what_it_gives_each_answer_and_no_model_is_asked(
    world: World, tmp_path: Path
) -> None:
    code = """def brief(completions, **_):
    return [None if "7" in text else 1 / len(text) for text in completions]
"""
    (tmp_path / "my_rewards.py").write_text(code)
    said: list[str] = []
    found = compare("a", "c", judges=['{function: "my_rewards:brief"}'], report=said.append)
    assert [judge.form for judge in found.judges] == ["function"]
    [contest] = found.contests
    assert contest.results == (0.0,) * 7 + (None,) + (0.0,) * 4  # "no" is the shorter each time
    assert [name for name, _ in world.asked] == ["a", "c"]
    assert any("no value of 1 answer of a: no value" in line for line in said)


def test_swapping_the_models_mirrors_every_figure(world: World) -> None:
    [one] = compare("a", "b", judges=["by_hash"]).contests
    [two] = compare("b", "a", judges=["by_hash"]).contests
    assert one.results == tuple(None if r is None else 1 - r for r in two.results)
    assert one.results != two.results
    for name in ("win_rate", "length_controlled", "longer"):
        mine, other = getattr(one, name), getattr(two, name)
        assert mine.value == pytest.approx(1 - other.value, abs=1e-6), name


def test_a_judge_that_goes_by_the_place_alone_gives_ties_alone(world: World) -> None:
    world.judges["first"] = lambda a, b: 0
    [found] = compare("a", "b", judges=["first"]).contests
    assert found.results == (0.5,) * PROMPTS


def test_each_two_models_meet_once_before_each_judge_and_the_judges_agreement_is_told(
    world: World,
) -> None:
    world.judges["not_b"] = lambda a, b: 1 - by_hash(a, b)
    found = compare("a", "b", "c", judges=["by_hash", "not_b"])
    met = [(c.model, c.opponent, c.judge) for c in found.contests]
    assert met == [(*two, judge) for judge in ("by_hash", "not_b")
                   for two in (("a", "b"), ("a", "c"), ("b", "c"))]  # fmt: skip
    by = {(c.model, c.opponent, c.judge): c for c in found.contests}
    both = [
        (x, y)
        for two in (("a", "b"), ("a", "c"), ("b", "c"))
        for x, y in zip(by[*two, "by_hash"].results, by[*two, "not_b"].results, strict=True)
    ]
    same = sum(x == y for x, y in both)
    assert found.agreement is not None
    assert found.agreement.value == pytest.approx(same / len(both))


def test_references_are_one_more_contestant(world: World, tmp_path: Path) -> None:
    write(tmp_path / "own.jsonl", reference="It is what it is, and nothing else at all.")
    found = compare("c", prompts="own.jsonl")
    [contest] = found.contests
    assert (contest.model, contest.opponent) == ("c", "reference")
    assert contest.results == (0.0,) * PROMPTS


def test_a_second_call_with_the_same_out_asks_nothing_and_finds_the_same(world: World) -> None:
    out = Path("out")
    first = compare("a", "b", out=out)
    asked = len(world.asked)
    second = compare("a", "b", out=out)
    assert len(world.asked) == asked == 3
    assert second.contests == first.contests and second.models == first.models
    assert json.loads((out / "results.json").read_text())["contests"][0]["model"] == "a"
    compare("a", "b", "c", out=out)  # only what is new of it
    assert world.asked[asked:] == [("c", PROMPTS), ("longest", 2 * PROMPTS)]


def test_a_call_that_was_cut_off_goes_on_and_finds_what_a_whole_one_does(world: World) -> None:
    world.dies_after = PROMPTS + 5
    with pytest.raises(PreflightError):
        compare("a", "b", out=Path("out"))
    with open("out/answers.jsonl", "ab") as file:
        file.write(b'{"key": "torn')  # as a kill may leave it
    world.dies_after = 10_000
    found = compare("a", "b", out=Path("out"))
    assert world.asked == [("a", 12), ("b", 12), ("b", 7), ("longest", 12)]
    assert found.contests == compare("a", "b").contests


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{"temperature": 0.7}, {"max_new_tokens": 9}, {"temperature": 0.7, "seed": 3}]
)
def test_answers_that_were_had_otherwise_are_asked_for_again(
    world: World, more: dict[str, Any]
) -> None:
    compare("a", "b", out=Path("out"))
    asked = len(world.asked)
    compare("a", "b", out=Path("out"), **more)
    assert world.asked[asked:] == [("a", 12), ("b", 12)]  # the texts, so the verdicts, are known


def test_a_kept_row_that_is_no_answer_is_told_as_damage(world: World) -> None:
    compare("a", "b", out=Path("out"))
    with open("out/answers.jsonl", "a") as file:
        file.write('{"key": "x", "answer": 3}\n')
    with pytest.raises(IntegrityError, match=r"answers\.jsonl: Expected `object`"):
        compare("a", "b", out=Path("out"))


def test_greedy_answers_are_of_no_seed(world: World) -> None:
    compare("a", "b", out=Path("out"), seed=1)
    asked = len(world.asked)
    compare("a", "b", out=Path("out"), seed=2)
    assert len(world.asked) == asked


def test_rows_of_a_file_outlive_what_was_being_added(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    Lines(path).add([{"a": 1}, {"a": 2}])
    path.write_bytes(path.read_bytes() + b'{"a": 3')
    again = Lines(path)
    assert again.rows == [{"a": 1}, {"a": 2}]
    again.add([{"a": 4}])
    assert Lines(path).rows == [{"a": 1}, {"a": 2}, {"a": 4}]


def test_a_contestant_judges_only_beside_another_model_and_the_table_says_that_it_does(
    world: World,
) -> None:
    with pytest.raises(ConfigError, match="--judge b is one of the models compared"):
        compare("a", "b", judges=["b"])
    world.judges["b"] = longest
    found = compare("a", "b", judges=["b", "longest"])
    assert [judge.itself for judge in found.judges] == [("b",), ()]
    assert "it is b, so it judges its own answers" in " ".join(compared_text(found, 80).split())


@pytest.mark.usefixtures("at_runs")
def test_by_default_m1_of_the_first_run_judges_and_is_told_where_it_is_a_contestant(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.says |= dict.fromkeys(("M1", "M2"), world.says["a"])
    world.judges["M1"] = longest
    found = compare("whole:M2", "b", judges=[])
    assert [(judge.model, judge.itself) for judge in found.judges] == [("whole:M1", ())]
    assert found.max_new_tokens == 512 and found.seed == 0
    found = compare("whole:M1", "b", judges=[])
    assert found.judges[0].itself == ("whole:M1",)
    assert "so it judges its own answers" in " ".join(compared_text(found, 80).split())


@pytest.mark.usefixtures("at_runs")
def test_what_cannot_be_compared_is_refused_in_one_line_and_nothing_is_asked(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "twice.jsonl").write_text('{"prompt": "a?"}\n{"prompt": "a?"}\n')
    (tmp_path / "half.jsonl").write_text('{"prompt": "a?", "reference": "b"}\n{"prompt": "c?"}\n')
    (tmp_path / "both.jsonl").write_text('{"prompt": "a?", "reference": "b"}\n')
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for message, names, more in [
        ("holds no rows", "ab", {"prompts": "empty.jsonl"}),
        ("the prompt is that of", "ab", {"prompts": "twice.jsonl"}),
        ("1 of 2 prompts have no 'reference'", "ab", {"prompts": "half.jsonl"}),
        ("a is named twice", "aa", {}),
        ("nothing to compare a with", "a", {}),
        ("reference: so the references", ["a", "reference"], {"prompts": "both.jsonl"}),
        ("there is no judge", "ab", {"judges": []}),
        ("a judge is named twice", "ab", {"judges": ["longest", "longest"]}),
        ("needs a model or a function", "ab", {"judges": ["{form: written}"]}),
        ("there is no nowhere.py", "ab", {"judges": ['{function: "nowhere:x"}']}),
        ("not YAML", "ab", {"judges": ["{model: ["]}),
        ("model=policy is a model that is measured", "ab", {"judges": ["policy"]}),
        (
            "judge 1.model=hosted, but judge 1.engine",
            "ab",
            {"judges": ["{model: hosted, form: written}"]},
        ),
        ("holds files, and not of a comparison", "ab", {"out": Path("full")}),
        ("not a directory", "ab", {"out": Path("p.jsonl")}),
        ("whole is a run, not a model", ["whole", "a"], {}),
        ("responses.temperature", "ab", {"temperature": -1}),
    ]:
        with pytest.raises(ConfigError, match=message) as error:
            compare(*names, **more)  # type: ignore[arg-type]
        assert "\n" not in error.value.message
    with pytest.raises(NotFoundError, match="has no M9"):
        compare("whole:M9", "a")
    assert not world.asked


def test_the_table_is_at_most_80_columns_wide_whatever_the_names(world: World) -> None:
    long = "models/" + "very-" * 20 + "long"
    world.says[Path(long).name] = world.says["b"]
    found = compare("a", long, judges=["longest", "by_hash"])
    text = unmarked(compared_text(found, 80))
    assert max(map(len, text.splitlines())) <= 80
    assert "A v B" in text and "Judges agree on" in text


def test_the_verb_prints_the_table_or_json(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare-models", "a", "b", "--prompts", "p.jsonl", "--judge", "longest"]
    assert invoke(words) == 0
    assert "A v B" in capsys.readouterr().out
    assert invoke([*words, "--json", "--limit", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["contests"][0]["results"]) == 3 and len(found["models"][1]["answers"]) == 3


def test_no_verdict_at_all_is_no_success(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(asking: Asking, pairs: Sequence[Pair], show: Any, keep: Any) -> None:
        none = [Comparison(0, 0, *order, "written", "", None, "no verdict")
                for order in ((0, 1), (1, 0))]  # fmt: skip
        keep(dict.fromkeys(range(len(pairs)), none))

    monkeypatch.setattr(asked_models, "compare_in_child", silent)
    words = ["compare-models", "a", "b", "--prompts", "p.jsonl", "--judge", "longest"]
    assert invoke(words) == 6
    said = capsys.readouterr()
    assert "no verdict" in said.out and "no judge has a verdict" in said.err
