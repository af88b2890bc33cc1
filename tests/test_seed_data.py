"""The seed data that the project ships: enough of it, readable, and not to be scored by length."""

import re
from collections import Counter, defaultdict

import pytest
from scipy.stats import spearmanr

from selfreward import seeds
from selfreward.config import SeedSource
from selfreward.seeds import EftExample
from selfreward.stages.prompts import rouge_l
from selfreward.verdict import parse_score

IFT = seeds.read_ift(SeedSource(path="seed/ift.jsonl"))
EFT = seeds.read_eft(SeedSource(path="seed/eft.jsonl"))


def by_prompt(examples: list[EftExample]) -> dict[str, list[EftExample]]:
    groups: dict[str, list[EftExample]] = defaultdict(list)
    for example in examples:
        groups[example.prompt].append(example)
    return groups


def test_there_are_enough_rows() -> None:
    assert len(IFT) >= 120
    assert len({example.prompt for example in IFT}) == len(IFT)
    groups = by_prompt(EFT)
    assert len(groups) >= 60
    assert {len(group) for group in groups.values()} <= {3, 4, 5}


def test_answers_of_a_prompt_differ_in_text_and_clearly_in_score() -> None:
    for prompt, group in by_prompt(EFT).items():
        scores = [example.score for example in group]
        assert len({example.response for example in group}) == len(group), prompt
        assert max(scores) - min(scores) >= 2, prompt
        assert len(set(scores)) >= 3, prompt


def test_scores_are_whole_and_spread_over_the_scale() -> None:
    counts = Counter(example.score for example in EFT)
    assert set(counts) == {0, 1, 2, 3, 4, 5}
    assert min(counts.values()) >= 0.1 * len(EFT)


@pytest.mark.parametrize("num_prompts", [16, 32, 10_000])
def test_length_does_not_predict_the_score(num_prompts: int) -> None:
    groups = list(by_prompt(EFT).values())[:num_prompts]
    examples = [example for group in groups for example in group]
    scores = [example.score for example in examples]
    for measure in (
        [len(example.response) for example in examples],
        [len(example.response.split()) for example in examples],
    ):
        assert abs(spearmanr(measure, scores).statistic) <= 0.15


def test_good_answers_are_short_and_long_and_so_are_bad_ones() -> None:
    for low, high in ((0, 1), (4, 5)):
        lengths = [len(e.response) for e in EFT if low <= e.score <= high]
        assert min(lengths) < 60 < 250 < max(lengths)


def test_no_two_prompts_are_near_duplicates() -> None:
    prompts = [*(example.prompt for example in IFT), *by_prompt(EFT)]
    words = [re.findall(r"\w+", prompt.casefold()) for prompt in prompts]
    for i, these in enumerate(words):
        for j in range(i):
            assert rouge_l(these, words[j], 0.7) < 0.7, f"{prompts[i]!r} and {prompts[j]!r}"


def test_every_justification_with_its_verdict_parses_to_its_score() -> None:
    for example in EFT:
        assert example.justification is not None
        assert len(example.justification.split()) <= 100, example.justification
        written = f"{example.justification}\nScore: {example.score:g}"
        assert parse_score(written, "stop") == (example.score, None), written
