"""What the rounds of some runs were, and whether a reward model goes by length, as JSON.

    python benchmarks/rounds.py RUN [RUN ...] [--against RUN ...] [--iteration 1]

By run: responses and how many were cut off, pairs with their margin and lengths, and what training
sampled. Over all of them: the rank correlation of the length of the new models' answers to held-out
questions with the reward that the first reward model of the contests gives them. ``--against``
names runs with the same responses, in the same order: on how many prompts with a pair in both the
pair is the same, its reverse, or another. ``benchmarks/results/classical-cpu.json`` has all of it.
"""

import argparse
import json
from collections import Counter
from typing import Any

from selfreward.measures.figures import iteration_figures
from selfreward.measures.reports import Answers, Rewards
from selfreward.measures.statistics import spearman
from selfreward.records import PreferencePair, Response
from selfreward.storage.directory import open_run


def main() -> None:
    """Read the runs, and print what they were."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+", help="names under runs/, or paths")
    parser.add_argument("--against", nargs="*", default=[], metavar="RUN")
    parser.add_argument("--iteration", type=int, default=1)
    asked = parser.parse_args()
    found: dict[str, Any] = {
        "rounds": {name: round_of(name, asked.iteration) for name in asked.runs}
    }
    answered = [each for name in asked.runs for each in rewarded(name, asked.iteration)]
    if answered:
        lengths, rewards = zip(*answered, strict=True)
        found["spearman of length and reward"] = spearman(lengths, rewards)
    if asked.against:
        same: Counter[str] = Counter()
        for one, other in zip(asked.runs, asked.against, strict=True):
            same += alike(one, other, asked.iteration)
        found["pairs"] = dict(same)
    print(json.dumps(found, indent=1))


def round_of(name: str, iteration: int) -> dict[str, Any]:
    """The figures of a round."""
    with open_run(name).store() as store:
        figures = iteration_figures(store, iteration)
    pairs, online = figures.pairs, figures.training.online
    return {
        "responses": figures.responses.n,
        "truncated": figures.responses.truncated,
        "pairs": pairs.n,
        "margin": pairs.margin,
        "chosen_length": pairs.chosen_length,
        "rejected_length": pairs.rejected_length,
        "steps": figures.training.steps,
        "sampled_in_training": online.sampled if online else 0,
        "without_verdict": online.no_verdict if online else {},
        "kl": online.kl.mean if online and online.kl else None,
    }


def rewarded(name: str, iteration: int) -> list[tuple[float, float]]:
    """Length and reward of each answer of the model that an iteration made."""
    with open_run(name).store() as store:
        answers = store.report(iteration, "answers", Answers)
        rewards = store.report(iteration, "rewards", Rewards)
    if answers is None or rewards is None:
        return []
    both = zip(answers.answers, rewards.judges[0].values, strict=True)
    return [(float(len(answer.text)), reward) for answer, reward in both if reward is not None]


def alike(one: str, other: str, iteration: int) -> Counter[str]:
    """How often two runs have the same pair of the same responses."""
    texts, pairs = [], []
    for name in (one, other):
        with open_run(name).store() as store:
            responses = store.records(Response, iteration)
            made = store.records(PreferencePair, iteration)
        texts.append({(r.attempt, r.sample): r.text for r in responses})
        pairs.append({pair.attempt: (pair.chosen, pair.rejected) for pair in made})
    assert texts[0] == texts[1], f"{one} and {other} have other responses"
    first, second = pairs
    kinds = {True: "same", False: "another"}
    return Counter(
        "reverse" if first[at] == second[at][::-1] else kinds[first[at] == second[at]]
        for at in first.keys() & second.keys()
    )


if __name__ == "__main__":
    main()
