"""Laws of the responses that SFT imitates."""

import pytest
from hypothesis import given

from selfreward.config import PairsConfig
from selfreward.records import Drop, Judgment, Prompt, Response
from selfreward.stages.jury import mean_scores
from selfreward.stages.positives import Positive, best_responses
from tests.stages.test_pairs import rounds

PLAIN = PairsConfig()


def scored(*scores: float, text: str = "ab") -> tuple[list[Prompt], list[Response], list[Judgment]]:
    """One prompt whose responses have these scores."""
    responses = [Response(1, 0, i, f"{text}{i}", "stop", 3) for i, _ in enumerate(scores)]
    judgments = [Judgment(1, 0, i, 0, "written", "", score) for i, score in enumerate(scores)]
    return [Prompt(1, 0, "p", "", None)], responses, judgments


@given(rounds())
def test_every_accepted_prompt_gives_its_best_usable_response_or_a_drop(
    made: tuple[list[Prompt], list[Response], list[Judgment]],
) -> None:
    prompts, responses, judgments = made
    taken, drops = best_responses(prompts, responses, judgments, PLAIN)
    accepted = [prompt.attempt for prompt in prompts if prompt.dropped is None]
    assert sorted([p.attempt for p in taken] + [int(d.item) for d in drops]) == accepted
    scores = mean_scores(responses, judgments)
    usable: dict[tuple[int, int], float] = {}
    seen = set()
    for r in responses:
        is_whole = not r.truncated and r.dropped is None and (r.attempt, r.sample) in scores
        if is_whole and (r.attempt, r.text) not in seen:  # of identical texts the first
            usable[r.attempt, r.sample] = scores[r.attempt, r.sample]
            seen.add((r.attempt, r.text))
    for positive in taken:
        of_prompt = [score for (at, _), score in usable.items() if at == positive.attempt]
        assert positive.score == usable[positive.attempt, positive.sample] == max(of_prompt)
    assert best_responses(prompts[::-1], responses[::-1], judgments[::-1], PLAIN) == (taken, drops)


def test_of_equal_scores_the_first_sample_is_taken() -> None:
    assert best_responses(*scored(2, 4, 4), PLAIN)[0] == [Positive(0, 1, 4.0)]


@pytest.mark.parametrize(("least", "is_taken"), [(3.0, True), (3.5, False)])
def test_a_best_response_below_min_score_is_left_out_with_its_score(
    least: float, is_taken: bool
) -> None:
    taken, drops = best_responses(*scored(1, 3), PLAIN, min_score=least)
    assert taken == ([Positive(0, 1, 3.0)] if is_taken else [])
    assert drops == ([] if is_taken else [Drop(1, "train", "0", "score", "best 3 < 3.5 points")])


def test_a_prompt_none_of_whose_responses_is_whole_is_a_drop() -> None:
    prompts, responses, judgments = scored(5)
    cut = [Response(1, 0, 0, "ab", "length", 3)]
    taken, [drop] = best_responses(prompts, cut, judgments, PLAIN)
    assert (taken, drop.reason) == ([], "too few") and responses != cut


def test_an_anchor_of_m1_is_never_imitated() -> None:
    prompts, responses, judgments = scored(1, 5)
    responses[1] = Response(1, 0, 1, "ab1", "stop", 3, author="M1")
    for rule in ("best_worst", "anchored"):
        taken, _ = best_responses(prompts, responses, judgments, PairsConfig(rule=rule))  # type: ignore[arg-type]
        assert taken == [Positive(0, 0, 1.0)]
