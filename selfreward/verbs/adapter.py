"""What ``selfreward export --adapter`` writes: the LoRA adapter of a model, as peft loads it.

Each iteration trains an adapter of its own and merges it, so that of M(t+1) belongs on M(t), not
on the base model; the written ``adapter_config.json`` names that.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfreward.errors import NotFoundError
from selfreward.records import model_name
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.starts import trained_of
from selfreward.verbs.export import check_target
from selfreward.verbs.layout import size

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class ExportedAdapter:
    """An adapter that was written."""

    run: str
    directory: str
    model: str
    """That it makes of its base, such as ``M2``."""
    base_model: str
    """Hub id, or directory of the model that it belongs on."""
    bytes: int
    quantization: dict[str, Any] | None = None
    """Options of ``BitsAndBytesConfig`` by which that model was in 4 bits; None: it was not."""


def adapter_model(run: Run, iteration: int | None) -> int:
    """The number t of the model M(t) whose adapter is meant: of an iteration, else the newest.

    Raises:
        NotFoundError: There is none.
    """
    models = (run.path / "models").glob(f"M*/{durable.ADAPTER}/{_CONFIG}")
    there = sorted(int(path.parts[-3][1:]) for path in models if path.parts[-3][1:].isdecimal())
    if not there:
        why = "Runs with lora: {r: 16, target_modules: all-linear} have one for each model."
        if run.settings["lora"] is not None:
            why = "Models that an earlier release published, or that are not made yet, have none."
        raise NotFoundError(f"run {run.name} has no adapters", why)
    if iteration is not None and iteration + 1 not in there:
        names = ", ".join(f"{number - 1} (M{number})" for number in there)
        raise NotFoundError(
            f"run {run.name} has no adapter of iteration {iteration}", f"It has those of: {names}."
        )
    return there[-1] if iteration is None else iteration + 1


def export_adapter(run: Run, target: Path, number: int, *, force: bool = False) -> ExportedAdapter:
    """Write the adapter of M(number) into a new directory.

    Args:
        target: As for ``export.export``.
        number: From ``adapter_model``.
        force: Replace an earlier export.

    Raises:
        ConfigError: The directory may not be written to.
        NotFoundError: The model that the adapter belongs on is gone.
        IntegrityError: The model is not whole.
    """
    check_target(run, target, force=force)
    source = run.whole_model(number) / durable.ADAPTER
    with run.store() as store:
        trained = trained_of(store, number - 1).model
    base, revision = _base(run, number, trained)
    config = json.loads((source / _CONFIG).read_bytes())
    config |= {"base_model_name_or_path": base, "revision": revision}
    facts: dict[str, object] = {
        durable.EXPORTED: {"run": run.name, "adapter": model_name(number - 1, "train")}
    }
    manifest: dict[str, Any] = durable.read_manifest(run.model_directory(number))
    held = manifest.get(durable.QUANTIZATION)
    if held is not None:
        facts[durable.QUANTIZATION] = held
    with (
        durable.full_disk_named(str(target.absolute().parent)),
        durable.publish_directory(target, facts=facts, replace=force) as directory,
    ):
        durable.copy_file(source / _WEIGHTS, directory / _WEIGHTS)
        durable.write_file(directory / _CONFIG, json.dumps(config, indent=2, sort_keys=True))
        num_bytes = sum(path.stat().st_size for path in directory.iterdir())
    return ExportedAdapter(run.name, str(target), f"M{number}", base, num_bytes, held)


def adapter_text(found: ExportedAdapter) -> str:
    """What ``selfreward export --adapter`` prints."""
    base = found.base_model
    if found.quantization is not None:
        base += f" in 4 bits ({found.quantization['bnb_4bit_quant_type']})"
    return f"{found.directory}  {size(found.bytes)}, adds to {base} what makes {found.model} of it"


def _base(run: Run, made: int, number: int) -> tuple[str, str | None]:
    """M(number), from which M(made) was trained, as peft finds it, and its revision."""
    base = run.base_model()
    if number == 0 or (number == 1 and run.settings["sft"] is None):
        source = str(base.get("source", ""))
        is_on_hub = base.get("revision") is not None and not Path(source).exists()
        return (source, base["revision"]) if is_on_hub else (base["path"], None)
    path = run.model_directory(number)
    if not path.is_dir():
        raise NotFoundError(
            f"the adapter of M{made} belongs on {path.name}, which `gc` removed",
            f"Put a copy back as {path}, or take the merged model itself.",
        )
    return str(run.whole_model(number).resolve()), None
