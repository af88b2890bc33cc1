"""What child processes do: the only part of the loop that loads models."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selfreward import durable, models
from selfreward.chat import Chat
from selfreward.engines import check_options as check_engine_options
from selfreward.engines import open_engine
from selfreward.errors import IntegrityError
from selfreward.records import Stage
from selfreward.rollout import Session, generate_iteration
from selfreward.run import Run, versions
from selfreward.store import Store
from selfreward.tracker import Tracker
from selfreward.training import options
from selfreward.training.rows import dpo_rows, sft_rows


def prepare(run: Run) -> None:
    """Resolve M0 into ``models/M0.json`` and check all that does not need hours of work.

    Raises:
        ConfigError: An option that TRL, peft or the engine does not know, a model without a chat
            template, or a judge form that the tokenizer cannot serve.
        IntegrityError: M0 is not the model that this run began with.
    """
    config = run.config
    check_engine_options(config.engine.kind, config.engine.options)
    options.check_options("dpo", config.dpo.options)
    if config.sft is not None:
        options.check_options("sft", config.sft.options)
    if config.lora is not None:
        options.check_lora(config.lora)
    model = models.resolve(
        config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    chat = _chat(run, model.path)
    if config.judge.form == "expected":
        chat.score_prompt("")
    facts = {
        "path": str(model.path), "digest": model.digest,
        "source": model.source, "revision": model.revision,
    }  # fmt: skip
    path = run.path / "models" / "M0.json"
    _check_base(run, model.digest)
    durable.write_file(path, json.dumps(facts, indent=1))


def generate(run: Run, store: Store, iteration: int) -> None:
    """Make an iteration's prompts, responses and judgments."""
    config = run.config
    if iteration == 1 and config.sft is None:
        _check_base(run, models.digest(run.policy(1)))

    def open_session(model: Path | str) -> Session:
        path = model if isinstance(model, Path) else models.resolve(model).path
        chat = _chat(run, path)
        return Session(open_engine(config.engine.kind, path, chat, config.engine.options), chat)

    asyncio.run(generate_iteration(run, store, iteration, open_session))


def train(run: Run, store: Store, iteration: int) -> None:
    """Train ``models/M<iteration + 1>``: SFT on the seed data in iteration 0, else DPO."""
    if iteration == 0:
        from selfreward.training.sft import train_sft as fit

        _check_base(run, models.digest(run.policy(0)))
    else:
        from selfreward.training.dpo import train_dpo as fit  # type: ignore[assignment]
    train_iteration(run, store, iteration, _chat(run, run.policy(iteration)), fit)


def train_iteration(
    run: Run, store: Store, iteration: int, chat: Chat, fit: Callable[..., None]
) -> None:
    """Make the training rows, fit a model to them, and commit the stage once it is published.

    Args:
        fit: ``train_sft`` or ``train_dpo``, which do nothing where the model is published.
    """
    config, output = run.config, run.model_directory(iteration + 1)
    method = config.sft if iteration == 0 else config.dpo
    assert method is not None
    rows: list[Any]
    rows, drops = (sft_rows if iteration == 0 else dpo_rows)(run, store, iteration, chat)
    with Tracker(store, iteration, "train", total=0) as tracker:
        fit(
            run.policy(iteration),
            rows,
            output=output,
            checkpoints=run.checkpoints_directory(iteration + 1),
            options=method.options,
            lora=config.lora,
            seed=config.seed + iteration,
            on_log=lambda step, metrics: store.log_training(iteration, step, metrics),
            on_step=lambda done, total: tracker.advance(done, total),
            trust_remote_code=config.trust_remote_code,
        )
        store.finish_stage(
            Stage(
                iteration=iteration,
                stage="train",
                rows=len(rows),
                drops=len(drops),
                digest=durable.verify_directory(output),
                fingerprint=run.stage_fingerprint(store, iteration, "train"),
                seconds=tracker.seconds,
                versions=versions(),
            ),
            drops,
        )


def _check_base(run: Run, digest: str) -> None:
    known = run.base_model().get("digest")
    if known not in (None, digest):
        raise IntegrityError(
            f"{run.config.model} is not the model that this run began with: digest "
            f"{digest[:12]}, was {str(known)[:12]}",
            "Put the former model back, or start a new run.",
        )


def _chat(run: Run, model: Path) -> Chat:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = run.config
    return Chat(
        model,
        system_prompt=config.system_prompt,
        template_kwargs=config.chat_template_kwargs,
        trust_remote_code=config.trust_remote_code,
    )
