"""What values of a config, each of which is allowed, come to together: nothing, or no pair ever.

Not part of the config itself, so that runs of earlier releases are read whatever they have.
"""

from collections.abc import Iterator

from selfreward.config.generation import PromptsConfig
from selfreward.config.run import Config
from selfreward.errors import ConfigError

_FIGURES = {
    "accuracy": "min_accuracy",
    "over_longest": "min_over_longest",
    "parse_rate": "min_parse_rate",
    "mass": "min_mass",
    "spread": "min_spread",
}
"""Key of each gate's figure; of the others it is ``max_`` and the gate's name."""
_MEASURED = {
    "accuracy": "evaluation.ranked",
    "over_longest": "evaluation.ranked",
    "drift": "evaluation.ranked",
    "canary": "evaluation.canaries",
}
"""What a gate looks at, where that may be switched off."""


def check_feasible(config: Config) -> None:
    """Refuse what cannot make a pair, and a brake that cannot brake.

    Raises:
        ConfigError: The keys that contradict each other, and what to set.
    """
    _check_brakes(config)
    if config.iterations == 0:
        return
    if config.prompts.dataset is None:
        _check_writing(config.prompts)
    if not config.train.takes_own_pairs:
        return
    if config.train.method == "dpo" and config.dpo.weigh_by == "margin" and config.judge.break_ties:
        raise ConfigError(
            "judge.break_ties makes pairs of equal scores, and by dpo.weigh_by=margin they have no "
            "weight: they would be compared for nothing",
            "Take one of the two.",
        )
    prompts, responses = config.prompts, config.responses
    most = prompts.count * config.pairs.most(responses.n + responses.demonstrations)
    if config.pairs.min_pairs > most:
        raise ConfigError(
            f"pairs.min_pairs={config.pairs.min_pairs}, but {prompts.count} prompts with "
            f"{responses.n} responses each give {most} pairs at most",
            "Lower it, or raise prompts.count.",
        )
    if responses.temperature == 0 and not (responses.anchors or responses.demonstrations):
        raise ConfigError(
            "responses.temperature=0 samples the same response each time, which makes no pair",
            "Set it above 0, such as 0.7.",
        )


def _check_writing(prompts: PromptsConfig) -> None:
    """Refuse what lets a model write no prompt that is taken."""
    if prompts.min_words > prompts.max_words:
        raise ConfigError(
            f"prompts.min_words={prompts.min_words} is above prompts.max_words="
            f"{prompts.max_words}, so that no prompt would be accepted",
            "Lower the one, or raise the other.",
        )
    if prompts.max_attempts is not None and prompts.max_attempts < prompts.count:
        raise ConfigError(
            f"prompts.max_attempts={prompts.max_attempts} is below prompts.count={prompts.count}: "
            "the run would give up before it has its prompts",
            "Raise it, or leave it out.",
        )


def _check_brakes(config: Config) -> None:
    for gate in config.health.stop_on:
        figure = _FIGURES.get(gate, f"max_{gate}")
        if getattr(config.health, figure) is None:
            raise ConfigError(
                f"health.stop_on names {gate}, but health.{figure} is null, so that it never stops",
                f"Set health.{figure}, or take {gate} out of health.stop_on.",
            )
        needs = _MEASURED.get(gate, "")
        if needs and not getattr(config.evaluation, needs.removeprefix("evaluation.")):
            raise ConfigError(
                f"health.stop_on names {gate}, but there is no {needs}, so that it never stops",
                f"Set {needs}, or take {gate} out of health.stop_on.",
            )


def without_effect(config: Config) -> Iterator[tuple[str, str]]:
    """Keys that were given another value than their default, and change nothing; each with why."""
    pairs, plain = config.pairs, type(config.pairs)()
    for key, rule in (("rho", "length_control"), ("max_per_prompt", "all_pairs")):
        if getattr(pairs, key) != getattr(plain, key) and pairs.rule != rule:
            yield (
                f"pairs.{key}",
                f"is read by pairs.rule={rule} alone, and the rule is {pairs.rule}",
            )
    for number, judge in enumerate(config.judge.jurors):
        key = "judge" if number == 0 else f"judge.jury.{number - 1}"
        given = judge.votes != type(judge).model_fields["votes"].default
        if given and not judge.traits.writes:
            yield (
                f"{key}.votes",
                f"is of judges that write; form {judge.form} has nothing to repeat",
            )
    by, evaluation = config.best.by, config.evaluation
    needs = {
        "judge_agreement": ("evaluation.ranked", evaluation.ranked),
        "verifiable": ("a function in evaluation.contests", evaluation.functions),
    }
    if by in needs and not needs[by][1]:
        yield "best.by", f"{by} needs {needs[by][0]}, and there is none: no model is named best"
    if config.train.method == "dpo" and config.dpo.max_length <= config.responses.max_new_tokens:
        yield (
            "dpo.max_length",
            f"{config.dpo.max_length} is not above responses.max_new_tokens="
            f"{config.responses.max_new_tokens}: longer pairs are dropped and recorded",
        )
