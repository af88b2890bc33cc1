"""Shapes of rows: what other tools call a prompt, a response and their scores, by our own names.

    ours         {"prompt", "response"}, and what the readers say of scores, ranks and choices
    completion   {"prompt", "completion"}
    Alpaca       {"instruction", "input"?, "output"}: the prompt is instruction, blank line, input;
                 an input stands behind a "prompt", too, and is called "context" by Dolly
    messages     {"messages": [{"role", "content"}, ...]}
    ShareGPT     {"conversations": [{"from", "value"}, ...]}
    UltraFeedback  {"instruction", "completions": [{"response", ratings}, ...]}
    preference   {"chosen", "rejected"}: texts with a "prompt", or messages

A list of messages is read wherever a text may stand, and becomes a prompt, which may be of several
turns (see ``conversations.py``), and the answer. Alpaca's ``system``, by OpenOrca's name
``system_prompt``, and ``history`` are turns too.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from statistics import fmean
from typing import Any, TypeGuard

from selfreward.errors import ConfigError
from selfreward.inputs.conversations import MESSAGES, is_messages, parts_of

_LISTS = ("messages", "conversations", "conversation")
_ANSWERS = {"responses", "chosen", "response_a"}
_SYSTEM, _INPUT = ("system", "system_prompt"), ("input", "context")
"""Names of one thing in several data sets."""
_MOST = 20
"""Names of columns that a message lists."""
_NUMBER = re.compile(r"\s*[+-]?[0-9]+(?:\.[0-9]+)?\s*", re.ASCII)

NAMES = (
    "prompt", "response", "responses", "text", "score", "rank", "quality", "justification",
    "response_a", "response_b", "label", "chosen", "rejected", "completion", "instruction", "input",
    "output", "completions", "system", "history", *_LISTS,
)  # fmt: skip
"""What readers of texts and what people think of them know columns by."""
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
    given = _renamed(row, columns)
    ours = {name: value for name, value in given.items() if name != MESSAGES}
    own_prompt = "prompt" in row and "prompt" not in columns
    of_alpaca = columns.get("prompt", "instruction") == "instruction" and not own_prompt
    if of_alpaca and isinstance(given.get("instruction"), str):
        ours |= _instruction(given, at, columns)
        completions = given.get("completions")
        if "responses" not in ours and _objects(completions):
            ours["responses"] = [_completion(one) for one in completions]
        if "response" not in columns and "output" in given:
            ours.setdefault("response", given["output"])
    elif isinstance(prompt := ours.get("prompt"), str):
        ours["prompt"] = _with_input(prompt, given, at, columns)
    if "response" not in ours and isinstance(ours.get("prompt"), str | list):
        ours |= {"response": given["completion"]} if "completion" in given else {}
    if not (_ANSWERS & ours.keys() and "prompt" in ours):
        _take_conversation(ours, given, at, needs)
    asked: dict[str, Any] = {}
    for name in needs:
        if is_messages(value := ours.get(name)):
            del ours[name]
            where = f"{at}: column {columns.get(name, name)!r}"
            found = _parts(value, where, needs)
            _put(ours, name, found, at)
            asked |= _same_prompt(found, asked, where) if name != "prompt" else {}
    if "prompt" not in ours and is_messages(chosen := ours.get("chosen")):
        ours |= parts_of(chosen, f"{at}: column 'chosen'")
    if MESSAGES not in ours:
        ours |= _with_system(ours.get("prompt"), given, at, columns)
    nested = ours.get("responses")
    if isinstance(nested, list) and _objects(nested):
        ours["responses"] = [_renamed(one, columns) for one in nested]
    return ours


def check_names(columns: Mapping[str, str], path: str) -> None:
    """Check that texts, scores and ranks are read under the names that a config maps.

    Raises:
        ConfigError: One is no name of ours, so that nothing would be read by it.
    """
    if unknown := next((name for name in columns if name not in NAMES), None):
        near = get_close_matches(unknown, NAMES, 1)
        raise ConfigError(
            f"{path}: columns maps {unknown!r}, by which nothing is read",
            f"Did you mean {near[0]}?" if near else f"Our names are {', '.join(NAMES)}.",
        )


def check_text(text: str, name: str, at: str) -> None:
    """Check that a text can be written down.

    Raises:
        ConfigError: It holds half of a surrogate pair, as JSON may.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{at}: column {name!r} holds half of a surrogate pair") from None


def instead(value: object) -> str:
    """What stands where a text should, in words for a message."""
    return (
        "which is empty"
        if isinstance(value, str)
        else f"found {json.dumps(value, default=str)[:60]}"
    )


def having(names: Iterable[str]) -> str:
    """Which columns there are, in words for a message; one may be as long as a file is."""
    return f"row has {[f'{name:.40}' for name in sorted(names)[:_MOST]]}"


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
    asked = _with_input(row["instruction"], row, at, columns)
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
    asked_turn = {"role": "user", "content": asked}
    return parts_of([*_system(row, columns), *turns, asked_turn], at)


def _with_input(asked: str, row: Mapping[str, Any], at: str, columns: Mapping[str, str]) -> str:
    """What is asked, and behind it what it is asked about, unless its last lines are that.

    Raises:
        ConfigError: The input is no text.
    """
    name, value = _named(row, _INPUT if "instruction" in row else _INPUT[:1], columns)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = "" if math.isnan(value) else str(value)
    if not isinstance(value, str):
        raise ConfigError(
            f"{at}: column {name!r} must be a text, {instead(value)}",
            "It is a part of the prompt: write it as a text, or leave the column out.",
        )
    parts = [asked.strip(), value.strip()]
    if f"\n{parts[0]}".endswith(f"\n{parts[1]}"):
        return asked
    return "\n\n".join(filter(None, parts))


def _named(
    row: Mapping[str, Any], names: tuple[str, ...], columns: Mapping[str, str]
) -> tuple[str, Any]:
    """The first of these columns that holds anything and is not read as another; else ""."""
    free = (name for name in names if name in columns or name not in columns.values())
    found = next((name for name in free if row.get(name) not in (None, "", [], {})), None)
    return (names[0], "") if found is None else (found, row[found])


def _completion(row: Mapping[str, Any]) -> dict[str, Any]:
    """One of UltraFeedback's completions; its points are the mean of its ratings of 1 to 5.

    Its ``overall_score`` is of 1 to 10 and no score of ours, but orders the completions.
    """
    ours = dict(row)
    text = next((row[name] for name in ("response", "text", "completion") if name in row), None)
    ours["text"] = text
    if "score" not in row:
        given = row.get("annotations")
        ratings = given if isinstance(given, dict) else {}
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
    found = _parts([*_system(row, {}), *messages], at, needs)
    if "response" in ours:
        found.pop("response", None)
    _put(ours, "response", found, at)


def _same_prompt(found: Mapping[str, Any], asked: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The prompt that messages of an answer come behind, if any.

    Raises:
        ConfigError: Those of another answer of the row come behind another one.
    """
    prompt = {name: found[name] for name in ("prompt", MESSAGES) if name in found}
    if asked and prompt and prompt != asked:
        raise ConfigError(
            f"{where}: answers another prompt than another column of the row does",
            "All answers of a row are to the same turns: leave the row out, or cut what differs.",
        )
    return prompt


def _system(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """The system turn that a column of its own holds."""
    _, text = _named(row, _SYSTEM, columns)
    found = isinstance(text, str) and text.strip()
    return [{"role": "system", "content": text}] if found else []


def _with_system(
    prompt: object, row: Mapping[str, Any], at: str, columns: Mapping[str, str]
) -> dict[str, Any]:
    """A prompt that is a text, behind the system turn that the row has for it."""
    system = _system(row, columns)
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
    if answer is not None and name == "prompt":
        _refuse_second_answer(ours, answer, at)
    if answer is not None:
        ours["response" if name == "prompt" else name] = answer
    known = ours.get("prompt")
    if prompt is None:
        return
    said = {turn["content"] for turn in found.get(MESSAGES, ()) if turn["role"] == "user"}
    if isinstance(known, str) and known.strip() not in said | {prompt}:
        raise ConfigError(f"{at}: column {name!r} answers another prompt than the row has")
    ours["prompt"] = prompt
    if MESSAGES in found:
        ours[MESSAGES] = found[MESSAGES]


def _refuse_second_answer(ours: Mapping[str, Any], answer: str, at: str) -> None:
    """Refuse an answer in the messages of a prompt where the row has another one.

    Raises:
        ConfigError: Nobody knows which is meant.
    """
    others = [ours.get(name) for name in ("response", *_ANSWERS)]
    if any(other and other != answer for other in others):
        raise ConfigError(
            f"{at}: the prompt ends with a turn of the assistant, and the row has an answer beside",
            "The prompt ends with what is to be answered: leave out that turn, or the row.",
        )


def _objects(value: object) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)
