"""The seed data that the project ships: enough of it, readable, and not to be scored by length."""

import re
from collections import Counter, defaultdict
from itertools import combinations

import pytest
from scipy.stats import spearmanr

from selfreward.config import SeedSource
from selfreward.inputs import seeds
from selfreward.inputs.seeds import EftExample
from selfreward.stages.pool import rouge_l
from selfreward.stages.verdict import parse_score

IFT = seeds.read_ift(SeedSource(path="seed/ift.jsonl"))
EFT = seeds.read_eft(SeedSource(path="seed/eft.jsonl"))
HELD_OUT = seeds.read_eft(SeedSource(path="seed/heldout.jsonl"))


def by_prompt(examples: list[EftExample]) -> dict[str, list[EftExample]]:
    groups: dict[str, list[EftExample]] = defaultdict(list)
    for example in examples:
        groups[example.prompt].append(example)
    return groups


def test_there_are_enough_rows() -> None:
    assert len(IFT) >= 120
    assert len({example.prompt for example in IFT}) == len(IFT)
    assert len(by_prompt(EFT)) >= 50
    assert len(by_prompt(HELD_OUT)) >= 20
    sizes = {len(group) for part in (EFT, HELD_OUT) for group in by_prompt(part).values()}
    assert sizes <= {3, 4, 5}


def test_answers_of_a_prompt_differ_in_text_and_clearly_in_score() -> None:
    for prompt, group in by_prompt([*EFT, *HELD_OUT]).items():
        scores = [example.score for example in group]
        assert len({example.response for example in group}) == len(group), prompt
        assert max(scores) - min(scores) >= 2, prompt
        assert len(set(scores)) >= 3, prompt


@pytest.mark.parametrize("part", [EFT, HELD_OUT], ids=["eft", "heldout"])
def test_scores_are_whole_and_spread_over_the_scale(part: list[EftExample]) -> None:
    counts = Counter(example.score for example in part)
    assert set(counts) == {0, 1, 2, 3, 4, 5}
    assert min(counts.values()) >= 0.1 * len(part)


@pytest.mark.parametrize(
    ("part", "num_prompts"), [(EFT, 16), (EFT, 32), (EFT, 10_000), (HELD_OUT, 10_000)]
)
def test_length_does_not_predict_the_score(part: list[EftExample], num_prompts: int) -> None:
    groups = list(by_prompt(part).values())[:num_prompts]
    examples = [example for group in groups for example in group]
    scores = [example.score for example in examples]
    for measure in (
        [len(example.response) for example in examples],
        [len(example.response.split()) for example in examples],
    ):
        assert abs(spearmanr(measure, scores).statistic) <= 0.15


def test_the_longer_of_two_held_out_answers_is_the_better_one_half_of_the_time() -> None:
    hits, pairs = 0, 0
    for group in by_prompt(HELD_OUT).values():
        for one, other in combinations(group, 2):
            if one.score != other.score:
                pairs += 1
                longer = len(one.response) - len(other.response)
                hits += longer * (one.score - other.score) > 0
    assert pairs > 100
    assert 0.45 < hits / pairs < 0.55


def test_good_answers_are_short_and_long_and_so_are_bad_ones() -> None:
    for low, high in ((0, 1), (4, 5)):
        lengths = [len(e.response) for e in EFT if low <= e.score <= high]
        assert min(lengths) < 60 < 250 < max(lengths)


def test_no_two_prompts_are_near_duplicates() -> None:
    prompts = [*(example.prompt for example in IFT), *by_prompt(EFT), *by_prompt(HELD_OUT)]
    words = [re.findall(r"\w+", prompt.casefold()) for prompt in prompts]
    for i, these in enumerate(words):
        for j in range(i):
            assert rouge_l(these, words[j], 0.7) < 0.7, f"{prompts[i]!r} and {prompts[j]!r}"


def test_every_justification_with_its_verdict_parses_to_its_score() -> None:
    for example in [*EFT, *HELD_OUT]:
        assert example.justification is not None
        assert len(example.justification.split()) <= 100, example.justification
        written = f"{example.justification}\nScore: {example.score:g}"
        assert parse_score(written, "stop") == (example.score, None), written
