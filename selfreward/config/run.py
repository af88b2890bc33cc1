"""The whole config of a run, and what is checked over several of its groups."""

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from selfreward.config.base import EngineConfig, Group, SeedSource
from selfreward.config.evaluation import BestConfig, EvaluationConfig, benchmark_of
from selfreward.config.generation import PairsConfig, PromptsConfig, ResponsesConfig
from selfreward.config.judging import (
    HOSTED,
    IMPLICIT,
    PREVIOUS,
    ContestConfig,
    HealthConfig,
    JudgeConfig,
    JurorConfig,
    MetaConfig,
)
from selfreward.config.training import (
    DpoConfig,
    GrpoConfig,
    LaunchConfig,
    OnlineConfig,
    QuantizationConfig,
    RlooConfig,
    SelectionConfig,
    SftConfig,
    TrainConfig,
)
from selfreward.errors import ConfigError
from selfreward.records import judge_key, stage_order

TrackerName = Literal["trackio", "wandb", "tensorboard", "mlflow"]
"""The trackers, by the names of their libraries."""

SHIPPED_PROMPTS = SeedSource(path="seed/ift.jsonl")
"""Demonstrations of a run without IFT data of its own."""


class Config(Group):
    """All that defines a run."""

    model: str = "bundled:smollm2-135m"
    """M0: a hub id, a directory, a ``.gguf`` file or ``bundled:smollm2-135m``."""
    revision: str | None = None
    """Commit of a hub model; the one found is recorded."""
    trust_remote_code: bool = False
    """Run code that the model brings along; needs ``revision``."""
    iterations: int = Field(default=2, ge=0, le=10_000)
    """Rounds after M1 (SRLM: 2 of DPO, giving M2 and M3). Each is planned when a run starts."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Of all that is drawn; training takes no larger one."""
    system_prompt: str | None = None
    """System turn of everything that the models are asked; null: the one of the chat template."""
    chat_template: str | None = None
    """File of a chat template, for a base model whose tokenizer has none, such as the shipped
    ``chat/chatml.jinja``; null: the tokenizer's own."""
    chat_template_kwargs: dict[str, Any] = Field(default={})
    """Passed to the model's chat template, such as ``{enable_thinking: false}``."""
    engine: EngineConfig = EngineConfig()
    sft: SftConfig | None = SftConfig()
    """null: no seed step, M1 = M0."""
    prompts: PromptsConfig = PromptsConfig()
    responses: ResponsesConfig = ResponsesConfig()
    judge: JudgeConfig = JudgeConfig()
    meta: MetaConfig | None = None
    """Meta-Rewarding; null: judgments are not judged. See docs/recipes.md."""
    pairs: PairsConfig = PairsConfig()
    train: TrainConfig = TrainConfig()
    dpo: DpoConfig = DpoConfig()
    rloo: RlooConfig = RlooConfig()
    grpo: GrpoConfig = GrpoConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    best: BestConfig = BestConfig()
    health: HealthConfig = HealthConfig()
    lora: dict[str, Any] | None = None
    """Options of peft's ``LoraConfig``; null trains all weights."""
    quantization: QuantizationConfig | None = None
    """Hold the model in 4 bits while ``lora`` is trained (QLoRA), such as ``{}``; null: in float32.
    Needs bitsandbytes, see docs/recipes.md."""
    launch: LaunchConfig = LaunchConfig()
    track: tuple[TrackerName, ...] = Field(default=(), strict=False)
    """Experiment trackers that get training metrics and figures, each an extra of its own; it needs
    no key here, as trackers read their own environment variables."""

    @property
    def prompt_seeds(self) -> tuple[str, SeedSource]:
        """Where the demonstrations of new prompts come from, and the key that says so."""
        if self.prompts.seeds is not None:
            return "prompts.seeds", self.prompts.seeds
        if self.sft is not None and self.sft.ift is not None:
            return "sft.ift", self.sft.ift
        return "prompts.seeds", SHIPPED_PROMPTS

    @property
    def online(self) -> OnlineConfig | None:
        """The group of a method that samples while it trains; None for the others."""
        groups: dict[str, OnlineConfig] = {"rloo": self.rloo, "grpo": self.grpo}
        return groups.get(self.train.method)

    @property
    def online_options(self) -> dict[str, Any]:
        """All its options for TRL."""
        assert self.online is not None
        return {"max_completion_length": self.responses.max_new_tokens, **self.online.options}

    @property
    def engine_sleeps(self) -> bool:
        """Whether the engine lives on while a model is trained, and lets the GPU go meanwhile."""
        launch, engine = self.launch, self.engine
        may = launch.keep_engine is not False and not launch.has_devices_apart
        return may and engine.kind == "vllm" and bool(engine.options.get("enable_sleep_mode"))

    @property
    def engine_is_kept(self) -> bool:
        """Whether the engine lives on while a model is trained."""
        launch = self.launch
        if launch.keep_engine is not None:
            return launch.keep_engine
        return launch.has_devices_apart or self.engine_sleeps

    @property
    def selection(self) -> SelectionConfig | None:
        """``sft.selection``; None also where there is no seed step."""
        return self.sft.selection if self.sft else None

    @property
    def compares(self) -> bool:
        """Whether any two responses are judged against each other."""
        evaluation = self.evaluation
        judges = [judge for judge in evaluation.judges if judge.traits.template]
        return evaluation.compares or bool(judges) or self.judge.break_ties

    def stages(self, iteration: int) -> tuple[str, ...]:
        """The stages of an iteration, in order."""
        return stage_order(
            iteration,
            trained=self.sft is not None,
            selected=self.selection is not None,
            anchors=self.responses.anchors > 0 and iteration > 1,
            jurors=len(self.judge.jurors),
            compared=self.judge.break_ties,
            meta_judged=self.meta is not None and iteration in self.meta.iterations,
            evaluated=self.evaluation.is_on,
        )

    def rollout_stages(self, iteration: int) -> tuple[str, ...]:
        """The stages before ``pairs`` of an iteration above 0, in order."""
        stages = self.stages(iteration)
        return stages[: stages.index("pairs")]

    @field_validator("track")
    @classmethod
    def _check_track(cls, track: tuple[TrackerName, ...]) -> tuple[TrackerName, ...]:
        if len(set(track)) < len(track):
            raise ValueError("names a tracker twice")
        return track

    @model_validator(mode="after")
    def _check_best(self) -> Self:
        by, evaluation = self.best.by, self.evaluation
        if wanted := benchmark_of(by):
            known = [each.name for each in evaluation.benchmarks]
            if wanted[0] not in known:
                others = f"only {', '.join(known)}" if known else "none"
                raise ValueError(
                    f"best.by={by} needs a benchmark {wanted[0]} in evaluation.benchmarks, and "
                    f"there is {others}"
                )
            return self
        needs = {
            "win_rate": (
                "evaluation.questions and a judge in evaluation.contests",
                evaluation.judges,
            ),
            "judge_agreement": ("evaluation.ranked", evaluation.ranked),
            "verifiable": (
                "evaluation.questions and a function in evaluation.contests",
                evaluation.functions,
            ),
        }
        name, there = needs[by]
        asked = [] if self.best.patience is None else ["patience"]
        asked += ["continue_from=best"] if self.best.continue_from == "best" else []
        if asked and not there:
            raise ValueError(f"best.{asked[0]} with best.by={by} needs {name}, and there is none")
        return self

    @model_validator(mode="after")
    def _check_judge(self) -> Self:
        """A function or a reward model as the judge learns nothing, and is not measured as one."""
        judge, sft, evaluation = self.judge, self.sft, self.evaluation
        if judge.traits.template:
            return self
        who = f"judge.function={judge.function}" if judge.function else f"judge.form={judge.form}"
        if models := [k for k, juror in enumerate(judge.jury) if juror.traits.template]:
            raise ValueError(
                f"{who}, but judge.jury.{models[0]} is a model that is asked in words; let it be "
                "the judge, and put the other one into judge.jury"
            )
        needs = {
            "sft.eft=null": sft is not None and sft.eft is not None,
            "sft.selection=null": self.selection is not None,
            "judge.break_ties=false": judge.break_ties,
            "evaluation.ranked=null": evaluation.ranked is not None,
            "evaluation.canaries=false": evaluation.canaries,
        }
        if wrong := [word for word, is_set in needs.items() if is_set]:
            raise ValueError(
                f"{who}: no judge is a model that is asked in words, which could be taught or "
                f"measured as one; set {' '.join(wrong)}"
            )
        return self

    @model_validator(mode="after")
    def _check_implicit(self) -> Self:
        """Of a model that is its own reference nothing is known."""
        first = ("M0", "M1", self.model) if self.sft is None else ("M1",)
        same = {"policy", *first}
        for number, juror in enumerate(self.judge.jurors):
            if juror.form == IMPLICIT and juror.model in same and juror.reference in first:
                raise ValueError(
                    f"{judge_key(number)}.reference={juror.reference} is {juror.model} itself in "
                    "iteration 1, so that each reward is 0; name the model that DPO made M1 from"
                )
        return self

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        prompts = self.prompts
        writing = {
            "multiline": prompts.multiline, "topics": prompts.topics, "evolve": prompts.evolve
        }  # fmt: skip
        asked = [name for name, value in writing.items() if value]
        if prompts.dataset is not None and asked:
            raise ValueError(
                f"prompts.{asked[0]} is about prompts that a model writes, but prompts.dataset "
                "draws them; leave one of the two out"
            )
        if prompts.evolve is not None and not prompts.most_evolved:
            raise ValueError(
                f"prompts.evolve.share={prompts.evolve.share:g} of prompts.count={prompts.count} "
                "is no prompt; raise one of them, or set prompts.evolve=null"
            )
        return self

    @model_validator(mode="after")
    def _check_train(self) -> Self:
        self.train.check_replay(has_seed=self.sft is not None)
        self.train.check_preferences(self.dpo, has_meta=self.meta is not None)
        if self.online is not None:
            self._check_online(self.online)
        if self.dpo.weigh_by == "consistency" and self.train.method == "dpo":
            judged = (self.judge.model, *(juror.model for juror in self.judge.jury))
            if judged[0] != "policy" or PREVIOUS not in judged:
                raise ValueError(
                    "dpo.weigh_by=consistency sets the policy's ranking against that of the model "
                    "before; set judge.model=policy and judge.jury=[{model: previous, weight: 0}]"
                )
        return self

    def _check_online(self, online: OnlineConfig) -> None:
        """What samples while it trains asks its judges meanwhile, in the process that trains."""
        method = self.train.method
        for number, juror in enumerate(self.judge.jurors):
            if juror.weight and juror.imported:
                raise ValueError(
                    f"train.method={method} asks its judges while it trains, but the votes of "
                    f"{judge_key(number)}, {juror.name}, come from elsewhere; give it weight=0"
                )
        if self.launch.processes > 1 or self.launch.command is not None:
            key = "processes" if self.launch.processes > 1 else "command"
            raise ValueError(
                f"train.method={method} trains in one process so far; leave out launch.{key}"
            )
        if online.ptx and self.sft is None:
            raise ValueError(
                f"{method}.ptx={online.ptx:g} mixes in the rows of the seed step, but sft is null; "
                f"set {method}.ptx=0"
            )
        if self.train.replay.aift:
            raise ValueError(
                f"train.replay.aift is for rows that were made before, but train.method={method} "
                "samples anew; set train.replay.aift=false"
            )
        length = self.online_options["max_completion_length"]
        if length >= online.max_length:
            raise ValueError(
                f"{method}.max_length={online.max_length} leaves no room for a prompt beside a "
                f"response of {length} tokens; raise it, or lower {method}.max_completion_length"
            )

    @model_validator(mode="after")
    def _check_quantization(self) -> Self:
        if self.quantization is None:
            return self
        self.quantization.check(self.lora, self.launch)
        if self.train.method == "dpo" and self.dpo.reference_logprobs == "engine":
            raise ValueError(
                "dpo.reference_logprobs=engine takes what M(t) said, but with quantization the "
                "reference is M(t) in 4 bits; set dpo.reference_logprobs=trl"
            )
        return self

    @model_validator(mode="after")
    def _check_demonstrations(self) -> Self:
        if self.responses.demonstrations and self.prompts.dataset is None:
            raise ValueError(
                "responses.demonstrations=true needs prompts that a person answered; set "
                "prompts.dataset to rows with a column demonstration, such as {path: "
                "seed/ift.jsonl, columns: {demonstration: response}}"
            )
        return self

    @model_validator(mode="after")
    def _check_meta(self) -> Self:
        """Only what the policy itself wrote, more than once, can become a pair of its judgments."""
        meta, judge = self.meta, self.judge
        if meta is None:
            return self
        needs = {
            f"judge.model={judge.model} is not what is trained; set judge.model=policy": (
                judge.model == "policy"
            ),
            f"judge.form={judge.form} writes no judgments; set judge.form=written": (
                judge.traits.writes
            ),
            "one judgment of a response makes no pair; set judge.votes=2 or more": judge.votes > 1,
            "judge.temperature=0 writes the same judgment each time; set it above 0": (
                judge.temperature > 0
            ),
            f"train.method={self.train.method} trains on no pairs; set train.method=dpo": (
                self.train.method == "dpo"
            ),
            f"dpo.weigh_by={self.dpo.weigh_by} is known of pairs of responses alone; set "
            "dpo.weigh_by=null": self.dpo.weigh_by is None,
            f"iterations={self.iterations} ends before the first of meta.iterations; name another, "
            "or set meta=null": min(meta.iterations, default=0) <= self.iterations,
        }
        if wrong := [why for why, is_met in needs.items() if not is_met]:
            raise ValueError(f"meta: {wrong[0]}")
        return self

    @model_validator(mode="after")
    def _check_anchors(self) -> Self:
        if self.pairs.rule == "anchored" and self.iterations > 1 and not self.responses.anchors:
            raise ValueError(
                "pairs.rule=anchored needs responses.anchors of 1 or more from iteration 2 on, "
                f"found responses.anchors=0 and iterations={self.iterations}"
            )
        return self


_ENGINE_RUNTIME_KEYS = (
    "kind",  # they are proved to answer alike but for rounding
    "concurrency", "staged", "max_batch_size", "max_batch_tokens",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "max_model_len", "max_num_seqs",
    "max_num_batched_tokens", "cache_size", "tensor_parallel_size", "pipeline_parallel_size",
    "data_parallel_size", "distributed_executor_backend", "enforce_eager", "enable_sleep_mode",
    "endpoints", "api_key_env", "timeout_s", "max_retries",
    "omit",  # else a run that an endpoint refuses could not go on
)  # fmt: skip

RUNTIME_KEYS = frozenset(
    {
        *(f"{group}.{key}" for group in ("engine", "judge.engine") for key in _ENGINE_RUNTIME_KEYS),
        *(f"health.{key}" for key in HealthConfig.model_fields),
        *(f"best.{key}" for key in BestConfig.model_fields),
        "judge.min_parse_rate",
        "judge.timeout_s",
        "launch.engine_devices",
        "launch.keep_engine",
        "launch.share_starts",
        "launch.train_devices",
        "pairs.min_pairs",
        "prompts.max_attempts",
        "sft.selection.min_rows",
        "track",
    }
)
"""Keys that decide how fast a run is and when it gives up, but no record; ``resume`` may change
these."""


def is_runtime_key(key: str) -> bool:
    """Whether it is one of ``RUNTIME_KEYS``, be it of a judge such as ``judge.jury.0``."""
    further = r"^(judge\.jury|evaluation\.contests)\.\d+\.(engine\.|timeout_s$)"
    return re.sub(further, r"judge.\2", key) in RUNTIME_KEYS


def all_judges(config: Config) -> dict[str, JurorConfig | ContestConfig]:
    """Every judge by the key that it has in the config."""
    jurors = {judge_key(number): juror for number, juror in enumerate(config.judge.jurors)}
    contests = enumerate(config.evaluation.judges)
    return {**jurors, **{f"evaluation.contests.{number}": judge for number, judge in contests}}


def asked_models(config: Config) -> set[str]:
    """The models that judge, and those that these are held against, as the config names them."""
    references = {juror.reference for juror in config.judge.jurors if juror.reference}
    return references | {judge.model for judge in all_judges(config).values()}


def check_judges(config: Config) -> None:
    """Check how each judge is to be run.

    Raises:
        ConfigError: Its endpoints serve another model of the run, or it is known by its endpoints
            alone and has none, or is asked for more than text.
    """
    serves = dict.fromkeys(_endpoints(config.engine), ("policy", "the policy"))
    for key, judge in all_judges(config).items():
        for url in _endpoints(judge.engine):
            model, name = serves.setdefault(url, (judge.model, key))
            if model != judge.model:
                raise ConfigError(
                    f"{key}.engine.endpoints: {url} serves {name}",
                    "Give each model endpoints of its own.",
                )
        if judge.model == HOSTED:
            _check_hosted(judge, judge.engine or config.engine, key)


def _endpoints(engine: EngineConfig | None) -> list[str]:
    found = engine.options.get("endpoints") if engine is not None else None
    return sorted(map(str, found)) if isinstance(found, list) else []


def _check_hosted(judge: JurorConfig | ContestConfig, engine: EngineConfig, key: str) -> None:
    if engine.kind != "server":
        raise ConfigError(
            f"{key}.model=hosted, but {key}.engine.kind is {engine.kind}",
            f"Set {key}.engine: {{kind: server, endpoints: [...]}}, or name the judge's model.",
        )
    if judge.traits.weighs:
        raise ConfigError(
            f"{key}.form={judge.form} needs the judge's tokenizer; {key}.model=hosted has none",
            f"Set {key}.form=written, or name the model that the endpoints serve.",
        )
