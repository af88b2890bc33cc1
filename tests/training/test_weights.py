"""Laws of DPO's loss and of its weighted pairs, on a random Llama of two layers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.errors import ConfigError
from selfreward.storage import durable
from selfreward.training.base import DpoRow, Training
from selfreward.training.checks import check_weights
from tests.support.training import dpo_rows, tiny_model
from tests.training.test_training import Call, plain_log_prob

BETA = 0.3


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with tiny_model(tmp_path_factory.mktemp("model") / "M0") as directory:
        yield directory


def trainer_of(start: Path, root: Path, rows: list[DpoRow], **options: Any) -> Any:
    from selfreward.training import dpo
    from selfreward.training.job import plan

    sizes = {"per_device_train_batch_size": len(rows), "gradient_accumulation_steps": 1}
    chosen = {**sizes, "beta": BETA, "disable_dropout": True, **options}
    training = Training("dpo", start, root / "M2", root / "checkpoints", chosen, None, 0)
    return dpo.make_trainer(plan(training, rows), rows)


def at_margin(trainer: Any, start: Path, row: DpoRow, margin: float) -> tuple[float, float]:
    """Loss of one pair and its derivative by the margin, where the margin (in nats) is this."""
    import torch

    [batch] = trainer.get_train_dataloader()
    chosen, rejected = (
        plain_log_prob(start, row.prompt_ids, ids) for ids in (row.chosen_ids, row.rejected_ids)
    )
    reference = torch.tensor([chosen - rejected - margin], requires_grad=True)
    batch |= {"ref_chosen_logps": reference, "ref_rejected_logps": torch.zeros(1)}
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert reference.grad is not None
    return loss.item(), -reference.grad.item()  # the margin falls as the reference's chosen rises


@pytest.mark.parametrize("margin", [-4.0, 0.0, 1.0, 30.0])
def test_the_gradient_of_dpo_is_minus_beta_sigmoid_of_minus_beta_margin(
    margin: float, start: Path, tmp_path: Path
) -> None:
    [row] = dpo_rows(1)
    loss, gradient = at_margin(trainer_of(start, tmp_path, [row]), start, row, margin)
    assert loss == pytest.approx(math.log1p(math.exp(-BETA * margin)), rel=1e-4)
    assert gradient == pytest.approx(-BETA / (1 + math.exp(BETA * margin)), rel=1e-4)


@pytest.mark.parametrize("margin", [-4.0, 0.0, 3.0])
@pytest.mark.parametrize(("weight", "turned"), [(0.8, 0.2), (0.5, 0.5), (0.25, 0.0)])
def test_a_weighted_pair_is_that_much_of_it_and_so_much_of_it_exchanged(
    weight: float, turned: float, margin: float, start: Path, tmp_path: Path
) -> None:
    [row] = [replace(row, weight=weight, turned=turned) for row in dpo_rows(1)]
    loss, gradient = at_margin(trainer_of(start, tmp_path, [row]), start, row, margin)
    kept, exchanged = (math.log1p(math.exp(sign * BETA * margin)) for sign in (-1, 1))
    assert loss == pytest.approx(weight * kept + turned * exchanged, rel=1e-4)
    pull = -weight / (1 + math.exp(BETA * margin)) + turned / (1 + math.exp(-BETA * margin))
    assert gradient == pytest.approx(BETA * pull, rel=1e-4, abs=1e-7)
    if weight == turned and margin == 0:  # CREAM at C = 0.5
        assert gradient == pytest.approx(0, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("share", [1.0, 0.8])
def test_cream_is_trls_smoothed_loss_where_both_exist(
    share: float, start: Path, tmp_path: Path
) -> None:
    """TRL's `aot_unpaired` sorts a micro-batch: of one pair it is DPO with smoothed labels."""
    rows = dpo_rows(6)
    sizes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "beta": BETA}
    smoothed = {"loss_type": "aot_unpaired", "label_smoothing": 1 - share}
    theirs = Call(start, tmp_path / "trl", rows, **sizes, **smoothed).run()
    ours = [replace(row, weight=share, turned=1 - share) for row in rows]
    cream = Call(start, tmp_path / "ours", ours, **sizes).run()
    for step, log in theirs.logs.items():
        for name in ("loss", "grad_norm", "rewards/margins"):
            assert cream.logs[step][name] == pytest.approx(log[name], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("losses", [["sigmoid"], ["sigmoid", "sft"]], ids="+".join)
def test_at_weight_1_the_weighted_loss_is_trls_to_the_last_bit(
    losses: list[str], start: Path, tmp_path: Path
) -> None:
    rows = dpo_rows(7)
    options = {"loss_type": losses, "loss_weights": [1.0] * len(losses), "beta": BETA}
    plain = trainer_of(start, tmp_path / "plain", rows, **options)
    # One pair is weighted, so that the subclass is made; its weight is then set back.
    weighted = trainer_of(
        start, tmp_path / "weighted", [replace(rows[0], weight=0.5), *rows[1:]], **options
    )
    [theirs], [ours] = plain.get_train_dataloader(), weighted.get_train_dataloader()
    ours["weight"] = ours["weight"] * 0 + 1
    loss, same = (
        plain.compute_loss(plain.model, theirs),
        weighted.compute_loss(weighted.model, ours),
    )
    assert type(plain) is not type(weighted) and loss.item() == same.item()


def test_the_nll_of_irpo_is_weighted_too_as_in_scpo(start: Path, tmp_path: Path) -> None:
    [row] = dpo_rows(1)
    options = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 2.0]}
    losses = []
    for weight in (0.4, 0.8):
        trainer = trainer_of(start, tmp_path, [replace(row, weight=weight)], **options)
        losses.append(at_margin(trainer, start, row, 0.0)[0])
    nll = -plain_log_prob(start, row.prompt_ids, row.chosen_ids) / len(row.chosen_ids)
    assert losses[0] == pytest.approx(0.4 * (math.log(2) + 2 * nll), rel=1e-4)
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-4)


def test_pairs_that_count_once_are_the_job_that_they_were_and_others_are_another(
    start: Path, tmp_path: Path
) -> None:
    from selfreward.training.job import plan

    rows = dpo_rows(3)
    half = [replace(row, weight=0.5) for row in rows]
    calls = [Call(start, tmp_path, made) for made in (rows, half)]
    before, after = (plan(call.training, call.rows).digest for call in calls)
    assert before != after
    once = plan(calls[0].training, [replace(row, weight=1.0) for row in half])
    assert once.digest == before


def test_two_weighted_trainings_are_published_with_their_job(start: Path, tmp_path: Path) -> None:
    rows = [replace(row, weight=0.7, turned=0.3) for row in dpo_rows(5)]
    done = Call(start, tmp_path, rows).run()
    assert done.logs[1]["loss"] == pytest.approx(math.log(2), rel=1e-5)  # 0.7 ln 2 + 0.3 ln 2
    assert durable.is_whole(done.output)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dpo.loss_type=ipo"], "dpo.weigh_by=margin does not go with dpo.loss_type=ipo"),
        (["dpo.ld_alpha=0.5"], "does not go with dpo.ld_alpha=0.5"),
        (["dpo.precompute_ref_log_probs=false"], "does not go with dpo.precompute_ref_log_probs"),
    ],
)
def test_what_a_weight_does_not_go_with_is_refused(words: list[str], said: str) -> None:
    check_weights(build_config({}, ["dpo.weigh_by=margin", "dpo.loss_type=[sigmoid, sft]"]).dpo)
    with pytest.raises(ConfigError, match=said):
        check_weights(build_config({}, ["dpo.weigh_by=margin", *words]).dpo)


@pytest.mark.parametrize(
    "words",
    [[], ["judge.model=M1", "judge.jury=[{model: previous}]"], ["judge.jury=[{model: M1}]"]],
)
def test_consistency_needs_the_policy_and_the_model_before_as_judges(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="model: previous, weight: 0"):
        build_config({}, ["dpo.weigh_by=consistency", *words])
    build_config({}, ["dpo.weigh_by=consistency", "judge.jury=[{model: previous, weight: 0}]"])
