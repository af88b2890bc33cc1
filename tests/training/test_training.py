"""Laws of training, on a random Llama of two layers; the real model in the slow ones."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfreward.config import QuantizationConfig
from selfreward.engines.chat import Chat
from selfreward.errors import ConfigError, IntegrityError, StoppedError
from selfreward.inputs import models
from selfreward.storage import durable
from selfreward.training.base import DpoRow, SftRow, Training
from selfreward.training.checkpoints import last_complete_checkpoint, seal_checkpoint
from selfreward.training.job import step_order
from selfreward.training.options import check_lora, check_options
from tests.support.training import EOS, TEMPLATE, dpo_rows, sft_rows, tiny_model, weights


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    with tiny_model(tmp_path_factory.mktemp("model") / "M0") as directory:
        yield directory


@pytest.fixture
def dropping(start, tmp_path):
    """The same with dropout, whose random numbers a resume must bring back."""
    directory = tmp_path / "dropping"
    shutil.copytree(start, directory)
    config = json.loads((directory / "config.json").read_bytes())
    (directory / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.1}))
    return directory


class Call:
    """One call of `train_sft` or `train_dpo` with its paths and what it told."""

    def __init__(self, start, root, rows, *, die_at=None, lora=None, seed=0, chat_template=None,
                 eft_weight=1.0, quantization=None, **options):  # fmt: skip
        self.start, self.rows, self.lora, self.seed = start, rows, lora, seed
        self.chat_template, self.eft_weight = chat_template, eft_weight
        self.quantization, self.digest = quantization, None
        self.output, self.checkpoints = root / "M1", root / "checkpoints"
        self.options = {
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
            "learning_rate": 1e-2, "save_steps": 1000, **options,
        }  # fmt: skip
        self.die_at, self.logs, self.steps = die_at, {}, []

    @property
    def training(self):
        method = "sft" if isinstance(self.rows[0], SftRow) else "dpo"
        return Training(
            method, self.start, self.output, self.checkpoints, self.options, self.lora, self.seed,
            chat_template=self.chat_template, eft_weight=self.eft_weight,
            quantization=self.quantization, model_digest=self.digest,
        )  # fmt: skip

    def run(self):
        from selfreward.training.dpo import train_dpo
        from selfreward.training.sft import train_sft

        def on_step(done, total):
            self.steps.append((done, total))
            if done == self.die_at:
                raise KeyboardInterrupt

        train = train_sft if isinstance(self.rows[0], SftRow) else train_dpo
        try:
            train(self.training, self.rows, on_log=self.logs.__setitem__, on_step=on_step)
        except KeyboardInterrupt:
            assert self.die_at is not None
        return self

    def trainer(self):
        from selfreward.training import dpo, sft
        from selfreward.training.job import plan

        module = sft if isinstance(self.rows[0], SftRow) else dpo
        return module.make_trainer(plan(self.training, self.rows), self.rows)


def plain_log_prob(directory, prompt, completion):
    """Summed log-probability of a completion by a plain forward pass."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = torch.tensor([[*prompt, *completion]])
    with torch.no_grad():
        log_probs = model(ids).logits[0, :-1].log_softmax(-1)
    picked = log_probs[torch.arange(ids.shape[1] - 1), ids[0, 1:]]
    return picked[len(prompt) - 1 :].sum().item()


# --- what is trained on ---


def test_sft_trains_on_the_given_ids_and_takes_loss_on_the_completion_only(start, tmp_path):
    rows = [*sft_rows(5), SftRow(tuple(range(3, 60)) * 30, (5, 6, EOS))]  # 1713 tokens: uncut
    seen = []
    for batch in Call(start, tmp_path, rows).trainer().get_train_dataloader():
        for ids, mask, labels in zip(
            batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
        ):
            ids, labels = ids[mask == 1].tolist(), labels[mask == 1].tolist()
            prompt = labels.count(-100)
            assert labels[prompt:] == ids[prompt:]
            seen.append(SftRow(tuple(ids[:prompt]), tuple(ids[prompt:])))
    assert sorted(seen, key=repr) == sorted(rows, key=repr)


def test_dpo_trains_on_the_given_ids_and_compares_the_completions_only(start, tmp_path):
    long = DpoRow(tuple(range(3, 60)) * 30, (5, 6, EOS), (7, EOS))
    rows = [*dpo_rows(5), long]
    seen = []
    for batch in Call(start, tmp_path, rows).trainer().get_train_dataloader():
        completions = []
        for ids, mask, part in zip(
            batch["input_ids"], batch["attention_mask"], batch["completion_mask"], strict=True
        ):
            prompt = ids[(mask == 1) & (part == 0)].tolist()
            completions.append((tuple(prompt), tuple(ids[part == 1].tolist())))
        half = len(completions) // 2
        for (prompt, chosen), (same, rejected) in zip(
            completions[:half], completions[half:], strict=True
        ):
            assert prompt == same
            seen.append(DpoRow(prompt, chosen, rejected))
    assert sorted(seen, key=repr) == sorted(rows, key=repr)


def test_the_reference_is_the_start_model_for_every_pair(start, tmp_path):
    rows = dpo_rows(7)
    for row in Call(start, tmp_path, rows).trainer().train_dataset:
        prompt = row["prompt_ids"]
        for name in ("chosen", "rejected"):
            expected = plain_log_prob(start, prompt, row[f"{name}_ids"])
            assert row[f"ref_{name}_logps"] == pytest.approx(expected, abs=1e-4)


def test_a_reference_that_is_known_is_not_asked_and_the_others_keep_their_place(
    start, tmp_path, monkeypatch
):
    from selfreward.training import dpo

    asked = []

    def recorded(trainer, data):
        asked.extend(data["chosen_ids"])
        return original(trainer, data)

    original = dpo._asked
    monkeypatch.setattr(dpo, "_asked", recorded)
    rows = dpo_rows(6)
    known = [
        replace(row, reference=(-float(i), -10.0 - i)) if i % 2 else row
        for i, row in enumerate(rows)
    ]
    found = {
        tuple(r["chosen_ids"]): r for r in Call(start, tmp_path, known).trainer().train_dataset
    }
    assert sorted(map(tuple, asked)) == sorted(rows[i].chosen_ids for i in (0, 2, 4))
    for i, row in enumerate(rows):
        told = found[row.chosen_ids]
        here = told["ref_chosen_logps"], told["ref_rejected_logps"]
        both = row.chosen_ids, row.rejected_ids
        plain = [plain_log_prob(start, row.prompt_ids, ids) for ids in both]
        assert here == ((-float(i), -10.0 - i) if i % 2 else pytest.approx(plain, abs=1e-4))


def test_a_training_with_the_engines_log_probabilities_is_that_with_a_pass(start, tmp_path):
    def told_of(row):
        both = row.chosen_ids, row.rejected_ids
        return tuple(plain_log_prob(start, row.prompt_ids, ids) for ids in both)

    rows = dpo_rows(5)
    told = [told_of(row) for row in rows]
    known = [replace(row, reference=pair) for row, pair in zip(rows, told, strict=True)]
    passed = Call(start, tmp_path / "trl", rows).run()
    engine = Call(start, tmp_path / "engine", known).run()
    for step, log in passed.logs.items():
        for name in ("loss", "grad_norm", "rewards/chosen", "rewards/rejected", "logps/chosen"):
            assert engine.logs[step][name] == pytest.approx(log[name], rel=1e-4, abs=1e-4)
    wrong = [replace(row, reference=(c - 0.1, r)) for row, (c, r) in zip(rows, told, strict=True)]
    with pytest.raises(IntegrityError, match="the reference is not the model"):
        Call(start, tmp_path / "wrong", wrong).run()


def test_the_lm_head_runs_on_the_completions_alone_and_the_loss_is_the_plain_one(
    start, tmp_path, monkeypatch
):
    import trl.trainer.utils as upstream

    rows, projected = sft_rows(4), []

    class Recorder:
        @staticmethod
        def apply(hidden, *rest):
            projected.append(len(hidden))
            return original.apply(hidden, *rest)

    original = upstream._ChunkedLogProbFunction
    monkeypatch.setattr(upstream, "_ChunkedLogProbFunction", Recorder)
    training = Call(start, tmp_path, rows).run()
    num_tokens = sum(len(row.completion_ids) for row in rows)
    assert sum(projected) == num_tokens
    log_probs = [plain_log_prob(start, row.prompt_ids, row.completion_ids) for row in rows]
    assert training.logs[1]["loss"] == pytest.approx(-sum(log_probs) / num_tokens, rel=1e-5)


def mixed_rows(count):
    return [replace(row, is_eft=i % 3 == 0) for i, row in enumerate(sft_rows(count))]


@pytest.mark.parametrize("weight", [0.05, 1.0, 7.5])
@pytest.mark.parametrize("accumulated", [1, 2, 4])
def test_the_loss_is_the_weighted_mean_over_the_target_tokens_of_a_step(
    weight, accumulated, start, tmp_path
):
    rows = mixed_rows(8)
    sizes = {"per_device_train_batch_size": 8 // accumulated}
    sizes["gradient_accumulation_steps"] = accumulated
    training = Call(start, tmp_path, rows, eft_weight=weight, **sizes).run()
    by_kind = {True: [0.0, 0.0], False: [0.0, 0.0]}
    for row in rows:
        by_kind[row.is_eft][0] -= plain_log_prob(start, row.prompt_ids, row.completion_ids)
        by_kind[row.is_eft][1] += len(row.completion_ids)
    (eft, eft_tokens), (ift, ift_tokens) = by_kind[True], by_kind[False]
    log = training.logs[1]
    expected = (weight * eft + ift) / (weight * eft_tokens + ift_tokens)
    assert log["loss"] == pytest.approx(expected, rel=1e-5)
    assert log["eft_loss_share"] == pytest.approx(weight * eft / (weight * eft + ift), rel=1e-5)


def test_micro_batches_of_weighted_rows_give_the_gradient_of_the_whole_step(start, tmp_path):
    logs = []
    for at_once in (1, 2, 8):
        sizes = {"per_device_train_batch_size": at_once}
        sizes["gradient_accumulation_steps"] = 8 // at_once
        root = tmp_path / str(at_once)
        logs.append(Call(start, root, mixed_rows(16), eft_weight=4.0, **sizes).run().logs)
    for other in logs[1:]:
        for step, log in logs[0].items():
            assert other[step]["loss"] == pytest.approx(log["loss"], rel=1e-5)
            assert other[step]["grad_norm"] == pytest.approx(log["grad_norm"], rel=1e-4)


def test_at_weight_1_it_makes_no_difference_which_rows_are_eft(start, tmp_path):
    import torch

    plain = Call(start, tmp_path / "plain", sft_rows(9)).run()
    mixed = Call(start, tmp_path / "mixed", mixed_rows(9)).run()
    for step, log in plain.logs.items():
        assert {name: mixed.logs[step][name] for name in log} == log
    for name, tensor in weights(plain.output).items():
        assert torch.equal(tensor, weights(mixed.output)[name])
    marks = [durable.read_manifest(call.output)["job"] for call in (plain, mixed)]
    assert marks[0] == marks[1]
    heavy = Call(start, tmp_path / "heavy", mixed_rows(9), eft_weight=2.0).run()
    assert durable.read_manifest(heavy.output)["job"] != marks[0]


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=40),
    rows_per_step=st.integers(1, 8),
    epochs=st.integers(1, 3),
    seed=st.integers(0, 5),
)
@settings(deadline=None)
def test_every_epoch_trains_on_every_row_once_and_steps_hold_sorted_random_rows(
    lengths, rows_per_step, epochs, seed
):
    total = epochs * len(lengths)
    order = step_order(lengths, rows_per_step=rows_per_step, num_rows=total, seed=seed)
    assert sorted(order) == sorted(list(range(len(lengths))) * epochs)
    if len(lengths) % rows_per_step == 0:
        for i in range(0, total, len(lengths)):
            assert len(set(order[i : i + len(lengths)])) == len(lengths)
    for i in range(0, total, rows_per_step):
        step = [lengths[row] for row in order[i : i + rows_per_step]]
        assert step == sorted(step, reverse=True)
    assert order == step_order(lengths, rows_per_step=rows_per_step, num_rows=total, seed=seed)


def test_another_epoch_and_another_seed_give_another_order():
    def order(seed):
        return step_order([1] * 50, rows_per_step=5, num_rows=100, seed=seed)

    assert order(0)[:50] != order(0)[50:]
    assert order(0) != order(1)


# --- what is learned ---


def test_the_first_dpo_loss_is_ln_2_and_figures_arrive_by_step(start, tmp_path):
    training = Call(start, tmp_path, dpo_rows(10)).run()
    assert training.logs[1]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert training.logs[1]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert list(training.logs) == [1, 2, 3]
    assert training.steps == [(0, 3), (1, 3), (2, 3), (3, 3)]
    names = {"loss", "grad_norm", "learning_rate", "epoch", "rewards/chosen", "rewards/rejected"}
    names |= {"rewards/accuracies", "logps/chosen", "logps/rejected"}
    assert all(names <= log.keys() for log in training.logs.values())
    assert [log["epoch"] for log in training.logs.values()] == pytest.approx([1 / 3, 2 / 3, 1])


def test_asking_the_reference_at_each_step_gives_the_same_figures(start, tmp_path):
    once = Call(start, tmp_path / "once", dpo_rows(10)).run()
    each = Call(start, tmp_path / "each", dpo_rows(10), precompute_ref_log_probs=False).run()
    for step, log in once.logs.items():
        assert log == pytest.approx(each.logs[step], rel=1e-4, abs=1e-4)


def test_overfitting_four_pairs_raises_the_reward_margin(start, tmp_path):
    training = Call(start, tmp_path, dpo_rows(4), num_train_epochs=15, beta=0.5).run()
    margins = [log["rewards/margins"] for log in training.logs.values()]
    assert margins[-1] > margins[0] + 1
    row = training.rows[0]
    gains = [
        plain_log_prob(training.output, row.prompt_ids, ids)
        - plain_log_prob(start, row.prompt_ids, ids)
        for ids in (row.chosen_ids, row.rejected_ids)
    ]
    assert gains[0] > gains[1]  # in the published model, not only in the trainer's figures


@pytest.mark.parametrize("rows", [sft_rows(4), dpo_rows(4)], ids=["sft", "dpo"])
def test_one_epoch_changes_every_parameter_and_leaves_the_start_model_alone(start, tmp_path, rows):
    import torch

    before = {path: path.read_bytes() for path in start.iterdir()}
    training = Call(start, tmp_path, rows).run()
    assert {path: path.read_bytes() for path in start.iterdir()} == before
    old, new = weights(start), weights(training.output)
    assert old.keys() == new.keys()
    assert not [name for name in old if torch.equal(old[name], new[name])]


def test_sft_lowers_the_loss(start, tmp_path):
    logs = Call(start, tmp_path, sft_rows(8), num_train_epochs=10).run().logs
    assert logs[max(logs)]["loss"] < 0.7 * logs[1]["loss"]


# --- what is published ---


def test_a_published_model_is_whole_float32_and_loads_with_the_start_models_tokenizer(
    start, tmp_path
):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    training = Call(start, tmp_path, sft_rows(4)).run()
    assert durable.is_whole(training.output)
    names = {path.name for path in training.output.iterdir()}
    assert names == {path.name for path in start.iterdir()} | {durable.MANIFEST}
    assert models.resolve(str(training.output)).digest == durable.verify_directory(training.output)
    model = AutoModelForCausalLM.from_pretrained(training.output)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    tokenizer = AutoTokenizer.from_pretrained(training.output)
    assert tokenizer.chat_template == TEMPLATE
    assert not training.checkpoints.exists()


@pytest.mark.slow
@pytest.mark.parametrize("known", ["none", "in tokenizer_config.json", "chat_template.jinja"])
def test_a_published_model_carries_the_runs_chat_template_in_place_of_any_other(
    known, start, tmp_path
):
    from transformers import AutoTokenizer

    theirs, base = "{{ 'theirs' }}", tmp_path / "base"
    ours = "{% for m in messages %}{{ m['content'] }} 7{{ eos_token }}\n{% endfor %}"
    shutil.copytree(start, base)
    config = json.loads((base / "tokenizer_config.json").read_bytes())
    config.pop("chat_template", None)
    (base / "chat_template.jinja").unlink()
    if known == "chat_template.jinja":
        (base / known).write_text(theirs)
    elif known != "none":
        config["chat_template"] = theirs
    (base / "tokenizer_config.json").write_text(json.dumps(config))
    first = Call(base, tmp_path / "first", sft_rows(4), chat_template=ours).run()
    second = Call(first.output, tmp_path / "second", dpo_rows(4), chat_template=ours).run()
    turn = [{"role": "user", "content": "3 5"}]
    expected = list(Chat(base, chat_template=ours).prompt_ids("3 5"))
    for model in (first.output, second.output):
        tokenizer = AutoTokenizer.from_pretrained(model)
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        assert ids == expected
    assert "chat_template" not in json.loads((first.output / "tokenizer_config.json").read_bytes())


def test_a_half_precision_start_model_is_trained_and_published_in_float32(start, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    shutil.copytree(start, half)
    AutoModelForCausalLM.from_pretrained(start, dtype=torch.bfloat16).save_pretrained(half)
    training = Call(half, tmp_path, sft_rows(4)).run()
    assert {tensor.dtype for tensor in weights(training.output).values()} == {torch.float32}
    assert json.loads((training.output / "config.json").read_bytes())["dtype"] == "float32"


@pytest.mark.parametrize("rows", [sft_rows(8), dpo_rows(8)], ids=["sft", "dpo"])
def test_a_lora_adapter_is_merged_into_the_published_weights(start, tmp_path, rows):
    import torch

    lora = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    training = Call(start, tmp_path, rows, lora=lora).run()
    assert training.logs[1]["loss"] > 0
    old, new = weights(start), weights(training.output)
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    assert changed == {name for name in old if "q_proj" in name or "v_proj" in name}


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"use_dora": True}, {"use_rslora": True}], ids=str)
@pytest.mark.parametrize("rows", [sft_rows(8), dpo_rows(8)], ids=["sft", "dpo"])
def test_the_adapter_that_was_merged_is_kept_beside_the_weights(start, tmp_path, rows, more):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    lora = {"r": 4, "lora_alpha": 7, "target_modules": ["v_proj", "q_proj", "up_proj"], **more}
    output = Call(start, tmp_path, rows, lora=lora).run().output
    base = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    ids = torch.tensor([[5, 9, 30, 7, 11]])
    with torch.no_grad():
        before = base(ids).logits
        merged = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)(ids).logits
        adapted = PeftModel.from_pretrained(base, output / "adapter")(ids).logits
    assert (merged - before).abs().max() > 1e-2
    assert torch.allclose(adapted, merged, atol=1e-5)


def test_the_adapter_is_covered_by_the_manifest_and_no_part_of_the_digest(start, tmp_path):
    output = Call(start, tmp_path, sft_rows(4), lora={"r": 4}).run().output
    names = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"}
    assert names < durable.read_manifest(output)["files"].keys()
    assert str(tmp_path) not in (output / "adapter" / "adapter_config.json").read_text()
    digest = durable.verify_directory(output)
    plain = tmp_path / "plain"
    shutil.copytree(output, plain, ignore=shutil.ignore_patterns("adapter", "MANIFEST.json"))
    assert durable.seal_directory(plain) == digest
    weights = output / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(IntegrityError, match="content differs from its checksum"):
        durable.verify_directory(output)
    weights.unlink()
    with pytest.raises(IntegrityError, match="listed in MANIFEST"):
        durable.verify_directory(output, deep=False)


def test_weights_trained_whole_have_no_adapter_beside_them(start, tmp_path):
    assert not (Call(start, tmp_path, sft_rows(4)).run().output / "adapter").exists()


def test_nothing_is_done_twice_and_another_job_never_takes_a_finished_output(start, tmp_path):
    training = Call(start, tmp_path, sft_rows(4)).run()
    digest = durable.verify_directory(training.output)
    assert Call(start, tmp_path, sft_rows(4)).run().steps == []
    with pytest.raises(IntegrityError, match="other rows or options, or from another model"):
        Call(start, tmp_path, sft_rows(4, seed=1)).run()
    assert durable.verify_directory(training.output) == digest


def test_training_writes_nothing_to_standard_output(start, tmp_path, capfd):
    Call(start, tmp_path, dpo_rows(4)).run()
    assert capfd.readouterr().out == ""


# --- interruption ---


@pytest.mark.parametrize(
    ("rows", "lora"),
    [(sft_rows(10), None), (dpo_rows(10), None), (sft_rows(10), {"r": 4})],
    ids=["sft", "dpo", "lora"],
)
def test_a_resumed_training_gives_the_same_losses_and_weights(dropping, tmp_path, rows, lora):
    import torch

    options = {"num_train_epochs": 2, "save_steps": 1, "learning_rate": 1e-3, "lora": lora}
    whole = Call(dropping, tmp_path / "whole", rows, **options).run()
    killed = Call(dropping, tmp_path / "killed", rows, die_at=4, **options).run()
    assert not killed.output.exists()
    resumed = Call(dropping, tmp_path / "killed", rows, **options).run()
    assert resumed.steps[0] == (3, 5)
    assert list(resumed.logs) == [4, 5]
    for step, log in resumed.logs.items():
        expected = whole.logs[step]
        for name in ("loss", "grad_norm", "learning_rate", "epoch", "num_tokens"):
            assert log[name] == pytest.approx(expected[name], rel=1e-6), (step, name)
    for name, tensor in weights(whole.output).items():
        assert torch.allclose(tensor, weights(resumed.output)[name], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_checkpoints_come_by_the_clock_and_none_before_what_is_published(
    start, tmp_path, monkeypatch
):
    from selfreward.training import loop

    seal = loop.seal_checkpoint

    def sealed(name, **options):
        steps = []
        monkeypatch.setattr(
            loop, "seal_checkpoint", lambda at, step, job: (steps.append(step), seal(at, step, job))
        )
        call = Call(start, tmp_path / name, sft_rows(16))
        call.options = {k: v for k, v in call.options.items() if k != "save_steps"} | options
        call.run()
        assert durable.is_whole(call.output)
        return steps

    assert sealed("young") == []
    assert sealed("named", save_steps=1) == [1, 2, 3]
    monkeypatch.setattr(loop, "CHECKPOINT_S", 0)
    assert sealed("old") == [1, 2, 3, 4]
    assert sealed("named and old", save_steps=3) == [3, 4]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute")  # which torch looks at while it compiles
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(sft_rows(10), id="sft", marks=pytest.mark.long),
        pytest.param(dpo_rows(10), id="dpo"),
    ],
)
def test_a_compiled_training_is_resumed_and_published_like_another(start, tmp_path, rows):
    import torch

    compiled = {"torch_compile": True, "torch_compile_backend": "eager", "save_steps": 1}
    plain = Call(start, tmp_path / "plain", rows, learning_rate=1e-3).run()
    Call(start, tmp_path / "cut", rows, die_at=2, learning_rate=1e-3, **compiled).run()
    resumed = Call(start, tmp_path / "cut", rows, learning_rate=1e-3, **compiled).run()
    assert resumed.steps[0] == (1, 3)
    expected, found = weights(plain.output), weights(resumed.output)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.allclose(tensor, found[name], atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (1, None), (None, 2)])
def test_save_steps_may_change_while_a_training_is_resumed(
    before, after, start, tmp_path, monkeypatch
):
    import torch

    from selfreward.training import loop

    rows, seal, sealed = sft_rows(24), loop.seal_checkpoint, []

    def watched(at, step, job):
        sealed.append(step)
        seal(at, step, job)

    def call(name, save_steps, **more):
        made = Call(start, tmp_path / name, rows, learning_rate=1e-3, **more)
        named = {} if save_steps is None else {"save_steps": save_steps, "save_total_limit": 3}
        made.options = {k: v for k, v in made.options.items() if k != "save_steps"} | named
        return made.run()

    whole = call("whole", 1000)
    monkeypatch.setattr(loop, "CHECKPOINT_S", 600 if before else 0)
    call("cut", before, die_at=4)
    monkeypatch.setattr(loop, "CHECKPOINT_S", 600 if after else 0)
    monkeypatch.setattr(loop, "seal_checkpoint", watched)
    resumed = call("cut", after)
    assert resumed.steps[0] == (3, 6)
    assert sealed == ([4] if after else [4, 5, 6])
    for name, tensor in weights(whole.output).items():
        assert torch.equal(tensor, weights(resumed.output)[name])


def test_a_training_that_failed_to_publish_goes_on_from_its_last_checkpoint(
    start, tmp_path, monkeypatch
):
    import torch

    from selfreward.training import loop

    monkeypatch.setattr(loop, "CHECKPOINT_S", 0)
    (tmp_path / "file").touch()
    failed = Call(start, tmp_path, sft_rows(10))
    failed.output = tmp_path / "file" / "M1"
    with pytest.raises(OSError, match="file"):
        failed.run()
    resumed = Call(start, tmp_path, sft_rows(10)).run()
    assert resumed.steps == [(3, 3)]
    whole = Call(start, tmp_path / "whole", sft_rows(10)).run()
    for name, tensor in weights(whole.output).items():
        assert torch.equal(tensor, weights(resumed.output)[name])


def test_a_checkpoint_of_other_rows_is_not_resumed(start, tmp_path, caplog):
    Call(start, tmp_path, sft_rows(10), die_at=2, save_steps=1).run()
    resumed = Call(start, tmp_path, sft_rows(10, seed=1)).run()
    assert resumed.steps[0] == (0, 3)
    assert "other rows, options or start model" in caplog.text


def test_a_checkpoint_from_another_start_model_is_not_resumed(start, tmp_path, caplog):
    first = Call(start, tmp_path, sft_rows(10), die_at=2, save_steps=1)
    first.digest = "a" * 64
    first.run()
    other = Call(start, tmp_path, sft_rows(10), save_steps=1)
    other.digest = "b" * 64
    assert other.run().steps[0] == (0, 3)
    assert "other rows, options or start model" in caplog.text
    first.die_at, first.steps = None, []
    with pytest.raises(IntegrityError, match="or from another model"):
        first.run()


def test_all_that_decides_a_training_makes_it_another_job(tmp_path):
    """Every field of a training but those named here."""
    from selfreward.training.job import plan

    decides_nothing = {"output", "checkpoints", "trust_remote_code", "share_starts", "group"}
    told_otherwise = {
        "model": "model_digest",
        "mix": "ptx",
        "ptx": "mix",
    }  # by its digest; both at once
    rows = [replace(row, is_eft=i % 2 == 0) for i, row in enumerate(sft_rows(4))]
    plain = Training("sft", tmp_path, tmp_path, tmp_path, {}, None, 0, model_digest="a")
    others = {
        "method": "rloo", "options": {"learning_rate": 1e-5}, "lora": {"r": 4}, "seed": 1,
        "quantization": QuantizationConfig(), "chat_template": "x", "eft_weight": 2.0,
        "demonstrations": ((1, 2),), "model_digest": "b",
    }  # fmt: skip
    told = {*others, *decides_nothing, *told_otherwise}
    assert told == {field.name for field in fields(Training)}
    found = {plan(replace(plain, **{name: value}), rows).digest
             for name, value in others.items()}  # fmt: skip
    mixed = replace(plain, ptx=0.5, mix=tuple(rows[:1]))
    found |= {plan(each, rows).digest for each in (plain, mixed, replace(mixed, ptx=0.7))}
    assert len(found) == len(others) + 3


@pytest.mark.parametrize(
    ("method", "rows", "options", "lora", "processes", "digest"),
    [
        ("sft", [SftRow((3, 4), (5, 2)), SftRow((6,), (7, 8, 2))],
         {"learning_rate": "3e-5", "num_train_epochs": 2}, None, 1,
         "414dc81ec632538cde30eb2ccd0a290a9872565083a720aac09ca993e20ca7e2"),
        ("dpo", [DpoRow((3, 4), (5, 2), (6, 2))],
         {"beta": 0.1, "learning_rate": 1e-6, "lr_scheduler_type": "cosine"},
         {"r": 8, "target_modules": ["q_proj", "v_proj"]}, 1,
         "1d496e433e6180362e14bab37d41bacfcd82fc3383e9fd8263191b9488975798"),
        ("dpo", [DpoRow((3, 4), (5, 2), (6, 2))],
         {"beta": 0.1, "learning_rate": 1e-6, "loss_type": "sigmoid"}, None, 2,
         "aa4fc5be7180319ae5a0f36485f6d8fbce77a8aeeaac37434a37652ad09f4cfe"),
    ],
    ids=["sft", "lora", "two processes"],
)  # fmt: skip
def test_a_checkpoint_of_an_earlier_version_is_still_of_the_same_job(
    method, rows, options, lora, processes, digest, monkeypatch
):
    """The digests are those that versions before this test gave."""
    from selfreward.training.job import plan

    if processes > 1:
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        monkeypatch.setenv("LOCAL_RANK", "0")
    path = Path("anywhere")
    seed = {1: len(lora or ()) // 2, 2: 2}[processes]
    training = Training(method, path, path, path, options, lora, seed)
    assert plan(training, rows).digest == digest


def test_a_broken_checkpoint_is_passed_over_by_name_and_training_goes_on(start, tmp_path, caplog):
    rows, options = sft_rows(16), {"save_steps": 1, "learning_rate": 1e-3}
    whole = Call(start, tmp_path / "whole", rows, **options).run()
    Call(start, tmp_path, rows, die_at=4, **options).run()
    broken = tmp_path / "checkpoints" / "checkpoint-3" / "optimizer.pt"
    broken.write_bytes(broken.read_bytes()[:-1])
    resumed = Call(start, tmp_path, rows, **options).run()
    assert resumed.steps[0] == (2, 4)
    assert str(broken) in caplog.text
    assert resumed.logs[4]["loss"] == pytest.approx(whole.logs[4]["loss"], rel=1e-6)


def make_checkpoints(directory, *steps):
    for step in steps:
        checkpoint = directory / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        for name in ("model.safetensors", "optimizer.pt", "trainer_state.json"):
            (checkpoint / name).write_bytes(f"{name} of step {step}".encode() * 9)
        seal_checkpoint(directory, step, "job")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "trainer_state.json", durable.MANIFEST]
)
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_whatever_file_is_broken_the_checkpoint_before_is_taken(tmp_path, name, damage):
    make_checkpoints(tmp_path, 9, 10)
    path = tmp_path / "checkpoint-10" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.write_bytes(content.replace(b"1", b"2", 1))
    warnings = []
    found = last_complete_checkpoint(tmp_path, ["job"], warn=warnings.append)
    assert found == tmp_path / "checkpoint-9"
    assert len(warnings) == 1
    assert "checkpoint-10" in warnings[0]


def test_only_a_sealed_checkpoint_of_the_same_job_is_ever_taken(tmp_path):
    make_checkpoints(tmp_path, 1)
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "optimizer.pt").write_bytes(b"pickle")
    assert last_complete_checkpoint(tmp_path, ["job"]) == tmp_path / "checkpoint-1"
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    assert last_complete_checkpoint(tmp_path, ["another job"]) is None
    assert last_complete_checkpoint(tmp_path / "nowhere") is None


@pytest.mark.parametrize("rows", [sft_rows(8), dpo_rows(8)], ids=["sft", "dpo"])
def test_a_loss_that_is_not_finite_stops_at_its_step_and_publishes_nothing(start, tmp_path, rows):
    training = Call(start, tmp_path, rows, learning_rate=1e30, max_grad_norm=0.0)
    with pytest.raises(StoppedError, match=r"(loss|grad_norm) is (nan|inf) at step 2") as stopped:
        training.run()
    assert "learning_rate" in stopped.value.hint
    assert list(training.logs) == [1]
    assert not training.output.exists()


def test_weights_that_are_not_finite_are_never_published(start, tmp_path):
    training = Call(start, tmp_path, sft_rows(4), learning_rate=1e38, max_grad_norm=0.0)
    training.options["weight_decay"] = 1e10  # the one and only step breaks them, after its loss
    with pytest.raises(StoppedError, match=r"trained weight .* is not finite"):
        training.run()
    assert not training.output.exists()


# --- options ---


def test_options_of_trl_pass_and_numbers_written_as_text_become_numbers():
    assert check_options("dpo", {"learning_rate": "1e-6", "loss_type": "sigmoid"}) == {
        "learning_rate": 1e-6,
        "loss_type": ["sigmoid"],
    }
    options = {"lr_scheduler_type": "cosine", "warmup_steps": 0.1, "bf16": True, "optim": "sgd"}
    assert check_options("sft", options) == options
    assert check_lora({"r": 8, "target_modules": "all-linear"})["r"] == 8


@pytest.mark.parametrize(
    ("method", "options", "message", "hint"),
    [
        ("dpo", {"learning_rat": 1e-6}, "dpo.learning_rat: DPOConfig has no", "learning_rate?"),
        ("sft", {"beta": 0.1}, "sft.beta: SFTConfig has no", ""),
        ("dpo", {"learning_rate": "fast"}, "'fast', expected float", ""),
        ("dpo", {"learning_rate": True}, "True, expected float", ""),
        ("dpo", {"learning_rate": None}, "None, expected float", ""),
        ("sft", {"gradient_accumulation_steps": 1.5}, "1.5, expected int", ""),
        ("sft", {"per_device_train_batch_size": 0}, "expected more than 0", ""),
        ("sft", {"lr_scheduler_type": "cosin"}, "'cosin'", "cosine?"),
        ("sft", {"loss_type": "nil"}, "'nil'", "nll"),
        ("dpo", {"loss_type": ["sigmiod"]}, "'sigmiod'", "sigmoid?"),
        ("dpo", {"output_dir": "x"}, "dpo.output_dir cannot be set", "the run decides"),
        ("dpo", {"resume_from_checkpoint": "x"}, "cannot be set", "resume"),
        ("sft", {"max_length": 512}, "cannot be set", "whole"),
        ("sft", {"seed": 1}, "cannot be set", "seed"),
        ("sft", {"save_total_limit": 1}, "expected 2 or more", "whole"),
    ],
)
def test_a_wrong_option_is_refused_with_what_to_do(method, options, message, hint):
    with pytest.raises(ConfigError) as refused:
        check_options(method, options)
    assert message in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 8}, "lora.rank: LoraConfig has no"),
        ({"r": "eight"}, "lora.r: found 'eight', expected int"),
        ({"task_type": "CAUSAL_LM"}, "cannot be set"),
        ({"target_modules": ["q_proj", "lm_head"]}, "lm_head"),
    ],
)
def test_a_wrong_lora_option_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        check_lora(options)


def test_every_refused_or_preset_option_still_exists_in_trl_and_peft():
    import dataclasses

    from peft import LoraConfig
    from trl import DPOConfig, GRPOConfig, RLOOConfig, SFTConfig

    from selfreward.training import options

    sft, dpo, rloo, grpo, lora = (
        {field.name for field in dataclasses.fields(kind)}
        for kind in (SFTConfig, DPOConfig, RLOOConfig, GRPOConfig, LoraConfig)
    )
    refused = {name for names in options._REFUSED.values() for name in names.split()}
    assert refused <= sft | dpo | rloo | grpo
    assert {*options.COMMON, *options.DEFAULTS["rloo"]} <= rloo
    assert {*options.COMMON, *options.DEFAULTS["grpo"]} <= grpo
    assert {*options._REFUSED_LORA["the run decides it"].split()} <= lora
    assert {*options.COMMON, *options.DEFAULTS["sft"]} <= sft
    assert {*options.COMMON, *options.DEFAULTS["dpo"]} <= dpo
    assert {*options._POSITIVE.split()} <= sft | dpo | rloo | grpo | lora


def test_no_rows_is_an_error(start, tmp_path):
    with pytest.raises(ConfigError, match="no rows"):
        from selfreward.training.job import plan

        plan(Training("sft", start, tmp_path / "a", tmp_path / "b", {}, None, 0), [])


def test_importing_rows_and_options_imports_no_torch():
    code = "import sys, selfreward.training.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- the real model ---

_REAL = """
import json, os, signal, sys
from pathlib import Path
from selfreward.inputs import models
from selfreward.training.base import SftRow, Training
from selfreward.training.sft import train_sft
root, die_at, log = Path(sys.argv[1]), int(sys.argv[2]), open(sys.argv[3], "a")
model = models.resolve("bundled:smollm2-135m").path
rows = [SftRow(tuple(range(100 + i, 112 + 2 * i)), (300 + i, 2)) for i in range(8)]
def on_step(done, total):
    if done == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
           "save_steps": 2, "learning_rate": 1e-5}
training = Training("sft", model, root / "M1", root / "checkpoints", options, None, 0)
train_sft(training, rows, on_step=on_step,
    on_log=lambda step, figures: print(json.dumps([step, figures["loss"]]), file=log, flush=True))
"""


@pytest.mark.long
def test_the_real_model_killed_and_resumed_gives_the_losses_of_an_uninterrupted_run(tmp_path):
    def run(name, die_at):
        log = tmp_path / f"{name}.jsonl"
        arguments = [str(tmp_path / name), str(die_at), str(log)]
        done = subprocess.run([sys.executable, "-c", _REAL, *arguments], check=False)
        return done.returncode, dict(json.loads(line) for line in log.read_text().splitlines())

    code, whole = run("whole", -1)
    assert code == 0
    assert run("killed", 4)[0] == -signal.SIGKILL
    assert not (tmp_path / "killed" / "M1").exists()
    (tmp_path / "killed.jsonl").unlink()
    code, resumed = run("killed", -1)
    assert code == 0
    assert list(resumed) == [3, 4]
    assert resumed == pytest.approx({step: whole[step] for step in resumed}, rel=1e-6)
    assert os.listdir(tmp_path / "killed") == ["M1"]
    assert Path(tmp_path / "killed" / "M1" / "model.safetensors").stat().st_size > 500_000_000


def test_a_training_whose_reference_is_another_model_ends_at_its_first_step(start, tmp_path):
    from selfreward.training import dpo

    def other_reference(trainer, data, rows):
        columns = {"ref_chosen_logps": -1.0, "ref_rejected_logps": -2.0}
        for name, value in columns.items():
            data = data.add_column(name, [value] * len(data))
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpo, "_with_reference", other_reference)
        call = Call(start, tmp_path, dpo_rows(4))
        with pytest.raises(IntegrityError, match="the reference is not the model"):
            call.run()
    assert not call.output.exists()


def test_weights_that_are_not_those_trained_are_not_published(start, tmp_path):
    from selfreward.training import loop

    def unmerged(adapted, state):
        return adapted.unload()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "merged", unmerged)
        call = Call(start, tmp_path, dpo_rows(8), lora={"r": 8}, num_train_epochs=4)
        with pytest.raises(IntegrityError, match="not those that were trained"):
            call.run()
    assert not call.output.exists()
    again = Call(start, tmp_path, dpo_rows(8), lora={"r": 8}, num_train_epochs=4).run()
    assert again.output.is_dir()


@pytest.mark.parametrize(
    ("method", "options", "lora"),
    [
        ("dpo", {"sync_ref_model": True}, None),
        ("dpo", {"ref_model_sync_steps": 1}, None),
        ("dpo", {"label_smoothing": 0.1}, None),
        ("dpo", {"label_smoothing": 0.1, "loss_type": "ipo"}, None),
        ("dpo", {"discopop_tau": 0.1}, None),
        ("dpo", {"f_alpha_divergence_coef": 0.5}, None),
        ("dpo", {}, {"init_lora_weights": "pissa"}),
        ("dpo", {}, {"init_lora_weights": "pissa_niter_4"}),
        ("dpo", {}, {"init_lora_weights": "olora"}),
        ("dpo", {}, {"init_lora_weights": False}),
        ("dpo", {}, {"modules_to_save": ["embed_tokens"]}),
        ("dpo", {}, {"target_modules": ["q_proj", "embed_tokens"]}),
    ],
)
def test_options_that_would_change_the_reference_or_the_weights_are_refused(method, options, lora):
    with pytest.raises(ConfigError):
        check_options(method, options)
        check_lora(lora or {})


@pytest.mark.slow
@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal"])
def test_adapters_that_start_as_the_model_itself_train_and_are_published(init, start, tmp_path):
    lora = {"r": 2, "init_lora_weights": init}
    assert Call(start, tmp_path, dpo_rows(4), lora=lora).run().output.is_dir()


def test_smoothed_labels_go_with_the_losses_that_read_them():
    assert check_options("dpo", {"label_smoothing": 0.1, "loss_type": "robust"})
    assert check_options("dpo", {"discopop_tau": 0.1, "loss_type": ["sigmoid", "discopop"]})
