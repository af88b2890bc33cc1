"""How good a judge is, measured against people: pure functions over records where possible."""
