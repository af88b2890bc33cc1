"""How long ``selfreward`` takes until it answers: ``--help``, and verbs that load no model.

    python benchmarks/startup.py [--rounds 5]

Seconds of processor time of a process of its own, the least of the rounds, as others may be using
the machine. The target for ``--help`` is 0.3.
"""

import argparse
import os
import subprocess
import sys

VERBS = (["--help"], ["ls"], ["plan", "quickstart"])


def main() -> None:
    """Time each verb and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    for verb in VERBS:
        print(f"{' '.join(verb)}: {min(_seconds(verb) for _ in range(rounds)):.2f} s")


def _seconds(verb: list[str]) -> float:
    before = os.times()
    command = [sys.executable, "-m", "selfreward", *verb]
    subprocess.run(command, check=True, capture_output=True)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system


if __name__ == "__main__":
    main()
