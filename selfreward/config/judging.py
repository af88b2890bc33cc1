"""The judges, and the limits to what they may do."""

import re
from typing import Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from selfreward.config.base import EngineConfig, Group, SampledGroup
from selfreward.records import FORMS, Form, FormName, GateName

FUNCTION = "function"
"""``judge.model`` and ``judge.form`` of a judge that is no model."""
_NAME = re.compile(r"(?:[^:]+\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
HOSTED = "hosted"
"""``judge.model`` of a judge of which only its endpoints are known."""
PREVIOUS = "previous"
"""``judge.model`` of the model that the policy was trained from."""
REWARD: Final = "reward"
"""``judge.form`` of a reward model: a sequence classifier with one label."""
REWARD_ENGINE = EngineConfig(kind=REWARD)
"""What runs one; no config can name it."""
IMPLICIT: Final = "implicit"
"""``judge.form`` of a language model whose reward is how DPO moved it."""
IMPORTED = "imported"
"""``judge.model`` and ``judge.form`` of a judge whose votes come from elsewhere."""
_IMPORT_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")


class FunctionGroup(SampledGroup):
    """A judge that is a model, or a Python function."""

    function: str | None = None
    """A reward function, as ``reward_funcs`` of TRL, in place of a model: ``my_rewards:brief`` or
    ``path/to/my_rewards.py:brief``, looked for beside the config, in the working directory, and
    among what is installed, such as ``selfreward.rewards.constraints:strict``. Its code runs
    with your rights. See docs/rewards.md."""
    scale: tuple[float, float] = Field(default=(0.0, 1.0), strict=False)
    """``function``, and forms ``reward`` and ``implicit`` in the jury: the least and the greatest
    value that it gives. A score is 0 to 5 in proportion; a value outside gives none. Rewards have
    no scale of their own, so there it has to be set."""
    timeout_s: float = Field(default=60.0, gt=0)
    """``function``: seconds that a call of it may take, with up to 16 responses."""

    @model_validator(mode="before")
    @classmethod
    def _take_function(cls, data: Any) -> Any:
        """A function is neither a model nor another form."""
        if not isinstance(data, dict) or data.get("function") is None:
            return data
        for key in ("model", "form"):
            if data.get(key, FUNCTION) != FUNCTION:
                raise ValueError(
                    f"{key}={data[key]} is of a model, and function={data['function']} asks none; "
                    f"leave out {key}, or set {key}=function"
                )
        return {**data, "model": FUNCTION, "form": FUNCTION}

    @field_validator("function")
    @classmethod
    def _check_function(cls, function: str | None) -> str | None:
        if function is not None and not _NAME.fullmatch(function):
            raise ValueError("names no function; such as my_rewards:brief or rewards.py:brief")
        return function

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not scale[0] < scale[1]:
            raise ValueError("the least value comes first, and differs from the greatest")
        return scale

    @model_validator(mode="after")
    def _check_reward(self) -> Self:
        """A reward model is another model, asked by its own engine."""
        model, form, engine = (getattr(self, name) for name in ("model", "form", "engine"))
        if form != REWARD:
            return self
        if model in OWN_MODELS or model.startswith("bundled:") or model.endswith(".gguf"):
            raise ValueError(
                f"form=reward asks a reward model, and model={model} is none; set model to its "
                "directory or hub id"
            )
        if engine is not None:
            raise ValueError("engine goes without form=reward: transformers runs reward models")
        return self

    @model_validator(mode="after")
    def _check_is_function(self) -> Self:
        named = {getattr(self, "model", None), getattr(self, "form", None)}
        if self.function is None and FUNCTION in named:
            raise ValueError("model and form are function, but function names none")
        return self


class JurorConfig(FunctionGroup):
    """LLM-as-a-Judge on an additive 5-point scale (SRLM 2.1, figure 2)."""

    model: str = "policy"
    """``policy``: the model judges itself (the method); ``M1``: the seed model judges every
    iteration; ``previous``, in ``judge.jury`` only: the model that the policy was trained from;
    else any model source; ``hosted``: whatever the endpoints of ``engine`` serve, told in plain
    text, in the ``written`` form only."""
    engine: EngineConfig | None = None
    """How to run a judge that is not the policy; null: like the policy. In a run, ``concurrency``
    and ``staged`` are those of the policy's engine."""
    form: FormName = "written"
    """``written``: justification, then the score. ``expected``: no text; the probabilities of
    the scores 0..5 give the expected score. ``written_expected``: the expected score after each
    of K justifications. ``criteria``: the judge writes what a good answer to this prompt needs, and
    gives an expected score for each criterion; their weighted mean is the score. ``reward``:
    ``model`` is a reward model, whose value on ``scale`` is the score (docs/rewards.md).
    ``implicit``: ``model`` was trained from ``reference`` by DPO, and a response is worth by how
    much more likely it has become, ln(pi / reference), on ``scale`` (DICE, arXiv 2406.09760).
    ``function`` and ``imported``: set by the keys of these names."""
    reference: str | None = None
    """``implicit``: ``M0``, ``M1`` or a model source; the model that DPO started from, with the
    same tokenizer as ``model``."""
    imported: str | None = None
    """``judge.jury`` only: no model is asked; people or another program, who are called so, score
    the responses, and the run waits for ``selfreward import``. See docs/import.md."""
    template: str = "judge/additive.jinja"
    """What the judge is asked: a shipped template or a file; it has to fit the form."""
    criteria_template: str = "judge/criteria.jinja"
    """``criteria``: asks for the criteria; ``template`` asks how well one of them is met."""
    max_criteria: int = Field(default=4, ge=1)
    """``criteria``: further ones are left out."""
    votes: int = Field(default=3, ge=1)
    """Sampled judgments per response where something is written (SRLM 3.1.1: 3, averaged)."""
    temperature: float = Field(default=0.7, ge=0)
    """Of sampling; 0 takes the most probable token each time."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Sample from the most probable tokens that make up this probability."""
    top_k: int = Field(default=0, ge=0)
    """Sample from so many of the most probable tokens; 0: from all."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens of a text, at most."""
    weight: float = Field(default=1.0, ge=0, le=1e6)
    """Of this judge's scores in the mean over a jury; 0: they are kept and told apart, and no
    response's score depends on them."""

    @model_validator(mode="before")
    @classmethod
    def _take_imported(cls, data: Any) -> Any:
        """Who is called so is neither a model nor of another form."""
        if not isinstance(data, dict) or data.get("imported") is None:
            return data
        for key in ("model", "form"):
            if data.get(key, IMPORTED) != IMPORTED:
                raise ValueError(f"{key}={data[key]} goes without imported: no model is asked")
        return {**data, "model": IMPORTED, "form": IMPORTED}

    @model_validator(mode="after")
    def _check_reward_scale(self) -> Self:
        such = {REWARD: "[-5, 5]", IMPLICIT: "[-100, 100]"}.get(self.form)
        if such and "scale" not in self.model_fields_set:
            raise ValueError(
                f"form={self.form} needs scale, the least and the greatest reward, such as "
                f"scale={such}"
            )
        return self

    @model_validator(mode="after")
    def _check_implicit(self) -> Self:
        """How far a model has moved is known from two of them."""
        if self.form != IMPLICIT:
            if self.reference is not None:
                raise ValueError(f"reference is of form=implicit, and form is {self.form}")
            return self
        if self.reference is None:
            raise ValueError(
                "form=implicit needs reference, the model that DPO started from: M0, M1 or a model "
                "source"
            )
        if self.model in (PREVIOUS, HOSTED, IMPORTED):
            raise ValueError(
                f"form=implicit reads log-probabilities, which model={self.model} does not give; "
                "set model to policy, M1 or a model source"
            )
        if self.model == self.reference:
            raise ValueError(
                f"model and reference are both {self.model}, so that each reward is 0; name the "
                "model that DPO started from"
            )
        if self.engine is not None:
            raise ValueError("engine goes without form=implicit: transformers reads both models")
        return self

    @model_validator(mode="after")
    def _check_imported(self) -> Self:
        if self.imported is None:
            if IMPORTED in (self.model, self.form):
                raise ValueError("model and form are imported by the key imported: NAME alone")
            return self
        if not _IMPORT_NAME.fullmatch(self.imported):
            raise ValueError("imported: a name has 1 to 64 letters, digits, dots, dashes")
        if self.engine is not None:
            raise ValueError("engine goes without imported: no model is asked")
        return self

    @property
    def name(self) -> str:
        """What people call it."""
        return self.function or self.imported or self.model

    @property
    def traits(self) -> Form:
        """What sets its form apart."""
        return FORMS[self.form]

    @property
    def num_votes(self) -> int:
        """Votes per response, at most; where nothing is sampled one says it all."""
        if self.traits.by_criterion:
            return self.max_criteria
        return self.votes if self.traits.writes else 1

    @property
    def num_reads(self) -> int:
        """How often it reads a response, at most; K texts of one request take one time."""
        return self.traits.writes + self.num_votes * self.traits.weighs

    def num_texts(self, prompts: int, responses: int) -> int:
        """How many texts it writes about so many responses to so many prompts, at most."""
        if self.traits.by_criterion:
            return prompts
        return responses * self.votes * self.traits.writes


class JudgeConfig(JurorConfig):
    """The judge, and further judges if it is a jury."""

    min_parse_rate: float = Field(default=0.5, ge=0, le=1)
    """Stop the run where a smaller share of the votes has a verdict."""
    truncated: bool = False
    """Also judge the policy's responses that were cut off at ``responses.max_new_tokens``. They are
    never paired; their scores are told apart. Runs made before this key was there judged them."""
    break_ties: bool = False
    """Have this judge compare, in both orders, each two responses that share the highest or the
    lowest score of their prompt, and pair the ones that it prefers most and least."""
    jury: tuple[JurorConfig, ...] = Field(default=(), strict=False)
    """Judges beside this one. A response's score is the weighted mean over all; one that fails is
    recorded and the others go on."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        if self.imported is not None:
            raise ValueError(
                "imported is of a judge in judge.jury; the first one is asked while the run goes on"
            )
        if self.model == PREVIOUS:
            raise ValueError(
                "model=previous is of a judge in judge.jury; the first one learns along"
            )
        if not any(self.weights):
            raise ValueError("weight=0 for every judge: no response would have a score")
        names = [juror.imported for juror in self.jury if juror.imported]
        if len({*names}) < len(names):
            raise ValueError("jury: two judges are imported under one name")
        return self

    @property
    def jurors(self) -> tuple[JurorConfig, ...]:
        """All judges, this one first; a judgment's ``juror`` counts them from 0."""
        return (self, *self.jury)

    @property
    def imported_jurors(self) -> dict[int, str]:
        """The names of the judges whose votes come from elsewhere, by juror."""
        return {j: juror.imported for j, juror in enumerate(self.jurors) if juror.imported}

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each judge, by juror."""
        return tuple(juror.weight for juror in self.jurors)

    @property
    def evaluated(self) -> int:
        """The judge as which new models are evaluated: the first policy asked in words, else 0."""
        asked = [juror.model == "policy" and juror.traits.template != "" for juror in self.jurors]
        return asked.index(True) if True in asked else 0


class MetaConfig(Group):
    """The policy judges its own judgments, and DPO trains it on pairs of these, too.

    Source: Meta-Rewarding Language Models, arXiv 2407.19594.
    """

    iterations: tuple[int, ...] = Field(default=(1, 2), strict=False)
    """In which iterations. The paper's: the first two of four, as the meta-judge becomes biased.
    Those that are not judged yet may change on resume."""
    judgments: int | None = Field(default=None, ge=2)
    """Of one response, at most so many are compared, the first ones; null: all (the paper's; it
    has 11). J of them take J (J - 1) requests."""
    max_length: int | None = Field(default=1100, ge=1)
    """Characters; a pair whose chosen judgment is longer is dropped. The paper's: 1100, later
    1000."""
    template: str = "judge/meta.jinja"
    """What the meta-judge is asked: a shipped template or a file."""

    @field_validator("iterations")
    @classmethod
    def _check_iterations(cls, iterations: tuple[int, ...]) -> tuple[int, ...]:
        if min(iterations, default=1) < 1 or len({*iterations}) < len(iterations):
            raise ValueError("names iterations from 1 on, each once, such as [1, 2]")
        return iterations


class ContestConfig(FunctionGroup):
    """A judge that compares the answers of two models, in both orders, and does not learn along.

    Of a function or a reward model the answer with the higher value wins.
    """

    model: str = "M1"
    """``M1``: the seed model, frozen; else any model source; ``hosted``: whatever the endpoints of
    ``engine`` serve. The policy itself is refused: it would judge what it is trained to like."""
    engine: EngineConfig | None = None
    """How to run it; null: like the policy."""
    form: Literal["written", "expected", "reward", "function"] = "expected"
    """``expected``: the more probable of two labels. ``written``: reasons, then the better one.
    ``reward``: ``model`` is a reward model, and the answer with the higher reward wins.
    ``function``: set by the key ``function``."""
    temperature: float = Field(default=0.0, ge=0)
    """Of what is written; 0 takes the most probable token each time."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Sample from the most probable tokens that make up this probability."""
    top_k: int = Field(default=0, ge=0)
    """Sample from so many of the most probable tokens; 0: from all."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Tokens of a text, at most."""

    @property
    def name(self) -> str:
        """What people call it."""
        return self.function or self.model

    @property
    def traits(self) -> Form:
        """What sets its form apart."""
        return FORMS[self.form]

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if self.model in ("policy", PREVIOUS):
            raise ValueError(
                f"model={self.model} is a model that is measured; take M1, another model, or hosted"
            )
        return self


class HealthConfig(Group):
    """Gates that each iteration has to pass; null: no such gate. See docs/health.md."""

    stop_on: tuple[GateName, ...] = Field(default=(), strict=False)
    """Gates that stop the run (exit code 6), such as ``[ties, drift]``; the others warn."""
    min_parse_rate: float | None = Field(default=0.8, ge=0, le=1)
    """``parse_rate``: share of the votes with a verdict. Ours; without EFT judges often miss the
    format (SRLM)."""
    min_mass: float | None = Field(default=0.5, ge=0, le=1)
    """``mass``: probability that the judge gives to the scores 0 to 5 at all, mean over its votes,
    in the forms that read it. Ours: below it the next token is more often something else, as below
    ``judge.min_parse_rate`` for judges that write. The bundled 135M model has 0.80 before EFT; one
    that takes all 49,152 tokens of its vocabulary for equally likely has 0.0001."""
    max_truncated: float | None = Field(default=0.1, ge=0, le=1)
    """``truncated``: share of the responses that were cut off, so can be neither chosen nor
    rejected. Ours: what is left is the short ones; at 0.1 one prompt in 270 with 4 responses has
    fewer than two left, at 0.25 one in 20."""
    max_ceiling: float | None = Field(default=0.8, ge=0, le=1)
    """``ceiling``: share of the responses whose score rounds to 5. Ours; in Meta-Rewarding (arXiv
    2407.19594, table 5) the mean went from 4.1 to 4.7."""
    min_spread: float | None = Field(default=0.16, ge=0, le=5)
    """``spread``: standard deviation of the scores of one prompt, points, mean over prompts. Ours:
    with it best and worst of 4 are 1/3 point apart (2.06 standard deviations of a normal), the
    smallest step of three averaged votes (SRLM 3.1.1). The quickstart has 0.10."""
    max_ties: float | None = Field(default=0.5, ge=0, le=1)
    """``ties``: share of the prompts without a pair because all scores are equal. Ours; judges
    without EFT end up saying 4 and left a seventh of the pairs (SRLM)."""
    max_length_ratio: float | None = Field(default=2.0, gt=0)
    """``length_ratio``: mean length of the chosen over that of the rejected. Ours; responses grew
    by 1.4 and 1.6 times in the iterations of SRLM."""
    max_length_correlation: float | None = Field(default=0.7, ge=0, le=1)
    """``length_correlation``: Spearman of length and score, either sign. Reward models whose gain
    was nearly all length had 0.55 to 0.72 (Pearson; arXiv 2310.03716)."""
    min_accuracy: float | None = Field(default=0.5, ge=0, le=1)
    """``accuracy``: share of the held-out pairs that the new model as a judge orders as people do,
    by the lower end of the 95% interval, which has to be above. 0.5 is chance."""
    min_over_longest: float | None = Field(default=0.0, ge=-1, le=1)
    """``over_longest``: that share less the share of the judge that takes the longer response, by
    the lower end of the 95% interval, which has to be above. At 0 a judge may only count words."""
    max_drift: float | None = Field(default=0.5, ge=0, le=5)
    """``drift``: points by which the mean score of the held-out responses may differ from M1's,
    either way. Ours: below the 0.6 points by which Meta-Rewarding's judge rose."""
    max_canary: float | None = Field(default=1.0, ge=0, le=5)
    """``canary``: points that attacks may win over the same responses without the attack. Ours:
    above the 0.83 that the bundled 135M model gives before EFT."""


RUN_MODELS = ("policy", "M1", PREVIOUS)
"""``judge.model`` where it names a model of the run."""
BASES = ("M0", "M1")
"""``judge.reference`` where it names a model of the run."""
OWN_MODELS = (*RUN_MODELS, HOSTED, FUNCTION, IMPORTED)
"""``judge.model`` where it names no model source."""


def engine_of(judge: JurorConfig | ContestConfig, policy: EngineConfig) -> EngineConfig:
    """How a judge is run, given how the policy is."""
    if judge.form == REWARD:
        return REWARD_ENGINE
    if isinstance(judge, JurorConfig) and judge.form == IMPLICIT:
        return EngineConfig.model_validate({"kind": IMPLICIT, "reference": judge.reference})
    return judge.engine or policy
