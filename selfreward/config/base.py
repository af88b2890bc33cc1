"""What groups of the config are made of."""

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Group(BaseModel):
    """A frozen group in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Passthrough(BaseModel):
    """A group whose other keys belong to a library."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        """The library's own options as given."""
        return dict(self.model_extra or {})


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. Names and meanings are those of vLLM and transformers."""

    max_new_tokens: int
    temperature: float = 1.0
    """0 means greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps the whole vocabulary. On CPUs a value of 64 saves sorting it at each step."""
    min_new_tokens: int = 0
    """Tokens before which the end-of-turn token is not sampled."""
    stop: tuple[str, ...] = ()
    """Generation ends before the first of these; they are not part of the text."""


_SAMPLED = {"temperature", "top_p", "top_k", "max_new_tokens"}


class SampledGroup(Group):
    """A group that says how to sample.

    Each declares the four keys itself, with its own figures, in their place among its others.
    """

    @property
    def sampled(self) -> dict[str, Any]:
        """``temperature``, ``top_p``, ``top_k`` and ``max_new_tokens``."""
        return self.model_dump(include=_SAMPLED)

    def sampling(self, stop: tuple[str, ...] = ()) -> Sampling:
        """The same for a request; ``stop`` as in ``Sampling``."""
        return Sampling(**self.sampled, stop=stop)


class SeedSource(Group):
    """Rows of seed data: a shipped file, a file of JSON, CSV or parquet, or a hub data set."""

    path: str
    """``seed/ift.jsonl`` (shipped), a path, or ``org/name`` on the hub."""
    split: str = "train"
    """Split of a hub data set."""
    revision: str | None = None
    """Commit of a hub data set; the run keeps a copy of the rows it found."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first so many rows."""
    columns: dict[str, str] = {}
    """Our column name -> theirs, such as ``{score: score_0_5}``."""


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


Source = Annotated[SeedSource, BeforeValidator(_as_source)]


class EngineConfig(Passthrough):
    """How to run inference. Other keys are the engine's own options."""

    kind: str = "auto"
    """``vllm``, ``openvino``, ``ctranslate2``, ``transformers`` or ``server``; ``auto`` takes vllm
    where it is installed and there is a CUDA device, else the first of the next three that can run
    the model, those that lack options set here last; openvino runs on CPUs alone."""
    concurrency: int = Field(default=64, ge=1)
    """Requests in flight at once."""
    staged: bool = False
    """Finish all prompts before the first response, and all responses before the first judgment,
    instead of letting each prompt flow on its own."""
