"""How long the checks of new prompts take: near-duplicates, and overlap with what is held out.

    python benchmarks/duplicates.py [--new 5000] [--earlier 20000] [--held-out 1000]

Prompts are made of 5,000 words, as often as words are (Zipf), 6 to 40 in each; one in twenty of
the new ones is an earlier one with a word changed, so that there is something to find.
"""

import argparse
import random
import time

from selfreward.measures.duplicates import near_duplicates
from selfreward.stages.overlap import HeldOut

WORDS = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--new", type=int, default=5_000)
    parser.add_argument("--earlier", type=int, default=20_000)
    parser.add_argument("--held-out", type=int, default=1_000)
    given = parser.parse_args()
    rng = random.Random(0)
    words = [f"w{i}" for i in range(WORDS)]
    weights = [1 / (i + 1) for i in range(WORDS)]

    def prompts(count: int) -> list[str]:
        return [" ".join(rng.choices(words, weights, k=rng.randint(6, 40))) for _ in range(count)]

    earlier, new, held_out = prompts(given.earlier), prompts(given.new), prompts(given.held_out)
    for at in range(0, given.new, 20):
        changed = rng.choice(earlier).split()
        changed[len(changed) // 2] = "changed"
        new[at] = " ".join(changed)
    began = time.perf_counter()
    repeated = near_duplicates(new, earlier)
    took = time.perf_counter() - began
    planted = len(range(0, given.new, 20))
    print(f"near-duplicates: {given.new} against {given.earlier} in {took:.1f} s; ", end="")
    print(f"found {len(repeated)}, {planted} were planted")
    began = time.perf_counter()
    known = HeldOut(held_out)
    overlapping = sum(known.overlapping(text) is not None for text in new)
    took = time.perf_counter() - began
    print(f"overlap: {given.new} with {given.held_out} held out in {took:.2f} s; {overlapping}")


if __name__ == "__main__":
    main()
