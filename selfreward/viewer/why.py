"""One sentence on a prompt: why its pair, or why none."""

from collections.abc import Mapping
from typing import Any

from selfreward.verbs.show import ShownPair, ShownPrompt

_DROPPED = {
    "tie": "all responses that can be paired have the same score, and nothing tells them apart",
    "too few": "fewer than two of its responses can be paired",
    "margin": "no two scores lie as far apart as pairs.min_margin asks",
    "agreement": "the votes do not agree on any order as far as pairs.min_agreement asks",
    "judges": "the judges do not agree on any order as far as pairs.min_jurors asks",
    "below M1": "no answer of the policy scores above the worst one of M1",
}
"""Of ``stages.pairs``, in words."""
_RULES = {
    "best_worst": "highest against lowest score of {n}",
    "all_pairs": "one of the pairs that the scores of {n} responses give",
    "length_control": "the shortest of the good answers against the longest of the bad ones of {n}",
    "length_regularized": "the widest margin of {n} once each character costs the same",
    "anchored": "the policy's best answer against the worst of M1, of {n}",
}


def why(shown: ShownPrompt, settings: Mapping[str, Any]) -> list[str]:
    """A sentence for each pair of a prompt, or one on why it has none.

    Args:
        settings: Those of the run, see ``Run.settings``.
    """
    if shown.iteration == 0:
        return [_selected(shown)]
    if shown.pairs:
        return [_pair(shown, pair, settings["pairs"]) for pair in shown.pairs]
    if shown.prompt.dropped is not None:
        detail = f" ({shown.prompt.detail})" if shown.prompt.detail else ""
        return [f"No pair: the prompt was dropped, {shown.prompt.dropped}{detail}."]
    reason, _, detail = (shown.no_pair or "").partition(" (")
    if reason in _DROPPED:
        found = f" ({detail}" if detail else ""
        return [f"No pair: {_DROPPED[reason]}{found}."]
    return [f"No pair: {shown.no_pair}."]


def _pair(shown: ShownPrompt, pair: ShownPair, rule: Mapping[str, Any]) -> str:
    scored = [response for response in shown.responses if response.score is not None]
    able = [response for response in scored if response.not_paired is None]
    says = _RULES.get(rule["rule"], rule["rule"]).format(n=len(able))
    margin = (
        f"{pair.margin:.3g} points apart" if pair.margin else "equal, told apart by comparisons"
    )
    limits = [f"margin at least {rule['min_margin']:g}"]
    limits += [
        f"{name} at least {rule[key]:g}"
        for name, key in (("agreement of votes", "min_agreement"), ("of judges", "min_jurors"))
        if rule.get(key)
    ]
    return (
        f"Response {pair.chosen} ({pair.chosen_score:.3g}) over response {pair.rejected} "
        f"({pair.rejected_score:.3g}), {margin}: {says}; rule {rule['rule']}, {', '.join(limits)}."
    )


def _selected(shown: ShownPrompt) -> str:
    votes = [vote for response in shown.responses for vote in response.votes]
    kept = sum(vote.selection == "kept" for vote in votes)
    if any(vote.selection is None for vote in votes) or not votes:
        return "EFT rows are not selected yet."
    return f"{kept} of its {len(votes)} votes became EFT rows."
