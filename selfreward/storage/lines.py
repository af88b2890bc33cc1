"""A file of JSON lines that is only added to, so that what is in it outlives its process."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from selfreward.errors import IntegrityError
from selfreward.storage import durable


class Lines:
    """The rows of a file; those that are added are on the disk when the call returns.

    Args:
        path: Of the file; one that is missing is made with the first row.

    Raises:
        IntegrityError: A line, but the last one that a killed process may have left torn, is no
            JSON object.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        """All of them, oldest first."""
        text = path.read_bytes() if path.exists() else b""
        whole, _, torn = text.rpartition(b"\n")
        for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
            self.rows.append(_object(line, f"{path}:{number}"))
        if torn:
            durable.write_file(path, whole + b"\n" if whole else b"")

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows."""
        new = [*rows]
        # In ASCII: no reader splits a line at U+2028, and no terminal acts on what is in a text.
        durable.append(self.path, "".join(json.dumps(row) + "\n" for row in new))
        self.rows += new


def _object(line: bytes, at: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise IntegrityError(f"{at}: not JSON ({error})", "Remove the line, or the file.") from None
    if not isinstance(row, dict):
        raise IntegrityError(f"{at}: not an object", "Remove the line, or the file.")
    return row
