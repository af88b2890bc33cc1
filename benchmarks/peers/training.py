"""DPO by hand, with TRL, as all contenders but ours train."""

import shutil
from typing import Any

from benchmarks.peers.work import (
    BATCHES_A_STEP,
    BETA,
    LEARNING_RATE,
    PAIRS_A_BATCH,
    Report,
    Work,
)

COMMON = {
    "beta": BETA, "learning_rate": LEARNING_RATE, "num_train_epochs": 1, "max_length": 1024,
    "bf16": False, "gradient_checkpointing": False, "report_to": "none", "save_strategy": "no",
    "logging_steps": 1, "disable_tqdm": True,
}  # fmt: skip
"""Options of ``DPOConfig`` and ``OnlineDPOConfig``. Weights are float32 and stay so: an update of
1e-5 is lost in bfloat16."""


def train(work: Work, report: Report, pairs: list[tuple[str, str, str]], model: Any = None) -> None:
    """Train on the pairs and save the model; without pairs nothing is trained.

    Args:
        model: In float32, if it is loaded already; its log-probabilities before the first step are
            the reference, so it is not loaded twice.
    """
    report.pairs = len(pairs)
    if not pairs:
        report.note = "no pairs: nothing trained"
        return
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    rows = [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "chosen": [{"role": "assistant", "content": chosen}],
            "rejected": [{"role": "assistant", "content": rejected}],
        }
        for prompt, chosen, rejected in pairs
    ]
    with report.stage("train"):
        if model is None:
            model = AutoModelForCausalLM.from_pretrained(work.model, dtype="float32")
            report.loads += 1
        options = COMMON | {
            "output_dir": f"{work.scratch}/checkpoints",
            "per_device_train_batch_size": PAIRS_A_BATCH,
            "gradient_accumulation_steps": BATCHES_A_STEP,
            "precompute_ref_log_probs": True,
            "seed": work.seed,
        }
        tokenizer = AutoTokenizer.from_pretrained(work.model)
        trainer = DPOTrainer(
            model,
            args=DPOConfig(**options),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
        model.save_pretrained(work.next_model)
        tokenizer.save_pretrained(work.next_model)
    shutil.rmtree(f"{work.scratch}/checkpoints", ignore_errors=True)
