"""What a tracker has been sent of a run: ``tracking/<tracker>.json`` in its directory."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from selfreward.storage import durable


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a tracker is."""

    sent: int = 0
    """Place of the last row that has arrived, see ``rows``."""
    shift: int = 0
    """What is added to places in the tracker: steps of trainings that were begun anew, with other
    options, and which it keeps."""
    anew: int = 0
    """How often a training of the run had been begun anew, see ``rows.begun_anew``, when the last
    row was sent: what was sent is of that training, however many steps the next one has. Earlier
    versions, which kept no such number, noted no such event either."""

    @classmethod
    def read(cls, path: Path) -> "Watermark":
        """The one that is kept; one that cannot be read was never written."""
        try:
            kept = json.loads(path.read_bytes())
            return cls(int(kept["sent"]), int(kept["shift"]), int(kept.get("anew", 0)))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        """Keep it."""
        durable.make_directory(path.parent)
        durable.write_file(path, json.dumps(asdict(self)))

    def behind(self, last: int) -> "Watermark":
        """The same, where a tracker itself says which row of its own numbers came last."""
        return replace(self, sent=max(self.sent, last - self.shift))

    def begun_anew(self, before: int, last: int, anew: Sequence[int] = ()) -> "Watermark":
        """The same, where a training was begun anew since: that is noted, or less is there.

        Args:
            before: Rows before the last part that is there.
            last: Place of the last row that is there.
            anew: For each time that a training was begun anew, the rows before it.
        """
        stays = [self.sent, *anew[self.anew :]]
        if last < self.sent:
            stays.append(before)
        sent = min(stays)
        return Watermark(sent, self.shift + self.sent - sent, len(anew))
