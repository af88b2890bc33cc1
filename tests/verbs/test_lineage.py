"""Which model was made from which: what the report, the viewer and a card say alike."""

from selfreward.records import Stage
from selfreward.verbs.lineage import lineage


def stage(iteration: int, name: str) -> Stage:
    return Stage(iteration, name, 8, 0, f"{name}-{iteration}", "", 1.5, {}, "2026-01-01T00:00:00Z")


def test_each_model_names_the_one_that_it_was_trained_from() -> None:
    made = lineage([stage(0, "train"), stage(1, "prompts"), stage(1, "train"), stage(2, "train")])
    assert [(m.model, m.method, m.base, m.digest) for m in made] == [
        ("M1", "SFT", "M0", "train-0"), ("M2", "DPO", "M1", "train-1"),
        ("M3", "DPO", "M2", "train-2"),
    ]  # fmt: skip


def test_the_model_that_selects_judgments_is_beside_the_line_and_not_in_it() -> None:
    made = lineage([stage(0, "sft"), stage(0, "judgments"), stage(0, "train"), stage(1, "train")])
    assert [(m.model, m.base) for m in made] == [("SFT", "M0"), ("M1", "M0"), ("M2", "M1")]
