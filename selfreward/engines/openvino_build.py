"""Whether OpenVINO is installed and what this CPU can do, without importing it."""

from pathlib import Path

from selfreward.engines.installed import Problem, version

SERIES = "2026.4"
"""What the engine was written for: how graphs are read as paged ones changes between releases."""
_PACKAGES = ("openvino", "openvino-genai")
_CPUINFO = Path("/proc/cpuinfo")
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""As Linux calls the instructions: of x86 the first two, of Arm the last."""


def openvino_problem() -> Problem | None:
    """What keeps OpenVINO from running here, or None."""
    found = {name: version(name) for name in _PACKAGES}
    fix = "pip install " + " ".join(f"'{name}=={SERIES}.*'" for name in _PACKAGES)
    for name, number in found.items():
        if number is None:
            return Problem(f"{name} is not installed", f"{fix}.")
        if not number.startswith(f"{SERIES}."):
            return Problem(f"{name} is {number}, and only {SERIES} is known to work", f"{fix}.")
    return None


def bf16_problem() -> Problem | None:
    """What keeps ``engine.precision=bf16`` from running here, or None."""
    flags: set[str] = set()
    if _CPUINFO.is_file():
        for line in _CPUINFO.read_text().splitlines():
            name, _, values = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags |= set(values.split())
    if flags & _BF16_FLAGS:
        return None
    return Problem(
        "this CPU has no bfloat16 instructions (AVX512_BF16 or AMX; bf16 on Arm)",
        "Set engine.precision=f32.",
    )
