"""What child processes do: the only part of the loop that loads models."""

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from selfreward.config import EngineConfig, JurorConfig
from selfreward.config.base import Passthrough
from selfreward.config.judging import (
    BASES,
    HOSTED,
    IMPLICIT,
    PREVIOUS,
    REWARD,
    REWARD_ENGINE,
    RUN_MODELS,
)
from selfreward.config.run import Config, all_judges, asked_models
from selfreward.engines.chat import Chat
from selfreward.engines.implicit import ImplicitReward, check_reference
from selfreward.engines.proved import open_proved
from selfreward.engines.reward import RewardModel, check_reward_model
from selfreward.engines.sessions import OpenSession, Session, Sessions
from selfreward.errors import ConfigError, IntegrityError
from selfreward.inputs import models
from selfreward.inputs.conversations import num_answered
from selfreward.inputs.judge_templates import run_templates
from selfreward.measures.consistency import CONSISTENCY
from selfreward.records import Drop, Prompt, model_name
from selfreward.stages.comparisons import LABELS, STARTED, form_of
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.storage.starts import TRAINED, Trained, start_of, trained_of
from selfreward.storage.store import Store
from selfreward.storage.tracker import Tracker
from selfreward.training.base import ONLINE, DpoRow, Fit, Method, OnlineRow, SftRow, Training
from selfreward.training.distributed import train_processes
from selfreward.training.methods import fit_of
from selfreward.training.rows import (
    check_preferences,
    dpo_rows,
    online_rows,
    positive_rows,
    run_consistency,
)
from selfreward.training.seed_rows import sft_rows
from selfreward.workers.benchmark import check_benchmarks
from selfreward.workers.checks import check_config, check_drawn, check_own_functions
from selfreward.workers.evaluate import evaluate_iteration
from selfreward.workers.fixed import hold_fixed
from selfreward.workers.judge import judge_job
from selfreward.workers.online import judge_rewards
from selfreward.workers.parity import parity_job
from selfreward.workers.rollout import generate_iteration

STEPPED = "stepped"
_LOG = logging.getLogger(__name__)


def prepare(run: Run) -> None:
    """Resolve M0 into ``models/M0.json`` and check all that does not need hours of work.

    Raises:
        ConfigError: See ``check_config``; or a model without a chat template or with too few
            positions, or a judge form that the tokenizer cannot serve, or conversations to answer
            and a chat template that does not take them, or preferences that cannot be learned.
        IntegrityError: M0 is not the model that this run began with.
    """
    config = run.config
    check_config(config, run_templates(run, config))
    check_drawn(run, config)
    check_own_functions(run)
    model = models.resolve(
        config.model, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    chat = _chat(run, model.path)
    _check_room(config, chat)
    check_preferences(run, chat)
    if num_answered(run.read_copy):
        chat.check_conversation()
    if any(j.traits.weighs for j in config.judge.jurors if j.model in RUN_MODELS):
        chat.score_prompt("")
    measured = config.judge.jurors[config.judge.evaluated]
    if config.evaluation.asks and measured.traits.weighs:
        chat.score_prompt("")
    comparing = [measured] if config.evaluation.compares else []
    if config.judge.break_ties and config.judge.model in ("policy", "M1"):
        comparing.append(config.judge)
    if any(form_of(judge) == "expected" for judge in comparing):
        chat.label_prompt("", STARTED, LABELS)
    _check_contests(config, chat)
    _check_reward_models(run, model.path)
    check_benchmarks(run, model.path)
    facts = {
        "path": str(model.path), "digest": model.digest,
        "source": model.source, "revision": model.revision,
    }  # fmt: skip
    path = run.path / "models" / "M0.json"
    _check_base(run, model.digest)
    durable.write_file(path, json.dumps(facts, indent=1))


def _check_contests(config: Config, chat: Chat) -> None:
    """Check that M1 can name the better of two answers by a token, where it is to."""
    own = [judge for judge in config.evaluation.judges if judge.model == "M1"]
    if not any(form_of(judge) == "expected" for judge in own):
        return
    try:
        chat.label_prompt("", STARTED, LABELS)
    except ConfigError as error:
        raise ConfigError(
            f"evaluation.contests: {error.message}",
            "Take another model as the judge, or form: written; evaluation.contests=[] compares "
            "nothing.",
        ) from None


def _check_reward_models(run: Run, base: Path) -> None:
    """Find what judges by rewards: reward models with a chat template, or two of one tokenizer.

    Args:
        base: M0.
    """
    for key, judge in all_judges(run.config).items():
        if judge.form == REWARD:
            path = models.resolve(judge.model).path
            check_reward_model(path, f"{key}.model")
            _chat(run, path, is_policy=False)
        if isinstance(judge, JurorConfig) and judge.form == IMPLICIT:
            of_run = judge.model in RUN_MODELS, judge.reference in BASES
            model = base if of_run[0] else models.resolve(judge.model).path
            reference = base if of_run[1] else models.resolve(str(judge.reference)).path
            trust = run.config.trust_remote_code
            check_reference(model, reference, f"{key}.reference", trust)
            is_moved = run.config.sft and (of_run[0] or judge.reference == "M1")
            if not is_moved and model.resolve() == reference.resolve():
                raise ConfigError(
                    f"{key}.reference={judge.reference} is the model that judges, {judge.model}, "
                    "so that each reward is 0",
                    "Name the model that DPO started from.",
                )


def _check_room(config: Config, chat: Chat) -> None:
    """Check that what is asked for by length fits into the positions that the model has."""
    asked = {
        "prompts.max_new_tokens": config.prompts.max_new_tokens,
        "responses.max_new_tokens": config.responses.max_new_tokens,
    }
    if config.train.method == "dpo":
        asked["dpo.max_length"] = config.dpo.max_length
    if config.online is not None:
        asked[f"{config.train.method}.max_length"] = config.online.max_length
    if config.train.method == "sft":
        asked["train.sft.max_length"] = config.train.sft.max_length
    if config.sft is not None:
        asked["sft.max_length"] = config.sft.max_length
    for key, tokens in asked.items():
        is_new = key.endswith("new_tokens")
        needed = tokens + (len(chat.prompt_ids("")) if is_new else 0)
        if chat.max_length is not None and needed > chat.max_length:
            beside = " and the chat format" if is_new else ""
            raise ConfigError(
                f"{key}: {tokens} tokens{beside} do not fit into the {chat.max_length} positions "
                f"of {config.model}",
                f"Set {key} lower, or take a model with a longer context.",
            )


class Generator:
    """Makes iterations' prompts, responses and judgments; a context manager that frees the engine.

    All that it does runs in one event loop, which engines need to live on.
    """

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self._sessions: Sessions | None = None
        self._store: Store | None = None

    def generate(self, run: Run, store: Store, iteration: int) -> None:
        """Make what is missing of an iteration."""
        asked = asked_models(run.config)
        asks_base = run.config.sft is None or PREVIOUS in asked
        is_first = iteration > 0 and start_of(store, iteration) == 1
        if (asks_base and is_first) or (iteration > 0 and "M0" in asked):
            _check_base(run, models.digest(run.policy(0)))
        self._runner.run(generate_iteration(run, store, iteration, self._open(run, store)))

    def evaluate(self, run: Run, store: Store, iteration: int) -> None:
        """Measure the model that an iteration made."""
        if iteration == 0 and run.config.sft is None:
            _check_base(run, models.digest(run.policy(1)))
        self._runner.run(evaluate_iteration(run, store, iteration, self._open(run, store)))

    def sleep(self) -> None:
        """Let what is open give a GPU's memory back until it is asked again."""
        if self._sessions is not None:
            self._runner.run(self._sessions.sleep())

    def judge(self, job: dict[str, Any], say: Callable[[Any], None]) -> None:
        """Judge texts of no run; see ``judge_in_child``."""
        self._runner.run(judge_job(job, say))

    def parity(self, job: dict[str, Any], say: Callable[[Any], None]) -> None:
        """Ask one engine what all are asked; see ``ask_in_child``."""
        self._runner.run(parity_job(job, say))

    def _open(self, run: Run, store: Store) -> Sessions:
        self._store = store
        self._sessions = self._sessions or Sessions(_opener(run, self._warn, self._hold))
        return self._sessions

    def _warn(self, line: str) -> None:
        _LOG.warning(line)
        if self._store is not None:
            self._store.add_event("warning", line)

    def _hold(self, model: models.Model) -> None:
        if self._store is not None:
            hold_fixed(self._store, model)

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._sessions is not None:
            self._runner.run(self._sessions.close())
        self._runner.close()


def _opener(
    run: Run, tell: Callable[[str], None], hold: Callable[[models.Model], None]
) -> OpenSession:
    async def open_session(settings: EngineConfig, model: Path | str) -> Session:
        if model == HOSTED:
            from selfreward.engines.server.hosted import open_hosted

            return Session(*open_hosted(settings.options, tell))
        fixed = not isinstance(model, Path)
        path = Path(model)
        if fixed:
            resolved = models.resolve(str(model))
            hold(resolved)
            path = resolved.path
        chat = _chat(run, path, is_policy=not fixed)
        if settings == REWARD_ENGINE:
            return Session(RewardModel(path, chat), chat)
        if settings.kind == IMPLICIT:
            reference = _reference(run, str(settings.options["reference"]), hold)
            return Session(ImplicitReward(path, reference, chat), chat)
        engine = await open_proved(
            settings.kind, path, chat, settings.options, fixed=fixed, tell=tell
        )
        return Session(engine, chat)

    return open_session


def _reference(run: Run, name: str, hold: Callable[[models.Model], None]) -> Path:
    """The directory of what an implicit reward is held against."""
    if name in BASES:
        return run.policy(int(name[1:]))
    resolved = models.resolve(name)
    hold(resolved)
    return resolved.path


def train(
    run: Run,
    store: Store,
    iteration: int,
    stage: str = "train",
    say: Callable[[str], None] = lambda said: None,
) -> None:
    """Train ``models/M<iteration + 1>``: SFT on the seed data in iteration 0, else by the method.

    Stage ``sft`` of iteration 0 trains ``models/SFT`` instead.

    Args:
        say: See ``train_iteration``.
    """
    start = trained_from(run, store, iteration)
    if start == 0 or (start == 1 and run.config.sft is None):
        _check_base(run, models.digest(run.policy(start)))
    chat = _chat(run, run.policy(start))
    opener = _opener(run, partial(store.add_event, "warning"), partial(hold_fixed, store))
    train_iteration(run, store, iteration, chat, opener, _fit(run, iteration, stage), stage, say)


def _fit(run: Run, iteration: int, stage: str) -> Fit:
    launch, method = run.config.launch, _method(run.config, iteration)
    if method != "none" and (launch.processes > 1 or launch.command is not None):
        return partial(train_processes, launch, run.log_path(iteration, stage))
    return fit_of(method)


def _method(config: Config, iteration: int) -> Method:
    return config.train.method if iteration else "sft"


def trained_from(run: Run, store: Store, iteration: int) -> int:
    """The number of the model that an iteration trains."""
    base = run.config.train.base
    return start_of(store, iteration) if iteration == 0 or base == "policy" else int(base[1:])


def train_iteration(
    run: Run,
    store: Store,
    iteration: int,
    chat: Chat,
    open_session: OpenSession,
    fit: Fit,
    stage: str = "train",
    say: Callable[[str], None] = lambda said: None,
) -> None:
    """Make the training rows, fit a model to them, and commit the stage once it is published.

    Args:
        open_session: Opens the judges that are asked while a model is trained by RL.
        stage: ``sft`` of iteration 0, else ``train``.
        say: Told ``STEPPED`` after the last step, when the activations' memory is free again.
    """
    config, start = run.config, trained_from(run, store, iteration)
    training = _training(run, iteration, model_name(iteration, stage), start)
    how = Trained(training.method, start)
    rows: list[SftRow] | list[DpoRow] | list[OnlineRow] = []
    prompts: list[Prompt] = []
    drops: list[Drop] = []
    if iteration == 0:
        rows, drops = sft_rows(run, store, stage, chat)
    elif training.method == "dpo":
        rows, drops = dpo_rows(run, store, iteration, chat)
    elif training.method == "sft":
        rows, drops = positive_rows(run, store, iteration, chat)
    elif training.method in ONLINE:
        rows, prompts, drops = online_rows(run, store, iteration, chat)
        if training.ptx:
            mix, _ = sft_rows(run, store, "train", chat)
            training = replace(training, mix=tuple(mix))
    reports: dict[str, object] = {TRAINED: how} if how != trained_of(store, iteration) else {}
    if training.method == "dpo" and config.dpo.weigh_by == "consistency":
        reports[CONSISTENCY] = run_consistency(run, store, iteration)
    with ExitStack() as stack:
        if training.method in ONLINE:
            judges = judge_rewards(run, store, iteration, prompts, chat, open_session)
            with_rewards: Any = fit
            fit = partial(with_rewards, rewards=stack.enter_context(judges))
        tracker = stack.enter_context(Tracker(store, iteration, stage, total=0))

        def log(step: int, metrics: dict[str, float]) -> None:
            store.log_training(iteration, step, metrics, stage)
            tracker.note = _figures(metrics)

        def step(done: int, total: int) -> None:
            tracker.advance(done, total)
            if done == total:
                say(STEPPED)

        fit(training, rows, on_log=log, on_step=step)
        # Every byte was read as it was sealed just now, or as it was found whole.
        digest = durable.verify_directory(training.output, deep=False)
        tracker.finish(
            run,
            rows=len(rows),
            drops=len(drops),
            digest=digest,
            records=drops,
            reports=reports,
        )


def _training(run: Run, iteration: int, name: str, start: int) -> Training:
    """What is to be trained, as the config says, into the model of that name, from M(start)."""
    config, method = run.config, _method(run.config, iteration)
    groups: dict[Method, Passthrough | None] = {"sft": config.train.sft, "dpo": config.dpo}
    group, key = groups.get(method), "train.sft" if method == "sft" else ""
    options = group.options if group else {}
    if method in ONLINE:
        options = config.online_options
    if iteration == 0:
        assert config.sft is not None
        options, key = config.sft.options, ""
    weighs_seed = config.sft is not None and (iteration == 0 or config.train.replay.seed)
    return Training(
        method=method,
        model=run.policy(start),
        output=run.model_directory(name),
        checkpoints=run.checkpoints_directory(name),
        options=options,
        lora=config.lora if method != "none" else None,
        quantization=config.quantization if method != "none" else None,
        seed=config.seed + iteration,
        trust_remote_code=config.trust_remote_code,
        chat_template=_chat_template(run),
        ptx=config.online.ptx if config.online and method in ONLINE else 0.0,
        eft_weight=config.sft.eft_weight if config.sft and weighs_seed else 1.0,
        share_starts=config.launch.share_starts,
        model_digest=run.policy_digest(start),
        group=key,
    )


def _figures(metrics: Mapping[str, float]) -> str:
    """Loss and what the method logs of rewards at the last logged step, for people."""
    named = {"loss": "loss", "rewards/margins": "margin", "reward": "reward", "kl": "KL"}
    return ", ".join(f"{named[key]} {metrics[key]:.3g}" for key in named if key in metrics)


def _check_base(run: Run, digest: str) -> None:
    known = run.base_model().get("digest")
    if known not in (None, digest):
        raise IntegrityError(
            f"{run.config.model} is not the model that this run began with: digest "
            f"{digest[:12]}, was {str(known)[:12]}",
            "Put the former model back, or start a new run.",
        )


def _chat(run: Run, model: Path, *, is_policy: bool = True) -> Chat:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config = run.config
    return Chat(
        model,
        system_prompt=config.system_prompt,
        template_kwargs=config.chat_template_kwargs,
        trust_remote_code=config.trust_remote_code,
        chat_template=_chat_template(run) if is_policy else None,
        today=run.made,
    )


def _chat_template(run: Run) -> str | None:
    """The run's own, in place of the one that its model has."""
    if run.config.chat_template is None:
        return None
    return (run.path / "templates" / "chat.jinja").read_text(encoding="utf-8")
