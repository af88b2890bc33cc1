"""Labels on the answers of small runs, for the tests of all that keeps, shows or asks for them."""

from typing import Any

from selfreward.storage.directory import Run
from selfreward.storage.label import Item, Kind, Label, content
from selfreward.storage.labels import Labels
from selfreward.verbs.questions import Questions, Queue


def items(run: Run, kind: Kind, count: int = 100, **asked: Any) -> list[Item]:
    """What one person would be asked, in order."""
    queue, found = Queue(run), list[Item]()
    with run.store() as store:
        while len(found) < count:
            item = queue.find(store, Questions(kind, **asked), "ann", [], found).item
            if item is None:
                break
            found.append(item)
    return found


def label(run: Run, item: Item, labeler: str = "ann", **answer: Any) -> int:
    """Keep a label; without an answer the item is passed over."""
    with run.store() as store:
        digest = content(store, item).digest
    with Labels(run, writes=True) as labels:
        shown = answer.pop("shown", item.samples)
        return labels.add(Label(labeler, item, digest, shown, **answer))


def label_all(run: Run, labeler: str = "ann", tilt: int = 0) -> None:
    """Labels of every kind on all that is asked; ``tilt`` makes people differ."""
    for item in items(run, "ab"):
        label(run, item, labeler, ranks=((1, 2), (2, 1), (1, 1))[(item.attempt + tilt) % 3])
    for item in items(run, "ranking"):
        ranks = tuple(1 + (sample + item.attempt + tilt) % 3 for sample in item.samples)
        label(run, item, labeler, ranks=ranks)
    for item in items(run, "rating"):
        rating = 1 + (2 * item.samples[0] + item.attempt + tilt) % 7
        flags = ("fails", "hedges") if rating < 3 else ()
        label(run, item, labeler, rating=rating, flags=flags, note="short" if rating > 5 else "")
