"""The recipes: each differs from the plain loop in what it is about, and in nothing else."""

import pytest

from selfreward.config.load import changes, load_config
from selfreward.inputs.shipped import config_file, recipes

UNJUDGED = {
    "judge.model": "function", "judge.form": "function", "judge.max_new_tokens": 256,
    "sft.eft": None, "evaluation.ranked": None, "evaluation.canaries": False,
}  # fmt: skip
"""What goes with a function as the judge."""
DIFFERENCES = {
    "iterative-rpo": {"dpo.loss_type": ["sigmoid", "sft"], "dpo.loss_weights": [1.0, 1.0]},
    "ipo": {"dpo.loss_type": "ipo"},
    "sppo": {"dpo.loss_type": "sppo_hard", "dpo.beta": 1e-3, "iterations": 3},
    "robust": {"dpo.loss_type": "robust", "dpo.label_smoothing": 0.2},
    "length-normalized": {"dpo.loss_type": "sigmoid_norm", "dpo.beta": 5.0},
    "temporal": {"pairs.rule": "anchored", "responses.anchors": 4},
    "evolved-prompts": {"prompts.evolve.share": 0.5, "prompts.max_new_tokens": 256},
    "cream": {
        "dpo.weigh_by": "consistency", "judge.form": "expected", "responses.n": 5,
        "responses.temperature": 0.8, "responses.top_p": 0.95, "responses.max_new_tokens": 768,
        "judge.template": "judge/expected.jinja", "judge.jury.0.model": "previous",
        "judge.jury.0.weight": 0.0,
        "judge.max_new_tokens": 256,  # nothing is written
    },
    "meta-rewarding": {
        "iterations": 4, "responses.n": 7, "responses.temperature": 0.8, "responses.top_p": 0.95,
        "judge.votes": 11, "pairs.rule": "length_control", "meta.iterations": [1, 2],
        "meta.max_length": 1100,
    },
    "scir": {
        "judge.jury.0.form": "expected", "judge.jury.0.template": "judge/expected.jinja",
        "pairs.min_jurors": 1.0,
    },
    "spin": {
        "prompts.dataset.path": "seed/ift.jsonl", "prompts.count": 80, "responses.n": 1,
        "prompts.dataset.columns.demonstration": "response", "responses.demonstrations": True,
        "judge.function": "selfreward.rewards.demonstrations:written", **UNJUDGED,
    },
    "scpo": {
        "responses.n": 8, "judge.function": "selfreward.rewards.votes:share", **UNJUDGED,
        "pairs.min_margin": 1.25, "dpo.loss_type": ["sigmoid", "sft"],
        "dpo.loss_weights": [1.0, 1.0], "dpo.weigh_by": "margin",
    },
    "positives-only": {
        "train.method": "sft", "train.sft.start": "M0", "train.sft.min_score": 5.0,
        "train.replay.seed": True, "train.replay.aift": True,
    },
    "rejection-sampling": {
        "train.method": "sft", "train.sft.start": "M1", "train.replay.aift": True, "responses.n": 8,
    },
    "rlhf": {
        "iterations": 1, "sft.eft.path": None, "responses.n": 2, "judge.model": "./rewards/rlhf",
        "judge.form": "reward", "judge.scale": [-10, 10], "judge.max_new_tokens": 256,
        "train.method": "rloo", "rloo.beta": 0.005, "evaluation.canaries": False,
    },
}  # fmt: skip
"""What each changes of ``self-rewarding``."""
OTHERS = {"quickstart", "self-rewarding", "constraints", "dice"}


def test_every_recipe_is_in_this_table_or_is_another_loop() -> None:
    assert DIFFERENCES.keys() | OTHERS == recipes().keys()


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_recipe_differs_from_the_plain_loop_in_what_it_is_about(name: str) -> None:
    plain, recipe = (load_config(config_file(one)) for one in ("self-rewarding", name))
    differing = changes(plain, recipe).items()  # of epochs 1 is our default, too
    found = {key: new for key, (_, new) in differing if not key.endswith("num_train_epochs")}
    expected = DIFFERENCES[name]
    assert {key: found.get(key) for key in expected} == expected
    # What stands in a group that the plain loop has not (a jury, evolve, the options of train.sft,
    # which are those of its seed step), or is not read by the method, belongs to it.
    groups = ("judge.jury", "prompts.evolve", "prompts.dataset", "train.sft", "meta")
    groups += ("sft.eft.", "evaluation.ranked.") if recipe.judge.function else ()
    groups += ("dpo",) if recipe.train.method != "dpo" else ()
    groups += ("rloo", "sft.eft", "evaluation.ranked") if recipe.online else ()
    assert {key for key in found if not key.startswith(groups)} <= expected.keys()


@pytest.mark.parametrize("name", ["positives-only", "rejection-sampling"])
def test_sft_of_an_iteration_is_done_as_the_seed_step(name: str) -> None:
    config = load_config(config_file(name))
    assert config.sft is not None and config.train.sft.options == config.sft.options
    assert config.train.sft.max_length == config.sft.max_length


def test_each_recipe_says_in_its_first_line_what_it_is_and_where_that_comes_from() -> None:
    for name, path in recipes().items():
        first, *_ = path.read_text(encoding="utf-8").splitlines()
        assert first.startswith("# ") and first.endswith((".", ".gz")), name
        assert "arXiv" in first or name == "quickstart", name
