"""Comparing what people ranked: figures by their definitions, and both orders told apart."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreward.config import JudgeConfig
from selfreward.engines.base import Generation, Request
from selfreward.engines.chat import Chat
from selfreward.errors import PreflightError
from selfreward.inputs.rankings import RankedResponse, Ranking
from selfreward.inputs.templates import find_template, load_template
from selfreward.measures.positions import ComparedPair, compared_pairs, positions
from selfreward.records import Comparison, FinishReason
from selfreward.stages.comparisons import VARIABLES
from selfreward.stages.evaluate import Pair, compare_pairs, pairs_of
from selfreward.stages.preference import preference, win_probability
from selfreward.verbs.judge import ComparedReport
from selfreward.verbs.judge_text import judge_text
from tests.support import plain
from tests.support.models import make_model
from tests.support.rankings import check_refused, rankings, selfreward, write
from tests.support.scripted import ScriptedChat, ScriptedEngine
from tests.support.server import Server

TEMPLATE = load_template(find_template("judge/compare.jinja"), set(VARIABLES))


def compare(
    engine: ScriptedEngine, pairs: list[Pair], concurrency: int = 4, **more: Any
) -> dict[Pair, list[Comparison]]:
    kept: dict[int, list[Comparison]] = {}
    asyncio.run(
        compare_pairs(
            engine, ScriptedChat(), TEMPLATE, pairs, JudgeConfig(**more),  # type: ignore[arg-type]
            kept.__setitem__, concurrency=concurrency,
        )
    )  # fmt: skip
    return {pair: kept[i] for i, pair in enumerate(pairs)}


def shown(prompt: str) -> tuple[str, str]:
    """The two responses as a judge is shown them."""
    first = prompt.partition("<response_a>\n")[2].partition("\n</response_a>")[0]
    second = prompt.partition("<response_b>\n")[2].partition("\n</response_b>")[0]
    return first, second


def knowing(prompt: str, number: int) -> tuple[str, FinishReason]:
    """Knows that good is better than fair and fair than poor."""
    first, second = shown(prompt)
    order = ("good", "fair", "poor")
    return f"So.\nBetter: {'A' if order.index(first) < order.index(second) else 'B'}", "stop"


def test_each_pair_that_people_ordered_is_asked_about_once_in_both_orders() -> None:
    tied = Ranking("Tied?", tuple(RankedResponse(text, 1.0) for text in ("one", "other")))
    twice = [*rankings(2), *rankings(2), tied]
    pairs = pairs_of(twice)
    assert len(pairs) == len(set(pairs)) == 6
    engine = ScriptedEngine(knowing)
    found = compare(engine, pairs)
    assert len(engine.requests) == 12
    assert len({shown("".join(map(chr, r.token_ids))) for r in engine.requests}) == 6
    assert len(compared_pairs(twice, found)) == 12


def test_a_judge_that_knows_has_every_figure_right() -> None:
    found = compare(ScriptedEngine(knowing), pairs_of(rankings(12)))
    figures = plain(positions(compared_pairs(rankings(12), found)))
    everything = {"value": 1.0, "low": 1.0, "high": 1.0, "n": 36}
    assert figures["judge"]["all"]["accuracy"] == everything
    assert figures["judge"]["matched"]["accuracy_strict"] == everything
    assert figures["consistent"] == everything
    assert figures["parse_rate"] == {**everything, "n": 72}
    assert figures["names_first"]["value"] == 0.5
    assert figures["longest"]["all"]["accuracy"]["value"] == 0.5
    assert figures["gain"]["all"]["value"] == 0.5
    assert figures["averaged"] is None
    assert figures["counts"] == {"prompts": 12, "pairs": 36, "matched": 36}


def test_a_judge_that_names_the_first_is_never_consistent_and_ties_everywhere() -> None:
    first = ScriptedEngine(lambda prompt, number: ("Better: A", "stop"))
    figures = plain(positions(compared_pairs(rankings(12), compare(first, pairs_of(rankings(12))))))
    assert figures["names_first"]["value"] == 1
    assert figures["consistent"]["value"] == 0
    judge = figures["judge"]["all"]
    assert [judge[name]["value"] for name in ("accuracy", "accuracy_strict", "ties")] == [0.5, 0, 1]


def test_verdicts_do_not_depend_on_how_many_requests_are_in_flight() -> None:
    pairs = pairs_of(rankings(8))
    assert compare(ScriptedEngine(delay_s=0.02), pairs, 1) == compare(
        ScriptedEngine(delay_s=0.02), pairs, 24
    )


def test_a_text_with_a_control_token_is_not_asked_about_and_has_that_reason() -> None:
    engine = ScriptedEngine()
    found = compare(engine, [("p", "a", "ends <|im_end|> here"), ("<|im_start|>", "a", "b")])
    assert {c.reason for given in found.values() for c in given} == {"control token"}
    assert [[(c.first, c.second) for c in given] for given in found.values()] == [
        [(0, 1), (1, 0)]
    ] * 2
    assert engine.requests == []


def test_an_engine_that_cannot_go_on_ends_it_and_nothing_stays_in_flight() -> None:
    class Failing(ScriptedEngine):
        async def generate(self, request: Request) -> list[Generation]:
            if len(self.requests) == 5:
                raise PreflightError("out of memory")
            return await super().generate(request)

    engine = Failing(delay_s=0.01)
    with pytest.raises(PreflightError, match="out of memory"):
        compare(engine, pairs_of(rankings(20)))
    assert len(engine.requests) < 12


# The figures, against definitions spelled out

POINTS = st.sampled_from([0.0, 0.5, 1.0, None])


@st.composite
def compared(draw: st.DrawFn) -> list[ComparedPair]:
    return [
        ComparedPair(
            prompt=f"p{draw(st.integers(0, 3))}",
            lengths=(draw(st.integers(1, 8)), draw(st.integers(1, 8))),
            verdicts=(draw(POINTS), draw(POINTS)),
            probability=draw(st.sampled_from([0.1, 0.5, 0.8, None])),
        )
        for _ in range(draw(st.integers(0, 8)))
    ]


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


@settings(max_examples=60)
@given(compared(), st.randoms())
def test_figures_are_what_their_definitions_say(pairs: list[ComparedPair], random: Any) -> None:
    figures = plain(positions(pairs, resamples=20))
    shuffled = random.sample(pairs, len(pairs))
    assert plain(positions(shuffled, resamples=20)) == figures
    both = [p.verdicts for p in pairs if None not in p.verdicts]
    wins = [(0.0 if None in p.verdicts else p.verdicts[0] if p.verdicts[0] == p.verdicts[1]
             else 0.5) for p in pairs]  # fmt: skip
    verdicts = [(place, v) for p in pairs for place, v in enumerate(p.verdicts) if v is not None]
    named = [(place, v) for place, v in verdicts if v != 0.5]
    matched = [win for win, p in zip(wins, pairs, strict=True)
               if max(p.lengths) <= 1.25 * min(p.lengths)]  # fmt: skip
    expected = {
        "accuracy": mean(wins),
        "consistent": mean([float(a == b) for a, b in both]),
        "names_first": mean([float(v == 1 - place) for place, v in named]),
        "parse_rate": mean([float(v is not None) for p in pairs for v in p.verdicts]),
        "answered": mean([float(None not in p.verdicts) for p in pairs]),
        "matched": mean(matched),
        "parsed": mean([a if a == b else 0.5 for a, b in both]),
        "longer": mean([(a > b) + (a == b) / 2 for a, b in (p.lengths for p in pairs)]),
    }
    judge = figures["judge"]
    found = {
        "accuracy": judge["all"]["accuracy"], "matched": judge["matched"]["accuracy"],
        "parsed": judge["parsed"]["accuracy"], "longer": figures["longest"]["all"]["accuracy"],
        **{name: figures[name] for name in ("consistent", "names_first", "parse_rate",
                                            "answered")},
    }  # fmt: skip
    assert {name: estimate["value"] for name, estimate in found.items()} == pytest.approx(expected)
    averages = [p.probability for p in pairs]
    if any(average is not None for average in averages):
        hits = [0.0 if a is None else (a > 0.5) + (a == 0.5) / 2 for a in averages]
        assert figures["averaged"]["all"]["accuracy"]["value"] == pytest.approx(mean(hits))
    else:
        assert figures["averaged"] is None


def test_what_people_prefer_meets_what_the_judge_says_of_that_response() -> None:
    """The better response may be the first or the second of its pair."""
    found = compare(ScriptedEngine(), pairs_of(rankings(6)), form="expected")
    for pair, made in zip(pairs_of(rankings(6)), compared_pairs(rankings(6), found), strict=True):
        better = min(pair[1:], key=("good", "fair", "poor").index)
        sample = pair.index(better) - 1
        winner, _ = preference(found[pair])
        points = 0.5 if winner is None else float(winner == sample)
        assert points == (made.verdicts[0] if made.verdicts[0] == made.verdicts[1] else 0.5)
        assert made.probability == win_probability(found[pair], sample)


# The verb, over a server on a real socket


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    return Server(Chat(make_model(tmp_path_factory.mktemp("models") / "M1")), "judge")


def test_the_verb_compares_and_says_how_far_it_goes_by_place(
    server: Server, tmp_path: Path
) -> None:
    def say(weights: str) -> str:
        asked = server.bodies[-1]["messages"][0]["content"]
        return knowing(asked, 0)[0] if "Question 3?" not in asked else "Better: A"

    server.say = say
    data = write(tmp_path / "d.jsonl", 12)
    code, out, err = selfreward(server, "--data", str(data), "--compare", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["counts"]["pairs"] == 36
    assert found["judge"]["all"]["accuracy"]["value"] == pytest.approx(34.5 / 36)
    assert found["consistent"]["value"] == pytest.approx(33 / 36)
    assert found["names_first"]["value"] == pytest.approx(39 / 72)
    assert found["template"] == "judge/compare.jinja"
    assert len(found["compared"]) == 36
    assert "loading the judge; 36 pairs to judge" in err
    text = judge_text(msgspec.convert(found, ComparedReport))
    assert "written form of comparison, judge/compare.jinja" in text
    assert "both orders agree  91.7%" in text
    assert "names the first    54.2%" in text
    assert "On 36 pairs the judge beats the longer response: +45.8 points" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--votes", "3"], "--votes: a comparison is asked once in each order"),
        (["--form", "criteria"], "--form criteria: comparisons are written or expected"),
        (["--form", "expected"], "needs the judge's tokenizer"),
        (["--plot", "x.svg"], "--plot: comparisons have no scores to draw"),
        (["--template", "judge/additive.jinja"], "uses 'response'"),
    ],
)
def test_what_is_wrong_is_one_line_before_anything_is_asked(
    server: Server, tmp_path: Path, arguments: list[str], says: str
) -> None:
    check_refused(server, tmp_path, "--compare", *arguments, says=says)


def test_a_report_of_probabilities_has_a_column_for_their_average() -> None:
    found = compare(ScriptedEngine(), pairs_of(rankings(12)), form="expected")
    made = compared_pairs(rankings(12), found)
    report = msgspec.convert({**comparison_report(), **plain(positions(made))}, ComparedReport)
    assert judge_text(report).count("averaged") == 2


def comparison_report() -> dict[str, Any]:
    return {
        "model": "m", "digest": None, "form": "expected", "template": "t", "num_votes": 1,
        "engine": {}, "reasons": {}, "compared": [],
        "data": {"path": "d", "limit": None, "left_out": {}, "gaps": 0},
        "seconds": {"load": 1.0, "judge": 2.0},
    }  # fmt: skip


@pytest.mark.slow
def test_the_real_model_compares_by_its_label_tokens(model_dir: Path, tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Name a {what}.", "chosen": good, "rejected": "I do not want to."}
        for what, good in (("fruit", "A plum."), ("city", "Paris."), ("river", "The Nile."))
    ]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = subprocess.run(
        [sys.executable, "-m", "selfreward", "judge", str(model_dir), "--compare",
         "--form", "expected", "--json", "--data", str(data)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["counts"]["pairs"] == 3
    assert found["parse_rate"]["value"] == 1
    assert all(0 < pair["probability"] < 1 for pair in found["compared"])
