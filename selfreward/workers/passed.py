"""Which configs passed what torch, TRL, peft and vLLM check: to import these takes seconds.

Only what passed is kept, under all that decided it: the options, the files that they name as these
were last written, the installed packages, this package's own code, the machine's devices and what
the environment says to these libraries. So a refusal is always the library's own, and whatever
changes is checked anew.
"""

import hashlib
import json
import os
import platform
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import selfreward
from selfreward.config import Config
from selfreward.config.run import all_judges
from selfreward.inputs import shipped
from selfreward.storage import durable

_READ_BY_LIBRARIES = (
    "ACCELERATE", "AMD", "CUDA", "DEEPSPEED", "FSDP", "HF_", "HIP", "LOCAL_", "MASTER_", "NCCL",
    "NVIDIA", "PATH", "PYTORCH", "RANK", "ROCR", "TORCH", "TPU", "TRANSFORMERS", "TRL", "VLLM",
    "WORLD_SIZE", "XLA",
)  # fmt: skip
"""How the names of environment variables begin that decide what they find or refuse."""
_INSTALLED = {"site-packages", "dist-packages"}
_DEVICES = ("nvidia*", "kfd", "dri/render*", "accel*")
_DRIVER = Path("/proc/driver/nvidia/version")


def name_of(config: Config, *, here: bool) -> str:
    """What names all that a check of a config's options depends on: a sha256.

    Args:
        here: As of ``checks.check_config``.
    """
    engines = [config.engine, *(judge.engine for judge in all_judges(config).values())]
    asked = {
        "here": here,
        "vllm": [e and e.kind == "vllm" and e.options for e in engines],
        "launch": config.launch.model_dump(),
        "sft": config.sft and [config.sft.options, config.sft.eft_weight],
        "dpo": [config.dpo.options, config.dpo.weigh_by],
        "train.sft": config.train.sft.options,
        "rloo": config.rloo.options,
        "grpo": config.grpo.options,
        "online": config.online and config.online_options,
        "lora": config.lora,
        "quantization": config.quantization is not None,
    }
    files = {value: _written(value) for value in _texts(asked)}
    parts = [repr(asked), files, _packages(), _code(), _machine()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def is_known(name: str) -> bool:
    """Whether what is so named passed before; False too where the cache cannot be read."""
    try:
        return bool(json.loads(_path(name).read_bytes()) == {"passed": name})
    except (OSError, ValueError):
        return False


def keep(name: str) -> None:
    """Keep that it passed, if the cache can be written."""
    durable.keep_if_writable(_path(name), json.dumps({"passed": name}))


def _path(name: str) -> Path:
    return shipped.cache_directory() / "options" / f"{name}.json"


def _texts(value: Any) -> Iterator[str]:
    """All text in options, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _written(value: str) -> list[int] | None:
    """When a file of this name was written, and which it is; None where there is none.

    It is not read: any text may happen to be a name, such as one of the system's.
    """
    try:
        found = os.stat(value)
    except (OSError, ValueError):  # the last: no name that a file could have
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _packages() -> list[str]:
    """Names and versions of what is installed, as the directories of their metadata say.

    What a package brings for itself goes with its version, and is on the path only once it was
    imported, as setuptools' ``_vendor``.
    """
    found = (Path(place) for place in sys.path if place)
    places = (p for p in found if _INSTALLED.isdisjoint(parent.name for parent in p.parents))
    patterns = ("*.dist-info", "*.egg-info")
    return sorted({each.name for place in places for p in patterns for each in place.glob(p)})


def _code() -> str:
    package = Path(selfreward.__file__).parent
    sha = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        sha.update(hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()


def _machine() -> dict[str, Any]:
    return {
        "platform": [platform.node(), platform.platform(), sys.version, sys.prefix],
        "devices": sorted(str(found) for p in _DEVICES for found in Path("/dev").glob(p)),
        "driver": _DRIVER.read_text() if _DRIVER.exists() else "",
        "environment": sorted(
            item for item in os.environ.items() if item[0].startswith(_READ_BY_LIBRARIES)
        ),
    }
