"""An exported adapter is one that peft loads, on the model that it was trained on."""

import json
import shutil
from pathlib import Path

import pytest

from selfreward.cli.main import invoke
from selfreward.config.load import build_config
from selfreward.errors import ConfigError, IntegrityError, NotFoundError
from selfreward.inputs.collect import create_run
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.starts import TRAINED, Trained
from selfreward.training.base import Training
from selfreward.verbs.adapter import adapter_model, export_adapter
from tests.support.runs import SMALL
from tests.support.training import dpo_rows, sft_rows, tiny_model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose M1 and M2 are trained with LoRA from a tiny model; it has no records."""
    from selfreward.training.dpo import train_dpo
    from selfreward.training.sft import train_sft

    root = tmp_path_factory.mktemp("adapters")
    with pytest.MonkeyPatch.context() as patch, tiny_model(root / "M0") as base:
        patch.setenv("SELFREWARD_RUNS", str(root / "runs"))
        run = create_run(build_config({"lora": {"r": 4}}, SMALL), "tiny")
        facts = {"path": str(base), "digest": "0", "source": str(base), "revision": None}
        durable.write_file(run.path / "models" / "M0.json", json.dumps(facts))
        options = {"per_device_train_batch_size": 2, "learning_rate": 1e-2, "save_steps": 1000}
        for number, train, rows in ((1, train_sft, sft_rows(8)), (2, train_dpo, dpo_rows(8))):
            start = base if number == 1 else run.model_directory(1)
            training = Training(
                "sft" if number == 1 else "dpo", start, run.model_directory(number),
                run.checkpoints_directory(number), options, {"r": 4},
                0,
            )  # fmt: skip
            train(training, rows, on_log=lambda *_: None, on_step=lambda *_: None)
    return run


@pytest.mark.parametrize("iteration", [0, 1])
def test_peft_loads_the_adapter_on_its_base_and_gives_the_merged_model(
    made: Run, iteration: int, tmp_path: Path
) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    number = adapter_model(made, iteration)
    assert number == iteration + 1
    found = export_adapter(made, tmp_path / "out", number)
    base = made.path.parent.parent / "M0" if iteration == 0 else made.model_directory(1)
    assert found.base_model == str(base)
    ids = torch.tensor([[5, 9, 30, 7, 11]])
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(made.model_directory(number))(ids).logits
        adapted = AutoPeftModelForCausalLM.from_pretrained(found.directory)(ids).logits
        before = AutoModelForCausalLM.from_pretrained(base)(ids).logits
    assert torch.allclose(adapted, merged, atol=1e-5)
    assert (merged - before).abs().max() > 1e-2
    assert durable.is_whole(tmp_path / "out")


def test_an_adapter_belongs_on_the_model_that_it_was_trained_from(
    made: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with ``train.sft.start`` and ``best.continue_from``."""
    copy = Run(tmp_path / "copy")
    shutil.copytree(made.path, copy.path)
    shutil.copytree(copy.model_directory(2), copy.model_directory(3))
    shutil.rmtree(copy.model_directory(2))  # which the adapter has no need of
    with copy.owned() as store:
        store.save_report(2, TRAINED, Trained("sft", 1))
    found = export_adapter(copy, tmp_path / "out", 3)
    assert found.base_model == str(copy.model_directory(1))
    with copy.owned() as store:
        store.save_report(2, TRAINED, Trained("sft", 0))
    found = export_adapter(copy, tmp_path / "M0", 3)
    assert found.base_model == copy.base_model()["path"]


def test_the_newest_adapter_is_taken_by_default(made: Run, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert adapter_model(made, None) == 2
    assert invoke(["export", str(made.path), "--adapter"]) == 0
    assert (tmp_path / "tiny-M2-adapter" / "adapter_model.safetensors").is_file()


def test_a_base_model_of_the_hub_is_named_as_there(made: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / "copy")
    shutil.copytree(made.path, copy.path)
    facts = copy.base_model() | {"source": "org/model", "revision": "abc"}
    durable.write_file(copy.path / "models" / "M0.json", json.dumps(facts))
    assert export_adapter(copy, tmp_path / "out", 1).base_model == "org/model"
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_bytes())
    assert (config["base_model_name_or_path"], config["revision"]) == ("org/model", "abc")


def test_an_adapter_without_its_base_or_damaged_is_refused(made: Run, tmp_path: Path) -> None:
    copy = Run(tmp_path / "copy")
    shutil.copytree(made.path, copy.path)
    shutil.rmtree(copy.model_directory(1))
    with pytest.raises(NotFoundError, match="belongs on M1, which `gc` removed"):
        export_adapter(copy, tmp_path / "out", 2)
    (copy.model_directory(2) / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(IntegrityError, match="adapter_model"):
        export_adapter(copy, tmp_path / "out", 2)
    assert not (tmp_path / "out").exists()


def test_what_has_no_adapter_is_said_in_a_line(made: Run, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no adapter of iteration 5"):
        adapter_model(made, 5)
    copy = Run(tmp_path / "copy")
    shutil.copytree(made.path, copy.path, ignore=shutil.ignore_patterns("adapter"))
    with pytest.raises(NotFoundError, match="has no adapters"):
        adapter_model(copy, None)
    assert (
        invoke(["export", str(made.path), "--adapter", "--what", "pairs"]) == ConfigError.exit_code
    )
