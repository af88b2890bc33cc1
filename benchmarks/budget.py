"""What an iteration of an 8B model is to take on GPUs, from published rates, and ours beside it.

    python benchmarks/budget.py [FILE of make gpu-check] [--prompts 5000] [--samples 4] [--gpus 1 8]

Nothing is run: tokens are counted, and divided by rates. Generation is data parallel, a copy of the
model on each GPU, so its rate is that of one times their number; so is that of training in shards,
as published for eight. Starts of processes are not in it.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARAMETERS = 8.03e9
SAMPLED = 5_777
"""Tokens a second that one H100 samples with Llama 3.1 8B in FP8, vLLM 0.10, its prompts read
besides: MLPerf Inference 5.1, offline, as Red Hat published it. The task there is summarizing, of
prompts that are longer than ours."""
TRAINED = 5_762
"""Tokens a second and GPU of full training of Llama 3.1 8B in bfloat16, FSDP on eight H100, without
torch.compile: torchtitan, ``benchmarks/llama3_h100_202412_torchtitan.md``, table 1."""
PEAK = 989e12
"""Operations a second of an H100 SXM in bfloat16, dense: NVIDIA's data sheet."""
USED = 0.4
"""Part of it that reading reaches. Ours: training alone reaches 0.33 to 0.39 in the same report."""
READ = USED * PEAK / (2 * PARAMETERS)
PROMPT, RESPONSE, RUBRIC, WRITTEN = 60, 400, 350, 150
"""Tokens of a text. A response of 400 lies between those of M1 and M2 of Self-Rewarding Language
Models (1,092 and 1,552 characters) and somewhat above."""
TRIES = 2
"""Prompts written for each that is kept."""
VOTES = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work."""

    name: str
    tokens: float
    rate: float
    """Published, tokens a second and GPU."""
    measured: str | None = None
    """Its name among what ``gpu_check.py`` measures."""


def rows(prompts: int, samples: int) -> list[Row]:
    """The work of an iteration. What a judge is told is read once a response, the rubric once."""
    responses = prompts * samples
    judged = responses * (PROMPT + RESPONSE)
    pair = 2 * (PROMPT + RESPONSE)
    return [
        Row("writing prompts", TRIES * prompts * PROMPT, SAMPLED, "sampled_tokens_per_s"),
        Row("sampling responses", responses * RESPONSE, SAMPLED, "sampled_tokens_per_s"),
        Row("judging, expected", judged, READ, "judged_prompt_tokens_per_s"),
        Row("or judging, written", responses * VOTES * WRITTEN, SAMPLED, "sampled_tokens_per_s"),
        Row("reference pass", prompts * pair, READ),
        Row("DPO, one epoch", prompts * pair, TRAINED),
    ]


def table(found: dict[str, Any], prompts: int, samples: int, gpus: list[int]) -> str:
    """The work, its tokens, and minutes by published rates, then by ours where there are any.

    Args:
        found: What ``gpu_check.py`` wrote; empty: nothing was measured.
    """
    ours = found.get("engine 8b", {})
    head = ["", "tokens", "a second and GPU", *(f"{n} x H100" for n in gpus)]
    machine = found.get("machine", {}).get("name")
    head += [f"{machine}: a second", "1 GPU"] if machine else []
    lines = [head, ["---"] * len(head)]
    for row in rows(prompts, samples):
        minutes = [f"{row.tokens / row.rate / n / 60:.1f} min" for n in gpus]
        line = [row.name, f"{row.tokens / 1e6:.1f}M", f"{row.rate:,.0f}", *minutes]
        if machine:
            rate = ours.get(row.measured)
            line += [f"{rate:,}", f"{row.tokens / rate / 60:.1f} min"] if rate else ["-", "-"]
        lines.append(line)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("found", nargs="?", type=Path, help="benchmarks/results/gpu-NAME.json")
    parser.add_argument("--prompts", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8])
    arguments = parser.parse_args()
    found = json.loads(arguments.found.read_text(encoding="utf-8")) if arguments.found else {}
    print(table(found, arguments.prompts, arguments.samples, arguments.gpus))


if __name__ == "__main__":
    main()
