"""Whether what was proposed against a loop that goes wrong helps: two rounds, three ways.

    python benchmarks/repairs.py DIR [words of selfreward compare, such as --json --plot FILE]

Model, prompts and measure are those of ``benchmarks/verifiable.py``, at the size of its run on two
cores, and so is arm ``self``, the plain loop, which unlearns there. ``cream`` trusts the pairs as
far as M(t) and M(t-1) rank alike (CREAM, arXiv 2410.12735); ``anchored`` takes the rejected answers
from M1 (Temporal Self-Rewarding, arXiv 2508.06026). In round 1 M(t-1) is M0, which is M1 here, so
all three train on the same pairs in the same way; they part in round 2.
"""

from methods import STEPS
from verifiable import compare

EXPERIMENT = {
    "base": "config.yaml",
    "common": {
        "iterations": 2,
        "prompts.count": 48,
        "responses.max_new_tokens": 128,
        "dpo": STEPS,
    },
    "arms": {
        "self": {},
        "cream": {
            "judge.jury": [
                {
                    "model": "previous", "weight": 0,
                    "form": "expected", "template": "judge/expected.jinja",
                }
            ],
            "dpo.weigh_by": "consistency",
        },
        "anchored": {"responses.anchors": 4, "pairs": {"rule": "anchored"}},
    },
    "seeds": [1, 2, 3],
}  # fmt: skip


if __name__ == "__main__":
    compare("repairs", EXPERIMENT)
