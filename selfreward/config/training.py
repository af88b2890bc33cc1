"""Seed step, the methods of an iteration, and the processes that work."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from selfreward.config.base import Group, Passthrough, SampledGroup, SeedSource, Source


class SelectionConfig(SampledGroup):
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
    """Judgments sampled per response; not stated in SRLM. Vote k on every response of a prompt is
    one set, and the first set whose scores have people's order is taken (SRLM 3.1.1)."""
    combine: bool = False
    """Take any combination of the votes on a prompt's responses, not only whole sets. More prompts
    pass, and more of them by chance: see docs/eft.md. Runs made before this key was did so."""
    temperature: float = Field(default=0.7, ge=0)
    """Of sampling; 0 takes the most probable token each time."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Sample from the most probable tokens that make up this probability."""
    top_k: int = Field(default=0, ge=0)
    """Sample from so many of the most probable tokens; 0: from all."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens of a text, at most."""
    max_share: float = Field(default=0.4, gt=0, le=1)
    """Most that the commonest score may be of the rows kept, unless the next one is as common; SRLM
    drops rows of the commonest score, but does not say how many."""
    min_rows: int = Field(default=1, ge=0)
    """Stop the run where fewer are kept."""


class SftConfig(Passthrough):
    """Seed step, M0 -> M1: SFT on IFT + EFT (SRLM 2.1). Other keys are TRL's ``SFTConfig``."""

    ift: Source | None = SeedSource(path="seed/ift.jsonl")
    """Instruction data: prompt, response."""
    eft: Source | None = SeedSource(path="seed/eft.jsonl")
    """Evaluation data: prompt, response, score, justification."""
    eft_weight: float = Field(default=1.0, gt=0)
    """Weight in the loss of a target token of an EFT row, selected ones too; one of an IFT row has
    1. 1: the mean over all target tokens, as TRL's. See docs/eft.md; not in SRLM."""
    selection: SelectionConfig | None = None
    """null: train on the rows as they are."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens of prompt and completion; longer rows are dropped and recorded, never cut."""


class DpoConfig(Passthrough):
    """DPO, M(t) -> M(t+1), reference M(t) (SRLM 2.3). Other keys are TRL's ``DPOConfig``."""

    beta: float = Field(default=0.1, gt=0)
    """SRLM 3.1.3"""
    learning_rate: float = Field(default=1e-6, gt=0)
    """SRLM 3.1.3: 1e-6, decaying to 1e-7"""
    max_length: int = Field(default=1024, ge=8)
    """Tokens of prompt and response; longer pairs are dropped and recorded, never cut."""
    weigh_by: Literal["margin", "consistency"] | None = None
    """Weight of a pair in the loss; null: each counts once. ``margin``: its margin in points / 5,
    the vote share by which ScPO weighs (arXiv 2411.04109) where scores are such shares.
    ``consistency``: CREAM's C (arXiv 2410.12735) for the pair as it is, and 1 - C for the same pair
    with its responses exchanged; needs ``judge.jury: [{model: previous}]``. Goes with ``loss_type``
    sigmoid and sft."""
    reference_logprobs: Literal["trl", "engine"] = "trl"
    """Where the reference's log-probabilities of a pair come from. ``trl``: a pass of TRL's before
    the first step. ``engine``: what the engine said of the tokens as it sampled them, which saves
    the pass and differs by 1e-5 nats a token (docs/benchmarks.md); needs ``engine.kind``
    ctranslate2 or transformers, named and in float32. Pairs of which it did not say them all, as
    with anchors, are passed as with ``trl``."""
    train_thinking: bool = True
    """Train what the model thought before it answered too, as it was sampled; false: the answer
    alone, in the format of a finished turn."""

    @property
    def options(self) -> dict[str, Any]:
        """All options for TRL."""
        return {"beta": self.beta, "learning_rate": self.learning_rate, **super().options}


class PositivesConfig(Passthrough):
    """SFT on the best-scored response of each prompt. Other keys are TRL's ``SFTConfig``."""

    start: Literal["policy", "M0", "M1"] = "policy"
    """Which model is trained: ``policy``, M(t), as in rejection sampling (Llama 2, arXiv
    2307.09288); ``M0``: the base model anew in each iteration, as in SRLM's "positive
    examples only" and ReST-EM (arXiv 2312.06585); or ``M1``."""
    min_score: float = Field(default=0.0, ge=0, le=5)
    """Points below which a prompt's best response is left out. SRLM takes 5, the highest."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens of prompt and response; longer rows are dropped and recorded, never cut."""


class OnlineConfig(Passthrough):
    """What methods have in common that sample while they train, rewarded by ``judge``."""

    beta: float
    """Weight of the KL to M(t), per nat; 0: none, and no reference is read."""
    learning_rate: float = Field(default=1e-6, gt=0)
    """TRL's default, and DeepSeekMath's."""
    max_completion_length: int | None = Field(default=None, ge=1)
    """Tokens of a response, at most; null: ``responses.max_new_tokens``."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens of prompt and response; prompts that leave less room are dropped and recorded."""
    ptx: float = Field(default=0.0, ge=0)
    """Weight of an SFT loss on the rows of the seed step, mean over their target tokens, that is
    added to the loss: the pretraining mix of InstructGPT (arXiv 2203.02155, 3.5, equation 2), whose
    texts nobody here has. 0: none."""

    @property
    def options(self) -> dict[str, Any]:
        """All options for TRL, but the default of ``max_completion_length``."""
        ours = {"beta": self.beta, "learning_rate": self.learning_rate}
        if self.max_completion_length is not None:
            ours["max_completion_length"] = self.max_completion_length
        return {**ours, **super().options}


class RlooConfig(OnlineConfig):
    """RLOO, M(t) -> M(t+1), reference M(t). Other keys are TRL's ``RLOOConfig``."""

    beta: float = Field(default=0.05, ge=0)
    """Points that a response loses for each nat by which it is more probable than under M(t), where
    the judges give 0 to 5; 0: no reference is read. TRL's default."""


class GrpoConfig(OnlineConfig):
    """GRPO, M(t) -> M(t+1), reference M(t). Other keys are TRL's ``GRPOConfig``."""

    beta: float = Field(default=0.04, ge=0)
    """Weight in the loss of the KL to M(t), nats a token; 0: no reference is read. DeepSeekMath,
    arXiv 2402.03300, 4.2: 0.04; TRL's default is 0."""


class ReplayConfig(Group):
    """What an iteration is trained on again, beside what it made itself."""

    aift: bool = False
    """What the iterations before made: their pairs, or their best responses."""
    seed: bool = False
    """``method: sft``: the IFT and EFT rows that M1 was trained on, with ``sft.eft_weight``; what
    ``sft.max_length`` left out of the seed step is left out here too."""


class TrainConfig(Group):
    """How an iteration turns M(t) into M(t+1)."""

    method: Literal["dpo", "sft", "rloo", "grpo", "none"] = "dpo"
    """``dpo``: on the pairs, by the group ``dpo`` (SRLM 2.3). ``sft``: on the best-scored
    responses, by ``train.sft``. ``rloo``, ``grpo``: reinforcement learning on the prompts, by the
    group of that name; the judges of the run score what is sampled, the policy as M(t).
    ``none``: M(t+1) has the weights of M(t); all else is made and measured."""
    sft: PositivesConfig = PositivesConfig()
    replay: ReplayConfig = ReplayConfig()
    preferences: Source | None = None
    """``method: dpo``: answers that people ranked or scored, read as ``evaluation.ranked`` is. Each
    iteration is trained on these, the best and the worst answer to each prompt, and not on pairs of
    its own, which are made and shown all the same."""

    def check_replay(self, *, has_seed: bool) -> None:
        """Check that the method can be trained on what is to be replayed.

        Args:
            has_seed: Whether there is seed data.

        Raises:
            ValueError: It cannot.
        """
        method, replay = self.method, self.replay
        if method == "none" and (replay.aift or replay.seed):
            raise ValueError("train.replay is for a training, but train.method=none trains nothing")
        if replay.seed and method != "sft":
            takes = "prompts" if method in ("rloo", "grpo") else "pairs"
            raise ValueError(
                f"train.replay.seed gives rows of one answer each, but train.method={method} takes "
                f"{takes}; set train.replay.seed=false, or train.method=sft"
            )
        if replay.seed and not has_seed:
            raise ValueError("train.replay.seed needs seed data, but sft is null")

    def check_preferences(self, dpo: DpoConfig, *, has_meta: bool) -> None:
        """Check that nothing is asked for that is known of the run's own pairs alone.

        Args:
            has_meta: Whether ``meta`` is set.

        Raises:
            ValueError: Something is.
        """
        if self.preferences is None:
            return
        needs = {
            f"train.method={self.method} trains on no pairs; set train.method=dpo": (
                self.method == "dpo"
            ),
            "train.replay.aift=true would add the run's own pairs of before; set it false": (
                not self.replay.aift
            ),
            f"dpo.weigh_by={dpo.weigh_by} is known of the run's own pairs alone; set it null": (
                dpo.weigh_by is None
            ),
            "dpo.reference_logprobs=engine is known of what M(t) sampled alone; set it to trl": (
                dpo.reference_logprobs == "trl"
            ),
            "meta adds the run's own pairs of judgments; set meta=null": not has_meta,
        }
        if wrong := [why for why, is_met in needs.items() if not is_met]:
            raise ValueError(f"train.preferences: {wrong[0]}")

    @property
    def takes_own_pairs(self) -> bool:
        """Whether it trains on the pairs that the iteration makes."""
        return self.method == "dpo" and self.preferences is None

    @property
    def base(self) -> str:
        """Which model is trained in each iteration: ``policy``, ``M0`` or ``M1``."""
        return self.sft.start if self.method == "sft" else "policy"


class QuantizationConfig(Group):
    """QLoRA: M(t) is held in 4 bits while ``lora`` is trained on it (arXiv 2305.14314).

    The names are those of transformers' ``BitsAndBytesConfig``, whose defaults are fp4 and no
    double quantization; ours are the paper's.
    """

    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Which 16 numbers the 4 bits stand for."""
    bnb_4bit_use_double_quant: bool = True
    """Round the greatest value of each 64 weights, too, to 8 bits."""
    bnb_4bit_compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """In what products are computed. The paper's is bfloat16; then it is proved less closely that
    what is published was trained."""

    def check(self, lora: Mapping[str, Any] | None, launch: "LaunchConfig") -> None:
        """Check that there is an adapter that 4 bits can bear, and one process.

        Raises:
            ValueError: There is not.
        """
        if lora is None:
            raise ValueError(
                "quantization needs an adapter, as 4 bits cannot be trained; set lora, such as "
                "lora={r: 16, target_modules: all-linear}"
            )
        if launch.processes > 1 or launch.command is not None:
            key = "processes" if launch.processes > 1 else "command"
            raise ValueError(f"quantization trains in one process so far; leave out launch.{key}")
        if lora.get("init_lora_weights") == "orthogonal":
            raise ValueError(
                "lora.init_lora_weights=orthogonal does not go with quantization: it would alter "
                "weights of 4 bits; take true or gaussian"
            )


class LaunchConfig(Group):
    """Processes and devices."""

    processes: int = Field(default=1, ge=1)
    """Training processes: on this machine (DDP by torchrun), or as many as ``command`` starts.
    Batch sizes are TRL's: per process."""
    command: str | None = None
    """What starts the training processes instead, such as ``accelerate launch --config_file
    runs/accelerate/fsdp2.yaml``; a module name and its arguments follow."""
    share_starts: Literal["auto", True, False] = "auto"
    """SFT and DPO: read a start that rows of a micro-batch share once, such as a judge's rubric or
    the prompt of chosen and rejected. ``auto``: with models that give the same so, where it saves
    work; true: or fail; false: never."""
    engine_devices: str | None = None
    """``CUDA_VISIBLE_DEVICES`` of generation, such as ``0,1``; null: all."""
    train_devices: str | None = None
    """``CUDA_VISIBLE_DEVICES`` of training. With devices apart from the engine's, the engine lives
    on through a run and takes each new model in place."""
    keep_engine: bool | None = None
    """Keep the engine while training, come what may; null: where the devices are apart, and a vLLM
    with ``engine.enable_sleep_mode``, which lets the GPU go meanwhile."""

    @property
    def has_devices_apart(self) -> bool:
        """Whether the engine has devices that no training uses."""
        if self.engine_devices is None or self.train_devices is None:
            return False
        return not set(self.engine_devices.split(",")) & set(self.train_devices.split(","))


class RewardModelConfig(Passthrough):
    """A reward model, trained on people's rankings. Other keys are TRL's ``RewardConfig``."""

    data: Source
    """Answers that people ranked or scored, read as ``evaluation.ranked`` is."""
    limit: int | None = Field(default=None, ge=1)
    """Take only the first so many prompts of them."""
    test: Source | None = None
    """Further rankings, which the trained model is measured by."""
    demonstrations: Source | None = SeedSource(path="seed/ift.jsonl")
    """Good answers whose mean reward is set to 0 (InstructGPT, arXiv 2203.02155, 3.5); null: the
    rewards are left as they come."""
    model: str | None = None
    """What it is made from, ``RUN:M1`` or any model source; null: the model of the experiment."""
    max_length: int = Field(default=1024, ge=8)
    """Tokens of a prompt with an answer; longer answers are left out."""
    seed: int = Field(default=0, ge=0)
    """Of the head and the order."""
