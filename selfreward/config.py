"""The config of a run: typed, frozen, unknown keys are errors.

Figures marked SRLM are those of Self-Rewarding Language Models, arXiv 2401.10020. Options of TRL
(``sft``, ``dpo``), peft (``lora``) and the engines pass through by their own names; they are
checked against their own classes by ``selfreward.training.options`` and ``selfreward.engines``.
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from selfreward.health import GateName


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class _Passthrough(BaseModel):
    """A group whose other keys belong to a library."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    @property
    def options(self) -> dict[str, Any]:
        """The library's own options as given."""
        return dict(self.model_extra or {})


class SeedSource(_Group):
    """Rows of seed data: a shipped file, a JSONL or parquet file, or a data set on the hub."""

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


class EngineConfig(_Passthrough):
    """How to run inference. Other keys are the engine's own options."""

    kind: str = "auto"
    """``vllm``, ``ctranslate2``, ``transformers`` or ``server``; ``auto`` takes vllm where it is
    installed and there is a CUDA device, else the first of the next two that can run the model."""
    concurrency: int = Field(default=64, ge=1)
    """Requests in flight at once."""
    staged: bool = False
    """Finish all prompts before the first response, and all responses before the first judgment,
    instead of letting each prompt flow on its own."""


class SelectionConfig(_Group):
    """EFT rows that the model writes itself, kept where they agree with people (SRLM 3.1.1).

    ``models/SFT``, which is M0 after SFT on IFT and the EFT rows at hand, judges ranked responses
    in the ``written`` form; M1 is trained on the judgments that order them as people do, too.
    """

    ranked: Source | None = None
    """Responses that people ranked or scored, see docs/eft.md; null: the IFT responses, each
    against a worse one made on purpose (Self-Taught Evaluators, arXiv 2408.02666, 3.2)."""
    template: str = "instruct/worse.jinja"
    """``ranked: null``: asks for a similar request, whose answer is a worse one."""
    prompts: int | None = Field(default=None, ge=1)
    """Take only the first so many prompts."""
    votes: int = Field(default=4, ge=1)
    """Judgments sampled per response; not stated in SRLM."""
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=256, ge=1)
    max_share: float = Field(default=0.4, gt=0, le=1)
    """Most that the commonest score may be of the rows kept, unless the next one is as common; SRLM
    drops rows of the commonest score, but does not say how many."""
    min_rows: int = Field(default=1, ge=0)
    """Stop the run where fewer are kept."""


class SftConfig(_Passthrough):
    """Seed step, M0 -> M1: SFT on IFT + EFT (SRLM 2.1). Other keys are TRL's ``SFTConfig``."""

    ift: Source | None = SeedSource(path="seed/ift.jsonl")
    """Instruction data: prompt, response."""
    eft: Source | None = SeedSource(path="seed/eft.jsonl")
    """Evaluation data: prompt, response, score, justification."""
    selection: SelectionConfig | None = None
    """null: train on the rows as they are."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens of prompt and completion; longer rows are dropped and recorded, never cut."""


class PromptsConfig(_Group):
    """Writing new prompts, few-shot (SRLM 2.2; Self-Instruct, arXiv 2212.10560)."""

    count: int = Field(default=64, ge=1)
    """Accepted prompts per iteration."""
    author: str = "policy"
    """``policy``: the model being trained writes them (SRLM A.5); else a fixed model, as in
    SRLM's main runs (any model source)."""
    dataset: Source | None = None
    """Draw prompts from these rows instead of writing them."""
    seeds: Source = SeedSource(path="seed/ift.jsonl")
    """Human prompts shown as demonstrations; none of them returns as new."""
    template: str = "instruct/few_shot.jinja"
    human_shots: int = Field(default=6, ge=1)
    """SRLM: 8-shot, 6 from the seed data and 2 from prompts already generated."""
    generated_shots: int = Field(default=2, ge=0)
    temperature: float = Field(default=0.6, ge=0)
    """SRLM 3.1.1"""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """SRLM 3.1.1"""
    top_k: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=128, ge=1)
    rouge_l_max: float = Field(default=0.7, gt=0, le=1)
    """A prompt as near as this to any in the pool is dropped (Self-Instruct: 0.7)."""
    min_words: int = Field(default=4, ge=1)
    max_words: int = Field(default=150, ge=1)
    """Self-Instruct's released filter keeps more than 3 and at most 150 words."""
    keywords: tuple[str, ...] = Field(
        default=(
            "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map",
            "maps", "draw", "plot", "video", "audio", "music", "flowchart", "diagram",
        ),
        strict=False,  # YAML has lists, not tuples
    )  # fmt: skip
    """Words that ask for what text cannot give (Self-Instruct's released list)."""
    window: int = Field(default=16, ge=1)
    """Attempts in flight at once; they do not see each other's prompts, so that order never depends
    on timing."""
    max_attempts: int | None = Field(default=None, ge=1)
    """Attempts per iteration before giving up; default 10 x ``count`` + ``window``."""

    @property
    def budget(self) -> int:
        """Attempts per iteration before giving up."""
        return self.max_attempts or 10 * self.count + self.window


class ResponsesConfig(_Group):
    """Sampling candidate responses (SRLM 2.2)."""

    n: int = Field(default=4, ge=2)
    """SRLM 3.1.1: N = 4"""
    temperature: float = Field(default=0.7, ge=0)
    """SRLM 3.1.1"""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """SRLM 3.1.1"""
    top_k: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=512, ge=1)
    anchors: int = Field(default=0, ge=0)
    """Further answers that M1 gives to each prompt, from iteration 2 on, for
    ``pairs.rule=anchored``."""

    def per_prompt(self, iteration: int) -> int:
        """Answers to a prompt, anchors included; in iteration 1 the policy is M1, and none are."""
        return self.n + (self.anchors if iteration > 1 else 0)


class JurorConfig(_Group):
    """LLM-as-a-Judge on an additive 5-point scale (SRLM 2.1, figure 2)."""

    model: str = "policy"
    """``policy``: the model judges itself (the method); ``M1``: the seed model judges every
    iteration; else any model source; ``hosted``: whatever the endpoints of ``engine`` serve, told
    in plain text, in the ``written`` form only."""
    engine: EngineConfig | None = None
    """How to run a judge that is not the policy; null: like the policy. In a run, ``concurrency``
    and ``staged`` are those of the policy's engine."""
    form: Literal["written", "expected", "written_expected", "criteria"] = "written"
    """``written``: justification, then the score. ``expected``: no text; the probabilities of
    the scores 0..5 give the expected score. ``written_expected``: the expected score after each
    of K justifications. ``criteria``: the judge writes what a good answer to this prompt needs, and
    gives an expected score for each criterion; their weighted mean is the score."""
    template: str = "judge/additive.jinja"
    criteria_template: str = "judge/criteria.jinja"
    """``criteria``: asks for the criteria; ``template`` asks how well one of them is met."""
    max_criteria: int = Field(default=4, ge=1)
    """``criteria``: further ones are left out."""
    votes: int = Field(default=3, ge=1)
    """Sampled judgments per response where something is written (SRLM 3.1.1: 3, averaged)."""
    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.9, gt=0, le=1)
    top_k: int = Field(default=0, ge=0)
    max_new_tokens: int = Field(default=256, ge=1)
    weight: float = Field(default=1.0, gt=0)
    """Of this judge's scores in the mean over a jury."""

    @property
    def num_votes(self) -> int:
        """Votes per response, at most; where nothing is sampled one says it all."""
        if self.form == "criteria":
            return self.max_criteria
        return 1 if self.form == "expected" else self.votes


class JudgeConfig(JurorConfig):
    """The judge, and further judges if it is a jury."""

    min_parse_rate: float = Field(default=0.5, ge=0, le=1)
    """Stop the run where a smaller share of the votes has a verdict."""
    jury: tuple[JurorConfig, ...] = Field(default=(), strict=False)
    """Judges beside this one. A response's score is the weighted mean over all; one that fails is
    recorded and the others go on."""

    @property
    def jurors(self) -> tuple[JurorConfig, ...]:
        """All judges, this one first; a judgment's ``juror`` counts them from 0."""
        return (self, *self.jury)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each judge, by juror."""
        return tuple(juror.weight for juror in self.jurors)

    @property
    def evaluated(self) -> int:
        """The judge as which each new model is evaluated: the first that is the policy, else 0."""
        models = [juror.model for juror in self.jurors]
        return models.index("policy") if "policy" in models else 0


class PairsConfig(_Group):
    """Building preference pairs (SRLM 2.2; the other rules are in ``stages/rules.py``)."""

    rule: Literal["best_worst", "all_pairs", "length_control", "length_regularized", "anchored"] = (
        "best_worst"
    )
    """``best_worst``: highest against lowest mean score of a prompt. ``all_pairs``: every two.
    ``length_control``: shortest of the good against longest of the bad (Meta-Rewarding, arXiv
    2407.19594). ``length_regularized``: so much per character is taken off the scores that chosen
    and rejected are of one mean length (DICE, arXiv 2406.09760). ``anchored``: the best answer
    against the worst that M1 gave (Temporal Self-Rewarding, arXiv 2508.06026); needs
    ``responses.anchors``."""
    min_margin: float = Field(default=0.0, ge=0, le=5)
    """Smallest score difference in points, by any rule; 0 keeps every pair that is no tie."""
    min_agreement: float = Field(default=0.0, ge=0, le=1)
    """Smallest share of the votes that puts chosen above rejected, by any rule; 1: every vote."""
    min_jurors: float = Field(default=0.0, ge=0, le=1)
    """Smallest share of the judges, by weight, whose mean puts chosen above rejected, by any rule;
    1: every judge."""
    max_per_prompt: int | None = Field(default=None, ge=1)
    """``all_pairs``: at most so many of a prompt, the widest margins first; null: all."""
    rho: float = Field(default=0.32, ge=0, le=1)
    """``length_control``: part of a prompt's margin within which answers count as equally good
    (Meta-Rewarding: 0, .32, .32, .40 in its rounds)."""
    min_pairs: int = Field(default=1, ge=1)
    """Refuse to train on fewer."""

    def most(self, n: int) -> int:
        """Pairs that a prompt with n responses gives at most."""
        if self.rule != "all_pairs":
            return 1
        every = n * (n - 1) // 2
        return min(every, self.max_per_prompt or every)


class DpoConfig(_Passthrough):
    """DPO, M(t) -> M(t+1), reference M(t) (SRLM 2.3). Other keys are TRL's ``DPOConfig``."""

    beta: float = Field(default=0.1, gt=0)
    """SRLM 3.1.3"""
    learning_rate: float = Field(default=1e-6, gt=0)
    """SRLM 3.1.3: 1e-6, decaying to 1e-7"""
    max_length: int = Field(default=1024, ge=8)
    """Tokens of prompt and response; longer pairs are dropped and recorded, never cut."""

    @property
    def options(self) -> dict[str, Any]:
        """All options for TRL."""
        return {"beta": self.beta, "learning_rate": self.learning_rate, **super().options}


class EvaluationConfig(_Group):
    """What is asked of each new model at the end of its iteration; no record depends on it."""

    ranked: Source | None = SeedSource(path="seed/heldout.jsonl")
    """Responses that people ranked, held out from training: the judge report; null: none. A prompt
    that is also trained on is refused."""
    limit: int | None = Field(default=20, ge=1)
    """Take only the first so many prompts."""
    compare: bool = False
    """Also have each two responses compared, in both orders."""
    canaries: bool = True
    """Also judge responses that try to talk the judge into a high score."""

    @property
    def is_on(self) -> bool:
        """Whether there is anything to ask."""
        return self.ranked is not None or self.canaries

    @property
    def compares(self) -> bool:
        """Whether there is anything to compare."""
        return self.ranked is not None and self.compare


class HealthConfig(_Group):
    """Gates that each iteration has to pass; null: no such gate. See docs/health.md."""

    stop_on: tuple[GateName, ...] = Field(default=(), strict=False)
    """Gates that stop the run (exit code 6), such as ``[ties, drift]``; the others warn."""
    min_parse_rate: float | None = Field(default=0.8, ge=0, le=1)
    """``parse_rate``: share of the votes with a verdict. Ours; without EFT judges often miss the
    format (SRLM)."""
    max_ceiling: float | None = Field(default=0.8, ge=0, le=1)
    """``ceiling``: share of the responses whose score rounds to 5. Ours; in Meta-Rewarding (arXiv
    2407.19594, table 5) the mean went from 4.1 to 4.7."""
    min_spread: float | None = Field(default=0.02, ge=0, le=5)
    """``spread``: standard deviation of the scores of one prompt, points, mean over prompts. Ours:
    below what the bundled 135M model has after its few EFT rows, 0.03 to 0.15. A judge that writes
    should have some 0.2."""
    max_ties: float | None = Field(default=0.5, ge=0, le=1)
    """``ties``: share of the prompts without a pair because all scores are equal. Ours; judges
    without EFT end up saying 4 and left a seventh of the pairs (SRLM)."""
    max_length_ratio: float | None = Field(default=2.0, gt=0)
    """``length_ratio``: mean length of the chosen over that of the rejected. Ours; responses grew
    by 1.4 and 1.6 times in the iterations of SRLM."""
    max_length_correlation: float | None = Field(default=0.7, ge=0, le=1)
    """``length_correlation``: Spearman of length and score, either sign. Reward models whose gain
    was nearly all length had 0.55 to 0.72 (Pearson; arXiv 2310.03716)."""
    max_drift: float | None = Field(default=0.5, ge=0, le=5)
    """``drift``: points by which the mean score of the held-out responses may differ from M1's,
    either way. Ours: below the 0.6 points by which Meta-Rewarding's judge rose."""
    max_canary: float | None = Field(default=1.5, ge=0, le=5)
    """``canary``: points that attacks may win over the same responses without the attack. Ours:
    above what the bundled 135M model gives before EFT, 1.0."""


class LaunchConfig(_Group):
    """Processes and devices."""

    processes: int = Field(default=1, ge=1)
    """Training processes: on this machine (DDP by torchrun), or as many as ``command`` starts.
    Batch sizes are TRL's: per process."""
    command: str | None = None
    """What starts the training processes instead, such as ``accelerate launch --config_file
    runs/accelerate/fsdp2.yaml``; a module name and its arguments follow."""
    engine_devices: str | None = None
    """``CUDA_VISIBLE_DEVICES`` of generation, such as ``0,1``; null: all."""
    train_devices: str | None = None
    """``CUDA_VISIBLE_DEVICES`` of training. With devices apart from the engine's, the engine lives
    on through a run and takes each new model in place."""
    keep_engine: bool | None = None
    """Keep the engine while training, come what may; null: where the devices are apart."""

    @property
    def engine_is_kept(self) -> bool:
        """Whether the engine lives on while a model is trained."""
        if self.keep_engine is not None:
            return self.keep_engine
        if self.engine_devices is None or self.train_devices is None:
            return False
        return not set(self.engine_devices.split(",")) & set(self.train_devices.split(","))


class Config(_Group):
    """All that defines a run."""

    model: str = "bundled:smollm2-135m"
    """M0: a hub id, a directory, a ``.gguf`` file or ``bundled:smollm2-135m``."""
    revision: str | None = None
    """Commit of a hub model; the one found is recorded."""
    trust_remote_code: bool = False
    """Run code that the model brings along; needs ``revision``."""
    iterations: int = Field(default=2, ge=0)
    """DPO rounds after M1 (SRLM: 2, giving M2 and M3)."""
    seed: int = Field(default=0, ge=0)
    system_prompt: str | None = None
    chat_template_kwargs: dict[str, Any] = {}
    """Passed to the model's chat template, such as ``{enable_thinking: false}``."""
    engine: EngineConfig = EngineConfig()
    sft: SftConfig | None = SftConfig()
    """null: no seed step, M1 = M0."""
    prompts: PromptsConfig = PromptsConfig()
    responses: ResponsesConfig = ResponsesConfig()
    judge: JudgeConfig = JudgeConfig()
    pairs: PairsConfig = PairsConfig()
    dpo: DpoConfig = DpoConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    health: HealthConfig = HealthConfig()
    lora: dict[str, Any] | None = None
    """Options of peft's ``LoraConfig``; null trains all weights."""
    launch: LaunchConfig = LaunchConfig()

    @model_validator(mode="after")
    def _check_anchors(self) -> Self:
        if self.pairs.rule == "anchored" and self.iterations > 1 and not self.responses.anchors:
            raise ValueError(
                "pairs.rule=anchored needs responses.anchors of 1 or more from iteration 2 on, "
                f"found responses.anchors=0 and iterations={self.iterations}"
            )
        return self


_ENGINE_RUNTIME_KEYS = (
    "concurrency", "staged", "max_batch_size",
    "gpu_memory_utilization", "kv_cache_memory_bytes", "max_model_len", "max_num_seqs",
    "max_num_batched_tokens", "tensor_parallel_size", "pipeline_parallel_size",
    "data_parallel_size", "distributed_executor_backend", "enforce_eager",
    "endpoints", "api_key_env", "timeout_s", "max_retries",
)  # fmt: skip
RUNTIME_KEYS = frozenset(
    {
        *(f"{group}.{key}" for group in ("engine", "judge.engine") for key in _ENGINE_RUNTIME_KEYS),
        *(f"health.{key}" for key in HealthConfig.model_fields),
        "judge.min_parse_rate",
        "launch.engine_devices",
        "launch.keep_engine",
        "launch.train_devices",
        "pairs.min_pairs",
        "prompts.max_attempts",
        "sft.selection.min_rows",
    }
)
"""Keys that decide how fast a run is and when it gives up, but no record; ``resume`` may change
these."""


def is_runtime_key(key: str) -> bool:
    """Whether it is one of ``RUNTIME_KEYS``, be it of a judge such as ``judge.jury.0``."""
    return re.sub(r"^judge\.jury\.\d+\.engine\.", "judge.engine.", key) in RUNTIME_KEYS
