"""What ``selfreward train-reward`` does: a reward model from rankings, and how well it orders."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from selfreward.config import LaunchConfig
from selfreward.config.training import RewardModelConfig
from selfreward.config.yamlfile import parse_overrides
from selfreward.errors import ConfigError
from selfreward.storage import durable
from selfreward.training.checks import check_gpus, check_training
from selfreward.verbs.layout import counted, duration, listed, table
from selfreward.verbs.named_models import NamedModel
from selfreward.workers.train_reward import RewardJob, train_in_child

if TYPE_CHECKING:
    from selfreward.inputs.rankings import HumanData, Ranking
    from selfreward.inputs.seeds import IftExample


@dataclass(frozen=True, slots=True)
class Ordered:
    """Pairs of held-out answers of which people preferred one."""

    pairs: int
    reward: float
    """Share of them in which the better answer has the higher reward; equal rewards are no hit."""
    longest: float
    """The same of the number of characters in place of the reward."""


@dataclass(frozen=True, slots=True)
class RewardReport:
    """A reward model, and what it was trained on."""

    out: str
    digest: str
    model: str
    model_digest: str | None
    data: str
    prompts: int
    answers: int
    left_out: dict[str, int]
    """Answers and prompts by reason, those that could not be read among them."""
    demonstrations: int
    """Good answers whose mean reward is 0."""
    demonstrations_left_out: int
    """Of those that were named: too long, or with text that spells a control token."""
    bias: float | None
    """Added to each reward for it, ``reward_bias`` of the model's config; None where nothing is."""
    log: dict[str, float]
    """TRL's figures of the last step; empty where the model was there already."""
    test: Ordered | None
    test_left_out: dict[str, int]
    """Held-out answers that cannot be scored, and prompts, by reason."""
    seconds: float


_NAMED = {"data", "limit", "test", "demonstrations", "model"}
"""Keys that name what a reward model is made of, which counts by its content."""


@dataclass(frozen=True, slots=True)
class RewardData:
    """What a reward model is made of, all read and checked."""

    config: RewardModelConfig
    human: "HumanData"
    held_out: "Sequence[Ranking]"
    test_left_out: Mapping[str, int]
    """What could not be read of it, by reason."""
    demonstrations: "Sequence[IftExample]"

    @property
    def digest(self) -> str:
        """sha256 of all that is trained with."""
        options = self.config.model_dump(mode="json", exclude=_NAMED)
        return _sha256((options, self.human.rankings, self.demonstrations))

    @property
    def held_out_digest(self) -> str:
        """sha256 of what is held out."""
        return _sha256(self.held_out)


def _sha256(content: object) -> str:
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def read_reward_data(config: RewardModelConfig, beside: Path | None = None) -> RewardData:
    """Read and check what a reward model is made of, before any model is loaded.

    Args:
        beside: Directory that relative paths are also looked for in.

    Raises:
        ConfigError: Data or options are wrong, or rankings are held out that are trained on.
        PreflightError: The machine lacks what the options ask for.
    """
    from selfreward.inputs.rankings import HumanData, read_ranked
    from selfreward.inputs.seeds import read_ift

    launch = LaunchConfig()
    check_training("reward", config.options, launch)
    check_gpus(launch)
    shown = [] if config.demonstrations is None else read_ift(config.demonstrations, beside)
    human = read_ranked(config.data, beside, config.limit)
    test = read_ranked(config.test, beside) if config.test else HumanData([], {}, 0)
    known = {_plain(ranking.prompt) for ranking in human.rankings}
    if config.test and (both := [r.prompt for r in test.rankings if _plain(r.prompt) in known]):
        raise ConfigError(
            f"test: {counted(len(both), 'prompt')} of {config.test.path} also in "
            f"{config.data.path}, such as {both[0]!r:.60}",
            "A model is not measured by what it is trained on; remove them from one of the two.",
        )
    return RewardData(config, human, test.rankings, test.left_out, shown)


def _plain(prompt: str) -> str:
    """A prompt without what makes no other question of it: case and white space."""
    return " ".join(prompt.split()).casefold()


def train_reward(
    found: RewardData, named: NamedModel, out: Path, report: Callable[[str], None]
) -> RewardReport:
    """Train a reward model on answers that people put in order; called again, it goes on.

    Args:
        named: What it is made from.
        out: Directory of the new model.
        report: Told what is being done, one line each.

    Raises:
        ConfigError: No ranking can be trained on.
        IntegrityError: ``out`` was trained on other rows or options, or from another model.
    """
    start, chat, config = time.monotonic(), dict(named.chat), found.config
    chat["today"] = chat["today"] and chat["today"].isoformat()
    job = RewardJob(
        model=named.path,
        out=str(out),
        rankings=found.human.rankings,
        test=found.held_out,
        options=config.options,
        max_length=config.max_length,
        seed=config.seed,
        model_digest=named.digest,
        demonstrations=found.demonstrations,
        chat=chat,
    )
    report(f"loading the model; {counted(len(found.human.rankings), 'ranking')} to train on")
    done = train_in_child(job, lambda step, total: report(f"step {step} of {total}"))
    return RewardReport(
        out=str(out),
        digest=durable.verify_directory(out),
        model=named.name,
        model_digest=named.digest,
        data=config.data.path,
        prompts=done.prompts,
        answers=done.answers,
        left_out=dict(Counter(found.human.left_out) + Counter(done.left_out)),
        demonstrations=done.demonstrations,
        demonstrations_left_out=len(found.demonstrations) - done.demonstrations,
        bias=done.bias,
        log=done.log,
        test=_ordered(found.held_out, done.rewards) if found.held_out else None,
        test_left_out=dict(Counter(found.test_left_out) + Counter(done.test_left_out)),
        seconds=time.monotonic() - start,
    )


def check_out(out: Path) -> None:
    """Refuse to write over what is no model of ours.

    Raises:
        ConfigError: There is something else.
    """
    if out.exists() and not durable.is_whole(out):
        raise ConfigError(f"--out {out}: exists, and is no model of ours", "Name another place.")


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """``key=value`` words of TRL's ``RewardConfig``.

    Raises:
        ConfigError: A word is none, or names what the verb has an option for.
    """
    options = {}
    for (key, value), word in zip(parse_overrides(words), words, strict=True):
        if len(key) != 1:
            raise ConfigError(f"{word}: an option of TRL's RewardConfig has no dot in its name")
        if key[0] in RewardModelConfig.model_fields:
            raise ConfigError(
                f"{word}: {key[0]} is no option of TRL's here, but one of the verb",
                "The help of train-reward shows how it is given.",
            )
        options[key[0]] = value
    return options


def _ordered(
    rankings: "Sequence[Ranking]", rewards: Sequence[Sequence[float | None]]
) -> Ordered | None:
    hits, longer, pairs = 0, 0, 0
    for ranking, given in zip(rankings, rewards, strict=True):
        for (a, r), (b, s) in combinations(zip(ranking.responses, given, strict=True), 2):
            if a.preference == b.preference or r is None or s is None:
                continue
            sign = 1 if a.preference > b.preference else -1
            pairs += 1
            hits += sign * (r - s) > 0
            longer += sign * (len(a.text) - len(b.text)) > 0
    return Ordered(pairs, hits / pairs, longer / pairs) if pairs else None


def reward_text(found: RewardReport) -> str:
    """What ``selfreward train-reward`` prints."""
    rows = [
        ["reward model", found.out],
        ["from", found.model],
        ["trained on", f"{counted(found.answers, 'answer')} to {counted(found.prompts, 'prompt')}"],
        ["left out", listed(found.left_out) or "none"],
    ]
    if found.bias is not None:
        shown = counted(found.demonstrations, "demonstration")
        if found.demonstrations_left_out:
            shown += f" ({found.demonstrations_left_out} left out)"
        rows.append(["mean reward 0", f"of {shown}, by a bias of {found.bias:+.3f}"])
    if found.log:
        last = f"loss {found.log['loss']:.3f}, {found.log['accuracy']:.1%} of its pairs in order"
        rows.append(["last step", last])
    if found.test is not None:
        lost = listed(found.test_left_out) or "none"
        rows += [
            ["held out", f"{counted(found.test.pairs, 'pair')}; left out: {lost}"],
            ["  in order by reward", f"{found.test.reward:.1%}"],
            ["  by length", f"{found.test.longest:.1%}"],
        ]
    return f"{table(rows)}\n\nin {duration(found.seconds)}"
