"""The config of a run: typed, frozen, unknown keys are errors.

Figures marked SRLM are those of Self-Rewarding Language Models, arXiv 2401.10020. Options of TRL
(``sft``, ``dpo``), peft (``lora``) and the engines pass through by their own names; they are
checked against their own classes by ``selfreward.training.options`` and ``selfreward.engines``.
"""

import re
from typing import Any, Self

from pydantic import Field, model_validator

from selfreward.config.base import EngineConfig, Group, SeedSource, Source
from selfreward.config.generation import PairsConfig, PromptsConfig, ResponsesConfig
from selfreward.config.judging import EvaluationConfig, HealthConfig, JudgeConfig, JurorConfig
from selfreward.config.training import DpoConfig, LaunchConfig, SelectionConfig, SftConfig

__all__ = [
    "RUNTIME_KEYS",
    "Config",
    "DpoConfig",
    "EngineConfig",
    "EvaluationConfig",
    "HealthConfig",
    "JudgeConfig",
    "JurorConfig",
    "LaunchConfig",
    "PairsConfig",
    "PromptsConfig",
    "ResponsesConfig",
    "SeedSource",
    "SelectionConfig",
    "SftConfig",
    "Source",
    "is_runtime_key",
]


class Config(Group):
    """All that defines a run."""

    model: str = "bundled:smollm2-135m"
    """M0: a hub id, a directory, a ``.gguf`` file or ``bundled:smollm2-135m``."""
    revision: str | None = None
    """Commit of a hub model; the one found is recorded."""
    trust_remote_code: bool = False
    """Run code that the model brings along; needs ``revision``."""
    iterations: int = Field(default=2, ge=0)
    """DPO rounds after M1 (SRLM: 2, giving M2 and M3)."""
    seed: int = Field(default=0, ge=0)
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(default={})
    """Passed to the model's chat template, such as ``{enable_thinking: false}``."""
    engine: EngineConfig = EngineConfig()
    sft: SftConfig | None = SftConfig()
    """null: no seed step, M1 = M0."""
    prompts: PromptsConfig = PromptsConfig()
    responses: ResponsesConfig = ResponsesConfig()
    judge: JudgeConfig = JudgeConfig()
    pairs: PairsConfig = PairsConfig()
    dpo: DpoConfig = DpoConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    health: HealthConfig = HealthConfig()
    lora: dict[str, Any] | None = None
    """Options of peft's ``LoraConfig``; null trains all weights."""
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _check_anchors(self) -> Self:
        if self.pairs.rule == "anchored" and self.iterations > 1 and not self.responses.anchors:
            raise ValueError(
                "pairs.rule=anchored needs responses.anchors of 1 or more from iteration 2 on, "
                f"found responses.anchors=0 and iterations={self.iterations}"
            )
        return self


_ENGINE_RUNTIME_KEYS = (
    "concurrency", "staged", "max_batch_size", "max_batch_tokens",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "max_model_len", "max_num_seqs",
    "max_num_batched_tokens", "tensor_parallel_size", "pipeline_parallel_size",
    "data_parallel_size", "distributed_executor_backend", "enforce_eager",
    "endpoints", "api_key_env", "timeout_s", "max_retries",
)  # fmt: skip
RUNTIME_KEYS = frozenset(
    {
        *(f"{group}.{key}" for group in ("engine", "judge.engine") for key in _ENGINE_RUNTIME_KEYS),
        *(f"health.{key}" for key in HealthConfig.model_fields),
        "judge.min_parse_rate",
        "launch.engine_devices",
        "launch.keep_engine",
        "launch.train_devices",
        "pairs.min_pairs",
        "prompts.max_attempts",
        "sft.selection.min_rows",
    }
)
"""Keys that decide how fast a run is and when it gives up, but no record; ``resume`` may change
these."""


def is_runtime_key(key: str) -> bool:
    """Whether it is one of ``RUNTIME_KEYS``, be it of a judge such as ``judge.jury.0``."""
    return re.sub(r"^judge\.jury\.\d+\.engine\.", "judge.engine.", key) in RUNTIME_KEYS
