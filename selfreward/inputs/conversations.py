r"""Conversations: prompts of several turns, or with a system turn.

    [{"role": "system", ...}, {"role": "user", ...}, ...]  ->  "System: ...\n\nUser: ..."

The text of such a prompt is all of its turns, so whoever shows, compares or judges the prompt has
them. Its ``columns`` keep the turns themselves as ``messages``, which is what a model is asked. A
prompt without them is one request: its text is the user's only turn.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, TypeGuard

from selfreward.errors import ConfigError

Message = dict[str, str]
"""``role``, which is ``system``, ``user`` or ``assistant``, and ``content``."""
Turns = str | Sequence[Message]
"""What a model is asked: a text as the user's one turn, or messages."""
MESSAGES = "messages"
"""The column that keeps them."""
LEFT_OUT = "turn left out"
"""Reason of what is dropped because the chat template does not show all turns to the model."""

_ANSWERED = ("seeds/ift.jsonl", "seeds/dataset.jsonl", "seeds/questions.jsonl")
_ROLES = {
    "system": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "chatgpt": "assistant",
}  # fmt: skip


class Asked(Protocol):
    """Anything that has a prompt: rows of data, questions, rankings."""

    @property
    def prompt(self) -> str:
        """Its text."""
        ...

    @property
    def columns(self) -> str | None:
        """A JSON object with its ``messages``, if it is a conversation."""
        ...


def messages_of(text: str, columns: str | None) -> list[Message]:
    """What a model is asked with a prompt; the only place that says so.

    Args:
        text: Of the prompt.
        columns: See ``records.Prompt``.

    Returns:
        A system turn, if there is one, then user and assistant in turn; the last is the user's.
    """
    kept = json.loads(columns).get(MESSAGES) if columns else None
    return kept or [{"role": "user", "content": text}]


def is_conversation(columns: str | None) -> bool:
    """Whether a prompt has more than one turn."""
    return len(messages_of("", columns)) > 1


def requests_of(text: str, columns: str | None) -> str:
    """What the user says in a prompt; all of it where it is one request."""
    said = (turn["content"] for turn in messages_of(text, columns) if turn["role"] == "user")
    return "\n\n".join(said)


def transcript(messages: Iterable[Message]) -> str:
    """The turns as one text, each behind the name of its role; none is left out."""
    return "\n\n".join(f"{turn['role'].capitalize()}: {turn['content']}" for turn in messages)


def conversations_of(asked: Iterable[Asked]) -> dict[str, str]:
    """The columns of those prompts that are conversations, by text."""
    return {a.prompt: a.columns for a in asked if a.columns and is_conversation(a.columns)}


def num_answered(read: Callable[[str], str]) -> int:
    """How many of the prompts that models of a run answer, or learn to, are conversations.

    Args:
        read: Text of the run's own copy by name, "" if it has none.
    """
    rows = (json.loads(line) for name in _ANSWERED for line in read(name).split("\n") if line)
    return sum(isinstance(row["prompt"], list) for row in rows)


# Reading them


def kept_messages(values: Mapping[str, Any]) -> str | None:
    """The ``columns`` of a row by our own names (``our_row``) that keeps nothing else."""
    kept = values.get(MESSAGES)
    return json.dumps({MESSAGES: kept}, ensure_ascii=False) if kept else None


def written(text: str, columns: str | None) -> str | list[Message]:
    """What stands as ``prompt`` in a run's own copy of a row, as TRL has it."""
    return messages_of(text, columns) if is_conversation(columns) else text


def read_back(prompt: str | list[Message]) -> tuple[str, str | None]:
    """Text and columns of a prompt as ``written``."""
    if isinstance(prompt, str):
        return prompt, None
    return transcript(prompt), kept_messages({MESSAGES: prompt})


def parts_of(found: Sequence[Mapping[str, Any]], at: str) -> dict[str, Any]:
    """``prompt``, ``messages`` and ``response`` of a conversation, as far as it has them.

    The last turn is the response if it is the assistant's. There are ``messages`` where more turns
    than one come before it. An empty system turn is none.

    Args:
        at: Where it stands.

    Raises:
        ConfigError: A turn is no text or of nobody known, or the turns are not in order: a system
            turn if any, then user and assistant in turn.
    """
    turns = [{"role": _role(one, at), "content": _content(one, at).strip()} for one in found]
    if turns[0] == {"role": "system", "content": ""}:
        turns = turns[1:]
    _check_order(turns, at)
    response = {"response": turns.pop()["content"]} if turns[-1]["role"] == "assistant" else {}
    if not turns:
        return response
    if len(turns) == 1:
        return {"prompt": turns[0]["content"], **response}
    for number, turn in enumerate(turns, 1):
        if not turn["content"]:
            raise ConfigError(
                f"{at}: turn {number}, of the {turn['role']}, is empty", "Fill it in."
            )
    return {"prompt": transcript(turns), MESSAGES: turns, **response}


def is_messages(value: object) -> TypeGuard[list[dict[str, Any]]]:
    """Whether a value is a list of messages, whoever they are of."""
    return isinstance(value, list) and bool(value) and (
        all(isinstance(one, dict) and ("role" in one or "from" in one) for one in value)
    )  # fmt: skip


def messages_in(text: str) -> list[dict[str, Any]] | None:
    """The messages that a text holds as JSON, as a cell of CSV has them."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    spoken = is_messages(found) and all(
        str(_either(one, "role", "from")).lower() in _ROLES and {"content", "value"} & one.keys()
        for one in found
    )
    return found if spoken else None


def _either(message: Mapping[str, Any], name: str, other: str) -> Any:
    """What stands under one of two names; parquet has null under the one that is not there."""
    found = message.get(name)
    return message.get(other) if found is None else found


def _check_order(turns: Sequence[Message], at: str) -> None:
    roles = [turn["role"] for turn in turns]
    if "system" in roles[1:]:
        number = roles.index("system", 1) + 1
        raise ConfigError(f"{at}: turn {number} is a system turn, which only the first can be")
    for number, (one, other) in enumerate(pairwise(roles), 1):
        if one == other:
            raise ConfigError(
                f"{at}: turns {number} and {number + 1} are both of the {one}",
                "User and assistant take turns: join the two, or leave the row out.",
            )
    spoken = [role for role in roles if role != "system"]
    if not spoken:
        raise ConfigError(f"{at}: a conversation needs a turn of the user", "Leave the row out.")
    if spoken[0] == "assistant" and len(roles) > 1:
        raise ConfigError(
            f"{at}: the conversation begins with a turn of the assistant",
            "Begin with a user's: leave out what the assistant says before it.",
        )


def _role(message: Mapping[str, Any], at: str) -> str:
    role = _either(message, "role", "from")
    if not isinstance(role, str) or role.lower() not in _ROLES:
        raise ConfigError(f"{at}: a message is of user, assistant or system, found {role!r:.40}")
    return _ROLES[role.lower()]


def _content(message: Mapping[str, Any], at: str) -> str:
    content = _either(message, "content", "value")
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        if any(part.get("type", "text") != "text" for part in content):
            raise ConfigError(f"{at}: a message holds a part that is no text")
        content = "".join(str(part.get("text") or "") for part in content)
    if not isinstance(content, str):
        found = json.dumps(content, default=str)[:60]
        raise ConfigError(f"{at}: a message needs a text, found {found}")
    return content
