"""Tiny models with random weights, of the shapes that published model families have.

Each config names what its family has and another may ignore: scaled positions, windows, caps,
multipliers, layers without positions, heads of their own width. Matrices are three times as large
as they are made, so that attention and positions change what comes out.
"""

from pathlib import Path
from typing import Any

from tests.support.models import MERGES, TEMPLATE, make_model

_BASE: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "bos_token_id": 101, "eos_token_id": 100, "pad_token_id": 100,
}  # fmt: skip
_LLAMA3_ROPE: dict[str, Any] = {
    "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_theta": 500000.0,
}  # fmt: skip
_LONG = {"max_position_embeddings": 131072}
_ROPE = {"rope_type": "default"}
_SLIDING = ["sliding_attention"] * 5 + ["full_attention"]
_LONGROPE: dict[str, Any] = {
    "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 4096,
    "long_factor": [1.0 + i for i in range(6)], "short_factor": [1.0 + i / 4 for i in range(6)],
    "partial_rotary_factor": 0.75,
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama 2": ("LlamaConfig", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    "Llama 3.1": (
        "LlamaConfig",
        {
            **_LONG, "hidden_size": 128, "head_dim": 32, "tie_word_embeddings": False,
            "rope_parameters": {**_LLAMA3_ROPE, "factor": 8.0},
        },
    ),
    "Llama 3.2": (
        "LlamaConfig",
        {
            **_LONG, "hidden_size": 256, "head_dim": 64, "tie_word_embeddings": True,
            "rope_parameters": {**_LLAMA3_ROPE, "factor": 32.0},
        },
    ),
    "Llama, own head_dim": ("LlamaConfig", {"head_dim": 32}),
    "Llama, gelu": ("LlamaConfig", {"hidden_act": "gelu"}),
    "Llama, no bos": ("LlamaConfig", {"bos_token_id": None}),
    "R1 distill Llama": (
        "LlamaConfig",
        {**_LONG, "head_dim": 16, "rope_parameters": {**_LLAMA3_ROPE, "factor": 8.0}},
    ),
    "R1 distill Qwen": (
        "Qwen2Config",
        {**_LONG, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 21,
         "rope_parameters": {**_ROPE, "rope_theta": 10000.0}},
    ),
    "Mistral 0.1": ("MistralConfig", {"sliding_window": 512, "tie_word_embeddings": False}),
    "Mistral 0.3": (
        "MistralConfig",
        {"sliding_window": None, "rope_parameters": {**_ROPE, "rope_theta": 1000000.0}},
    ),
    "Qwen 2": (
        "Qwen2Config",
        {"use_sliding_window": False, "tie_word_embeddings": True,
         "rope_parameters": {**_ROPE, "rope_theta": 1000000.0}},
    ),
    "Qwen 3": (
        "Qwen3Config",
        {"head_dim": 32, "tie_word_embeddings": True,
         "rope_parameters": {**_ROPE, "rope_theta": 1000000.0}},
    ),
    "Gemma 1": ("GemmaConfig", {"head_dim": 32, "num_key_value_heads": 1}),
    "Gemma 2": (
        "Gemma2Config",
        {"head_dim": 64, "sliding_window": 512, "query_pre_attn_scalar": 24,
         "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "Gemma 3": (
        "Gemma3TextConfig",
        {"head_dim": 64, "num_hidden_layers": 6, "sliding_window": 512,
         "query_pre_attn_scalar": 64, "layer_types": _SLIDING},
    ),
    "Phi 2": (
        "PhiConfig",
        {"num_key_value_heads": 4, "tie_word_embeddings": False,
         "rope_parameters": {**_ROPE, "rope_theta": 10000.0, "partial_rotary_factor": 0.5}},
    ),
    "Phi 3": ("Phi3Config", {"num_key_value_heads": 4, "sliding_window": 512}),
    "Phi 4-mini": (
        "Phi3Config",
        {**_LONG, "original_max_position_embeddings": 4096, "tie_word_embeddings": True,
         "rope_parameters": _LONGROPE},
    ),
    "SmolLM 2": (
        "LlamaConfig",
        {"tie_word_embeddings": True, "rope_parameters": {**_ROPE, "rope_theta": 100000.0}},
    ),
    "SmolLM 3": (
        "SmolLM3Config",
        {"num_hidden_layers": 4, "no_rope_layer_interval": 4, "use_sliding_window": False},
    ),
    "OLMo 2": ("Olmo2Config", {"num_key_value_heads": 4}),
    "Granite": (
        "GraniteConfig",
        {"embedding_multiplier": 12.0, "logits_scaling": 8.0, "residual_multiplier": 0.22,
         "attention_multiplier": 0.015625},
    ),
    "GPT-2": (
        "GPT2Config",
        {"vocab_size": 102, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 1024,
         "bos_token_id": 101, "eos_token_id": 100},
    ),
    "Pythia": (
        "GPTNeoXConfig",
        {"num_key_value_heads": None, "hidden_act": "gelu", "use_parallel_residual": True,
         "rope_parameters": {**_ROPE, "rope_theta": 10000.0, "partial_rotary_factor": 0.25}},
    ),
}  # fmt: skip
"""By family: class of its config, and what is special of it. Windows are 512 where they are 4,096
in the published model, so that short texts pass them."""


def make_family(path: Path, family: str, *, seed: int = 0, **changes: Any) -> Path:
    """Write the tiny model of a family: config, weights, tokenizer with a chat template.

    Args:
        changes: Of the config, over those of the family.
    """
    kind, special = FAMILIES[family]
    own = {} if kind == "GPT2Config" else _BASE
    return make_tiny(path, kind, {**own, **special, **changes}, seed=seed)


def make_tiny(path: Path, kind: str, config: dict[str, Any], *, seed: int = 0) -> Path:
    """Write a model of a config class of transformers with random weights."""
    import torch
    import transformers

    config = {name: value for name, value in config.items() if value is not None or name in _NONE}
    make_model(path, TEMPLATE, MERGES)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    if config.get("bos_token_id") is not None:
        tokenizer.bos_token = tokenizer.unk_token = "<|text|>"
    tokenizer.save_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = getattr(transformers, kind)(**config)
        model = transformers.AutoModelForCausalLM.from_config(made).float()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.mul_(3)
                else:
                    weight.add_(torch.randn_like(weight) * 0.1)
    model.save_pretrained(path)
    return path


def make_reward_model(
    path: Path, *, labels: int = 1, template: str | None = TEMPLATE, pad: int | None = 100
) -> Path:
    """Write a tiny reward model with random weights, of 64 positions."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    make_model(path, template)
    config = LlamaConfig(
        vocab_size=128, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=64, num_labels=labels, pad_token_id=pad,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForSequenceClassification(config).float()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(3)
    model.save_pretrained(path)
    return path


_NONE = ("bos_token_id", "sliding_window")
"""Keys of which None says something that leaving them out does not."""
