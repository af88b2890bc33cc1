"""Which model was made from which: what the report, the viewer and a card say alike."""

from pathlib import Path

from selfreward.records import Stage
from selfreward.storage import database
from selfreward.storage.starts import keep_start
from selfreward.storage.store import Store
from selfreward.verbs.lineage import Ancestor, lineage


def made(
    path: Path, *stages: tuple[int, str], starts: dict[int, int] | None = None
) -> list[Ancestor]:
    database.create(path / "records.db")
    with Store.claim(path / "records.db") as store:
        for iteration, start in (starts or {}).items():
            keep_start(store, iteration, start)
        for iteration, name in stages:
            digest = f"{name}-{iteration}"
            store.finish_stage(Stage(iteration, name, 8, 0, digest, "", 1.5, {}, ""))
        return lineage(store)


def test_each_model_names_the_one_that_it_was_trained_from(tmp_path: Path) -> None:
    found = made(tmp_path, (0, "train"), (1, "prompts"), (1, "train"), (2, "train"))
    assert [(m.model, m.method, m.base, m.digest) for m in found] == [
        ("M1", "SFT", "M0", "train-0"), ("M2", "DPO", "M1", "train-1"),
        ("M3", "DPO", "M2", "train-2"),
    ]  # fmt: skip


def test_the_model_that_selects_judgments_is_beside_the_line_and_not_in_it(tmp_path: Path) -> None:
    found = made(tmp_path, (0, "sft"), (0, "judgments"), (0, "train"), (1, "train"))
    assert [(m.model, m.base) for m in found] == [("SFT", "M0"), ("M1", "M0"), ("M2", "M1")]


def test_a_model_made_from_an_older_one_than_the_newest_names_it(tmp_path: Path) -> None:
    found = made(tmp_path, (0, "train"), (1, "train"), (2, "train"), starts={2: 1})
    assert [(m.model, m.base) for m in found] == [("M1", "M0"), ("M2", "M1"), ("M3", "M1")]
