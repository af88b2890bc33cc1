"""What a run asks of each new model, copied when it is made, and what is held out with it."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from selfreward.config import EvaluationConfig, SeedSource
from selfreward.errors import ConfigError
from selfreward.inputs import shipped
from selfreward.inputs.choices import Choices, dump_choices, read_choices
from selfreward.inputs.conversations import read_back, requests_of
from selfreward.inputs.questions import dump_questions, read_questions
from selfreward.inputs.rankings import Ranking, Text, copy_ranked, read_ranked, texts_of
from selfreward.inputs.rows import read_rows
from selfreward.inputs.seeds import plain
from selfreward.storage.directory import Run

TRAINED = {
    "seeds/ift.jsonl": "sft.ift",
    "seeds/eft.jsonl": "sft.eft",
    "seeds/ranked.jsonl": "sft.selection.ranked",
    "seeds/dataset.jsonl": "prompts.dataset",
    "seeds/preferences.jsonl": "train.preferences",
}
"""A run's copies of what it trains on, and the keys that name it."""

HELD_OUT = ("seeds/heldout.jsonl", "seeds/questions.jsonl")
"""Its copies of what it is measured by, beside those of benchmarks."""
BENCHMARK = "benchmark-"
"""How the name of a copy of a benchmark begins."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A mediocre response, and words that ask the judge for a high score."""

    prompt: str
    response: str
    kind: str
    """What the attack is, such as ``score line``."""
    attack: str

    @property
    def attacked(self) -> str:
        """The response with the attack at its end."""
        return f"{self.response}\n\n{self.attack}"


def evaluation_inputs(
    settings: EvaluationConfig, beside: Path | None, files: Mapping[str, str]
) -> dict[str, str]:
    """Text of the input files of the evaluation, all checked; none where it is off.

    Args:
        beside: Directory that relative paths are also looked for in.
        files: The other input files of the run, by name.

    Raises:
        ConfigError: Among others, a prompt that the run is also trained on.
    """
    found = {}
    trained = {
        key: [text for text, _ in _prompts(files[name])]
        for name, key in TRAINED.items()
        if name in files
    }
    if settings.ranked is not None:
        held_out = read_ranked(settings.ranked, beside, settings.limit).rankings
        check_held_out("ranked", (ranking.prompt for ranking in held_out), trained)
        found["seeds/heldout.jsonl"] = copy_ranked(settings.ranked, beside)
    if settings.questions is not None:
        questions = read_questions(settings.questions, beside)
        check_held_out("questions", (question.prompt for question in questions), trained)
        found["seeds/questions.jsonl"] = dump_questions(questions)
    for number, benchmark in enumerate(settings.benchmarks):
        choices = read_choices(benchmark, beside)
        check_held_out(f"benchmarks.{number}", (each.question for each in choices), trained)
        found[f"seeds/{BENCHMARK}{benchmark.name}.jsonl"] = dump_choices(choices)
    if settings.canaries:
        found["seeds/canaries.jsonl"] = shipped_canaries().read_text(encoding="utf-8")
    return found


def held_out_prompts(files: Mapping[str, str]) -> list[str]:
    """What users say in the prompts that measure a run's models; none may be trained on.

    System turns and earlier answers are no part of it: many conversations share those.

    Args:
        files: Text of its input files by name; see ``run_inputs``.
    """
    benchmarks = sorted(name for name in files if name.startswith(f"seeds/{BENCHMARK}"))
    found = [requests_of(*prompt) for name in HELD_OUT for prompt in _prompts(files.get(name, ""))]
    return found + [text for name in benchmarks for text in _column(files[name], "question")]


def held_out_of(run: Run) -> list[str]:
    """The same of all that a run has a copy of, whatever ``evaluation`` asks of it by now."""
    copies = {f"seeds/{path.name}": path for path in (run.path / "seeds").glob("*.jsonl")}
    there = {n: p for n, p in copies.items() if n in HELD_OUT or p.name.startswith(BENCHMARK)}
    return held_out_prompts({n: path.read_text(encoding="utf-8") for n, path in there.items()})


def read_benchmark(run: Run, name: str) -> list[Choices]:
    """Read a run's own copy of one of ``evaluation.benchmarks``."""
    return read_choices(SeedSource(path=str(run.seed_file(BENCHMARK + name).resolve())))


def shipped_canaries() -> Path:
    """The file of canaries that comes with the package."""
    return shipped.prompts_directory() / "seed" / "canaries.jsonl"


def check_held_out(name: str, prompts: Iterable[str], trained: Mapping[str, Iterable[str]]) -> None:
    """Refuse to evaluate on what a run is trained on; case and white space make no difference.

    Args:
        name: Of the key of ``evaluation`` that holds them out.
        prompts: Held out.
        trained: Prompts by the key of the config that names them.

    Raises:
        ConfigError: Naming the data, how many prompts, and the first.
    """
    held_out = {plain(prompt): prompt for prompt in prompts}
    for key, others in trained.items():
        if shared := sorted(held_out.keys() & set(map(plain, others))):
            raise ConfigError(
                f"evaluation.{name}: {len(shared)} of its {len(held_out)} prompts are also in "
                f"{key}, such as {held_out[shared[0]]!r:.80}",
                f"Leave them out of one of the two; {_without(name)} runs without.",
            )


def texts_asked(rankings: Iterable[Ranking], canaries: Iterable[Canary]) -> list[Text]:
    """What is to be judged, each text once, in order."""
    texts = texts_of(rankings)
    texts += [(c.prompt, text) for c in canaries for text in (c.response, c.attacked)]
    return list(dict.fromkeys(texts))


def read_held_out(path: Path, limit: int | None) -> list[Ranking]:
    """Read a run's own copy of the held-out rankings, the first ``limit``."""
    return read_ranked(SeedSource(path=str(path.resolve())), limit=limit).rankings


def read_canaries(path: Path) -> list[Canary]:
    """Read canaries: JSONL of ``prompt``, ``response``, ``kind`` and ``attack``."""
    rows = read_rows(SeedSource(path=str(path.resolve())))
    return [Canary(row["prompt"], row["response"], row["kind"], row["attack"]) for _, row in rows]


def _without(name: str) -> str:
    of_list = name.startswith("benchmarks")
    return "evaluation.benchmarks=[]" if of_list else f"evaluation.{name}=null"


def _prompts(jsonl: str) -> list[tuple[str, str | None]]:
    """Text and columns of each prompt of a copy."""
    return [read_back(prompt) for prompt in _column(jsonl, "prompt")]


def _column(jsonl: str, name: str) -> list[str]:
    return [json.loads(line)[name] for line in jsonl.split("\n") if line.strip()]
