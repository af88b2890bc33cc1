"""What a selection of EFT rows took and left, as text."""

from typing import Any

from selfreward.verbs.layout import bars, listed, share, table


def selection_text(selection: dict[str, Any]) -> str:
    """A table of the figures of ``evaluation.selection``."""
    histogram = selection["histogram"]
    rows = [
        ["EFT selection", f"{selection['rows']} rows from {selection['prompts_kept']} of "
         f"{selection['prompts']} prompts"],
        ["  votes", f"{selection['votes']} on {selection['responses']} responses"],
        ["  parse rate", share(selection["parsed"], selection["votes"])],
        ["  agreeing with people", f"{selection['agreeing']} votes, before the cap"],
        *([f"    {reason}", str(count)] for reason, count in selection["dropped"].items()),
        *(_scores(name, histogram[name]) for name in ("sampled", "agreeing", "kept")),
        ["  pairwise accuracy", _accuracy(selection["agreement"]["judge"])],
        ["  longer wins", _accuracy(selection["agreement"]["longest"])],
    ]  # fmt: skip
    if selection["left_out"]:
        rows.append(["  not read", listed(selection["left_out"])])
    return table(rows)


def _scores(name: str, histogram: list[int]) -> list[str]:
    return [f"  scores 0 to 5, {name}", f"{bars(histogram)}  {' '.join(map(str, histogram))}"]


def _accuracy(found: dict[str, Any]) -> str:
    if found["accuracy"] is None:
        return "n/a (no pairs)"
    return f"{found['accuracy']:.1%} of {found['pairs']} pairs, {found['ties']} ties"
