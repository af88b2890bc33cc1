"""Prompts, responses and preference pairs."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from selfreward.config.base import Group, SampledGroup, SeedSource, Source


def _as_topics(value: object) -> object:
    if isinstance(value, str):
        return {"path": value}
    if not isinstance(value, list | tuple):
        return value
    if wrong := [item for item in value if not isinstance(item, str)]:
        raise ValueError(f"a topic is a text (quote it), found {wrong[0]!r:.60}")
    return tuple(value)


Topics = Annotated[tuple[str, ...] | SeedSource, BeforeValidator(_as_topics)]
"""Topics themselves, or rows that hold them."""


class EvolveConfig(Group):
    """Rewriting prompts of the iteration before to be harder or rarer (Evol-Instruct, WizardLM,
    arXiv 2304.12244, section 3; eva, arXiv 2411.00062).
    """

    share: float = Field(default=0.5, gt=0, le=1)
    """Part of the attempts, and at most of the prompts, that are rewrites; the others are written
    few-shot. The figure is ours."""
    operations: tuple[str, ...] = Field(
        default=("constraints", "deepen", "concretize", "reasoning", "complicate", "rarer"),
        strict=False,
    )
    """What is done to a prompt, by the names that ``template`` knows: the five of in-depth
    evolving, and ``rarer``, the one of in-breadth evolving. Each prompt meets all before it meets
    one twice."""
    by: Literal["spread", "uniform"] = "spread"
    """``spread``: prompts whose answers' scores lie farther apart, best minus worst, are rewritten
    sooner (the proxy A*_min of eva); ``uniform``: all alike, as in Evol-Instruct. In iteration 1
    ``prompts.seeds`` are rewritten, all alike."""
    template: str = "instruct/evolve.jinja"
    """What each operation asks for: a shipped template or a file."""

    @field_validator("operations")
    @classmethod
    def _check_operations(cls, operations: tuple[str, ...]) -> tuple[str, ...]:
        return _distinct(operations, "an operation")


def _distinct(texts: tuple[str, ...], what: str) -> tuple[str, ...]:
    if not texts or not all(text.strip() for text in texts):
        raise ValueError(f"needs {what} at least, and none that is empty")
    if again := [text for at, text in enumerate(texts) if text in texts[:at]]:
        raise ValueError(f"has {again[0]!r:.60} twice")
    return texts


class PromptsConfig(SampledGroup):
    """Writing new prompts, few-shot (SRLM 2.2; Self-Instruct, arXiv 2212.10560)."""

    count: int = Field(default=64, ge=1)
    """Accepted prompts per iteration."""
    author: str = "policy"
    """``policy``: the model being trained writes them (SRLM A.5); else a fixed model, as in
    SRLM's main runs (any model source)."""
    dataset: Source | None = None
    """Draw prompts from these rows, which may be conversations, instead of writing them."""
    seeds: Source | None = None
    """Human prompts shown as demonstrations; none of them returns as new. null: those of
    ``sft.ift``, as in SRLM 2.2, or the shipped ones where there is none."""
    template: str = "instruct/few_shot.jinja"
    """How demonstrations are shown and a new prompt is asked for: a shipped template or a file."""
    multiline: bool = False
    """A new prompt may have several lines, up to the next number of the list or a line that begins
    with ``###``; such as ``template: instruct/multiline.jinja`` asks for it. Give them room:
    ``max_new_tokens``."""
    topics: Topics | None = None
    """Topics or personas, one for each attempt, so that prompts cover them all; none comes twice
    before each came once in the run. A list; or a source of rows with ``topic``, ``persona`` or
    ``prompt``. ``template`` has to use the variable ``topic``, as ``instruct/topic.jinja`` does."""
    evolve: EvolveConfig | None = None
    """null: nothing is rewritten."""
    human_shots: int = Field(default=6, ge=1)
    """SRLM: 8-shot, 6 from the seed data and 2 from prompts already generated."""
    generated_shots: int = Field(default=2, ge=0)
    """Demonstrations among those that are prompts generated before."""
    temperature: float = Field(default=0.6, ge=0)
    """SRLM 3.1.1"""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """SRLM 3.1.1"""
    top_k: int = Field(default=0, ge=0)
    """Sample from so many of the most probable tokens; 0: from all."""
    max_new_tokens: int = Field(default=128, ge=1)
    """Tokens of a text, at most."""
    rouge_l_max: float = Field(default=0.7, gt=0, le=1)
    """A prompt as near as this to any in the pool is dropped (Self-Instruct: 0.7)."""
    min_words: int = Field(default=4, ge=1)
    """Shorter prompts are dropped."""
    max_words: int = Field(default=150, ge=1)
    """Self-Instruct's released filter keeps more than 3 and at most 150 words. In Chinese,
    Japanese, Korean, Thai, Lao, Khmer and Burmese each character is a word."""
    keywords: tuple[str, ...] = Field(
        default=(
            "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map",
            "maps", "draw", "plot", "video", "audio", "music", "flowchart", "diagram",
        ),
        strict=False,  # YAML has lists, not tuples
    )  # fmt: skip
    """Words that ask for what text cannot give (Self-Instruct's released list, which is for prompts
    in English). Give a list in your own language, or ``[]``: no such filter, as for domains that
    ask for files, maps or music in text. ``scores`` counts what it drops by the word."""
    overlap_words: int | None = Field(default=8, ge=1)
    """A prompt that has so many words in a row from a held-out one (``evaluation.ranked``,
    ``evaluation.questions``) is dropped, also from a ``dataset``; of a held-out one
    that has fewer, only its like is. null: no such filter. GPT-3 (arXiv 2005.14165, appendix C)
    takes 8 to 13, by how short the texts are."""
    window: int = Field(default=16, ge=1)
    """Attempts in flight at once; they do not see each other's prompts, so that order never depends
    on timing."""
    max_attempts: int | None = Field(default=None, ge=1)
    """Attempts per iteration before giving up; default 10 x ``count`` + ``window``."""

    @property
    def shots(self) -> int:
        """Demonstrations of an attempt."""
        return self.human_shots + self.generated_shots

    @property
    def budget(self) -> int:
        """Attempts per iteration before giving up."""
        return self.max_attempts or 10 * self.count + self.window

    @property
    def most_evolved(self) -> int:
        """Accepted prompts of an iteration that are rewrites, at most."""
        return round(self.evolve.share * self.count) if self.evolve else 0

    @field_validator("topics")
    @classmethod
    def _check_topics(cls, topics: Topics | None) -> Topics | None:
        return _distinct(topics, "a topic") if isinstance(topics, tuple) else topics


class ResponsesConfig(SampledGroup):
    """Sampling candidate responses (SRLM 2.2)."""

    n: int = Field(default=4, ge=1)
    """SRLM 3.1.1: N = 4. One alone makes a pair only with ``demonstrations``."""
    temperature: float = Field(default=0.7, ge=0)
    """SRLM 3.1.1"""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """SRLM 3.1.1"""
    top_k: int = Field(default=0, ge=0)
    """Sample from so many of the most probable tokens; 0: from all."""
    max_new_tokens: int = Field(default=512, ge=1)
    """Tokens of a text, at most."""
    anchors: int = Field(default=0, ge=0)
    """Further answers that M1 gives to each prompt, from iteration 2 on, for
    ``pairs.rule=anchored``."""

    demonstrations: bool = False
    """One more answer to each prompt is the one that a person wrote: column ``demonstration`` of
    ``prompts.dataset``. It is judged and paired like the others. See SPIN in docs/recipes.md."""

    def per_prompt(self, iteration: int) -> int:
        """Answers to a prompt, anchors included; in iteration 1 the policy is M1, and none are."""
        return self.n + (self.anchors if iteration > 1 else 0) + self.demonstrations

    @model_validator(mode="after")
    def _check_n(self) -> Self:
        if self.n == 1 and not self.demonstrations:
            raise ValueError("n=1 makes no pair; set n=2 or more, or demonstrations=true")
        return self


class PairsConfig(Group):
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
