"""Tests, a folder for each room of the package; ``support`` is what they share."""
