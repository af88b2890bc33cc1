"""The config of a run: typed, frozen, unknown keys are errors.

Figures marked SRLM are those of Self-Rewarding Language Models, arXiv 2401.10020. Options of TRL
(``sft``, ``dpo``), peft (``lora``) and the engines pass through by their own names; they are
checked against their own classes by ``selfreward.training.options`` and ``selfreward.engines``.
"""

from selfreward.config.base import EngineConfig, Sampling, SeedSource, Source
from selfreward.config.generation import PairsConfig, PromptsConfig, ResponsesConfig
from selfreward.config.judging import EvaluationConfig, HealthConfig, JudgeConfig, JurorConfig
from selfreward.config.run import RUNTIME_KEYS, Config, check_judge, is_runtime_key
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
    "Sampling",
    "SeedSource",
    "SelectionConfig",
    "SftConfig",
    "Source",
    "check_judge",
    "is_runtime_key",
]
