"""Other rules on the records of a run: its own first, nothing written, no count that is off."""

import hashlib
import json
from pathlib import Path

import pytest

from selfreward.cli.main import invoke
from selfreward.config.load import build_config
from selfreward.controller import launch
from selfreward.errors import ConfigError, NotFoundError
from selfreward.inputs.collect import create_run
from selfreward.records import Drop, PreferencePair
from selfreward.stages.rules import RULES
from selfreward.storage.directory import Run
from selfreward.verbs.maintenance import verify
from selfreward.verbs.pairs import compare_rules, comparison_text, pairs_of
from selfreward.verbs.scores import scores_of, scores_text
from selfreward.verbs.show import prompt_of, prompt_text
from tests.support.loop_driver import ScriptedWorkers
from tests.support.runs import SMALL


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """A finished run by each rule, with filters, from the same sampled records."""
    root = tmp_path_factory.mktemp("runs")
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(root))
        for rule in RULES:
            words = [f"pairs.rule={rule}", "prompts.count=12", "responses.n=5", "iterations=1",
                     "pairs.min_margin=0.5", "pairs.max_per_prompt=3",
                     "responses.anchors=1"]  # fmt: skip
            made[rule] = create_run(build_config({}, [*SMALL, *words]), rule)
            launch(made[rule], lambda: None, ScriptedWorkers(made[rule]))
    return made


@pytest.mark.parametrize("rule", RULES)
def test_the_runs_own_row_comes_first_and_is_what_the_run_stored(
    runs: dict[str, Run], rule: str
) -> None:
    found = compare_rules(runs[rule], None)
    own, *others = found["rules"]
    assert own["own"]
    assert own["settings"]["rule"] == rule
    assert not any(row["own"] for row in others)
    stored = scores_of(runs[rule]).iterations[-1].pairs
    assert own["pairs"] == own["identical"] == stored.n > 0
    assert (own["paired"], own["dropped"]) == (stored.paired, stored.dropped)
    for figure in ("margin", "chosen_length", "rejected_length"):
        assert own[figure] == pytest.approx(getattr(stored, figure))
    assert own["overlap"] == 1


@pytest.mark.parametrize("rule", RULES)
def test_another_rule_gives_what_a_run_by_that_rule_stored(runs: dict[str, Run], rule: str) -> None:
    with runs[rule].store() as store:
        stored = store.records(PreferencePair, 1)
    for run in runs.values():
        row = next(r for r in compare_rules(run, 1)["rules"] if r["settings"]["rule"] == rule)
        assert row["pairs"] == len(stored)
        assert row["margin"] == pytest.approx(sum(p.margin for p in stored) / len(stored))
        with run.store() as store:
            own = set(store.records(PreferencePair, 1))
        assert row["identical"] == len(own & set(stored))
        assert row["overlap"] == row["identical"] / row["pairs"]


def test_prompts_with_a_pair_and_prompts_without_make_all_accepted_prompts(
    runs: dict[str, Run],
) -> None:
    found = compare_rules(runs["best_worst"], 1, (), (0.0, 0.5, 2.0, 5.0))
    assert len(found["rules"]) == 4 * len(RULES)  # the run's own is one of them
    for row in found["rules"]:
        assert row["paired"] + sum(row["dropped"].values()) == found["prompts"] == 12
        assert (row["margin"] is None) == (row["pairs"] == 0)
        if row["pairs"]:
            assert row["margin"] >= row["settings"]["min_margin"] - 1e-9


def test_nothing_in_the_run_is_written(runs: dict[str, Run]) -> None:
    run = runs["best_worst"]

    def contents() -> dict[Path, str]:
        return {
            path: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in run.path.rglob("*")
            # Readers make SQLite's index and an empty log, where they find none.
            if path.is_file() and path.suffix != ".db-shm"
            if path.suffix != ".db-wal" or path.stat().st_size
        }

    before = contents()
    compare_rules(run, None, (), (0.0, 1.0), ["pairs.min_agreement=1"])
    assert contents() == before


def test_without_anchors_the_anchored_rule_is_left_out_and_refused(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(tmp_path))
        run = create_run(build_config({}, [*SMALL, "iterations=1"]), "run")
        launch(run, lambda: None, ScriptedWorkers(run))
        run.configure(["iterations=2"])
    assert "anchored" not in [row["settings"]["rule"] for row in compare_rules(run, 1)["rules"]]
    with pytest.raises(ConfigError, match=r"needs responses.anchors"):
        compare_rules(run, 1, ["anchored"])


def test_named_rules_margins_and_overrides_are_those_of_the_rows(runs: dict[str, Run]) -> None:
    found = compare_rules(runs["all_pairs"], 1, ["length_control"], [0.0, 1.0], ["pairs.rho=0.4"])
    _, *rows = (row["settings"] for row in found["rules"])
    assert [(s["rule"], s["min_margin"], s["rho"]) for s in rows] == [
        ("length_control", 0.0, 0.4), ("length_control", 1.0, 0.4),
    ]  # fmt: skip
    text = comparison_text(found)
    assert "all_pairs max_per_prompt=3 min_margin=0.5 (the run's)" in text
    assert "length_control rho=0.4 min_margin=1" in text


def test_a_setting_that_the_rule_does_not_use_makes_no_row(runs: dict[str, Run]) -> None:
    found = compare_rules(runs["best_worst"], 1, ["best_worst"], (), ["pairs.rho=0.4"])
    assert len(found["rules"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([], [], ["seed=1"]), "keys of pairs only"),
        (([], [], ["pairs.rule=all_pairs"]), "as --try RULE"),
        (([], [], ["pairs.min_margin=1"]), "as --min-margin"),
        (([], [], ["pairs.rho=2"]), "pairs.rho"),
        ((["spin"], [], []), "'all_pairs'"),
        (([], [-1.0], []), "pairs.min_margin"),
    ],
)
def test_wrong_rules_margins_and_overrides_are_config_errors(
    runs: dict[str, Run], arguments: tuple[list[str], list[float], list[str]], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        compare_rules(runs["best_worst"], None, *arguments)


@pytest.mark.parametrize("iteration", [0, 2])
def test_an_iteration_that_is_not_judged_is_not_found(runs: dict[str, Run], iteration: int) -> None:
    with pytest.raises(NotFoundError, match=f"iteration {iteration} are not judged") as caught:
        compare_rules(runs["best_worst"], iteration)
    assert caught.value.hint == "Judged iterations: 1."


def test_the_verb_prints_a_table_or_the_same_as_json(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(runs["best_worst"].path)
    words = ["pairs", path, "--try", "all_pairs", "--try", "length_control", "--iteration", "1"]
    assert invoke(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "best_worst, iteration 1: 12 prompts"
    assert [line.split()[0] for line in lines[3:]] == ["best_worst", "all_pairs", "length_control"]
    assert invoke([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == compare_rules(
        runs["best_worst"], 1, ["all_pairs", "length_control"]
    )


def test_all_stands_for_every_rule_and_margins_and_overrides_go_with_a_rule_to_try(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["best_worst"]
    words = ["--min-margin", "0", "--min-margin", "1", "pairs.rho=0.4"]
    assert invoke(["pairs", str(run.path), "--try", "all", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == compare_rules(run, None, (), (0.0, 1.0), ["pairs.rho=0.4"])
    assert len(found["rules"]) == 1 + 2 * len(RULES)
    for alone in (words[:2], words[-1:]):
        assert invoke(["pairs", str(run.path), *alone]) == 2
        assert "go with --try RULE" in capsys.readouterr().err


def test_the_old_word_tells_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["repair", "demo", "--rule", "all_pairs", "pairs.rho=0.4"]) == 2
    assert "`repair` is now `pairs RUN --try RULE`" in capsys.readouterr().err
    assert invoke(["--help"]) == 0
    assert "repair" not in capsys.readouterr().out


# Several pairs of a prompt, throughout


def test_all_pairs_of_a_prompt_are_stored_trained_on_and_shown(runs: dict[str, Run]) -> None:
    run = runs["all_pairs"]
    with run.store() as store:
        pairs = store.records(PreferencePair, 1)
        trained = store.finished(1, "train")
        dropped = [drop for drop in store.records(Drop, 1) if drop.stage == "train"]
    attempts = {pair.attempt for pair in pairs}
    assert len(pairs) > len(attempts)
    assert trained is not None
    assert trained.rows + len(dropped) == len(pairs)
    assert all(check["ok"] for check in verify(run))
    assert len(pairs_of(run, 1)["pairs"]) == len(pairs)
    assert f"{len(pairs)} from {len(attempts)} of 12 prompts" in scores_text(scores_of(run))
    for attempt in attempts:
        shown = prompt_of(run, 1, attempt)
        of_it = [pair for pair in pairs if pair.attempt == attempt]
        assert len(shown.pairs) == len(of_it)
        for response in shown.responses:
            is_chosen = any(pair.chosen == response.sample for pair in of_it)
            is_rejected = any(pair.rejected == response.sample for pair in of_it)
            assert ("chosen" in response.roles) == is_chosen
            assert ("rejected" in response.roles) == is_rejected
        assert prompt_text(shown).count("pair: ") == len(of_it)


def test_pairs_of_a_prompt_that_are_too_long_are_dropped_one_by_one(tmp_path: Path) -> None:
    words = ["pairs.rule=all_pairs", "prompts.count=6", "responses.n=4", "iterations=1",
             "dpo.max_length=90"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(tmp_path))
        run = create_run(build_config({}, [*SMALL, *words]), "short")
        launch(run, lambda: None, ScriptedWorkers(run))
    with run.store() as store:
        pairs = store.records(PreferencePair, 1)
        trained = store.finished(1, "train")
        dropped = [drop.item for drop in store.records(Drop, 1) if drop.stage == "train"]
    assert trained is not None
    assert 0 < len(dropped) < len(pairs)
    assert trained.rows + len(dropped) == len(pairs)
    assert set(dropped) <= {f"{p.attempt}/{p.chosen}/{p.rejected}" for p in pairs}
    assert len({item.partition("/")[0] for item in dropped}) < len(dropped)
