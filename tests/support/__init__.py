"""What tests share; nothing in here is a test."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout; with it as PYTHONPATH, or as the current directory, ``tests`` can be imported."""
DATA = ROOT / "tests" / "data"
