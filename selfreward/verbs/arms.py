"""The arms of an experiment: their configs, all checked, and the runs that they are made of.

experiment file -> Arm, one config each -> ArmRun, one for each arm and seed: runs/EXP-ARM-SEED
                -> the data of its reward models, which are made first: runs/EXP-rewards/NAME
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations, takewhile
from pathlib import Path
from typing import Literal

from selfreward.config.experiment import HINTS, REWARD_NAME, Experiment, load_experiment
from selfreward.config.judging import REWARD
from selfreward.config.load import changes, dump_config, load_config, word_of
from selfreward.config.readers import StageKey, alike
from selfreward.config.run import Config, all_judges
from selfreward.errors import ConfigError, IntegrityError, SelfRewardError
from selfreward.inputs.collect import found_models, with_judges
from selfreward.inputs.shared import copied_files, differing
from selfreward.inputs.shipped import config_file, recipes
from selfreward.storage.changes import made_stages, refuse_frozen
from selfreward.storage.create import is_empty
from selfreward.storage.directory import NAME, Run, runs_root
from selfreward.verbs.status import is_complete
from selfreward.verbs.train_reward import RewardData, read_reward_data
from selfreward.workers.checks import check_changed, check_run

_COMMON: dict[str, tuple[str, ...]] = {
    "one M0": ("model", "revision", "trust_remote_code", "system_prompt", "chat_template",
               "chat_template_kwargs"),
    "one seed set": ("sft.ift", "sft.eft", "sft.selection.ranked", "prompts.dataset",
                     "prompts.seeds"),
    "one measure": ("evaluation", "best.by", "responses.max_new_tokens"),
}  # fmt: skip
"""Keys, and groups of them, in which arms may not differ; the last one cuts the answers by which
models are measured, and where these are sampled, they are as ``responses`` says."""
_TO_COME = "reward-model-of-this-experiment/"
"""Makes a name as the hub's are of that of a reward model that need not be there yet."""
_SEED_FILES = ("ift", "eft", "ranked", "dataset", "prompts")


@dataclass(frozen=True, slots=True)
class Arm:
    """One of the ways that are compared."""

    name: str
    source: str
    """The recipe or config file that it is made of."""
    config: Config
    """With the first seed."""
    checked: Config
    """The same before reward models of the experiment have a place, as checks take it."""
    files: dict[str, str]
    """Text of every input file of its runs, see ``collect.run_inputs``."""
    lies_by: Path
    """The file beside which relative paths are looked for."""

    def with_seed(self, seed: int) -> tuple[Config, dict[str, str]]:
        """The config of a run, and its input files."""
        config = self.config.model_copy(update={"seed": seed})
        text = dump_config(config)
        return config, {**self.files, "config.yaml": text, "config.resolved.yaml": text}


@dataclass(frozen=True, slots=True)
class Shared:
    """What a run does not make itself, as another one has."""

    run: str
    iteration: int
    stage: str
    """The last stage that it has from there."""


@dataclass(frozen=True, slots=True)
class ArmRun:
    """A run of an experiment, before it is worked on."""

    run: str
    """Its name."""
    arm: str
    seed: int
    state: Literal["new", "begun", "finished"]
    shares: Shared | None
    """What it is going to have of others; None: nothing, or it is there already."""
    left: tuple[StageKey, ...]
    """Stages that it is going to make itself."""


@dataclass(frozen=True, slots=True)
class Arms:
    """An experiment, all of it checked."""

    name: str
    path: Path
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    alike: Mapping[tuple[str, str], tuple[StageKey, ...]]
    """The first stages that two arms make the same with one seed, by their names."""
    rewards: Mapping[str, RewardData]
    """What each reward model is made of, by name."""

    def reward_model(self, name: str) -> Path:
        """Directory of a reward model, which may not be there yet."""
        return reward_directory(self.name) / name

    def run(self, arm: str, seed: int) -> Run:
        """A run, which may not be there yet."""
        return Run(runs_root() / f"{self.name}-{arm}-{seed}")

    def of_seed(self, seed: int) -> list[Run]:
        """The runs of a seed that are there."""
        found = (self.run(arm.name, seed) for arm in self.arms)
        return [run for run in found if is_there(run)]

    @property
    def each(self) -> Iterator[tuple[Arm, int]]:
        """Every arm with every seed, so that after each seed all arms have been run as often."""
        return ((arm, seed) for seed in self.seeds for arm in self.arms)


def reward_directory(experiment: str) -> Path:
    """Where the reward models of an experiment lie."""
    return runs_root().absolute() / f"{experiment}-rewards"


def as_named(text: str, experiment: str) -> str:
    """A text with each path of a reward model as ``reward:NAME``, wherever the runs lay then."""
    return re.sub(rf"/(?:.*/)?{re.escape(experiment)}-rewards/(?=[\w-]+$)", REWARD_NAME, text)


def _named(config: Config, experiment: str) -> Config:
    """A config that does not say where runs lie: reward models are of the experiment."""
    return with_judges(config, lambda name: as_named(name, experiment))


def is_there(run: Run) -> bool:
    """Whether a run has made anything; one that has not is made anew."""
    return run.records.is_file() and not is_empty(run)


def arms_of(path: Path, words: Sequence[str] = ()) -> Arms:
    """Read an experiment and check its arms, as far as can be without loading a model.

    Args:
        words: ``dotted.key=value`` overrides of every arm, after its own.

    Raises:
        ConfigError, PreflightError: The file or the config of an arm is wrong, or two arms do not
            begin from one model and seed set, or are not measured alike.
        IntegrityError: A run was made with another config or other files than its arm has now.
    """
    experiment = load_experiment(path)
    name = path.stem
    arms: list[Arm] = []
    for arm in experiment.arms:
        longest = f"{name}-{arm}-{max(experiment.seeds)}"
        if not NAME.fullmatch(longest):
            raise ConfigError(
                f"{path}: arm {arm}: {longest!r} is not a run name",
                "The file's name and the arm's make it: letters, digits, '.', '-', '_', at most 64 "
                "with the seed.",
            )
        try:
            arms.append(_arm(experiment, arm, path, words))
        except SelfRewardError as error:
            raise type(error)(f"{path}: arm {arm}: {error.message}", error.hint) from None
        _check_alike(arms[0], arms[-1], path)
    same = {
        (a.name, b.name): tuple(alike(a.config, b.config, differing(a.files, b.files)))
        for a, b in permutations(arms, 2)
    }
    rewards = {}
    for key, config in experiment.rewards.items():
        try:
            rewards[key] = read_reward_data(config, path.parent)
        except SelfRewardError as error:
            where = f"{path}: rewards.{key}"
            raise type(error)(f"{where}: {error.message}", error.hint) from None
    found = Arms(name, path, tuple(arms), experiment.seeds, same, rewards)
    for one, seed in found.each:
        _check_made(found.run(one.name, seed), one, seed, name)
    return found


def planned(arms: Arms) -> list[ArmRun]:
    """What is left of each run, in the order in which they are worked on.

    What a run is going to share is told as if all runs before it were finished.
    """
    return [_planned(arms, arm, seed) for arm, seed in arms.each]


def _planned(arms: Arms, arm: Arm, seed: int) -> ArmRun:
    run = arms.run(arm.name, seed)
    order = [(t, s) for t in range(arm.config.iterations + 1) for s in arm.config.stages(t)]
    if not is_there(run):
        shares, count = _to_share(arms, arm, seed)
        return ArmRun(run.name, arm.name, seed, "new", shares, tuple(order[count:]))
    if is_complete(run) and run.settings["iterations"] >= arm.config.iterations:
        return ArmRun(run.name, arm.name, seed, "finished", None, ())
    made = _made(run)
    left = tuple(key for key in order if key not in made)
    return ArmRun(run.name, arm.name, seed, "begun", None, left)


def _to_share(arms: Arms, arm: Arm, seed: int) -> tuple[Shared | None, int]:
    """From which run the most is going to be had, and how many stages."""
    best: tuple[Shared | None, int] = (None, 0)
    is_earlier = True
    for other in arms.arms:
        if other is arm:
            is_earlier = False
            continue
        run, stages = arms.run(other.name, seed), arms.alike[other.name, arm.name]
        if not is_earlier:
            made = _made(run) if is_there(run) else set()
            stages = tuple(takewhile(made.__contains__, stages))
        if len(stages) > best[1]:
            best = Shared(run.name, *stages[-1]), len(stages)
    return best


def _made(run: Run) -> set[StageKey]:
    with run.store() as store:
        return {(row.iteration, row.stage) for row in store.stages()}


def _arm(experiment: Experiment, name: str, path: Path, words: Sequence[str]) -> Arm:
    named = experiment.source(name)
    beside = path.parent / named
    source = beside if beside.is_file() else config_file(named)
    own = [*experiment.words(name), *words, f"seed={experiment.seeds[0]}"]
    config = load_config(source, own)
    # A shipped recipe names shipped files alone; what the overrides name lies by the experiment.
    lies_by = path if source in recipes().values() else source

    _check_rewards(config, experiment)

    def later(model: str) -> str:
        return model.replace(REWARD_NAME, _TO_COME, 1)

    def made(model: str) -> str:
        name = model.removeprefix(REWARD_NAME)
        return model if name == model else str(reward_directory(path.stem) / name)

    checked = with_judges(config, later)
    files = check_run(checked, lies_by)
    config = with_judges(found_models(config, lies_by), made)
    return Arm(name, named, config, checked, files, lies_by)


def _check_rewards(config: Config, experiment: Experiment) -> None:
    """Refuse a judge whose reward model the experiment lacks, or that is asked in words."""
    for key, judge in all_judges(config).items():
        if (getattr(judge, "reference", None) or "").startswith(REWARD_NAME):
            raise ConfigError(
                f"{key}.reference is a reward model, which says nothing of tokens",
                f"Name a language model, or set {key}.form=reward and {key}.model.",
            )
        if not judge.model.startswith(REWARD_NAME):
            continue
        if judge.model.removeprefix(REWARD_NAME) not in experiment.rewards:
            names = ", ".join(experiment.rewards)
            raise ConfigError(
                f"{key}.model: the experiment has no reward model {judge.model}",
                f"Its `rewards` are {names}." if names else "Such as " + HINTS["rewards"],
            )
        if judge.form != REWARD:
            raise ConfigError(
                f"{key}.form is {judge.form}, and {judge.model} is a reward model",
                f"Set {key}.form=reward and {key}.scale.",
            )


def _check_alike(first: Arm, other: Arm, path: Path) -> None:
    """Refuse two arms whose difference would tell nothing of how they are trained."""
    differ = changes(first.config, other.config)
    common = dict(_COMMON)
    if first.config.evaluation.temperature:
        common["one measure"] += ("responses.top_p", "responses.top_k")
    for what, groups in common.items():
        for key, (one, another) in differ.items():
            # Of a group that one arm lacks, the first key that has a value says so.
            if one != another and any(f"{key}.".startswith(f"{group}.") for group in groups):
                raise ConfigError(
                    f"{path}: arms {first.name} and {other.name} do not have {what}: {key} is "
                    f"{one!r:.60} and {another!r:.60}",
                    "What all arms have stands in `base` or `common`; to compare other models or "
                    "data, write another experiment.",
                )
    held_out = [f"seeds/{name}" for name in ("heldout", "questions", "canaries", "benchmark-")]
    fixed = (*(f"seeds/{name}.jsonl" for name in _SEED_FILES), *held_out)
    for name in differing(first.files, other.files):
        if name.startswith(fixed):
            raise ConfigError(
                f"{path}: arms {first.name} and {other.name} differ in {name}, though their "
                "configs name it alike: beside "
                f"{first.source} lies another file than beside {other.source}",
                "Name it in `common`.",
            )


def _check_made(run: Run, arm: Arm, seed: int, experiment: str) -> None:
    """Refuse a run that has made something otherwise than its arm says now."""
    if not is_there(run):
        return
    config, files = arm.with_seed(seed)
    made_with, config = (_named(each, experiment) for each in (run.config, config))
    anew = f"Give the arm another name, set it back, or remove {run.path} to run it anew."
    with run.store() as store:
        made = made_stages(store, run.config)
    changed = changes(made_with, config)
    try:
        refuse_frozen(run.name, made_with, config, changed, made)
    except SelfRewardError as error:
        raise IntegrityError(f"arm {arm.name}, run {run.name}: {error.message}", anew) from None
    for name in differing(copied_files(run), files):
        raise IntegrityError(
            f"arm {arm.name}, run {run.name}: was made with another {name} than there is now", anew
        )


def brought_up(run: Run, config: Config, experiment: str) -> None:
    """Give a run that is there what its arm has since got, of which it has made nothing yet.

    Args:
        experiment: Name of that of the arm.

    Raises:
        SelfRewardError: See ``Run.configure``.
    """
    changed = changes(_named(run.config, experiment), _named(config, experiment))
    if is_complete(run) and "iterations" not in changed:
        return  # what is left are keys of no record, such as limits that it has passed
    now = config.model_dump(mode="json")
    # Whole groups: no word for a single key says that it is gone.
    words = [word_of(group, now[group]) for group in sorted({k.partition(".")[0] for k in changed})]
    if words:
        run.configure(words, partial(check_changed, run))
