"""What tests share; nothing in here is a test."""

import json
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).parents[2]
"""The checkout; with it as PYTHONPATH, or as the current directory, ``tests`` can be imported."""
DATA = ROOT / "tests" / "data"


def plain(value: object) -> Any:
    """What a user sees of it as JSON."""
    return json.loads(msgspec.json.encode(value))
