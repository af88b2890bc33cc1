"""What ``selfreward compare-models`` prints, in 80 columns."""

from string import ascii_uppercase

from selfreward.measures.reports import Contest
from selfreward.verbs.compare_models import ComparedModels, Contestant, ContestJudge
from selfreward.verbs.console import bold
from selfreward.verbs.layout import duration, fitted, percent, table


def compared_text(found: ComparedModels, width: int) -> str:
    """The models and judges, then a row for each two models and each judge."""
    letters = {model.name: ascii_uppercase[i] for i, model in enumerate(found.models)}
    rows = [[letters[model.name], _model(model)] for model in found.models]
    numbers = {judge.name: f"{i}" for i, judge in enumerate(found.judges, 1)}
    several = len(found.judges) > 1
    for judge in found.judges:
        rows.append([f"judge {numbers[judge.name]}" if several else "judge", _judge(judge)])
    how = (
        "greedy" if not found.temperature else f"temperature {found.temperature:g}, the same seeds"
    )
    rows.append(["asked", f"{len(found.prompts)} prompts of {found.data}; {how}, at most "
                 f"{found.max_new_tokens} tokens"])  # fmt: skip
    rows.append(["time", duration(found.seconds)])
    parts = [fitted(rows, width), _contests(found, letters, numbers if several else {})]
    if found.agreement is not None:
        parts.append(
            f"Judges agree on {percent(found.agreement)} of the results that two of them have."
        )
    return "\n\n".join(parts)


def _model(model: Contestant) -> str:
    said = [answer for answer in model.answers if not answer.dropped]
    lengths = [len(answer.text) for answer in said]
    parts = [f"{sum(lengths) / len(said):.0f} characters on average" if said else "no answers"]
    if truncated := sum(answer.truncated for answer in model.answers):
        parts.append(f"{truncated} cut off")
    if said and len(said) < len(model.answers):
        parts.append(f"{len(model.answers) - len(said)} without an answer, which lose")
    return f"{model.name}: {', '.join(parts)}"


def _judge(judge: ContestJudge) -> str:
    said = f"{judge.model}, {judge.form} form"
    if not judge.itself:
        return said
    return (
        f"{said}; it is {' and '.join(judge.itself)}, so it judges its own answers: name another "
        "model with --judge for an outside opinion"
    )


def _contests(found: ComparedModels, letters: dict[str, str], numbers: dict[str, str]) -> str:
    """A row each; the columns that say nothing here are left out."""
    head = ["", *(["judge"] if numbers else []), "wins", "at equal length", "won, tied, lost"]
    unknown = any(result is None for each in found.contests for result in each.results)
    rows = [
        [bold(cell) if cell else cell for cell in [*head, *(["no verdict"] if unknown else [])]]
    ]
    for each in found.contests:
        row = [f"{letters[each.model]} v {letters[each.opponent]}"]
        row += [numbers[each.judge]] if numbers else []
        row += [percent(each.win_rate), _equal_length(each), _counts(each)]
        rows.append([*row, *([f"{each.results.count(None)}"] if unknown else [])])
    return table(rows)


def _equal_length(each: Contest) -> str:
    one_sided = each.length_controlled.value is None
    return "n/a (one-sided)" if one_sided else percent(each.length_controlled)


def _counts(each: Contest) -> str:
    return ", ".join(str(each.results.count(result)) for result in (1.0, 0.5, 0.0))
