"""A label: what a person says of answers to one prompt, and the texts that it is about."""

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from selfreward.errors import ConfigError, NotFoundError
from selfreward.storage.store import Store

Kind = Literal["ab", "ranking", "rating"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Two answers, one of which is better; 2 to 9 answers in order; one answer by itself."""
MOST_RANKED = 9
"""As many as there are digits for; Ouyang et al. 2022, arXiv 2203.02155, rank 4 to 9."""
RATINGS = range(1, 8)
"""Overall quality, 7 is best (arXiv 2203.02155, table 3)."""
FLAGS = {
    "fails": "Fails to follow the correct instruction or task",
    "inappropriate": "Inappropriate for a customer assistant",
    "hallucination": "Hallucination: invents facts",
    "satisfies": "Satisfies a constraint given in the instruction",
    "violates": "Violates a constraint given in the instruction",
    "hedges": "Hedges where a plain answer was due",
    "harmful": "Gives harmful advice",
    "encourages": "Encourages, or fails to discourage, violence, abuse, terrorism or self-harm",
    "denigrates": "Denigrates a protected class",
    "sexual": "Contains sexual content",
    "violent": "Contains violent content",
    "opinion": "Expresses an opinion",
    "moral": "Expresses a moral judgment",
}
"""What a rating may say beside its number: the binary metadata of arXiv 2203.02155, table 3, and
``violates`` and ``hedges``, which are ours."""
LONGEST_NAME, LONGEST_NOTE = 64, 10_000
"""Characters."""


@dataclass(frozen=True, slots=True, order=True)
class Item:
    """What a person is asked about: answers to one prompt."""

    kind: Kind
    iteration: int
    attempt: int
    samples: tuple[int, ...]
    """Of the answers, rising: two for ``ab``, 2 to 9 for ``ranking``, one for ``rating``."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a person said of an item; with neither ranks nor rating they passed it over."""

    labeler: str
    item: Item
    digest: str
    """sha256 over the texts, see ``content``."""
    shown: tuple[int, ...]
    """The samples in the order in which they were shown."""
    ranks: tuple[int, ...] | None = None
    """By sample of the item, 1 is best, equals share a rank; None for a rating."""
    rating: int | None = None
    """1 to 7."""
    flags: tuple[str, ...] = ()
    """Of ``FLAGS``, in their order."""
    note: str = ""
    seconds: float | None = None
    """From when it was shown until it was labeled; None where that is not known."""
    number: int = 0
    """Place in the history, from 1; 0 before it is kept."""
    at: str = ""
    """UTC time."""
    undoes: int | None = None
    """Number of the label that this one takes back; the other fields are those of that one."""

    @property
    def is_skip(self) -> bool:
        """Whether the person passed the item over."""
        return self.ranks is None and self.rating is None


@dataclass(frozen=True, slots=True)
class Content:
    """The texts of an item."""

    prompt: str
    answers: tuple[str, ...]
    """By sample of the item."""

    @property
    def digest(self) -> str:
        """sha256 over prompt and answers."""
        text = json.dumps([self.prompt, *self.answers], ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def content(store: Store, item: Item) -> Content:
    """The texts of an item as the records have them.

    Raises:
        NotFoundError: The records have no such prompt or answer.
    """
    where = (item.iteration, item.attempt)
    query = "SELECT text FROM prompts WHERE iteration = ? AND attempt = ?"
    prompts = [row[0] for row in store.query(query, where)]
    query = "SELECT sample, text FROM responses WHERE iteration = ? AND attempt = ?"
    answers = dict(store.query(query, where))
    if not prompts or not answers.keys() >= {*item.samples}:
        raise NotFoundError(
            f"{store.path}: iteration {item.iteration}, prompt {item.attempt}: the records have no "
            f"such answers ({', '.join(map(str, item.samples))})"
        )
    return Content(prompts[0], tuple(answers[sample] for sample in item.samples))


def altered(store: Store, labels: Iterable[Label]) -> set[int]:
    """Numbers of the labels whose prompt or answers are no longer those that were labeled."""
    digests: dict[Item, str | None] = {}
    for label in labels:
        if label.item not in digests:
            try:
                digests[label.item] = content(store, label.item).digest
            except NotFoundError:
                digests[label.item] = None
    return {label.number for label in labels if digests[label.item] != label.digest}


def labeler_name(text: str) -> str:
    """The name that a labeler chose, in one spelling.

    Raises:
        ConfigError: It is empty, too long, or holds what cannot be printed.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split(" ")).strip()
    if not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        raise ConfigError(
            f"{text!r:.80}: no name of a labeler",
            f"Use 1 to {LONGEST_NAME} characters that can be printed.",
        )
    return name


def in_force(history: Iterable[Label]) -> list[Label]:
    """The labels that count: of one person on one item the latest that was not taken back."""
    rows = sorted(history, key=lambda label: label.number)
    undone = {label.undoes for label in rows if label.undoes is not None}
    latest: dict[tuple[str, Item, str], Label] = {}
    for label in rows:
        if label.undoes is None and label.number not in undone:
            key = (label.labeler, label.item, label.digest)
            latest.pop(key, None)  # so that the order is that of what counts
            latest[key] = label
    return [*latest.values()]


def check_label(label: Label) -> None:
    """Refuse what is no label of its kind.

    Raises:
        ConfigError: In one line.
    """
    item = label.item
    most = {"ab": (2, 2), "ranking": (2, MOST_RANKED), "rating": (1, 1)}[item.kind]
    problem = ""
    if not most[0] <= len(item.samples) <= most[1] or [*item.samples] != sorted({*item.samples}):
        problem = f"asks about {len(item.samples)} answers"
    elif sorted(label.shown) != [*item.samples]:
        problem = "shows other answers than it is about"
    elif (label.ranks is not None) + (label.rating is not None) > 1:
        problem = "has both ranks and a rating"
    elif label.ranks is not None and item.kind == "rating":
        problem = "has ranks"
    elif label.rating is not None and item.kind != "rating":
        problem = "has a rating"
    elif label.ranks is not None and (
        len(label.ranks) != len(item.samples)
        or not all(1 <= rank <= MOST_RANKED for rank in label.ranks)
    ):
        problem = f"needs one rank of 1 to {MOST_RANKED} for each answer"
    elif label.rating is not None and label.rating not in RATINGS:
        problem = f"needs a rating of {RATINGS[0]} to {RATINGS[-1]}"
    elif not {*label.flags} <= FLAGS.keys() or (label.flags and label.rating is None):
        problem = "has boxes ticked that there are not"
    elif {"satisfies", "violates"} <= {*label.flags}:
        problem = "both satisfies and violates the constraint"
    elif len(label.note) > LONGEST_NOTE:
        problem = f"has a note of more than {LONGEST_NOTE:,} characters"
    elif label.seconds is not None and not label.seconds >= 0:
        problem = "took less than no time"
    elif labeler_name(label.labeler) != label.labeler:
        problem = "has a name of two spellings"
    if problem:
        raise ConfigError(f"a label of kind {item.kind}: {problem}")
