"""What each way of learning makes of the same answers, on a goal that can be checked.

    python benchmarks/methods.py DIR [words of selfreward compare, such as --json --plot FILE]

Model, prompts and measure are those of ``benchmarks/verifiable.py``, at the size of its run on two
cores. The arms are two times two and what stands beside them: the signal is the model's own scores
(``self``) or those with a function in the jury (``jury``), and the model learns by DPO or by SFT on
the best answer. ``margin`` leaves out the pairs that only the model's own half of the jury decides;
``iterative-rpo`` is ``self`` with an NLL term of weight 1 in place of 0.2.

All arms of a seed train on the same answers of the same M1. Nothing was tuned: learning rate and
batches are those of ``verifiable.py``.
"""

from typing import Any

from verifiable import STRICT, compare

JURY = {"judge.jury": [{"function": STRICT}]}
STEPS = {
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 1,
}
BEST: dict[str, Any] = {"train": {"method": "sft", "sft": {"start": "M1", **STEPS}}}
"""SFT of M1 on the best answer to each prompt."""
EXPERIMENT = {
    "base": "config.yaml",
    "common": {
        "iterations": 1,
        "prompts.count": 48,
        "responses.max_new_tokens": 128,
        "dpo": STEPS,
    },
    "arms": {
        "jury": JURY,
        "margin": {**JURY, "pairs.min_margin": 0.5},
        "jury-best": {**JURY, **BEST},
        "self": {},
        "self-best": BEST,
        "iterative-rpo": {"dpo.loss_weights": [1.0, 1.0]},
    },
    "seeds": [1, 2, 3],
}


if __name__ == "__main__":
    compare("methods", EXPERIMENT)
