"""What is installed, and what the machine has, without importing what takes seconds to."""

import os
import shutil
from importlib import metadata
from importlib.util import find_spec
from typing import NamedTuple

_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/dxg", "/dev/kfd")
"""What drivers make: NVIDIA's on Linux, in containers and on Jetson; Windows' in WSL; AMD's."""


class Problem(NamedTuple):
    """What is wrong, and what to do about it."""

    message: str
    fix: str


def has_gpu() -> bool:
    """Whether there is a driver for a GPU of NVIDIA or AMD."""
    return any(map(os.path.exists, _DRIVERS)) or shutil.which("nvidia-smi") is not None


def has_cuda() -> bool:
    """Whether torch sees a device of CUDA or ROCm. Without a driver it is not imported for that."""
    if not has_gpu():
        return False
    import torch

    return bool(torch.cuda.is_available())


def has_module(name: str) -> bool:
    """Whether a library is installed; it is not imported.

    A mere directory of its name, such as ``wandb/``, which wandb makes where it runs, is none,
    though Python would import it as an empty package.
    """
    spec = find_spec(name)
    return spec is not None and spec.origin is not None


def version(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
