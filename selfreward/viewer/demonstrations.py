"""The few-shot demonstrations that a prompt was written from: drawn again, as they are not kept."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from selfreward.config import SeedSource
from selfreward.errors import SelfRewardError
from selfreward.inputs.seeds import read_prompts, shown
from selfreward.stages.pool import draw, shown_text
from selfreward.stages.prompts import num_seen, prompt_seed
from selfreward.storage.directory import Run
from selfreward.storage.store import Store


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A prompt that was shown to the author of another one."""

    text: str
    iteration: int | None
    """Of the prompt, if a model wrote it."""
    attempt: int | None
    source: str
    """``human`` or ``generated``."""


def demonstrations_of(
    run: Run, store: Store, iteration: int, attempt: int
) -> list[Demonstration] | None:
    """Those of an attempt, in the order in which they were shown.

    None where there were none (iteration 0, prompts of a data set, those that were rewritten), or
    where what they were drawn from is not there any more.
    """
    settings: dict[str, Any] = run.settings
    prompts = settings["prompts"]
    if iteration == 0 or prompts["dataset"] is not None:
        return None
    multiline = bool(prompts.get("multiline"))
    path = run.seed_file("prompts")
    try:
        lines = shown(_seeds(path, path.stat().st_mtime_ns), multiline=multiline)
    except (OSError, SelfRewardError):
        return None
    seen = num_seen(attempt, prompts["window"])
    known = next(store.query(f"SELECT count(*) {_KNOWN}", (iteration, iteration, seen)))[0]
    seed = prompt_seed(settings["seed"], iteration, attempt)
    shots = prompts["human_shots"], prompts["generated_shots"]
    found = []
    for is_human, at in draw(*shots, seed, len(lines), known):
        if is_human:
            found.append(
                Demonstration(shown_text(lines[at], multiline=multiline), None, None, "human")
            )
            continue
        query = f"SELECT text, iteration, attempt {_KNOWN} ORDER BY 2, 3 LIMIT 1 OFFSET ?"
        text, t, a = next(store.query(query, (iteration, iteration, seen, at)))
        found.append(Demonstration(shown_text(text, multiline=multiline), t, a, "generated"))
    return found


_KNOWN = """FROM prompts WHERE dropped IS NULL AND iteration > 0
AND (iteration < ? OR (iteration = ? AND attempt < ?))"""
"""What an attempt can be shown of what was generated: earlier iterations, and before its window."""


@lru_cache(maxsize=4)
def _seeds(path: Path, changed: int) -> list[str]:
    return read_prompts(SeedSource(path=str(path.resolve())))
