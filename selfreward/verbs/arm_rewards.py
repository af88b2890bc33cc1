"""The reward models of an experiment, trained once and before its arms, which learn from them.

    rewards: {people: {data: ranked.jsonl}} -> runs/EXP-rewards/people and people.json, its report

The report says by digests what the model was made of and what it was measured by.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from selfreward.errors import IntegrityError
from selfreward.inputs import models
from selfreward.storage import durable
from selfreward.verbs.arms import Arms
from selfreward.verbs.named_models import NamedModel, chat_of, named_model
from selfreward.verbs.train_reward import RewardReport, train_reward


@dataclass(frozen=True, slots=True)
class _Kept:
    """What lies beside a reward model."""

    data: str
    """``RewardData.digest``."""
    test: str
    """``RewardData.held_out_digest``."""
    report: RewardReport


def reward_reports(arms: Arms) -> dict[str, RewardReport | None]:
    """How well each reward model orders held-out answers; None of one that is still to be made.

    ``test`` is None where it is of other answers than the experiment names now.

    Raises:
        IntegrityError: See ``_kept``.
    """
    found: dict[str, RewardReport | None] = {}
    for name, data in arms.rewards.items():
        kept = _kept(arms, name)
        found[name] = kept.report if kept else None
        if kept is not None and kept.test != data.held_out_digest:
            found[name] = replace(kept.report, test=None, test_left_out={})
    return found


def train_rewards(arms: Arms, say: Callable[[str], None], *, is_left: bool) -> None:
    """Train what is not there yet; cut off, it goes on from its last checkpoint.

    Args:
        say: Told what is being done, one line each.
        is_left: Whether any run is, that may ask them; else they are only measured, where they are
            there and what they are to be measured by has changed.

    Raises:
        IntegrityError: See ``_kept``; or one is damaged, or was made from another model.
        SelfRewardError: See ``train_reward``.
    """
    for name, data in arms.rewards.items():
        kept = _kept(arms, name)
        is_measured = kept is not None and kept.test == data.held_out_digest
        if not is_left and (kept is None or is_measured):
            continue

        def report(line: str, name: str = name) -> None:
            say(f"reward model {name}: {line}")

        out = arms.reward_model(name)
        if out.exists() and not durable.is_whole(out):
            raise IntegrityError(
                f"reward model {name}: {out} is damaged, or no model of ours", _anew(out)
            )
        start = _start(arms, data.config.model, report)
        if kept is not None and kept.report.model_digest != start.digest:
            raise IntegrityError(
                f"reward model {name}: was made from another model than {start.name}", _anew(out)
            )
        if is_measured:
            continue
        out.parent.mkdir(parents=True, exist_ok=True)
        found = train_reward(data, start, out, report)
        if kept is not None:  # only measured anew
            found = replace(found, log=kept.report.log, seconds=kept.report.seconds)
        text = msgspec.json.encode(_Kept(data.digest, data.held_out_digest, found)).decode()
        durable.write_file(_report_file(out), text + "\n")


def _kept(arms: Arms, name: str) -> _Kept | None:
    """What is known of a reward model that was made and is there.

    Raises:
        IntegrityError: It was made of other data or options than the experiment names now, it is
            not the one that was made, or its report is none.
    """
    out = arms.reward_model(name)
    file = _report_file(out)
    if not (file.exists() and out.exists()):
        return None
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=_Kept)
    except msgspec.DecodeError as error:
        raise IntegrityError(
            f"{file}: is no report of a reward model: {error}",
            "Remove it, and the model is measured anew.",
        ) from None
    if kept.data != arms.rewards[name].digest:
        raise IntegrityError(
            f"reward model {name}: was made of other data or options than {arms.path} names now",
            f"Give it another name, set it back, or {_anew(out)}",
        )
    if durable.verify_directory(out, deep=False) != kept.report.digest:
        raise IntegrityError(
            f"reward model {name}: {out} is not the model that was made here", _anew(out)
        )
    return kept


def _anew(out: Path) -> str:
    return f"remove {out} and {_report_file(out)}, and it is trained anew."


def _report_file(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _start(arms: Arms, model: str | None, report: Callable[[str], None]) -> NamedModel:
    """The model that a reward model is made from; without a name that with which all arms begin."""
    if model is not None:
        return named_model(models.beside_config(model, arms.path.parent), report)
    first = arms.arms[0]
    config = first.config
    found = models.resolve(
        config.model,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        report=report,
    )
    chat = chat_of(None) | {
        "trust_remote_code": config.trust_remote_code,
        "chat_template": first.files.get("templates/chat.jinja"),
    }
    return NamedModel(config.model, str(found.path), found.digest, chat)
