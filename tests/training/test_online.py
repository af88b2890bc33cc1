"""Laws of RLOO and GRPO on a random Llama of two layers."""

import random

import pytest

from selfreward.errors import ConfigError, IntegrityError, StoppedError
from selfreward.storage import durable
from selfreward.training.base import OnlineRow, Training, Verdict
from selfreward.training.options import check_options
from tests.support.training import EOS, sft_rows, some_ids, tiny_model, weights


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    with tiny_model(tmp_path_factory.mktemp("model") / "M0") as directory:
        yield directory


def online_rows(count):
    rng = random.Random(0)
    return [OnlineRow(some_ids(rng, 3, 9)) for _ in range(count)]


def by_length(number, completion):
    return Verdict(len(completion) / 2)


class Call:
    """One training by a method, what it logged, and what its judge was shown."""

    end_ids = frozenset({EOS})

    def __init__(self, method, start, root, judge=by_length, *, rows=8, die_at=None, lora=None,
                 ptx=0.0, mix=(), **options):  # fmt: skip
        self.ptx, self.mix = ptx, mix
        self.method, self.start, self.rows = method, start, online_rows(rows)
        self.judge, self.lora, self.die_at = judge, lora, die_at
        self.output, self.checkpoints = root / "M1", root / "checkpoints"
        self.options = {
            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "beta": 0.05,
            "num_generations": 4, "max_completion_length": 8, "learning_rate": 1e-2, **options,
        }  # fmt: skip
        self.logs, self.shown = {}, []

    def __call__(self, samples):
        self.shown.append([(row, [tuple(c) for c in completions]) for row, completions in samples])
        numbers = iter(range(1000))
        return [[self.judge(next(numbers), c) for c in completions] for _, completions in samples]

    @property
    def training(self):
        return Training(
            self.method, self.start, self.output, self.checkpoints, self.options, self.lora, 0,
            ptx=self.ptx, mix=tuple(self.mix),
        )  # fmt: skip

    def trainer(self):
        from selfreward.training import online
        from selfreward.training.job import plan

        kind = {"rloo": online.RlooSampled, "grpo": online.GrpoSampled}[self.method]
        return online.make_trainer(kind, plan(self.training, self.rows), self.rows, self)

    def run(self, trainer=None):
        from selfreward.training import loop
        from selfreward.training.job import plan
        from selfreward.training.methods import fit_of

        def on_step(done, total):
            if done == self.die_at:
                raise KeyboardInterrupt

        told = {"on_log": self.logs.__setitem__, "on_step": on_step}
        try:
            if trainer is not None:
                loop.train(trainer, plan(self.training, self.rows), self.rows, **told)
            else:
                fit_of(self.method)(self.training, self.rows, rewards=self, **told)
        except KeyboardInterrupt:
            assert self.die_at is not None
        return self

    @property
    def moved(self):
        before, after = weights(self.start), weights(self.output)
        return max(float((before[name] - after[name]).abs().max()) for name in before)


BOTH = pytest.mark.parametrize("method", ["rloo", "grpo"])


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("points", [0.0, 0.3, 1 / 3, 4.9])
def test_a_constant_reward_without_kl_moves_no_weight(method, points, start, tmp_path):
    constant = Call(
        method, start, tmp_path, lambda *_: Verdict(points), beta=0.0, num_generations=8
    ).run()
    assert constant.moved == 0
    assert constant.logs[1]["reward"] == pytest.approx(points, abs=2**-13)


@BOTH
def test_every_weight_changes_and_the_reference_does_not(method, start, tmp_path):
    import torch

    call = Call(method, start, tmp_path)
    trainer = call.trainer()
    call.run(trainer)
    before, after = weights(start), weights(call.output)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    reference = trainer.ref_model.state_dict()
    assert all(torch.equal(before[name], reference[name]) for name in before)
    assert call.logs[1]["kl"] == pytest.approx(0, abs=1e-6) and call.logs[4]["kl"] != 0


@BOTH
def test_the_mix_adds_the_gradient_of_sft_on_its_rows(method, start, tmp_path):
    """A constant reward without KL has no gradient, so what is left of a step is that of SFT."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM

    from selfreward.training.online import place_in_mix

    rows = sft_rows(8)  # as many as completions in a step: each of them once
    options = {"beta": 0.0, "num_generations": 4, "max_steps": 1, "max_grad_norm": 0.0}
    call = Call(method, start, tmp_path, lambda *_: Verdict(1.0), ptx=0.5, mix=rows, **options)
    trainer = call.trainer()
    found = {}

    def keep(optimizer, *_):
        named = trainer.model.named_parameters()
        found.update({name: p.grad.clone() for name, p in named if p.grad is not None})

    trainer.create_optimizer()
    trainer.optimizer.register_step_pre_hook(keep)
    call.run(trainer)
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    parts = []
    mixed = [rows[place_in_mix(at, 8, call.training.seed)] for at in range(8)]
    for part in (mixed[:4], mixed[4:]):
        losses = []
        for row in part:
            ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
            logits = model(input_ids=ids).logits[0, len(row.prompt_ids) - 1 : -1]
            losses.append(cross_entropy(logits, torch.tensor(row.completion_ids), reduction="none"))
        parts.append(torch.cat(losses).mean())
    loss = sum(parts) / 2
    (0.5 * loss).backward()
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-6), name
    assert call.logs[1]["ptx"] == pytest.approx(loss.item(), abs=1e-5)


def test_the_mix_is_shuffled_by_the_seed_and_each_row_is_taken_once_an_epoch():
    from selfreward.training.online import place_in_mix

    def taken(seed, count):
        return [place_in_mix(at, 100, seed) for at in range(count)]

    assert sorted(taken(1, 100)) == sorted(taken(1, 200)[100:]) == list(range(100))
    assert taken(1, 100) != taken(1, 200)[100:]
    assert taken(1, 30) != taken(2, 30) and taken(1, 30) == taken(1, 200)[:30]
    assert min(taken(1, 30)) < 50 <= max(taken(1, 30))  # of all kinds of seed rows, not the first


def test_without_a_mix_none_is_logged(start, tmp_path):
    assert "ptx" not in Call("rloo", start, tmp_path, rows=2).run().logs[1]


@pytest.mark.slow
@BOTH
def test_the_mean_reward_rises(method, start, tmp_path):
    """The shorter the better: a model that learns ends its turn."""
    short = Call(
        method, start, tmp_path, lambda _, c: Verdict(4 - len(c) / 2), rows=64, beta=0.0,
        num_train_epochs=2,
    ).run()  # fmt: skip
    rewards = [short.logs[step]["reward"] for step in sorted(short.logs)]
    assert sum(rewards[-8:]) / 8 > sum(rewards[:8]) / 8 + 1


@BOTH
def test_each_prompt_is_answered_by_a_group_and_the_last_generation_is_filled_up(
    method, start, tmp_path
):
    call = Call(method, start, tmp_path, rows=5).run()
    assert [len(samples) for samples in call.shown] == [2, 2, 2]
    rows = [row for samples in call.shown for row, _ in samples]
    assert set(rows) == {0, 1, 2, 3, 4}
    groups = [completions for samples in call.shown for _, completions in samples]
    assert {len(group) for group in groups} == {4}
    assert all(1 <= len(c) <= 8 and EOS not in c[:-1] for group in groups for c in group)
    assert {call.logs[step]["sampled"] for step in (1, 2, 3)} == {8.0}


def test_the_model_is_given_the_very_ids_of_a_prompt(start, tmp_path):
    call = Call("rloo", start, tmp_path)
    trainer = call.trainer()
    batch = next(iter(trainer.get_train_dataloader()))
    sampled = trainer._generate_and_score_completions(batch)
    for row, ids, mask in zip(
        batch, sampled["prompt_ids"].tolist(), sampled["prompt_mask"].tolist(), strict=True
    ):
        kept = tuple(token for token, is_real in zip(ids, mask, strict=True) if is_real)
        assert kept == call.rows[row["row"]].prompt_ids


@BOTH
def test_what_has_no_verdict_is_counted_by_reason_and_is_no_zero(method, start, tmp_path):
    def judge(number, completion):
        return Verdict(None, "timed out") if number == 3 else Verdict(4.0)

    call = Call(method, start, tmp_path, judge, rows=2, beta=0.0).run()
    assert call.logs[1]["sampled"] == 8 and call.logs[1]["no_verdict"] == 1
    assert call.logs[1]["no_verdict/timed out"] == 1
    assert call.logs[1]["reward"] == 4.0  # with a 0 among them it would be 3.5
    assert call.moved == 0  # with a 0 the others would have an advantage over it


@BOTH
def test_without_any_verdict_nothing_is_learned_and_no_mean_is_made_up(method, start, tmp_path):
    none = Call(method, start, tmp_path, lambda *_: Verdict(None, "no value"), beta=0.0).run()
    assert none.moved == 0
    assert "reward" not in none.logs[1] and none.logs[1]["no_verdict"] == 8


CASES = {
    "each step samples anew": (3, {}),
    "a sample serves two updates": (4, {"num_iterations": 2}),
    "two steps share a sample": (4, {"steps_per_generation": 4}),
    "a step samples twice": (3, {"steps_per_generation": 1}),
    "seed rows are mixed in": (3, {"ptx": 0.5, "mix": sft_rows(7)}),
    "an adapter": (3, {"lora": {"r": 4, "target_modules": ["q_proj"]}}),
}
"""The step of the last checkpoint, where one was asked for at every third, and options."""


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("case", CASES)
def test_a_training_that_was_killed_ends_with_the_weights_of_an_undisturbed_one(
    method, case, start, tmp_path
):
    saved, more = CASES[case]
    options = {"rows": 12, "save_steps": 3, "epsilon": 0.01, **more}
    whole = Call(method, start, tmp_path / "whole", **options).run()
    cut = Call(method, start, tmp_path / "cut", die_at=5, **options).run()
    assert not cut.output.exists()
    assert {path.name for path in cut.checkpoints.glob("checkpoint-*")} == {f"checkpoint-{saved}"}
    again = Call(method, start, tmp_path / "cut", **options).run()
    assert min(again.logs) == saved + 1 and max(again.logs) == max(whole.logs)
    assert durable.verify_directory(again.output) == durable.verify_directory(whole.output)
    assert again.shown == whole.shown[-len(again.shown) :]
    for name in ("reward", "num_tokens", "sampled", "kl"):
        of_both = [{s: call.logs[s].get(name) for s in again.logs} for call in (again, whole)]
        assert of_both[0] == of_both[1], name


@pytest.mark.parametrize(
    ("save_steps", "expected"),
    [
        (3, 4),  # two updates from each of two steps: four steps use up a generation
        (4, 4),
        (0.3, 8),  # 16 prompts, 4 in a generation: 16 steps, of which 0.3 are 4.8, so 5
        (0.25, 4),
    ],
)
def test_a_checkpoint_waits_until_all_samples_are_used(save_steps, expected, start, tmp_path):
    sizes = {"num_iterations": 2, "steps_per_generation": 4, "save_steps": save_steps}
    trainer = Call("grpo", start, tmp_path, rows=16, **sizes).trainer()
    assert trainer.args.save_steps == expected


@BOTH
def test_another_reference_than_the_start_model_is_refused_at_the_first_step(
    method, start, tmp_path
):
    call = Call(method, start, tmp_path)
    trainer = call.trainer()
    for weight in trainer.ref_model.parameters():
        weight.data.mul_(1.5)
    with pytest.raises(IntegrityError, match=r"KL divergence is .* where it is 0 by definition"):
        call.run(trainer)
    assert not call.output.exists()


def test_a_judge_that_cannot_be_asked_any_more_ends_the_training_with_its_own_words(
    start, tmp_path
):
    def broken(*_):
        raise StoppedError("judge.function=f: 5 calls in a row timed out")

    with pytest.raises(StoppedError, match="in a row timed out"):
        Call("rloo", start, tmp_path, broken).run()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("rloo", {"loss_type": "grpo"}, "rloo.loss_type: RLOOConfig has no such option"),
        ("grpo", {"loss_type": "ppo"}, "grpo.loss_type: found 'ppo'"),
        ("grpo", {"scale_rewards": "all"}, "grpo.scale_rewards: found 'all'"),
        ("grpo", {"use_adaptive_entropy": True}, "grpo.use_adaptive_entropy cannot be set"),
        ("rloo", {"reward_weights": [1.0]}, "rloo.reward_weights cannot be set"),
        ("rloo", {"log_completions": True}, "rloo.log_completions cannot be set"),
        ("rloo", {"sync_ref_model": True}, "rloo.sync_ref_model cannot be set"),
        ("rloo", {"temperature": 0}, "rloo.temperature: found 0, expected more than 0"),
        ("rloo", {"num_generations": "x"}, "rloo.num_generations: found 'x'"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(method, options, message):
    with pytest.raises(ConfigError) as error:
        check_options(method, options)
    assert error.value.message.startswith(message) and "\n" not in error.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_generations": 3}, r"generation_batch_size \(16\) must be divisible by num_gen"),
        ({"num_generations": 1}, "RLOO requires at least 2 generations"),
        ({"generation_batch_size": 16, "steps_per_generation": 4}, "can not be both configured"),
    ],
)
def test_what_trl_would_refuse_is_refused_before_anything_is_loaded(options, message):
    from selfreward.config import LaunchConfig
    from selfreward.training.checks import check_training

    with pytest.raises(ConfigError, match=message):
        check_training("rloo", options, LaunchConfig())
