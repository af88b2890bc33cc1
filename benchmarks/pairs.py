"""How fast the pair rules are, and what each does to lengths where the judge likes long answers.

    python benchmarks/pairs.py [--prompts 10000] [--responses 4] [--slope 0.003]

The answers are made up: median length 150 characters (log-normal), quality normal about 2.5 points,
three votes of whole points each, and ``slope`` points per character too many.
"""

import argparse
import random
import time
from statistics import fmean

from selfreward.config import PairsConfig
from selfreward.records import Judgment, Prompt, Response
from selfreward.stages.pairs import build_pairs
from selfreward.stages.rules import RULES


def main() -> None:
    """Pair the same answers by each rule."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--responses", type=int, default=4)
    parser.add_argument("--slope", type=float, default=0.003)
    arguments = parser.parse_args()
    prompts, responses, judgments = _records(**vars(arguments))
    length = {(r.attempt, r.sample): len(r.text) for r in responses}
    print(f"{'rule':20} {'pairs':>8} {'margin':>7} {'chosen - rejected':>18} {'time':>8}")
    for rule in RULES:
        start = time.perf_counter()
        pairs, _ = build_pairs(prompts, responses, judgments, PairsConfig(rule=rule))  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        margin = fmean(pair.margin for pair in pairs)
        excess = fmean(length[p.attempt, p.chosen] - length[p.attempt, p.rejected] for p in pairs)
        print(f"{rule:20} {len(pairs):8,} {margin:7.2f} {excess:18.1f} {seconds:6.2f} s")


def _records(
    prompts: int, responses: int, slope: float
) -> tuple[list[Prompt], list[Response], list[Judgment]]:
    rng = random.Random(0)
    made: tuple[list[Prompt], list[Response], list[Judgment]] = ([], [], [])
    for attempt in range(prompts):
        made[0].append(Prompt(1, attempt, "p", "p", None))
        for sample in range(responses):
            length = round(rng.lognormvariate(5, 0.6))
            quality = rng.gauss(2.5, 0.8) + slope * length
            made[1].append(Response(1, attempt, sample, f"{sample:x}".ljust(length), "stop", 1))
            made[2].extend(
                Judgment(1, attempt, sample, vote, "written", "", score)
                for vote in range(3)
                for score in [min(5, max(0, round(quality + rng.gauss(0, 0.7))))]
            )
    return made


if __name__ == "__main__":
    main()
