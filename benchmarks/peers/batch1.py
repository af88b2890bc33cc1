"""Contender: one ``generate`` call for each answer and each judgment, as known replications do.

Otherwise as by hand: the cache of keys and values is on and nothing runs twice, so this is how the
published scripts sample, without their other losses of time.
"""

import argparse

from benchmarks.peers.hand import iteration
from benchmarks.peers.work import read_work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work")
    parser.add_argument("--form", choices=["written"], required=True)
    arguments = parser.parse_args()
    iteration(read_work(arguments.work), arguments.form, "float32", 1, 1).print()


if __name__ == "__main__":
    main()
