"""QLoRA: an adapter on a model in 4 bits, and what comes of it, is what was trained."""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from selfreward.config import QuantizationConfig
from selfreward.config.load import build_config
from selfreward.errors import ConfigError, PreflightError
from selfreward.storage import durable
from selfreward.training import checks, loop, quantized
from selfreward.training.base import OnlineRow, Row, Training, Verdict
from selfreward.training.job import plan
from selfreward.training.methods import fit_of
from tests.support.families import make_family
from tests.support.training import EOS, dpo_rows, sft_rows, some_ids, tiny_model, weights

needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)
LORA = {"r": 4, "target_modules": "all-linear"}
OPTIONS = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-2,
    "max_steps": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with tiny_model(tmp_path_factory.mktemp("model") / "M0") as directory:
        yield directory


def training(start: Path, root: Path, method: Any = "dpo", **options: Any) -> Training:
    how = QuantizationConfig()
    return Training(
        method,
        start,
        root / "M1",
        root / "checkpoints",
        OPTIONS | options,
        LORA,
        0,
        quantization=how,
    )


def run(
    asked: Training, rows: list[Any], die_at: int | None = None, **more: Any
) -> dict[int, dict[str, float]]:
    logs: dict[int, dict[str, float]] = {}

    def on_step(done: int, total: int) -> None:
        if done == die_at:
            raise KeyboardInterrupt

    fit_of(asked.method)(asked, rows, on_log=logs.__setitem__, on_step=on_step, **more)
    return logs


def rounded(start: Path) -> dict[str, torch.Tensor]:
    """M(t) with its linear layers rounded to NF4 by bitsandbytes, 64 weights at a time."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    state = weights(start)
    for name, weight in state.items():
        if name.endswith("_proj.weight"):
            packed = quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
            state[name] = dequantize_4bit(*packed)
    return state


@pytest.mark.slow
@needs_bitsandbytes
@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_what_is_published_is_the_rounded_model_with_the_adapter_added(
    method: str, start: Path, tmp_path: Path
) -> None:
    rows: list[Row] = [*(sft_rows(8) if method == "sft" else dpo_rows(8))]
    asked = training(start, tmp_path, method)
    logs = run(asked, rows)  # which proves that its log-probabilities are those of training
    if method == "dpo":
        assert logs[1]["loss"] == pytest.approx(0.6931, abs=1e-4)  # the reference is the start
    new, base = weights(asked.output), rounded(start)
    adapter = load_file(asked.output / "adapter" / "adapter_model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in adapter.values())
    assert new.keys() == base.keys()
    scale = 8 / 4  # peft's lora_alpha by r
    for name, weight in base.items():
        part = f"base_model.model.{name.removesuffix('.weight')}.lora_"
        added = torch.zeros(())
        if f"{part}A.weight" in adapter:
            added = scale * adapter[f"{part}B.weight"] @ adapter[f"{part}A.weight"]
            assert added.abs().max() > 1e-3
        assert torch.allclose(new[name], weight + added, atol=1e-5), name
    settings = (asked.output / "config.json").read_text()
    assert "quantization" not in settings and '"dtype": "float32"' in settings


@pytest.mark.slow
@needs_bitsandbytes
def test_a_model_that_keeps_its_weights_turned_is_published_as_it_was_trained(
    tmp_path: Path,
) -> None:
    start = make_family(tmp_path / "gpt2", "GPT-2")
    asked = training(start, tmp_path)
    run(asked, dpo_rows(8))  # which proves it
    old, new = weights(start), weights(asked.output)
    assert {name: t.shape for name, t in old.items()} == {n: t.shape for n, t in new.items()}
    assert durable.read_manifest(asked.output)["quantization"]["bnb_4bit_quant_type"] == "nf4"


@pytest.mark.slow
@needs_bitsandbytes
def test_an_adapter_moves_by_less_than_bfloat16_can_hold(start: Path, tmp_path: Path) -> None:
    job = plan(training(start, tmp_path), dpo_rows(8))
    from selfreward.training.dpo import make_trainer

    trainer = make_trainer(job, dpo_rows(8))
    trained = [p for p in trainer.model.parameters() if p.requires_grad]
    assert {parameter.dtype for parameter in trained} == {torch.bfloat16}  # as TRL has it
    quantized.in_float32(trainer.model)
    assert {parameter.dtype for parameter in trained} == {torch.float32}


@pytest.mark.slow
@needs_bitsandbytes
def test_gradients_or_not_a_model_in_4_bits_says_the_same(start: Path, tmp_path: Path) -> None:
    policy, _ = loop.load_policy(training(start, tmp_path))
    ids = torch.tensor([[5, 9, 30, 7, 11]])
    with torch.no_grad():
        without = policy.eval()(ids).logits
    assert torch.equal(without, policy.train()(ids).logits)
    assert all(not layer.support_avx512bf16_for_cpu for layer in quantized._layers(policy).values())


@pytest.mark.slow
@needs_bitsandbytes
def test_a_resumed_training_ends_with_the_weights_of_an_undisturbed_one(
    start: Path, tmp_path: Path
) -> None:
    whole, cut = (training(start, tmp_path / name, save_steps=1) for name in ("whole", "cut"))
    run(whole, dpo_rows(8))
    with pytest.raises(KeyboardInterrupt):
        run(cut, dpo_rows(8), die_at=3)
    assert min(run(cut, dpo_rows(8))) == 3
    assert durable.verify_directory(cut.output) == durable.verify_directory(whole.output)


class ByLength:
    end_ids = frozenset({EOS})

    def __call__(self, samples: Any) -> list[list[Verdict]]:
        return [[Verdict(len(ids) / 2) for ids in completions] for _, completions in samples]


@pytest.mark.slow
@needs_bitsandbytes
@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_a_model_in_4_bits_samples_and_learns_from_rewards(
    method: str, start: Path, tmp_path: Path
) -> None:
    import random

    rng = random.Random(0)
    rows = [OnlineRow(some_ids(rng, 3, 9)) for _ in range(4)]
    asked = training(
        start, tmp_path, method, num_generations=4, max_completion_length=8, beta=0.05,
        per_device_train_batch_size=4,
    )  # fmt: skip
    logs = run(asked, rows, rewards=ByLength())
    assert abs(logs[1]["kl"]) < 1e-3
    new, base = weights(asked.output), rounded(start)
    assert any(not torch.allclose(new[name], base[name], atol=1e-4) for name in base)


def test_another_rounding_is_another_training(start: Path, tmp_path: Path) -> None:
    asked = training(start, tmp_path)
    other = replace(asked, quantization=QuantizationConfig(bnb_4bit_quant_type="fp4"))
    none = replace(asked, quantization=None)
    rows = dpo_rows(8)
    assert len({plan(each, rows).digest for each in (asked, other, none)}) == 3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["quantization={}"],
            "quantization needs an adapter, as 4 bits cannot be trained; set lora",
        ),
        (["quantization={}", "lora={r: 4}", "launch.processes=2"], "leave out launch.processes"),
        (["quantization={}", "lora={r: 4}", "launch.command=x"], "leave out launch.command"),
        (
            ["quantization={}", "lora={r: 4}", "dpo.reference_logprobs=engine"],
            "the reference is M(t) in 4 bits; set dpo.reference_logprobs=trl",
        ),
        (
            ["quantization={}", "lora={r: 4, init_lora_weights: orthogonal}"],
            "lora.init_lora_weights=orthogonal does not go with quantization",
        ),
        (["quantization={bnb_4bit_quant_type: int4}", "lora={r: 4}"], "bnb_4bit_quant_type"),
        (["quantization={load_in_8bit: true}", "lora={r: 4}"], "load_in_8bit"),
    ],
)
def test_what_cannot_be_trained_so_is_refused_in_a_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        build_config({}, words)
    assert said in error.value.message and "\n" not in error.value.message


def test_without_bitsandbytes_it_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "has_module", lambda name: True)
    checks.check_bitsandbytes()
    monkeypatch.setattr(checks, "has_module", lambda name: False)
    with pytest.raises(PreflightError, match="bitsandbytes is not installed") as error:
        checks.check_bitsandbytes()
    assert "[qlora]" in error.value.hint
