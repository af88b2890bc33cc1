"""Laws of the reward model, on a random Llama of two layers."""

import math
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from selfreward.storage import durable
from selfreward.training.base import RankedRow, Training
from tests.support.training import ranked_rows, tiny_model, weights


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with tiny_model(tmp_path_factory.mktemp("model") / "M0") as directory:
        yield directory


def training_of(start: Path, root: Path, **options: Any) -> Training:
    chosen = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, **options}
    chosen = {"learning_rate": 1e-2, "save_steps": 1000, **chosen}
    return Training("reward", start, root / "RM", root / "checkpoints", chosen, None, 0)


def trainer_of(start: Path, root: Path, rows: list[RankedRow], **options: Any) -> Any:
    from selfreward.training import reward
    from selfreward.training.job import plan

    sizes = {"per_device_train_batch_size": len(rows), **options}
    return reward.make_trainer(plan(training_of(start, root, **sizes), rows), rows)


def trained(
    start: Path, root: Path, rows: list[RankedRow], die_at: int = 0, **options: Any
) -> tuple[Path, dict[int, dict[str, float]]]:
    from selfreward.training.reward import train_reward

    logs: dict[int, dict[str, float]] = {}

    def on_step(done: int, total: int) -> None:
        if done and done == die_at:
            raise KeyboardInterrupt

    training = training_of(start, root, **options)
    train_reward(training, rows, on_log=logs.__setitem__, on_step=on_step)
    return training.output, logs


def rewards_of(model: Any, row: RankedRow) -> list[float]:
    """Of each answer, alone and without padding."""
    import torch

    with torch.no_grad():
        return [float(model(torch.tensor([answer])).logits) for answer in row.answers]


def loaded(directory: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(directory).eval()


def loss_of(trainer: Any) -> Any:
    [batch] = trainer.get_train_dataloader()
    return trainer.compute_loss(trainer.model, batch)


def surprise(better: float, worse: float) -> float:
    """-log sigmoid of the difference, in its stable form."""
    return math.log1p(math.exp(-(better - worse)))


def test_the_loss_is_the_mean_over_all_pairs_of_a_prompt_each_answer_read_once(
    start: Path, tmp_path: Path
) -> None:
    [row] = rows = ranked_rows(1, num_answers=4)
    trainer = trainer_of(start, tmp_path, rows)
    [batch] = trainer.get_train_dataloader()
    assert len(batch["input_ids"]) == 4 and len(batch["better"]) == 6  # C(4, 2)
    rewards = rewards_of(trainer.model.eval(), row)
    by_rank = [r for _, r in sorted(zip(row.preferences, rewards, strict=True))]
    pairs = [surprise(better, worse) for worse, better in combinations(by_rank, 2)]
    assert loss_of(trainer).item() == pytest.approx(sum(pairs) / 6, rel=1e-5)


@pytest.mark.parametrize("centered", [None, 0.1])
def test_with_two_answers_it_is_trls_pairwise_loss(
    centered: float | None, start: Path, tmp_path: Path
) -> None:
    from trl import RewardTrainer

    rows = ranked_rows(5, num_answers=2)
    trainer = trainer_of(start, tmp_path, rows, center_rewards_coefficient=centered)
    trainer.model.eval()
    ours = loss_of(trainer)
    order = [
        ([*answers[0]], [*answers[1]])
        for row in rows
        for answers in [
            [a for _, a in sorted(zip(row.preferences, row.answers, strict=True))][::-1]
        ]
    ]
    examples = [{"chosen_ids": chosen, "rejected_ids": rejected} for chosen, rejected in order]
    from trl.trainer.reward_trainer import DataCollatorForPreference

    batch = DataCollatorForPreference(trainer.processing_class.pad_token_id)(examples)
    theirs = RewardTrainer.compute_loss(trainer, trainer.model, batch)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_equal_rewards_give_ln_2_whatever_the_number_of_answers(
    start: Path, tmp_path: Path
) -> None:
    import torch

    rows = [*ranked_rows(2, num_answers=4), *ranked_rows(2, num_answers=7, seed=1)]
    trainer = trainer_of(start, tmp_path, rows)
    torch.nn.init.zeros_(trainer.model.score.weight)
    assert loss_of(trainer).item() == pytest.approx(math.log(2), rel=1e-6)


def test_a_tie_is_no_pair_and_the_prompt_weighs_the_same(start: Path, tmp_path: Path) -> None:
    [row] = ranked_rows(1, num_answers=3)
    tied = replace(row, preferences=(1.0, 1.0, 0.0))
    trainer = trainer_of(start, tmp_path, [tied])
    a, b, worst = rewards_of(trainer.model.eval(), tied)
    expected = (surprise(a, worst) + surprise(b, worst)) / 2
    assert loss_of(trainer).item() == pytest.approx(expected, rel=1e-5)


def accuracy(model: Any, rows: list[RankedRow]) -> float:
    """Share of the pairs whose better answer has the higher reward."""
    right = []
    for row in rows:
        ordered = sorted(zip(row.preferences, rewards_of(model, row), strict=True))
        right += [better > worse for (_, worse), (_, better) in combinations(ordered, 2)]
    return sum(right) / len(right)


@pytest.mark.slow
def test_it_learns_the_order_and_trained_on_flipped_ranks_the_opposite_one(
    start: Path, tmp_path: Path
) -> None:
    rows = ranked_rows(6)
    flipped = [replace(row, preferences=tuple(-p for p in row.preferences)) for row in rows]
    right, logs = trained(start, tmp_path / "right", rows, num_train_epochs=20)
    wrong, _ = trained(start, tmp_path / "wrong", flipped, num_train_epochs=20)
    assert logs[len(logs)]["accuracy"] > 0.9 and logs[len(logs)]["loss"] < logs[1]["loss"] / 2
    assert accuracy(loaded(right), rows) > 0.9
    assert accuracy(loaded(wrong), rows) < 0.1
    assert accuracy(loaded(wrong), flipped) == pytest.approx(1 - accuracy(loaded(wrong), rows))


def test_a_published_reward_model_is_a_classifier_with_one_label_and_every_weight_moved(
    start: Path, tmp_path: Path
) -> None:
    import torch

    before = {path: path.read_bytes() for path in start.iterdir()}
    output, _ = trained(start, tmp_path, ranked_rows(4))
    assert {path: path.read_bytes() for path in start.iterdir()} == before
    model = loaded(output)
    assert model.config.architectures == ["LlamaForSequenceClassification"]
    assert model.config.num_labels == 1 and durable.is_whole(output)
    old, new = weights(start), weights(output)
    assert new["score.weight"].shape == (1, 32) and "lm_head.weight" not in new
    assert not [name for name in old if name in new and torch.equal(old[name], new[name])]
    assert (output / "tokenizer.json").is_file()


def test_demonstrations_get_a_mean_reward_of_0_and_no_weight_depends_on_them(
    start: Path, tmp_path: Path
) -> None:
    from selfreward.training.reward import train_reward

    rows, shown = ranked_rows(4), ranked_rows(1, num_answers=3, seed=7)[0]
    plain, _ = trained(start, tmp_path / "plain", rows)
    training = replace(training_of(start, tmp_path / "c"), demonstrations=shown.answers)
    train_reward(training, rows, on_log=lambda *_: None, on_step=lambda *_: None)
    model = loaded(training.output)
    assert model.config.reward_bias != 0
    assert sum(rewards_of(model, shown)) / 3 + model.config.reward_bias == pytest.approx(
        0, abs=1e-6
    )
    old, new = weights(plain), weights(training.output)
    assert all(bool((old[name] == new[name]).all()) for name in old | new)
    assert not hasattr(loaded(plain).config, "reward_bias")


def test_the_bias_of_a_start_model_that_is_a_reward_model_is_not_taken_over(
    start: Path, tmp_path: Path
) -> None:
    from selfreward.training.reward import train_reward

    rows = ranked_rows(4)
    training = replace(training_of(start, tmp_path / "a"), demonstrations=rows[0].answers)
    train_reward(training, rows, on_log=lambda *_: None, on_step=lambda *_: None)
    assert hasattr(loaded(training.output).config, "reward_bias")
    again, _ = trained(training.output, tmp_path / "b", rows)
    assert not hasattr(loaded(again).config, "reward_bias")


def test_a_reward_model_of_other_demonstrations_is_another_model(
    start: Path, tmp_path: Path
) -> None:
    from selfreward.errors import IntegrityError

    rows = ranked_rows(4)
    trained(start, tmp_path, rows)
    training = replace(training_of(start, tmp_path), demonstrations=rows[0].answers)
    from selfreward.training.reward import train_reward

    with pytest.raises(IntegrityError, match="other rows or options, or from another model"):
        train_reward(training, rows, on_log=lambda *_: None, on_step=lambda *_: None)


def test_a_resumed_training_gives_the_same_rewards(start: Path, tmp_path: Path) -> None:
    rows = ranked_rows(8)
    whole, logs = trained(start, tmp_path / "whole", rows, save_steps=1)
    with pytest.raises(KeyboardInterrupt):
        trained(start, tmp_path / "cut", rows, die_at=3, save_steps=1)
    cut, rest = trained(start, tmp_path / "cut", rows, save_steps=1)
    assert min(rest) > 1 and rest[4]["num_tokens"] == logs[4]["num_tokens"]
    assert {step: log["loss"] for step, log in logs.items() if step in rest} == {
        step: log["loss"] for step, log in rest.items()
    }
    assert durable.verify_directory(whole) == durable.verify_directory(cut)


def test_micro_batches_of_prompts_give_the_gradient_of_the_whole_step(
    start: Path, tmp_path: Path
) -> None:
    found = []
    for at_once in (1, 2, 4):
        sizes = {"per_device_train_batch_size": at_once}
        sizes["gradient_accumulation_steps"] = 4 // at_once
        found.append(trained(start, tmp_path / str(at_once), ranked_rows(4), **sizes)[1][1])
    for other in found[1:]:
        for name in ("loss", "grad_norm", "margin"):
            assert other[name] == pytest.approx(found[0][name], rel=1e-4)
