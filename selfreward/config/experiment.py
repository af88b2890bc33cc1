"""What an experiment file says: arms, each a config, that are compared over several seeds.

base: quickstart                      # a recipe, or a config file
common: {prompts.count: 32}           # overrides of every arm
arms:
  self-rewarding: {}                  # the base as it is
  rpo: {dpo: {loss_type: [sigmoid, sft]}}
  cream: {recipe: cream}              # another recipe in place of the base
  jury: {judge.jury: [{model: "reward:people", form: reward, scale: [-20, 20]}]}
rewards:                              # reward models, trained first
  people: {data: ranked.jsonl}
seeds: [1, 2, 3]
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from selfreward.config.base import Group
from selfreward.config.load import said_of, words_of
from selfreward.config.secrets import check_secrets
from selfreward.config.training import RewardModelConfig
from selfreward.config.yamlfile import Path_, place_of, read_yaml
from selfreward.errors import ConfigError

_ELSEWHERE = {
    "seed": "`seeds` has those of all arms.",
    "recipe": "`base` names that of all arms.",
}
HINTS = {
    "base": "base: quickstart",
    "common": "common: {prompts.count: 32}",
    "arms": "arms: {self-rewarding: {}, rpo: {recipe: iterative-rpo}}",
    "seeds": "seeds: [1, 2, 3]",
    "rewards": "rewards: {people: {data: ranked.jsonl, test: held-out.jsonl}}",
}
"""How each key is written."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REWARD = re.compile(r"[A-Za-z0-9]+(?:[_-][A-Za-z0-9]+){0,9}")
REWARD_NAME = "reward:"
"""Before the name of a reward model of the experiment, where an arm names it as a judge's."""


class Experiment(Group):
    """Arms from one base model and one seed set, that are measured alike."""

    base: str = Field(min_length=1)
    """A config file or a recipe's name; what each arm is, but for its overrides."""
    common: dict[str, Any] = Field(default={})
    """Overrides of every arm, applied before its own: nested as in a config, or dotted keys."""
    arms: dict[str, dict[str, Any]] = Field(min_length=1)
    """Overrides by name; ``recipe`` among them names another config in place of ``base``. The first
    arm is the one that the others are held against."""
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = Field(
        default=(1, 2, 3), min_length=1, strict=False
    )
    """Of the runs of each arm. Three tell chance from gain only where gains are large."""

    rewards: dict[str, RewardModelConfig] = Field(default={})
    """Reward models by name, trained before the arms, from the model that these begin with. As a
    judge's model one is ``reward:NAME``."""

    @field_validator("rewards")
    @classmethod
    def _check_rewards(cls, rewards: dict[str, RewardModelConfig]) -> dict[str, RewardModelConfig]:
        for name in rewards:
            if not _REWARD.fullmatch(name):
                raise ValueError(
                    f"{name!r} is no name of a reward model: letters and digits, '-' or '_' between"
                )
        return rewards

    @field_validator("arms")
    @classmethod
    def _check_names(cls, arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        seen: dict[str, str] = {}
        for name in arms:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an arm: letters, digits, '.', '-', '_'")
            if (other := seen.setdefault(name.lower(), name)) != name:
                raise ValueError(f"two arms of one name: {other} and {name}")
            recipe = arms[name].get("recipe", "base")
            if not (isinstance(recipe, str) and recipe):
                raise ValueError(f"{name}.recipe is {recipe!r}, no name of a recipe or config file")
        return arms

    @field_validator("seeds")
    @classmethod
    def _check_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            raise ValueError(f"names {twice[0]} twice")
        return seeds

    def source(self, arm: str) -> str:
        """The config file or recipe that an arm is made of."""
        return str(self.arms[arm].get("recipe", self.base))

    def words(self, arm: str) -> list[str]:
        """Overrides of an arm as ``dotted.key=value`` words, those of all arms first."""
        own = {key: value for key, value in self.arms[arm].items() if key != "recipe"}
        return [*words_of(self.common), *words_of(own)]


def load_experiment(path: Path) -> Experiment:
    """Read an experiment file; the configs of its arms are not looked at.

    Raises:
        ConfigError: With file, line, key and what to do; two arms of one name are a key twice.
    """
    data, places = read_yaml(path)
    check_secrets(data, places, str(path))
    try:
        experiment = Experiment.model_validate(data)
    except ValidationError as error:
        raise _explain(error, places, str(path)) from None
    groups: dict[Path_, dict[str, Any]] = {("common",): experiment.common}
    groups |= {("arms", name): arm for name, arm in experiment.arms.items()}
    for at, group in groups.items():
        for key, hint in _ELSEWHERE.items():
            if key in group and (key == "seed" or at == ("common",)):
                where = place_of((*at, key), places, str(path))
                raise ConfigError(f"{where}: {'.'.join(map(str, at))}.{key}: not set here", hint)
    return experiment


def _explain(error: ValidationError, places: dict[Path_, str], name: str) -> ConfigError:
    """The first problem as one line: where, which key, what is wrong."""
    problems = error.errors()
    unknown = [problem for problem in problems if problem["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]
    loc: Path_ = tuple(problem["loc"])
    where, key = place_of(loc, places, name), ".".join(map(str, loc))
    names = list(Experiment.model_fields)
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, names, 1)
        hint = f"Did you mean {near[0]}?" if near else "Overrides of all arms stand in `common`."
        return ConfigError(
            f"{where}: unknown key {key!r}; an experiment has {', '.join(names)}", hint
        )
    if problem["type"] == "missing":
        return ConfigError(
            f"{name}: the key {key} is missing", f"An experiment has {', '.join(names)}."
        )
    said = said_of(problem)
    if problem["type"] == "dict_type" and len(loc) == 1:
        said = "Input should be a mapping, such as {name: {}}"
    elif problem["type"] == "model_type":
        said = "Input should be a mapping"
    if loc[0] == "arms" and len(loc) == 2 and problem["type"] == "dict_type":
        found = problem["input"]
        what = "has no overrides" if found is None else f"found {found!r:.80}, no mapping"
        return ConfigError(f"{where}: {key}: {what}", f"Write `{loc[1]}: {{}}`, or what differs.")
    return ConfigError(
        f"{where}: {key}: {said}, found {problem['input']!r:.80}", f"Such as {HINTS[str(loc[0])]}"
    )
