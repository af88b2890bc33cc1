"""What trainings are made of: what is trained where, rows of token ids, who is told of progress."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from selfreward.config import QuantizationConfig

Method = Literal["sft", "dpo", "none", "reward", "rloo", "grpo"]
"""See ``methods``."""
ONLINE: tuple[Method, ...] = ("rloo", "grpo")
"""Methods that sample while they train; see ``online``."""

ShareStarts = Literal["auto", True, False]
"""See ``launch.share_starts``."""

OnLog = Callable[[int, dict[str, float]], None]
"""Told an optimizer step, from 1, and its figures."""

OnStep = Callable[[int, int], None]
"""Told how many optimizer steps are done, and of how many."""


@dataclass(frozen=True, slots=True)
class SftRow:
    """A prompt and the completion to learn; no loss is taken on the prompt."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    """Ends with the end-of-turn token."""
    is_eft: bool = field(default=False, repr=False)
    """Whether it teaches to judge."""

    @property
    def length(self) -> int:
        """Tokens of prompt and completion."""
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class DpoRow:
    """A prompt with a chosen and a rejected completion."""

    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    """Ends with the end-of-turn token, as does ``rejected_ids``."""
    rejected_ids: tuple[int, ...]
    weight: float = field(default=1.0, repr=False)
    """Of the pair in the loss; see ``dpo.Weighted``."""
    turned: float = field(default=0.0, repr=False)
    """Of the same pair with chosen and rejected exchanged."""
    reference: tuple[float, float] | None = field(default=None, repr=False)
    """Log-probabilities, in nats, of the whole chosen and rejected completion under the reference,
    where they are known without asking it."""

    @property
    def length(self) -> int:
        """Tokens of the prompt and the longer completion."""
        return len(self.prompt_ids) + max(len(self.chosen_ids), len(self.rejected_ids))


@dataclass(frozen=True, slots=True)
class RankedRow:
    """Answers to one prompt that somebody put in order."""

    answers: tuple[tuple[int, ...], ...]
    """At least two; each is the whole conversation, as the chat template writes it."""
    preferences: tuple[float, ...]
    """Of each answer; more is better, equal is a tie, and not all are equal."""

    @property
    def length(self) -> int:
        """Tokens of the longest."""
        return max(map(len, self.answers))


@dataclass(frozen=True, slots=True)
class OnlineRow:
    """A prompt that is answered anew while training goes on."""

    prompt_ids: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.prompt_ids)


Row = SftRow | DpoRow | RankedRow | OnlineRow


@dataclass(frozen=True, slots=True)
class Verdict:
    """What judges give one completion."""

    score: float | None
    """Points, 0 to 5; None where there is no verdict, which is no 0."""
    reason: str | None = None
    """Why there is none."""


class Rewards(Protocol):
    """What completions that were just sampled are worth."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end a completion."""

    def __call__(
        self, samples: Sequence[tuple[int, Sequence[Sequence[int]]]]
    ) -> list[list[Verdict]]:
        """The verdicts on all completions of some prompts.

        Args:
            samples: (number of the row, from 0; the ids of each of its completions, with the token
                that ends it, unless it was cut off).
        """


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained, from where to where."""

    method: Method
    model: Path
    """Start model, as ``models.resolve`` returns it; left as it is. For DPO the reference too."""
    output: Path
    """Directory to publish: float32 ``model.safetensors``, config, tokenizer."""
    checkpoints: Path
    """Directory for checkpoints, removed after the publish."""
    options: Mapping[str, object]
    """Of TRL's config class, by its own names; see ``methods.METHODS``."""
    lora: Mapping[str, object] | None
    """peft's ``LoraConfig`` by its own names; the adapter is merged. None trains all."""
    seed: int
    """Decides order, dropout and adapter initialization."""
    quantization: QuantizationConfig | None = None
    """How ``model`` is held while an adapter is trained; None: in float32."""
    trust_remote_code: bool = False
    """Whether code in ``model`` may run."""
    chat_template: str | None = None
    """Published as the tokenizer's own; None leaves that of ``model``."""
    eft_weight: float = 1.0
    """SFT: weight in the loss of a target token of an EFT row; see ``sft.Weighted``."""
    demonstrations: tuple[tuple[int, ...], ...] = ()
    """Reward model: whole conversations whose mean reward is to be 0; see ``reward.Centered``."""
    ptx: float = 0.0
    """``ONLINE``: weight of the mix, see ``online.Sampled``."""
    mix: tuple[SftRow, ...] = ()
    """What is mixed in; empty where ``ptx`` is 0."""
    share_starts: ShareStarts = "auto"
    """SFT and DPO: see ``starts``."""
    model_digest: str | None = None
    """sha256 of ``model``: a checkpoint of a training from another one is none of this; None: not
    known."""
    group: str = ""
    """Where ``options`` stand in the config, such as ``train.sft``; empty: under ``method``."""

    @property
    def key(self) -> str:
        """What errors call the options by."""
        return self.group or self.method


class Fit(Protocol):
    """Does a training: see ``methods.fit_of``, and ``distributed`` for several processes."""

    def __call__(
        self, training: Training, rows: Sequence[Any], *, on_log: OnLog, on_step: OnStep
    ) -> None:
        """Publish ``training.output``, or do nothing where that was done before."""


def num_processes() -> int:
    """How many processes train together with this one, itself included."""
    # Launchers set both. WORLD_SIZE alone does not count: some clusters set it for every program.
    return int(os.environ.get("WORLD_SIZE", 1)) if "LOCAL_RANK" in os.environ else 1
