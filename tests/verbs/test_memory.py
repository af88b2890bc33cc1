"""Memory is counted from shapes alone, and agrees with models that are really made."""

import json
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.config.run import Config
from selfreward.verbs import memory
from selfreward.verbs.plan import plan_of, plan_text

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096,
    "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
    "max_position_embeddings": 8192, "rope_theta": 500000.0, "rms_norm_eps": 1e-5,
}  # fmt: skip
"""Llama 3 8B (arXiv 2407.21783, table 3)."""
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64,
}  # fmt: skip


def directory_of(root: Path, config: dict[str, Any]) -> str:
    (root / "config.json").write_text(json.dumps(config))
    return str(root)


def config_of(root: Path, model: dict[str, Any], *overrides: str) -> Config:
    return build_config({"model": directory_of(root, model)}, list(overrides))


@pytest.mark.parametrize(
    ("model", "parameters", "kv_bytes"),
    [(LLAMA_8B, 8_030_261_248, 131_072), (LLAMA_70B, 70_553_706_496, 327_680)],
    ids=["8B", "70B"],
)
def test_a_config_json_alone_tells_parameters_and_cache(
    model: dict[str, Any], parameters: int, kv_bytes: int, tmp_path: Path
) -> None:
    config = config_of(tmp_path, model, "engine.kind=vllm")
    found = memory.memory_of(config, 1000)
    assert found is not None
    assert found["parameters"] == parameters  # as published with the models
    assert found["training"]["ddp"]["total"] == 16 * parameters
    assert found["training"]["shards"] is None
    assert found["inference"]["weights"] == 2 * parameters
    assert found["inference"]["kv_per_token"] == kv_bytes


def test_safetensors_headers_tell_the_same(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}, "w": {"shape": [3, 5], "dtype": "BF16"}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    shape = memory.shape_of(str(tmp_path))
    assert shape == memory.Shape({"w": (3, 5)}, 15, {})
    assert shape.kv_numbers is None
    assert memory.shape_of("nobody/nothing") is None
    assert memory.find_model("nobody/nothing") is None


def test_processes_divide_everything_in_shards_and_nothing_under_ddp(tmp_path: Path) -> None:
    config = config_of(tmp_path, LLAMA_8B, "launch.processes=8")
    training = memory.memory_of(config, 1000)["training"]  # type: ignore[index]
    parameters = training["trained"]
    assert training["ddp"]["total"] == 20 * parameters
    assert training["shards"]["total"] == 2 * parameters
    alone = config_of(tmp_path, LLAMA_8B, "dpo.precompute_ref_log_probs=false")
    found = memory.memory_of(alone, 1000)["training"]  # type: ignore[index]
    assert found["ddp"]["reference"] == 4 * parameters


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], "all-linear", None, r".*\.mlp\.(up|down)_proj"], ids=str
)
def test_an_adapter_has_as_many_numbers_as_peft_makes(targets: object, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    small = LLAMA_8B | {"hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 99}
    lora = {"r": 4} if targets is None else {"r": 4, "target_modules": targets}
    config = build_config({"model": directory_of(tmp_path, small), "lora": lora})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    trained, parameters = adapted.get_nb_trainable_parameters()
    training = memory.memory_of(config, 1000)["training"]  # type: ignore[index]
    assert training["trained"] == trained
    assert training["ddp"]["total"] == 4 * parameters + 12 * trained


def test_the_engines_options_decide_what_inference_takes(tmp_path: Path) -> None:
    def inference(*overrides: str) -> Any:
        found = memory.memory_of(config_of(tmp_path, LLAMA_8B, *overrides), 1000)
        assert found is not None
        return found["inference"]

    assert inference("engine.kind=transformers")["dtype"] == "float32"
    assert inference("engine.kind=vllm", "engine.dtype=float16")["dtype"] == "float16"
    split = ["engine.tensor_parallel_size=4", "engine.pipeline_parallel_size=2"]
    assert inference("engine.kind=vllm", *split)["gpus"] == 8
    cached = inference("engine.kind=vllm", "engine.kv_cache_dtype=fp8")
    assert cached["kv_per_token"] == 65_536
    assert inference("engine.kind=server", "engine.endpoints=[http://localhost:1/v1]") is None


def test_a_plan_shows_memory_and_says_what_it_cannot_know(tmp_path: Path) -> None:
    config = config_of(tmp_path, LLAMA_8B, "launch.processes=8", "engine.kind=vllm")
    text = plan_text(plan_of(config, None))
    assert "8.03 billion parameters" in text
    assert "each of 8, in shards" in text
    assert "131.1 kB a token" in text
    assert "NOT ENOUGH" in text or "free at" in text
    unknown = build_config({"model": "nobody/nothing"})
    assert "memory: unknown" in plan_text(plan_of(unknown, None))
    (tmp_path / "config.json").write_text('{"model_type": "never-heard-of"}')
    assert "memory: unknown" in plan_text(plan_of(config, None))
