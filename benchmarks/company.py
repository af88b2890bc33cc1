"""What two jobs on the same cores do to each other, by how OpenMP's threads wait.

    python benchmarks/company.py [--rounds 3] [--steps 4]

A job is a process that takes optimizer steps of the bundled model on two sequences of 256 tokens,
on as many threads as there are cores. It is timed alone, and beside another one of its kind that
goes on all the while; both either with ``OMP_WAIT_POLICY`` as it is by default, which lets a thread
spin while it waits for the others, or with ``passive``, which lets it sleep. All four take turns.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch
from transformers import AutoModelForCausalLM

from selfreward.inputs import models

POLICIES = {"default": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}


def main() -> None:
    """Print the seconds of a step, alone and in company, and the ratios within a round."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a job")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        work(arguments.steps)
        return
    seconds: dict[tuple[str, str], list[float]] = {}
    for _ in range(arguments.rounds):
        for policy, variables in POLICIES.items():
            for company in ("alone", "beside another"):
                taken = timed(variables, arguments.steps, company != "alone")
                seconds.setdefault((company, policy), []).append(taken)
    for (company, policy), each in seconds.items():
        rounds = " ".join(f"{one:6.2f}" for one in each)
        print(f"{company:14} {policy:8} {statistics.median(each):6.2f} s a step   rounds: {rounds}")
    for company in ("alone", "beside another"):
        pairs = zip(seconds[company, "passive"], seconds[company, "default"], strict=True)
        ratio = statistics.median(passive / default for passive, default in pairs)
        print(f"{company}: passive takes {ratio:.2f} of the default's time")


def timed(variables: dict[str, str], steps: int, in_company: bool) -> float:
    """Seconds of a step of a job, in whose company another one may work."""
    line = [sys.executable, __file__, "--job", "--steps"]
    environment = os.environ | variables
    other = None
    if in_company:
        other = subprocess.Popen([*line, "0"], env=environment, stdout=subprocess.PIPE, text=True)
        assert other.stdout is not None
        other.stdout.readline()  # it is at work
    try:
        done = subprocess.run(
            [*line, str(steps)], env=environment, check=True, capture_output=True, text=True
        )
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return float(done.stdout.split()[-1])


def work(steps: int) -> None:
    """Take so many steps and print the seconds of one; 0: go on until killed."""
    model = AutoModelForCausalLM.from_pretrained(
        models.resolve("bundled:smollm2-135m").path, dtype=torch.float32
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    ids = torch.randint(0, 1000, (2, 256), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    print("ready", flush=True)
    start, taken = time.perf_counter(), 0
    while not steps or taken < steps:
        step()
        taken += 1
    print((time.perf_counter() - start) / taken)


if __name__ == "__main__":
    main()
