"""Shapes of rows: what other tools call a prompt, a response and their scores, by our own names.

    ours         {"prompt", "response"}, and what the readers say of scores, ranks and choices
    completion   {"prompt", "completion"}
    Alpaca       {"instruction", "input"?, "output"}: the prompt is instruction, blank line, input
    messages     {"messages": [{"role", "content"}, ...]}
    ShareGPT     {"conversations": [{"from", "value"}, ...]}
    UltraFeedback  {"instruction", "completions": [{"response", ratings}, ...]}
    preference   {"chosen", "rejected"}: texts with a "prompt", or messages

A list of messages is read wherever a text may stand, and becomes a prompt, which may be of several
turns (see ``conversations.py``), and the answer. Alpaca's ``system`` and ``history`` are turns too.
"""

import json
import math
import re
from collections.abc import Mapping
from statistics import fmean
from typing import Any, TypeGuard

from selfreward.errors import ConfigError
from selfreward.inputs.conversations import MESSAGES, is_messages, parts_of

_LISTS = ("messages", "conversations", "conversation")
_NUMBER = re.compile(r"\s*[+-]?[0-9]+(?:\.[0-9]+)?\s*", re.ASCII)

READ = (
    "prompt and response; prompt and completion; instruction, input and output (Alpaca); messages, "
    "or conversations (ShareGPT)"
)
READ_SCORED = f"{READ}, each with a score; prompt and responses; instruction and completions"
"""For messages; docs/data.md has them all."""


def our_row(
    row: Mapping[str, Any], columns: Mapping[str, str], at: str, needs: tuple[str, ...]
) -> dict[str, Any]:
    """The row by our own names, other columns as they are.

    ``messages`` is there only if the prompt is a conversation, which is then in order. What has no
    shape that is known here comes back as it is, for its reader to refuse.

    Args:
        columns: Our names -> theirs, as the config maps them; inside nested answers too.
        at: Where the row stands.
        needs: Our names of the texts that are asked for; messages elsewhere are left alone.

    Raises:
        ConfigError: Messages that are no conversation; or, where no response is asked for, a
            conversation of several turns that ends with the assistant's.
    """
    ours = _renamed(row, columns)
    ours.pop(MESSAGES, None)
    own_prompt = "prompt" in row and "prompt" not in columns
    of_alpaca = columns.get("prompt", "instruction") == "instruction" and not own_prompt
    if of_alpaca and isinstance(row.get("instruction"), str):
        ours |= _instruction(row, at, columns)
        completions = row.get("completions")
        if "responses" not in ours and _objects(completions):
            ours["responses"] = [_completion(one) for one in completions]
        if "response" not in columns and "output" in row:
            ours.setdefault("response", row["output"])
    if "response" not in ours and isinstance(ours.get("prompt"), str | list):
        ours |= {"response": row["completion"]} if "completion" in row else {}
    if not ({"responses", "chosen", "response_a"} & ours.keys() and "prompt" in ours):
        _take_conversation(ours, row, at, needs)
    for name in needs:
        if is_messages(value := ours.get(name)):
            del ours[name]
            where = f"{at}: column {columns.get(name, name)!r}"
            _put(ours, name, _parts(value, where, needs), at)
    if "prompt" not in ours and is_messages(chosen := ours.get("chosen")):
        ours |= parts_of(chosen, f"{at}: column 'chosen'")
    if MESSAGES not in ours and "system" not in columns.values():
        ours |= _with_system(ours.get("prompt"), row, at)
    nested = ours.get("responses")
    if isinstance(nested, list) and _objects(nested):
        ours["responses"] = [_renamed(one, columns) for one in nested]
    return ours


def instead(value: object) -> str:
    """What stands where a text should, in words for a message."""
    return (
        "which is empty"
        if isinstance(value, str)
        else f"found {json.dumps(value, default=str)[:60]}"
    )


def seen(row: Mapping[str, Any]) -> str:
    """What the row looks like, in words for a hint."""
    if any(name in row for name in _LISTS):
        return "a conversation"
    if "completions" in row:
        return "an instruction with several completions (UltraFeedback)"
    if "instruction" in row:
        return "an instruction (Alpaca)"
    if "chosen" in row:
        return "a preference pair"
    if isinstance(row.get("responses"), list):
        return "a prompt with several responses"
    return "a row with a prompt" if "prompt" in row else "nothing that is known here"


def as_number(value: object) -> float | None:
    """A number, or a text that is plainly one; None for all else, infinities among them."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an int of hundreds of digits
        return None
    return number if math.isfinite(number) else None


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    kept = {name: value for name, value in row.items() if name not in columns}
    return kept | {name: row[theirs] for name, theirs in columns.items() if theirs in row}


def _instruction(row: Mapping[str, Any], at: str, columns: Mapping[str, str]) -> dict[str, Any]:
    """Alpaca's prompt: instruction and input, after ``system`` and ``history`` (LLaMA-Factory)."""
    texts = [row["instruction"]] + ([] if "input" in columns.values() else [row.get("input")])
    asked = "\n\n".join(part.strip() for part in texts if isinstance(part, str) and part.strip())
    history = row.get("history") or []
    if not isinstance(history, list) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in history
    ):
        raise ConfigError(
            f"{at}: 'history' must be a list of pairs, {instead(history)}",
            "Each pair is a message of the user and the answer to it.",
        )
    roles = ("user", "assistant")
    turns = [
        {"role": role, "content": text}
        for pair in history
        for role, text in zip(roles, pair, strict=True)
    ]
    return parts_of([*_system(row), *turns, {"role": "user", "content": asked}], at)


def _completion(row: Mapping[str, Any]) -> dict[str, Any]:
    """One of UltraFeedback's completions; its points are the mean of its ratings of 1 to 5.

    Its ``overall_score`` is of 1 to 10 and no score of ours, but orders the completions.
    """
    ours = dict(row)
    text = next((row[name] for name in ("response", "text", "completion") if name in row), None)
    ours["text"] = text
    if "score" not in row:
        ratings = row.get("annotations") or {}
        found = [as_number(one.get("Rating")) for one in ratings.values() if isinstance(one, dict)]
        points = [rating for rating in found if rating is not None]
        score = as_number(row.get("fine-grained_score", row.get("rating")))
        ours["score"] = fmean(points) if score is None and points else score
    overall = as_number(row.get("overall_score"))
    if overall is not None and ours["score"] is None and "rank" not in row:
        ours["rank"] = -overall
    return ours


def _take_conversation(
    ours: dict[str, Any], row: Mapping[str, Any], at: str, needs: tuple[str, ...]
) -> None:
    """Fill in prompt and response from a conversation, where the row has no columns for them."""
    messages = next(filter(is_messages, map(row.get, _LISTS)), None)
    if messages is None or not {"prompt", "response"} & set(needs) - ours.keys():
        return
    found = _parts([*_system(row), *messages], at, needs)
    if "response" in ours:
        found.pop("response", None)
    _put(ours, "response", found, at)


def _system(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The system turn that a column of its own holds."""
    text = row.get("system")
    found = isinstance(text, str) and text.strip()
    return [{"role": "system", "content": text}] if found else []


def _with_system(prompt: object, row: Mapping[str, Any], at: str) -> dict[str, Any]:
    """A prompt that is a text, behind the system turn that the row has for it."""
    system = _system(row)
    if not system or not isinstance(prompt, str) or not prompt.strip():
        return {}
    return parts_of([*system, {"role": "user", "content": prompt}], at)


def _parts(messages: list[dict[str, Any]], at: str, needs: tuple[str, ...]) -> dict[str, Any]:
    """``parts_of`` it, for whoever needs these."""
    found = parts_of(messages, at)
    asked = [turn for turn in found.get(MESSAGES, ()) if turn["role"] == "user"]
    if "response" in found and "response" not in needs and len(asked) > 1:
        raise ConfigError(
            f"{at}: the conversation ends with a turn of the assistant, but the last turn is the "
            "one to be answered",
            "Leave out that turn, or the row; with sft.ift it is an answer to learn.",
        )
    return found


def _put(ours: dict[str, Any], name: str, found: dict[str, Any], at: str) -> None:
    """Take in the prompt and the answer that a column held, which the row may have as well."""
    answer, prompt = found.get("response"), found.get("prompt")
    if answer is not None:
        ours["response" if name == "prompt" else name] = answer
    known = ours.get("prompt")
    if prompt is None:
        return
    said = {turn["content"] for turn in found.get(MESSAGES, ()) if turn["role"] == "user"}
    if isinstance(known, str) and not (prompt.endswith(known.strip()) or known.strip() in said):
        raise ConfigError(f"{at}: column {name!r} answers another prompt than the row has")
    ours["prompt"] = prompt
    if MESSAGES in found:
        ours[MESSAGES] = found[MESSAGES]


def _objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)
