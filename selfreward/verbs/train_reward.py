"""What ``selfreward train-reward`` does: a reward model from rankings, and how well it orders."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfreward.config import LaunchConfig, SeedSource
from selfreward.config.yamlfile import parse_overrides
from selfreward.errors import ConfigError
from selfreward.storage import durable
from selfreward.training.checks import check_gpus, check_training
from selfreward.verbs.layout import counted, duration, listed, table
from selfreward.verbs.named_models import named_model
from selfreward.workers.train_reward import RewardJob, train_in_child

if TYPE_CHECKING:
    from selfreward.inputs.rankings import HumanData, Ranking


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
    seconds: float


def train_reward(
    model: str,
    data: str,
    out: Path,
    words: Sequence[str],
    *,
    test: str | None,
    seed: int,
    max_length: int,
    limit: int | None,
    demonstrations: str | None,
    report: Callable[[str], None],
) -> RewardReport:
    """Train a reward model on answers that people put in order; called again, it goes on.

    Args:
        model: ``RUN:M1``, or any model source.
        data: Rankings, as ``rankings.read_ranked`` reads them.
        out: Directory of the new model.
        words: ``key=value`` words of TRL's ``RewardConfig``.
        test: Further rankings, held out.
        max_length: Tokens of a prompt with an answer.
        limit: Rankings to take, the first ones.
        demonstrations: Rows of prompt and response whose mean reward is set to 0; None: the rewards
            are left as they come.
        report: Told what is being done, one line each.

    Raises:
        ConfigError: Data or options are wrong, rankings are held out that are trained on, or
            ``out`` is taken.
        IntegrityError: ``out`` is a model that was trained on other rows or options.
    """
    from selfreward.inputs.seeds import read_ift

    options = _options(words)
    launch = LaunchConfig()
    check_training("reward", options, launch)
    check_gpus(launch)
    shown = [] if demonstrations is None else read_ift(SeedSource(path=demonstrations))
    human, held_out = _rankings(data, limit, test)
    if out.exists() and not durable.is_whole(out):
        raise ConfigError(f"--out {out}: exists, and is no model of ours", "Name another place.")
    named = named_model(model, report)
    start, chat = time.monotonic(), dict(named.chat)
    chat["today"] = chat["today"] and chat["today"].isoformat()
    job = RewardJob(
        model=named.path,
        out=str(out),
        rankings=human.rankings,
        test=held_out,
        options=options,
        max_length=max_length,
        seed=seed,
        demonstrations=shown,
        chat=chat,
    )
    report(f"loading the model; {counted(len(human.rankings), 'ranking')} to train on")
    done = train_in_child(job, lambda step, total: report(f"step {step} of {total}"))
    return RewardReport(
        out=str(out),
        digest=durable.verify_directory(out),
        model=model,
        model_digest=named.digest,
        data=data,
        prompts=done.prompts,
        answers=done.answers,
        left_out=dict(Counter(human.left_out) + Counter(done.left_out)),
        demonstrations=done.demonstrations,
        demonstrations_left_out=len(shown) - done.demonstrations,
        bias=done.bias,
        log=done.log,
        test=_ordered(held_out, done.rewards) if held_out else None,
        seconds=time.monotonic() - start,
    )


def _rankings(data: str, limit: int | None, test: str | None) -> "tuple[HumanData, list[Ranking]]":
    """What is trained on and what is held out, of which no prompt is in both."""
    from selfreward.inputs.rankings import read_ranked

    human = read_ranked(SeedSource(path=data), limit=limit)
    held_out = read_ranked(SeedSource(path=test)).rankings if test else []
    known = {ranking.prompt for ranking in human.rankings}
    if both := [ranking.prompt for ranking in held_out if ranking.prompt in known]:
        raise ConfigError(
            f"--test: {counted(len(both), 'prompt')} of {test} are in {data} too, such as "
            f"{both[0]!r:.60}",
            "A model is not measured by what it is trained on; remove them from one of the two.",
        )
    return human, held_out


def _options(words: Sequence[str]) -> dict[str, Any]:
    options = {}
    for (key, value), word in zip(parse_overrides(words), words, strict=True):
        if len(key) != 1:
            raise ConfigError(f"{word}: an option of TRL's RewardConfig has no dot in its name")
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
        rows += [
            ["held out", counted(found.test.pairs, "pair")],
            ["  in order by reward", f"{found.test.reward:.1%}"],
            ["  by length", f"{found.test.longest:.1%}"],
        ]
    return f"{table(rows)}\n\nin {duration(found.seconds)}"
