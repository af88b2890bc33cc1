"""The text of ``selfreward diff``, as wide as the terminal; see ``diff``."""

import json
from typing import Any

from selfreward.verbs.console import bold, dim
from selfreward.verbs.diff import Diff, Figure, Method, Side
from selfreward.verbs.layout import duration, filled, fitted, table, table_width, wrapped

SHOWN_PROMPTS = 5
_MISSING = "-"
_MARKS: dict[Method, str] = {"errors": "", "bootstrap": "b", "paired": "p"}
FOOTNOTE = """\
[ ] is the 95% interval of a difference; where it holds 0 the two are not told apart. It is made \
of standard errors clustered by prompt; (b): of bootstrap intervals over prompts, taken as apart; \
(p): prompt by prompt, as both have the same. Scores are the judges' own opinion."""


def diff_text(diff: Diff, width: int = 80) -> str:
    """What ``selfreward diff`` prints.

    Args:
        width: Of the terminal, in columns; 40 and more.
    """
    a, b = _name(diff.a, diff.b), _name(diff.b, diff.a)
    heads = [filled(f"{bold(mark)}  {name}", width) for mark, name in (("A", a), ("B", b))]
    blocks = ["\n".join(heads), _settings(diff, width)]
    shown = [figure for figure in diff.figures if (figure.a, figure.b) != (None, None)]
    rows = [["figure", "A", "B", "B - A"]]
    rows += [[f.name, _value(f, f.a), _value(f, f.b), _apart(f)] for f in shown]
    if table_width(rows) > width:
        rows = [[row[0], f"A {row[1]}, B {row[2]}: {row[3]}"] for row in rows[1:]]
        blocks.append(fitted(rows, width))
    else:
        blocks.append(table([[bold(cell) for cell in rows[0]], *rows[1:]]))
    if diff.num_prompts:
        blocks.append(_prompts(diff, width))
    blocks.append(dim(filled(FOOTNOTE, width)))
    return "\n\n".join(blocks)


def _name(side: Side, other: Side) -> str:
    place = f" ({side.path})" if side.run == other.run and side.path != other.path else ""
    part = "" if side.is_whole else ", not finished"
    return f"{side.run}, iteration {side.iteration}{part}{place}"


def _settings(diff: Diff, width: int) -> str:
    if diff.a.path == diff.b.path:
        return "One run, so the settings are the same."
    if not diff.settings:
        return "All settings, templates and seed data are the same."
    rows = [["setting", "A", "B"]] + [[s.key, _short(s.a), _short(s.b)] for s in diff.settings]
    if table_width(rows) <= width:
        return table([[bold(cell) for cell in rows[0]], *rows[1:]])
    return fitted([[key, f"A {a}, B {b}"] for key, a, b in rows[1:]], width)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _value(figure: Figure, value: float | None) -> str:
    if value is None:
        return _MISSING
    match figure.unit:
        case "share":
            return f"{value:.1%}"
        case "s":
            return duration(value)
        case "characters":
            return f"{value:.0f}"
        case "prompts" | "pairs" | "tokens":
            return f"{value:,.0f}"
        case _:
            return f"{value:.3f}"


def _apart(figure: Figure) -> str:
    """Such as ``+0.03 [-0.04, +0.10]``; of shares in points of percent."""
    if figure.difference is None:
        return _MISSING
    if figure.unit == "s":
        sign = "-" if figure.difference < 0 else "+"
        return f"{sign}{duration(abs(figure.difference))}"
    scale = 100 if figure.unit == "share" else 1
    form = {"share": "+.1f", "characters": "+.0f", "prompts": "+,.0f", "pairs": "+,.0f",
            "tokens": "+,.0f"}.get(figure.unit, "+.3f")  # fmt: skip
    text = f"{scale * figure.difference:{form}}"
    if figure.low is None or figure.high is None or figure.method is None:
        return text
    mark = _MARKS[figure.method]
    interval = f"{text} [{scale * figure.low:{form}}, {scale * figure.high:{form}}]"
    return f"{interval} ({mark})" if mark else interval


def _prompts(diff: Diff, width: int) -> str:
    shown = [prompt for prompt in diff.prompts[:SHOWN_PROMPTS] if prompt.difference is not None]
    head = f"{diff.num_prompts} prompts that both answered"
    if not shown:
        return filled(f"{head}; none is scored in both.", width)
    lines = [filled(f"{head}; mean scores are furthest apart on:", width)]
    for prompt in shown:
        cells = f"  {prompt.a:.2f}  {prompt.b:.2f}  {prompt.difference:+.2f}  "
        first, *more = wrapped(" ".join(prompt.text.split()), width - len(cells) - 3)
        lines.append(f"{cells}{first}{'...' if more else ''}")
    return "\n".join(lines)
