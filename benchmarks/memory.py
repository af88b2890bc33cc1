"""The most memory that a command and all that it starts hold at a time.

    python -m benchmarks.memory selfreward run quickstart --name q

A page that several of them hold, or one of them twice, counts once (``Pss`` of Linux; elsewhere it
is the resident size). Looked at four times a second, in the root of a checkout. Prints the peak and
what each process held then.
"""

import subprocess
import sys
from contextlib import suppress

import psutil

WATCHED_S = 0.25
"""Seconds between two looks."""


def main() -> None:
    """Run the command and print the peak; its exit code is ours."""
    if not sys.argv[1:]:
        sys.exit("usage: python -m benchmarks.memory COMMAND ...")
    try:
        process = subprocess.Popen(sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")
    watched, peak = psutil.Process(process.pid), list[tuple[int, str]]()
    while True:
        peak = max(peak, held_by(watched), key=lambda parts: sum(part for part, _ in parts))
        try:
            code = process.wait(WATCHED_S)
        except subprocess.TimeoutExpired:
            continue
        print(f"peak {sum(part for part, _ in peak) / 1e9:.2f} GB", file=sys.stderr)
        for part, name in sorted(peak, reverse=True):
            print(f"  {part / 1e9:.2f} GB  {name}", file=sys.stderr)
        sys.exit(code)


def held_by(process: psutil.Process) -> list[tuple[int, str]]:
    """Bytes and command, its last 60 characters, of a process and each that it started."""
    parts = []
    with suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                full = one.memory_full_info()
                parts.append((getattr(full, "pss", full.rss), " ".join(one.cmdline())[-60:]))
    return parts


if __name__ == "__main__":
    main()
