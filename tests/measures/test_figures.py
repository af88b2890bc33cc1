"""The figures of an iteration against an independent count over its raw records."""

import json
import math
import random
from collections import Counter
from pathlib import Path
from statistics import fmean, stdev

import msgspec
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from selfreward.config import PairsConfig
from selfreward.measures.curves import Curve
from selfreward.measures.figures import IterationFigures, figures_of, iteration_figures
from selfreward.measures.statistics import binned, clustered_mean, spearman, tau_b
from selfreward.records import Drop, Judgment, PreferencePair, Prompt, Response, Stage
from selfreward.stages.pairs import build_pairs
from selfreward.storage import database
from selfreward.storage.store import Store
from tests.support import plain


@pytest.fixture
def path(tmp_path: Path) -> Path:
    database.create(tmp_path / "records.db")
    return tmp_path / "records.db"


def random_records(seed: int, form: str) -> tuple[list, list, list]:
    rng = random.Random(seed)
    prompts, responses, judgments = [], [], []
    for attempt in range(40):
        dropped = rng.choice([None, None, None, "similar", "too short"])
        prompts.append(Prompt(1, attempt, "p", "p", dropped, num_tokens=rng.randint(1, 20)))
        for sample in range(4) if dropped is None else ():
            text = "é" * rng.randint(0, 60)
            finish = rng.choice(["stop", "stop", "length"])
            why = None if text else "empty"
            responses.append(Response(1, attempt, sample, text, finish, 5, dropped=why))
            key = (1, attempt, sample)
            if why is None and form == "expected":
                masses = tuple(rng.random() / 6 for _ in range(6))
                score = sum(i * p for i, p in enumerate(masses)) / sum(masses)
                judgments.append(Judgment(*key, 0, form, "", score, None, masses))
            for vote in range(3) if why is None and form == "written" else ():
                score = rng.choice([None, 0.0, 1.0, 2.5, 4.0, 5.0])
                reason = "no score line" if score is None else None
                judgments.append(Judgment(*key, vote, form, "", score, reason, None, 7))
    return prompts, responses, judgments


def test_prompts_dropped_for_a_word_are_counted_by_it(path: Path) -> None:
    dropped = [("keyword", "file"), ("keyword", "map"), ("keyword", "file"), ("similar", "x")]
    with Store.claim(path) as store:
        store.add([Prompt(1, i, "p", "p", *why) for i, why in enumerate(dropped)])
        store.add([Prompt(1, 9, "p", "p", None)])
        found = iteration_figures(store, 1).prompts
    assert found.dropped == {"keyword file": 2, "keyword map": 1, "similar": 1}
    assert (found.attempts, found.accepted) == (5, 1)


@pytest.mark.parametrize("form", ["written", "expected"])
@pytest.mark.parametrize("seed", range(3))
def test_every_figure_can_be_recomputed_from_raw_records(path: Path, seed: int, form: str) -> None:
    prompts, responses, judgments = random_records(seed, form)
    pairs, drops = build_pairs(prompts, responses, judgments, PairsConfig(min_margin=0.5))
    with Store.claim(path) as store:
        store.add([*prompts, *responses, *judgments])
        store.finish_stage(Stage(1, "pairs", 0, 0, "", "", 2.0, {}), [*pairs, *drops])
        figures = iteration_figures(store, 1)

    assert figures.prompts.accepted == sum(p.dropped is None for p in prompts)
    assert figures.prompts.attempts == len(prompts)
    assert figures.prompts.tokens == sum(p.num_tokens for p in prompts)
    reasons = Counter(p.dropped for p in prompts if p.dropped)
    assert figures.prompts.dropped == reasons
    assert figures.responses.n == len(responses)
    assert figures.responses.truncated == sum(r.truncated for r in responses)
    assert figures.responses.tokens == 5 * len(responses)
    assert figures.responses.dropped == Counter(r.dropped for r in responses if r.dropped)
    parsed = [j for j in judgments if j.score is not None]
    assert figures.judgments.n == len(judgments)
    assert figures.judgments.parse_rate == len(parsed) / len(judgments)
    assert sum(figures.judgments.unparsed.values()) == len(judgments) - len(parsed)
    masses = [sum(j.probabilities) for j in judgments if j.probabilities]
    assert figures.judgments.mass == (pytest.approx(fmean(masses)) if masses else None)

    votes: dict[tuple[int, int], list[float]] = {}
    for j in parsed:
        votes.setdefault((j.attempt, j.sample), []).append(j.score)
    every = {key: fmean(values) for key, values in votes.items()}
    cut_off = {(r.attempt, r.sample) for r in responses if r.truncated}
    scores = {key: score for key, score in every.items() if key not in cut_off}
    mean = fmean(scores.values())
    found = figures.scores
    assert found.n == len(scores)
    assert found.num_truncated == len(every) - len(scores) > 0
    of_truncated = fmean(score for key, score in every.items() if key in cut_off)
    assert found.truncated_mean == pytest.approx(of_truncated)
    assert found.bins is not None
    for middle, count in zip(found.bins.middles, found.bins.counts, strict=True):
        low, high = middle - found.bins.width / 2, middle + found.bins.width / 2
        assert count == sum(low <= score < high for score in scores.values())
    assert found.mean == pytest.approx(mean)
    assert found.std == pytest.approx(stdev(scores.values()))
    assert found.histogram == tuple(
        sum(math.floor(s + 0.5) == i for s in scores.values()) for i in range(6)
    )
    assert found.fives == sum(s >= 4.5 for s in scores.values()) / len(scores)
    spreads = [max(v) - min(v) for key, v in votes.items() if len(v) > 1 and key in scores]
    assert found.vote_spread == (pytest.approx(fmean(spreads)) if spreads else None)
    by_prompt: dict[int, float] = {}
    for (attempt, _), score in scores.items():
        by_prompt[attempt] = by_prompt.get(attempt, 0.0) + score - mean
    g = len(by_prompt)
    error = math.sqrt(g / (g - 1) * sum(x * x for x in by_prompt.values())) / len(scores)
    assert found.prompts == g
    assert found.se == pytest.approx(error)
    texts = {(r.attempt, r.sample): len(r.text) for r in responses}
    lengths = [len(r.text) for r in responses if r.dropped is None]
    assert figures.responses.length == pytest.approx(fmean(lengths))
    expected = scipy.stats.spearmanr([texts[k] for k in scores], list(scores.values())).statistic
    assert found.spearman_length == pytest.approx(expected)

    assert figures.pairs.n == len(pairs)
    assert figures.pairs.prompts == figures.prompts.accepted
    prompt_drops = Counter(d.reason for d in drops if "/" not in d.item)
    assert figures.pairs.dropped == prompt_drops
    response_drops = Counter(d.reason for d in drops if "/" in d.item)
    assert figures.pairs.responses_dropped == response_drops
    assert figures.pairs.ties == prompt_drops.get("tie", 0)
    assert figures.pairs.margin == pytest.approx(fmean(p.margin for p in pairs))
    spread = stdev(p.margin for p in pairs) / math.sqrt(len(pairs))
    assert figures.pairs.margin_se == pytest.approx(spread)
    chosen = fmean(texts[p.attempt, p.chosen] for p in pairs)
    assert figures.pairs.chosen_length == pytest.approx(chosen)
    rejected = fmean(texts[p.attempt, p.rejected] for p in pairs)
    assert figures.pairs.rejected_length == pytest.approx(rejected)


def test_kept_figures_equal_recomputed_ones_exactly(path: Path) -> None:
    prompts, responses, judgments = random_records(5, "expected")
    with Store.claim(path) as store:
        store.add([*prompts, *responses, *judgments])
        store.save_figures(1, iteration_figures(store, 1))
        assert store.figures(1, IterationFigures) == iteration_figures(store, 1)


def test_figures_of_another_shape_are_computed_anew(path: Path) -> None:
    with Store.claim(path) as store:
        store.add([Prompt(1, 0, "p", "", None)])
        found = iteration_figures(store, 1)
        for other in ({"layout": 6, "scores": None}, plain(found) | {"stages": 3}):
            store.save_figures(1, other)
            assert store.figures(1, IterationFigures) is None
            assert figures_of(store, 1) == found


def test_kept_figures_are_not_used_once_another_stage_has_finished(path: Path) -> None:
    with Store.claim(path) as store:
        store.save_figures(1, iteration_figures(store, 1))
        stage = Stage(1, "prompts", 1, 0, "", "", 1.0, {})
        store.finish_stage(stage, [Prompt(1, 0, "p", "", None)])
        assert figures_of(store, 1).prompts.accepted == 1


def test_of_a_large_open_iteration_the_first_attempts_are_counted(path: Path) -> None:
    prompts, responses, judgments = random_records(7, "written")
    with Store.claim(path) as store:
        store.add([*prompts, *responses, *judgments])
        part = iteration_figures(store, 1, 10)
        assert part.prompts == iteration_figures(store, 1).prompts
        assert iteration_figures(store, 1, 99) == iteration_figures(store, 1)
    assert part.attempts == 10
    assert part.responses.n == sum(r.attempt < 10 for r in responses)
    assert part.judgments.n == sum(j.attempt < 10 for j in judgments)
    assert part.scores.prompts <= 10


def test_an_iteration_without_records_has_no_numbers_and_no_nan(path: Path) -> None:
    with Store(path) as store:
        figures = iteration_figures(store, 3)
    assert_finite(figures)
    assert figures.scores.mean is None
    assert figures.judgments.parse_rate is None
    assert figures.pairs.margin is None
    assert figures.pairs.ties is None


def test_the_seed_step_has_figures_of_its_training(path: Path) -> None:
    with Store.claim(path) as store:
        store.plan({0: ["train"]})
        store.log_training(0, 1, {"loss": 2.0})
        store.log_training(0, 2, {"loss": 1.5, "rewards/accuracies": 0.75})
        store.finish_stage(Stage(0, "train", 9, 0, "", "", 3.0, {}))
        figures = iteration_figures(store, 0)
    assert figures.training.steps == 2
    assert figures.training.loss == Curve(2, 0, 1.75, 2.0, 1.5)
    assert figures.training.accuracy == Curve(1, 0, 0.75, None, None)
    assert figures.seconds == {"train": 3.0}


def assert_finite(figures: IterationFigures) -> None:
    """Of JSON that has no NaN."""
    json.dumps(msgspec.to_builtins(figures), allow_nan=False)


def test_a_loss_that_is_not_finite_is_none(path: Path) -> None:
    with Store.claim(path) as store:
        store.log_training(1, 1, {"loss": math.nan, "rewards/margins": math.inf})
        figures = iteration_figures(store, 1)
    assert_finite(figures)
    assert figures.training.loss == Curve(1, 1, None, None, None)


def test_a_curve_has_the_mean_of_all_steps_and_of_the_first_and_last_quarter(path: Path) -> None:
    values = [3.0, 1.0, 5.0, 2.0, 8.0, 4.0, math.nan, 9.0, 6.0]
    with Store.claim(path) as store:
        for step, value in enumerate(values, start=1):
            store.log_training(1, step, {"loss": value, "logps/chosen": -value})
        training = iteration_figures(store, 1).training
    finite = [value for value in values if not math.isnan(value)]
    assert training.steps == 9
    assert training.loss == Curve(9, 1, fmean(finite), 3.0, 7.5)
    assert training.chosen_logp == Curve(9, 1, -fmean(finite), -3.0, -7.5)
    assert training.accuracy is None


def test_a_log_that_holds_a_redone_step_counts_it_once(path: Path) -> None:
    with Store.claim(path) as store:
        for loss in (9.0, 1.0):
            store.log_training(1, 1, {"loss": loss})
        training = iteration_figures(store, 1).training
    assert training.loss == Curve(1, 0, 1.0, None, None)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=40))
def test_bins_hold_every_score_and_are_few(values: list[float]) -> None:
    bins = binned(values)
    assert sum(bins.counts) == len(values)
    assert bins.counts[0] and bins.counts[-1]
    assert len(bins.counts) <= 10
    for value in (min(values), max(values)):
        ends = bins.middles[0] - bins.width, bins.middles[-1] + bins.width
        assert ends[0] < value < ends[1]


def test_scores_that_lie_close_together_are_told_apart_by_narrow_bins() -> None:
    bins = binned([2.61, 2.64, 2.66])
    assert (bins.width, bins.counts) == (0.01, (1, 0, 0, 1, 0, 1))
    assert binned([0, 1 / 3, 2 / 3, 1, 4, 5]).counts == (2, 2, 0, 0, 1, 1)
    assert binned([3.0, 3.0]).counts == (2,)


def test_judgments_still_missing_leave_the_rest_countable(path: Path) -> None:
    records = [
        Prompt(1, 0, "p", "p", None),
        Response(1, 0, 0, "ab", "stop", 1),
        Response(1, 0, 1, "abc", "stop", 1),
        Judgment(1, 0, 1, 0, "written", "", 4.5),
    ]
    with Store.claim(path) as store:
        store.add(records)
        scores = iteration_figures(store, 1).scores
    assert (scores.n, scores.mean, scores.se, scores.std) == (1, 4.5, None, None)
    assert scores.histogram == (0, 0, 0, 0, 0, 1)
    assert scores.fives == 1.0


def test_a_single_pair_has_a_margin_but_no_error(path: Path) -> None:
    responses = [Response(1, 0, sample, "ab" * sample, "stop", 1) for sample in range(2)]
    with Store.claim(path) as store:
        store.add([*responses, PreferencePair(1, 0, 0, 1, 4.0, 1.0)])
        figures = iteration_figures(store, 1).pairs
    assert (figures.n, figures.margin, figures.margin_se) == (1, 3.0, None)
    assert (figures.chosen_length, figures.rejected_length) == (0.0, 2.0)


def test_several_pairs_of_a_prompt_are_one_cluster_of_margins(path: Path) -> None:
    responses = [
        Response(1, attempt, sample, "ab" * sample, "stop", 1)
        for attempt in range(2)
        for sample in range(3)
    ]
    pairs = [
        PreferencePair(1, 0, 0, 1, 4.0, 1.0), PreferencePair(1, 0, 0, 2, 4.0, 2.0),
        PreferencePair(1, 1, 2, 1, 3.0, 2.0),
    ]  # fmt: skip
    with Store.claim(path) as store:
        store.add([*responses, *pairs, Drop(1, "pairs", "2", "tie")])
        figures = iteration_figures(store, 1).pairs
    assert (figures.n, figures.paired, figures.prompts) == (3, 2, 3)
    mean, error = clustered_mean([[3.0, 2.0], [1.0]])
    assert (figures.margin, figures.margin_se) == (mean, error)


clusters = st.lists(st.lists(st.floats(0, 5), max_size=5), max_size=8)


@given(st.integers(1, 5), st.lists(st.lists(st.floats(0, 5), min_size=5, max_size=5), min_size=2))
def test_with_equal_clusters_the_error_is_that_of_the_cluster_means(
    size: int, values: list[list[float]]
) -> None:
    values = [cluster[:size] for cluster in values]
    mean, error = clustered_mean(values)
    means = [fmean(cluster) for cluster in values]
    assert mean == pytest.approx(fmean(means), abs=1e-9)
    assert error == pytest.approx(stdev(means) / math.sqrt(len(means)), abs=1e-9)


@given(clusters)
def test_the_mean_is_none_exactly_without_values(values: list[list[float]]) -> None:
    mean, error = clustered_mean(values)
    assert (mean is None) == (not any(values))
    assert (error is None) == (sum(map(bool, values)) < 2)


@given(st.lists(st.tuples(st.integers(0, 4), st.floats(0, 5)), min_size=2, max_size=20))
def test_rank_correlations_equal_scipys(rows: list[tuple[int, float]]) -> None:
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    for ours, theirs in ((spearman, scipy.stats.spearmanr), (tau_b, scipy.stats.kendalltau)):
        if len(set(a)) == 1 or len(set(b)) == 1:
            assert ours(a, b) is None
        else:
            assert ours(a, b) == pytest.approx(theirs(a, b).statistic, abs=1e-9)
    assert tau_b(a, b) in (None, scipy.stats.kendalltau(a, b).statistic)
