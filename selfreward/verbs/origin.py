"""What a written prompt was made from: a topic, or another prompt that was rewritten."""

from dataclasses import dataclass

from selfreward.config import SeedSource
from selfreward.errors import SelfRewardError
from selfreward.inputs import seeds
from selfreward.inputs.columns import values_of
from selfreward.records import Prompt
from selfreward.storage.directory import Run
from selfreward.storage.store import Store


@dataclass(frozen=True, slots=True)
class Origin:
    """Of a prompt; what does not apply is None."""

    topic: str | None = None
    """That its author was given."""
    operation: str | None = None
    """By which it was rewritten, see ``prompts.evolve.operations``."""
    iteration: int | None = None
    """Of its parent, with the next."""
    attempt: int | None = None
    seed: int | None = None
    """Place of its parent among the human prompts, from 0."""
    parent: str | None = None
    """Text of its parent; None too where that is not there any more."""


def origin_of(run: Run, store: Store, prompt: Prompt) -> Origin | None:
    """What a prompt was made from; None where its record says nothing of it."""
    values = values_of(prompt.columns)
    operation = values.get("operation")
    match values.get("parent"):
        case {"iteration": int(iteration), "attempt": int(attempt)}:
            found = store.records(Prompt, iteration, attempt)
            text = found[0].text if found else None
            return Origin(None, operation, iteration, attempt, parent=text)
        case {"seed": int(number)}:
            return Origin(None, operation, seed=number, parent=_seed(run, number))
    topic = values.get("topic")
    return Origin(topic) if isinstance(topic, str) else None


def origin_text(origin: Origin) -> str:
    """The same in words, such as ``topic: old clocks``"""
    if origin.topic is not None:
        return f"topic: {origin.topic}"
    place = f"iteration {origin.iteration}, prompt {origin.attempt}"
    place = place if origin.seed is None else f"seed prompt {origin.seed}"
    parent = "" if origin.parent is None else f": {origin.parent}"
    return f"rewritten ({origin.operation}) from {place}{parent}"


def _seed(run: Run, number: int) -> str | None:
    try:
        prompts = seeds.read_prompts(SeedSource(path=str(run.seed_file("prompts").resolve())))
    except SelfRewardError:
        return None
    return prompts[number] if number < len(prompts) else None
