"""What endpoints may answer: the one place at which their JSON is checked.

As the OpenAI API has it (completions, chat completions, models), with the fields that vLLM adds
(``token_ids``, ``root``, ``parent``) and its development routes. Fields that nobody here reads may
be anything; of those that are read only what is harmless is forgiven: an index that is left out,
content in parts, and log-probabilities that rounding put above 0.
"""

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

_ROUNDING = 1e-3
"""A log-probability may be above 0 by so much, in nats: bfloat16 rounds by more than float32."""


def storable(text: str) -> str:
    """The text as SQLite, JSON and UTF-8 can hold it.

    Halves of characters outside the basic plane (surrogates) are joined where both are there; a
    half without its other and NUL become U+FFFD.
    """
    utf16 = text.encode("utf-16-le", "surrogatepass")
    return utf16.decode("utf-16-le", "replace").replace("\0", "\ufffd")


def _clean(value: object) -> object:
    return storable(value) if isinstance(value, str) else value


def _content(value: object) -> object:
    """Text from a string, from null, or from parts, of which thoughts and the like are no text."""
    if value is None:
        return ""
    if not isinstance(value, list):
        return _clean(value)
    texts = []
    for part in value:
        if not isinstance(part, str | dict):
            raise ValueError("a part of the content is neither text nor an object")
        if isinstance(part, dict) and part.get("type") not in ("text", "output_text"):
            continue
        text = part if isinstance(part, str) else part.get("text")
        if not isinstance(text, str):
            raise ValueError("a part of the content is text without text")
        texts.append(text)
    return storable("".join(texts))


def _logprob(value: float) -> float:
    if not value <= _ROUNDING:  # so that it holds of NaN, too
        raise ValueError(f"a log-probability of {value:g}")
    return min(value, 0.0)


def _finite(value: float) -> float:
    if value == float("-inf"):
        raise ValueError("a sampled token of probability 0")
    return value


Text = Annotated[str, BeforeValidator(_clean)]
Logprob = Annotated[float, AfterValidator(_logprob)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class Answer(BaseModel):
    """A frozen answer, or part of one; what it holds beside its fields is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class Choice(Answer):
    """One of n.

    A server that is paused for new weights or shuts down cuts off what it works at (vLLM:
    ``abort``), and a gateway says ``error`` where the model behind it failed.
    """

    index: int | None = None
    """None: as the choices come."""
    finish_reason: Text | None = None
    error: Any = None

    @model_validator(mode="after")
    def _is_whole(self) -> "Choice":
        if self.finish_reason in ("abort", "error") or self.error:
            said = f": {words(self.error)}" if self.error else ""
            raise ValueError(f"cut off ({self.finish_reason}){said}")
        return self


class Message(Answer):
    """What a chat model says. What it thinks, if that comes apart, is not read."""

    content: Annotated[str, BeforeValidator(_content)] = ""
    refusal: Text | None = None


class ChatChoice(Choice):
    """Of ``/chat/completions``."""

    message: Message


class ChatAnswer(Answer):
    """Of ``/chat/completions``."""

    choices: list[ChatChoice] = Field(min_length=1)


class Logprobs(Answer):
    """Natural logarithms, 0 at most but for rounding; null where there is nothing to tell."""

    token_logprobs: list[Annotated[Logprob, AfterValidator(_finite)] | None] | None = None
    top_logprobs: list[dict[str, Logprob] | None] | None = None


class Completion(Choice):
    """Of ``/completions``."""

    token_ids: list[TokenId] | None = None
    """None from servers that do not know ``return_token_ids``."""
    logprobs: Logprobs | None = None


class CompletionAnswer(Answer):
    """Of ``/completions``."""

    choices: list[Completion] = Field(min_length=1)


class ModelCard(Answer):
    """A model that is served."""

    id: Text
    root: Text | None = None
    """Where its weights come from, if the server says."""
    parent: Text | None = None
    """The model that it is an adapter of."""


class ModelList(Answer):
    """Of ``/models``."""

    data: list[ModelCard]


class WeightInfo(Answer):
    """Of vLLM's ``/weight_info``."""

    weight_version: Text


class Cleared(Answer):
    """Of vLLM's ``/reset_prefix_cache``."""

    success: bool


class _DeviceConfig(Answer):
    device_type: Text


class _VllmConfig(Answer):
    device_config: _DeviceConfig


class ServerInfo(Answer):
    """Of vLLM's ``/server_info?config_format=json``."""

    vllm_config: _VllmConfig


A = TypeVar("A", bound=Answer)
C = TypeVar("C", bound=Choice)


def read(kind: type[A], answer: object) -> A:
    """Check an answer.

    Raises:
        ValueError: What is wrong with it, in one line: the first of its faults.
    """
    try:
        return kind.model_validate(answer)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"])) or "all of it"
    raise ValueError(storable(f"{where}: {fault['msg'].removeprefix('Value error, ')}"))


def in_order(choices: list[C]) -> list[C]:
    """Choices by their index; those without one come as they are."""
    return sorted(choices, key=lambda choice: choice.index or 0)


def words(said: object) -> str:
    """What an error says, with the names of its parameter and its code if it does not tell them.

    OpenAI has ``error: {message, param, code}``, FastAPI ``detail: [{loc, msg}]``, and Mistral the
    one within the other.
    """
    if isinstance(said, list):
        return "; ".join(map(words, said))
    if not isinstance(said, Mapping):
        return storable(str(said))
    names = ("error", "message", "msg", "detail")
    inner = next((said[name] for name in names if said.get(name)), None)
    if inner is None:
        return storable(str(said))
    line, code, where = words(inner), said.get("code"), said.get("param") or said.get("loc")
    if isinstance(where, list):
        where = where[-1] if where else None
    if isinstance(where, str) and where not in line:
        line = f"{storable(where)}: {line}"
    if isinstance(code, str) and code not in line:
        line = f"{line} ({storable(code)})"
    return line
