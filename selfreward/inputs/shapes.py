"""Shapes of rows: what other tools call a prompt, a response and their scores, by our own names.

    ours         {"prompt", "response"}, and what the readers say of scores, ranks and choices
    completion   {"prompt", "completion"}
    Alpaca       {"instruction", "input"?, "output"}: the prompt is instruction, blank line, input
    messages     {"messages": [{"role", "content"}, ...]}
    ShareGPT     {"conversations": [{"from", "value"}, ...]}
    UltraFeedback  {"instruction", "completions": [{"response", ratings}, ...]}
    preference   {"chosen", "rejected"}: texts with a "prompt", or messages

A list of messages is read wherever a text may stand, if it is one turn: a user's message and the
answer. A system message, and Alpaca's ``system``, is put before the prompt with a blank line. A
longer conversation is refused.
"""

import json
import math
import re
from collections.abc import Mapping
from statistics import fmean
from typing import Any, TypeGuard

from selfreward.errors import ConfigError

_LISTS = ("messages", "conversations", "conversation")
_ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "chatgpt": "assistant",
}  # fmt: skip
_NUMBER = re.compile(r"\s*[+-]?[0-9]+(?:\.[0-9]+)?\s*", re.ASCII)

READ = (
    "prompt and response; prompt and completion; instruction, input and output (Alpaca); messages, "
    "or conversations (ShareGPT), of one turn"
)
READ_SCORED = f"{READ}, each with a score; prompt and responses; instruction and completions"
"""For messages; docs/data.md has them all."""


def our_row(
    row: Mapping[str, Any], columns: Mapping[str, str], at: str, needs: tuple[str, ...]
) -> dict[str, Any]:
    """The row by our own names, other columns as they are.

    What has no shape that is known here comes back as it is, for its reader to refuse.

    Args:
        columns: Our names -> theirs, as the config maps them; inside nested answers too.
        at: Where the row stands.
        needs: Our names of the texts that are asked for; messages elsewhere are left alone.

    Raises:
        ConfigError: A conversation of several turns, or messages that are none.
    """
    ours = _renamed(row, columns)
    own_prompt = "prompt" in row and "prompt" not in columns
    of_alpaca = columns.get("prompt", "instruction") == "instruction" and not own_prompt
    if of_alpaca and isinstance(row.get("instruction"), str):
        ours["prompt"] = _instruction(row, at, columns)
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
        if _is_messages(value := ours.get(name)):
            del ours[name]
            found = _one_turn(value, f"{at}: column {columns.get(name, name)!r}")
            _put(ours, name, found, at)
    if "prompt" not in ours and _is_messages(chosen := ours.get("chosen")):
        ours |= _one_turn(chosen, f"{at}: column 'chosen'")
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


def _instruction(row: Mapping[str, Any], at: str, columns: Mapping[str, str]) -> str:
    """Alpaca's prompt: system, instruction and input, with a blank line between."""
    if row.get("history"):
        raise ConfigError(f"{at}: has a history; conversations are not read yet")
    parts = [row.get("system"), row["instruction"]]
    parts += [] if "input" in columns.values() else [row.get("input")]
    return "\n\n".join(part.strip() for part in parts if isinstance(part, str) and part.strip())


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
    messages = next(filter(_is_messages, map(row.get, _LISTS)), None)
    if messages is None or not {"prompt", "response"} & set(needs) - ours.keys():
        return
    found = _one_turn(messages, at)
    if isinstance(system := row.get("system"), str) and system.strip() and "prompt" in found:
        found["prompt"] = f"{system.strip()}\n\n{found['prompt']}"
    for part, text in found.items():
        ours.setdefault(part, text)


def _put(ours: dict[str, Any], name: str, found: dict[str, str], at: str) -> None:
    """Take in the prompt and the answer that a column held, which the row may have as well."""
    answer, prompt = found.get("response"), found.get("prompt")
    if answer is not None:
        ours["response" if name == "prompt" else name] = answer
    known = ours.get("prompt")
    if prompt is None:
        return
    if isinstance(known, str) and not prompt.strip().endswith(known.strip()):
        raise ConfigError(f"{at}: column {name!r} answers another prompt than the row has")
    ours["prompt"] = prompt  # with its system message, if it has one


def _one_turn(messages: list[dict[str, Any]], at: str) -> dict[str, str]:
    """``prompt`` and ``response`` of a conversation, as far as it has them.

    Raises:
        ConfigError: It has more than one of either, or they are not in order.
    """
    turns = [(_role(message, at), _content(message, at)) for message in messages]
    system = [text.strip() for role, text in turns[:1] if role == "system" and text.strip()]
    turns = turns[1:] if turns[:1] and turns[0][0] == "system" else turns
    roles = [role for role, _ in turns]
    if len(turns) > 2:
        raise ConfigError(
            f"{at}: {len(turns)} turns; conversations are not read yet",
            "A row is one message of the user and the answer to it.",
        )
    if roles not in (["user"], ["assistant"], ["user", "assistant"]):
        raise ConfigError(f"{at}: a user's message and its answer are read, found {roles}")
    found = {"prompt" if role == "user" else "response": text for role, text in turns}
    if "prompt" in found:
        found["prompt"] = "\n\n".join([*system, found["prompt"]])
    return found


def _role(message: Mapping[str, Any], at: str) -> str:
    role = message.get("role", message.get("from"))
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise ConfigError(f"{at}: a message is of user, assistant or system, found {role!r:.40}")
    return _ROLES[role.lower()]


def _content(message: Mapping[str, Any], at: str) -> str:
    content = message.get("content", message.get("value"))
    if isinstance(content, list) and _objects(content):
        if any(part.get("type", "text") != "text" for part in content):
            raise ConfigError(f"{at}: a message holds a part that is no text")
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str):
        raise ConfigError(f"{at}: a message needs a text, {instead(content)}")
    return content


def _is_messages(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and bool(value) and _objects(value) and (
        all("role" in one or "from" in one for one in value)
    )  # fmt: skip


def _objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)
