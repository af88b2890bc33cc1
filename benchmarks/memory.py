"""The most memory that a command and all that it starts hold at a time.

    python -m benchmarks.memory selfreward run quickstart --name q

A page that several of them hold, or one of them twice, counts once (``Pss`` of Linux; elsewhere it
is the resident size). Looked at four times a second, in the root of a checkout.
"""

import subprocess
import sys

import psutil

from benchmarks.peers.race import WATCHED_S, memory_of


def main() -> None:
    """Run the command and print the peak; its exit code is ours."""
    if not sys.argv[1:]:
        sys.exit("usage: python -m benchmarks.memory COMMAND ...")
    try:
        process = subprocess.Popen(sys.argv[1:])
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")
    watched, peak = psutil.Process(process.pid), 0
    while True:
        peak = max(peak, memory_of(watched))
        try:
            code = process.wait(WATCHED_S)
        except subprocess.TimeoutExpired:
            continue
        print(f"peak {peak / 1e9:.2f} GB", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
