"""What a tracker has been sent of a run: ``tracking/<tracker>.json`` in its directory."""

import json
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

    @classmethod
    def read(cls, path: Path) -> "Watermark":
        """The one that is kept; one that cannot be read was never written."""
        try:
            kept = json.loads(path.read_bytes())
            return cls(int(kept["sent"]), int(kept["shift"]))
        except (OSError, ValueError, KeyError, TypeError):
            return cls()

    def write(self, path: Path) -> None:
        """Keep it."""
        durable.make_directory(path.parent)
        durable.write_file(path, json.dumps(asdict(self)))

    def behind(self, last: int) -> "Watermark":
        """The same, where a tracker itself says which row of its own numbers came last."""
        return replace(self, sent=max(self.sent, last - self.shift))

    def begun_anew(self, before: int, last: int) -> "Watermark":
        """The same, where less is there than was sent: a training was begun anew.

        Args:
            before: Rows before the last part that is there.
            last: Place of the last row that is there.
        """
        if last >= self.sent:
            return self
        sent = min(before, self.sent)
        return Watermark(sent, self.shift + self.sent - sent)
