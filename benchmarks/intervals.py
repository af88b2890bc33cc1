"""How often the 95% intervals of a judge report hold the truth, by the number of prompts.

    python benchmarks/intervals.py

The judge is right on 70% of all pairs, more on some prompts than on others; a prompt has one to
five pairs.
"""

import numpy as np

from selfreward.measures.bootstrap import Bootstrap

SAMPLES, RESAMPLES, ACCURACY = 2_000, 500, 0.7


def coverage(num_prompts: int) -> float:
    draw = np.random.default_rng(num_prompts)
    held = 0
    for seed in range(SAMPLES):
        chance = draw.beta(3 * ACCURACY, 3 * (1 - ACCURACY), num_prompts)
        pairs = draw.integers(1, 6, num_prompts)
        hits = draw.binomial(pairs, chance)
        bootstrap = Bootstrap(num_prompts, RESAMPLES, seed)
        found = bootstrap.share((hits.astype(float), pairs.astype(float)))
        held += found.low <= ACCURACY <= found.high
    return held / SAMPLES


if __name__ == "__main__":
    for num_prompts in (10, 20, 30, 100):
        print(f"{num_prompts:4} prompts: {coverage(num_prompts):.1%}", flush=True)
