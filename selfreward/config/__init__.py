"""The config of a run: typed, frozen, unknown keys are errors.

Figures marked SRLM are those of Self-Rewarding Language Models, arXiv 2401.10020. Options of TRL
(``sft``, ``dpo``), peft (``lora``) and the engines pass through by their own names; they are
checked against their own classes by ``training.options`` and ``engines.kinds``.
"""

from selfreward.config.base import EngineConfig, Sampling, SeedSource
from selfreward.config.evaluation import EvaluationConfig
from selfreward.config.generation import PairsConfig, PromptsConfig, ResponsesConfig
from selfreward.config.judging import HealthConfig, JudgeConfig, JurorConfig
from selfreward.config.run import Config
from selfreward.config.training import LaunchConfig, QuantizationConfig

__all__ = [
    "Config",
    "EngineConfig",
    "EvaluationConfig",
    "HealthConfig",
    "JudgeConfig",
    "JurorConfig",
    "LaunchConfig",
    "PairsConfig",
    "PromptsConfig",
    "QuantizationConfig",
    "ResponsesConfig",
    "Sampling",
    "SeedSource",
]
