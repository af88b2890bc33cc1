"""Experiments: arms run, resumed, added to, and held against each other; and what is refused."""

import json
import re
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from selfreward.cli.main import invoke
from selfreward.config.load import changes, load_config
from selfreward.controller import launch
from selfreward.errors import StoppedError
from selfreward.inputs.collect import create_run
from selfreward.inputs.shipped import config_file, experiments
from selfreward.storage import durable
from selfreward.storage.directory import list_runs, open_run
from selfreward.verbs.arms import as_named, brought_up
from selfreward.verbs.arms_text import compare_text
from selfreward.verbs.compare import Compared, ComparedArm, ComparedRun, Use
from selfreward.verbs.console import unmarked
from selfreward.verbs.maintenance import verify
from selfreward.workers import children
from selfreward.workers import train_reward as worker
from tests.support import ROOT, cli_driver
from tests.support.families import make_family
from tests.support.runs import facts
from tests.verbs.test_train_reward import Here
from tests.verbs.test_train_reward import rows as ranked

COMMON = [
    "iterations=1", "sft.max_length=4096", "prompts.count=5", "prompts.window=4", "responses.n=3",
    "judge.form=written", "judge.template=judge/additive.jinja", "judge.min_parse_rate=0",
    "evaluation.limit=2", "evaluation.canaries=false",
    "evaluation.questions={path: seed/questions.jsonl, limit: 20}",
]  # fmt: skip
TEXT = """
base: quickstart
common:
{common}
arms:
  plain: {{}}
  rpo: {{dpo: {{loss_type: [sigmoid, sft], loss_weights: [1.0, 1.0]}}}}
  jury: {{judge.jury: [{{function: "selfreward.rewards.repetition:ended"}}]}}
seeds: [1, 2]
"""


class Workers(cli_driver.Workers):
    """Counts trainings, and may fail or be cut off at one."""

    trained: ClassVar[list[str]] = []
    cut_at: int | None = None
    stops: tuple[str, ...] = ()

    def train(self, iteration: int, stage: str = "train") -> None:
        if len(Workers.trained) == Workers.cut_at:
            Workers.cut_at = None
            raise KeyboardInterrupt
        if iteration and self.run.name in self.stops:
            raise StoppedError("no pairs")
        Workers.trained.append(f"{self.run.name} {iteration}")
        super().train(iteration, stage)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(children, "Children", Workers)
    monkeypatch.setattr(Workers, "trained", [])
    monkeypatch.setattr(Workers, "stops", ())
    return tmp_path


def write(path: str = "e.yaml", **changed: str) -> str:
    """An experiment; ``changed`` replaces text of it."""
    common = "\n".join("  " + word.replace("=", ": ", 1) for word in COMMON)
    text = TEXT.format(common=common)
    for old, new in changed.items():
        wanted = {"plain": "plain: {}", "seeds": "seeds: [1, 2]", "base": "base: quickstart"}[old]
        assert wanted in text
        text = text.replace(wanted, new)
    Path(path).write_text(text)
    return path


def compare(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = invoke(["compare", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def names() -> list[str]:
    return [run.name for run in list_runs()]


def test_arms_are_run_once_resumed_and_equal_the_same_arms_run_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write()
    Workers.cut_at = 3
    code, out, err = compare(capsys, "e.yaml")
    assert (code, out) == (130, "")
    assert "saved; the same command goes on: selfreward compare e.yaml" in err
    cut = [*Workers.trained]

    code, out, err = compare(capsys, "e.yaml", "--plot", "e.svg")
    assert code == 0 and "<svg" in Path("e.svg").read_text()
    assert names() == [f"e-{arm}-{seed}" for arm in ("jury", "plain", "rpo") for seed in (1, 2)]
    # M1 is made once a seed; every arm trains its own M2
    assert sorted(Workers.trained) == sorted(
        [*(f"e-plain-{seed} 0" for seed in (1, 2)), *(f"{name} 1" for name in names())]
    )
    assert cut == ["e-plain-1 0", "e-plain-1 1", "e-rpo-1 1"]
    for line in (
        "run 3 of 6: arm jury, seed 1 (e-jury-1)",
        "run 5 of 6: arm rpo, seed 2 (e-rpo-2); begins as e-plain-2 up to pairs 1; about ",
    ):
        assert line in err
    assert "run 1 of 6" not in err
    for head in ("verifiable, share", "judge agreement, share", "answer length, characters, mean",
                 "win rate over M1, selfreward.rewards.constraints:strict, share",
                 "what a run took, mean over seeds"):  # fmt: skip
        assert head in out
    assert "last less plain's" in out and "rpo    2 of 2" in out
    for run in list_runs():
        assert all(check["ok"] for check in verify(run)), verify(run)

    words = [*COMMON, "judge.jury=[{function: 'selfreward.rewards.repetition:ended'}]", "seed=2"]
    alone = create_run(load_config(config_file("quickstart"), words), "alone")
    launch(alone, lambda: None, cli_driver.Workers(alone, None, lambda: None))
    assert facts(open_run("e-jury-2")) == facts(alone)

    Workers.trained.clear()
    for more in ([], ["--so-far"]):
        code, again, err = compare(capsys, "e.yaml", *more)
        assert (code, again, err, Workers.trained) == (0, out, "", [])


def test_where_it_is_cut_off_the_command_with_all_its_words_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("e.yaml").write_text("base: quickstart\narms: {plain: {}}\nseeds: [1]\n")
    Workers.cut_at = 0
    code, _, err = compare(capsys, "e.yaml", "pairs={min_margin: 0.5}", "--plot", "e.svg", "--json")
    said = "selfreward compare e.yaml 'pairs={min_margin: 0.5}' --plot e.svg --json"
    assert code == 130 and f"saved; the same command goes on: {said}\n" in err


@pytest.mark.slow
def test_arms_seeds_and_iterations_are_added_by_editing_the_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(seeds="seeds: [1]")
    assert compare(capsys, "e.yaml")[0] == 0
    Workers.trained.clear()
    write(seeds="seeds: [1, 4]", plain="plain: {}\n  none: {train.method: none}")
    code, out, err = compare(capsys, "e.yaml")
    assert code == 0 and "none   2 of 2" in out
    assert "e-none-1); begins as e-plain-1 up to pairs 1" in err
    new = [
        "e-none-1 1",
        "e-plain-4 0",
        *(f"e-{arm}-4 1" for arm in ("plain", "none", "rpo", "jury")),
    ]
    assert sorted(Workers.trained) == sorted(new)

    Workers.trained.clear()
    code, out, err = compare(capsys, "e.yaml", "iterations=2", "health.max_ties=0.9")
    assert code == 0
    assert sorted(Workers.trained) == sorted(f"{name} 2" for name in names())
    assert open_run("e-rpo-4").config.health.max_ties == 0.9


@pytest.mark.slow
def test_an_arm_that_was_changed_after_it_ran_is_refused_with_the_key(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    write(seeds="seeds: [1]")
    assert compare(capsys, "e.yaml")[0] == 0
    write(seeds="seeds: [1]", plain="plain: {dpo.beta: 0.3}")
    code, out, err = compare(capsys, "e.yaml")
    assert (code, out) == (5, "")
    assert "error: arm plain, run e-plain-1: dpo.beta is frozen: train of iteration 1" in err
    assert "Give the arm another name, set it back, or remove" in err
    write(seeds="seeds: [1]")
    with open(here / "runs" / "e-plain-1" / "templates" / "judge.jinja", "a") as file:
        file.write("\n")
    code, out, err = compare(capsys, "e.yaml")
    assert code == 5 and "was made with another templates/judge.jinja" in err


def test_answers_that_are_sampled_are_sampled_alike(capsys: pytest.CaptureFixture[str]) -> None:
    write(plain="plain: {}\n  odd: {responses.top_k: 9}")
    assert compare(capsys, "e.yaml", "--dry-run")[0] == 0  # they are greedy
    code, _, err = compare(capsys, "e.yaml", "evaluation.temperature=0.5")
    assert code == 2 and "one measure: responses.top_k is 64 and 9" in err


@pytest.mark.slow
def test_a_limit_that_changes_makes_no_finished_run_anew(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(seeds="seeds: [1]")
    _, out, _ = compare(capsys, "e.yaml")
    assert compare(capsys, "e.yaml", "health.max_ties=0.9") == (0, out, "")


@pytest.mark.slow
def test_what_a_run_has_not_made_yet_may_still_change(capsys: pytest.CaptureFixture[str]) -> None:
    write(seeds="seeds: [1]")
    Workers.cut_at = 1  # M1 is made, and nothing of it is trained
    assert compare(capsys, "e.yaml")[0] == 130
    write(seeds="seeds: [1]", plain="plain: {dpo.beta: 0.3}")
    assert compare(capsys, "e.yaml")[0] == 0
    assert open_run("e-plain-1").config.dpo.beta == 0.3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (["dpo.loss_type=[sigmoid, sft]", "dpo.loss_weights=[1.0, 1.0]"], []),
        (["lora={r: 8}"], []),
    ],
    ids=str,
)
def test_a_run_is_brought_to_the_very_config_that_its_arm_has(
    before: list[str], after: list[str]
) -> None:
    old, new = (
        load_config(config_file("quickstart"), [*COMMON, *words]) for words in (before, after)
    )
    run = create_run(old, "run")
    brought_up(run, new, "e")
    assert changes(run.config, new) == {} and open_run("run").config == new


@pytest.mark.slow
@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("model: org/other", "arms plain and odd do not have one M0: model is "
                             "'bundled:smollm2-135m' and 'org/other'"),
        ("model: org/other, revision: main", "one M0: model"),
        ("sft.ift.limit: 5", "one seed set: sft.ift.limit is 24 and 5"),
        ("sft.eft: null", "one seed set: sft.eft.limit is 16 and None"),
        ("prompts.dataset: seed/constraints.jsonl", "one seed set: prompts.dataset"),
        ("evaluation.limit: 3", "one measure: evaluation.limit is 2 and 3"),
        ("evaluation.temperature: 0.5", "one measure: evaluation.temperature"),
        ("best.by: win_rate", "one measure: best.by is 'verifiable' and 'win_rate'"),
        ("responses.max_new_tokens: 9", "one measure: responses.max_new_tokens"),
        ("recipe: creme", "arm odd: creme: no such config file or recipe"),
        ("dpo.bet: 0.1", "arm odd: dpo.bet: DPOConfig has no such option"),
        ("responses.n: 0", "arm odd: override responses.n=0: responses.n: "),
        ("judge.jury: [{function: 'nowhere:f'}]", "arm odd: judge.jury.0.function=nowhere:f"),
    ],
    ids=str,
)  # fmt: skip
def test_an_arm_that_cannot_be_compared_is_refused_in_a_line_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], own: str, said: str
) -> None:
    write(plain=f"plain: {{}}\n  odd: {{{own}}}")
    code, out, err = compare(capsys, "e.yaml")
    assert (code, out) == (2, "")
    first, *rest = err.splitlines()
    assert first.startswith("error: e.yaml: ") and said in first
    assert len(rest) <= 1 and names() == [] and Workers.trained == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quik"], "quik: no such experiment file or shipped experiment"),
        (["."], ".: is a directory, not an experiment file"),
        (["e.yaml", "--plot", "e.pdf"], "--plot e.pdf"),
        (["e.yaml", "--dry-run", "--so-far"], "--dry-run runs and finds nothing"),
        (["e.yaml", "seed=3", "dpo.beta=x"], "e.yaml: arm plain: override dpo.beta=x"),
    ],
    ids=str,
)
def test_wrong_words_are_told(
    capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    write()
    code, out, err = compare(capsys, *words)
    assert (code, out) == (2, "") and f"error: {said}" in err and names() == []


def test_the_experiment_of_the_page_is_accepted(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    """Its two parts together, but for a recipe that is the reader's."""
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    first, second = map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", page, re.S))
    del first["arms"]["their-recipe"]
    arms = first["arms"] | second["arms"]
    (here / "e.yaml").write_text(yaml.safe_dump(first | second | {"arms": arms}, sort_keys=False))
    ranked(here / "rankings.train.jsonl", "plum")
    ranked(here / "rankings.valid.jsonl", "fig")
    code, out, err = compare(capsys, "e.yaml", "--dry-run", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["rewards"] == {"people": None}
    assert [each["arm"] for each in plan["budgets"]] == [*arms]


REWARDS = (
    "[1]\nrewards:\n  people: {{data: a.jsonl, test: b.jsonl, model: ./tiny, max_steps: {steps}}}"
)
JUROR = "[{model: 'reward:people', form: reward, scale: [-50, 50]}]"
MEASURED = "evaluation.contests=[{model: 'reward:people', form: reward}]"
LEARNS = f"rm: {{judge: {{truncated: true, jury: {JUROR}}}}}"


def test_reward_models_are_told_without_their_place() -> None:
    for place in ("/runs", "/a b/runs", "/old, new/e-rewards/runs"):
        path = f"{place}/e-rewards/people"
        assert as_named(path, "e") == "reward:people"
        assert as_named(f"win rate over M1, {path}", "e") == "win rate over M1, reward:people"
        for other in (f"{place}/d-rewards/people", f"{path}/deeper", "org/e-rewards", "reward, e"):
            assert as_named(other, "e") == other


@pytest.mark.slow
def test_reward_models_are_trained_once_and_first_and_arms_learn_from_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    monkeypatch.setattr(worker, "Child", Here)
    make_family(here / "tiny", "SmolLM 2")
    ranked(here / "a.jsonl", "plum", "fig", "pear")
    ranked(here / "b.jsonl", "kiwi")
    changed = {"plain": f"plain: {{}}\n  {LEARNS}", "seeds": f"seeds: {REWARDS.format(steps=2)}"}
    write(**changed)
    (here / "rewards" / "people").mkdir(parents=True)  # is another one
    out = compare(capsys, "e.yaml", "--dry-run")[1]
    assert "people        still to be made" in out and not (here / "runs").exists()
    code, out, err = compare(capsys, "e.yaml", MEASURED)
    assert code == 0, err
    lines = err.splitlines()
    steps = [at for at, line in enumerate(lines) if line == "reward model people: step 2 of 2"]
    assert steps and steps[0] < next(at for at, line in enumerate(lines) if "run 1 of 4" in line)
    model = here / "runs" / "e-rewards" / "people"
    digest = durable.verify_directory(model)
    config = open_run("e-rm-1").config
    assert [juror.model for juror in config.judge.jury] == [str(model)]
    assert "reward, reward:people, mean" in out and str(here) not in out
    shown = compare(capsys, "e.yaml", MEASURED, "--so-far", "--json")[1]
    found = json.loads(shown)["rewards"]["people"]
    assert (found["digest"], found["prompts"], found["test"]["pairs"]) == (digest, 3, 3)
    told = f"people        9 answers to 3 prompts  3               {found['test']['reward']:.1%}"
    assert told in out

    write(**changed | {"seeds": changed["seeds"].replace("[1]", "[1, 2]")})
    code, _, err = compare(capsys, "e.yaml", MEASURED)
    assert (
        code == 0 and "reward model people" not in err and durable.verify_directory(model) == digest
    )
    for change in ("max_steps: 3", "limit: 2, max_steps: 2"):
        write(**changed | {"seeds": changed["seeds"].replace("max_steps: 2", change)})
        code, _, err = compare(capsys, "e.yaml", MEASURED, "--so-far")
        assert code == 5 and "reward model people: was made of other data or options than" in err
    write(**changed | {"seeds": changed["seeds"].replace("a.jsonl", "c.jsonl")})
    (here / "a.jsonl").rename(here / "c.jsonl")  # the same by another name
    ranked(here / "b.jsonl", "kiwi", "lime")  # what it is measured by may change
    told = "people        9 answers to 3 prompts"
    assert f"{told}  -  " in compare(capsys, "e.yaml", MEASURED, "--so-far")[1]
    trained = [*Workers.trained]
    assert f"{told}  6  " in compare(capsys, "e.yaml", MEASURED)[1]
    assert Workers.trained == trained and durable.verify_directory(model) == digest


@pytest.mark.slow
def test_a_reward_model_is_known_by_what_it_is_and_was_made_from_wherever_it_lies(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, here: Path
) -> None:
    monkeypatch.setattr(worker, "Child", Here)
    for name in ("tiny", "other"):
        make_family(here / name, "SmolLM 2", seed=len(name))
    ranked(here / "a.jsonl", "plum", "fig", "pear")
    ranked(here / "b.jsonl", "kiwi")
    seeds = REWARDS.format(steps=1).replace("model: ./tiny, ", "")
    write(plain=LEARNS, seeds=f"seeds: {seeds}")
    tiny, runs = f"model={here / 'tiny'}", here / "runs"
    code, out, err = compare(capsys, "e.yaml", tiny)
    assert code == 0, err

    (here / "link").symlink_to(runs)
    shutil.copytree(runs, here / "moved", symlinks=True)
    for place in ("runs", "link", "moved", "runs/../runs"):
        monkeypatch.setenv("SELFREWARD_RUNS", place)
        assert compare(capsys, "e.yaml", tiny) == (0, out, "")
    monkeypatch.setenv("SELFREWARD_RUNS", str(runs))
    for run in names():
        shutil.rmtree(runs / run)
    other = f"model={here / 'other'}"
    code, _, err = compare(capsys, "e.yaml", other)
    assert code == 5 and f"people: was made from another model than {here / 'other'}" in err
    shutil.rmtree(runs / "e-rewards" / "people")
    words = ["train-reward", str(here / "other"), "--data", "a.jsonl", "max_steps=1"]
    assert invoke([*words, "--out", str(runs / "e-rewards" / "people")]) == 0
    for more in ([], ["--so-far"], ["--dry-run"]):
        code, _, err = compare(capsys, "e.yaml", tiny, *more)
        assert code == 5 and "is not the model that was made here" in err


@pytest.mark.parametrize(
    ("rewards", "arm", "said"),
    [
        ("people: {data: none.jsonl}", "plain: {}", "e.yaml: rewards.people: data 'none.jsonl'"),
        ("people: {data: a.jsonl, test: a.jsonl}", "plain: {}", "people: test: 1 prompt of"),
        ("people: {data: a.jsonl, learnin_rate: 1}", "plain: {}", "reward.learnin_rate: Rew"),
        ("people: {}", "plain: {}", "e.yaml: the key rewards.people.data is missing"),
        ("people: a.jsonl", "plain: {}", "rewards.people: Input should be a mapping"),
        ("../people: {data: a.jsonl}", "plain: {}", "'../people' is no name of a reward model"),
        ("people: {data: a.jsonl, limit: 0}", "plain: {}", "rewards.people.limit: "),
        ("people: {data: a.jsonl}", LEARNS.replace("people", "poeple"),
         "arm rm: judge.jury.0.model: the experiment has no reward model reward:poeple"),
        ("people: {data: a.jsonl}", "rm: {judge.jury: [{model: 'reward:people'}]}",
         "arm rm: judge.jury.0.form is written, and reward:people is a reward model"),
        ("people: {data: a.jsonl}",
         "rm: {judge.jury: [{form: implicit, model: policy, reference: 'reward:people', "
         "scale: [-1, 1]}]}",
         "arm rm: judge.jury.0.reference is a reward model"),
    ],
    ids=str,
)  # fmt: skip
def test_a_reward_model_that_cannot_be_is_refused_before_anything_is_made(
    capsys: pytest.CaptureFixture[str], here: Path, rewards: str, arm: str, said: str
) -> None:
    ranked(here / "a.jsonl", "plum")
    write(seeds=f"seeds: [1]\nrewards:\n  {rewards}", plain=f"{arm}")
    code, out, err = compare(capsys, "e.yaml", "--dry-run")
    assert (code, out, names()) == (2, "", []) and said in err and len(err.splitlines()) <= 2, err


def test_a_name_that_no_run_can_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = compare(capsys, write("an experiment.yaml"))
    assert code == 2 and "'an experiment-plain-2' is not a run name" in err


@pytest.mark.slow
def test_an_arm_that_cannot_go_on_keeps_no_other_from_its_turn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(seeds="seeds: [1]")
    monkeypatch.setattr(Workers, "stops", ("e-rpo-1",))
    code, out, err = compare(capsys, "e.yaml", "--plot", "e.png")
    assert code == 6 and Path("e.png").stat().st_size > 1000
    assert "e-rpo-1 cannot go on: no pairs" in err and "e-rpo-1 cannot go on: no pairs" in out
    assert "error: 1 of 3 runs cannot go on: e-rpo-1\nhint: saved; the same command" in err
    assert "rpo    0 of 1" in out and "jury   1 of 1" in out
    monkeypatch.setattr(Workers, "stops", ())
    code, out, err = compare(capsys, "e.yaml")
    assert code == 0 and "rpo    1 of 1" in out


def test_a_dry_run_makes_nothing_and_tells_what_would_be_shared(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    write(plain="plain: {}\n  wide: {responses.n: 6}")
    code, out, err = compare(capsys, "e.yaml", "--dry-run", "--json")
    assert (code, err, (here / "runs").exists()) == (0, "", False)
    plan = json.loads(out)
    shares = {run["run"]: run["shares"] for run in plan["runs"]}
    assert shares["e-plain-1"] is None
    assert shares["e-wide-2"] == {"run": "e-plain-2", "iteration": 1, "stage": "prompts"}
    assert shares["e-rpo-1"] == {"run": "e-plain-1", "iteration": 1, "stage": "pairs"}
    assert shares["e-jury-1"] == {"run": "e-plain-1", "iteration": 1, "stage": "judgments"}
    apart = {each["arm"]: each["apart"] for each in plan["budgets"]}
    assert apart == {"plain": [], "wide": ["tokens"], "rpo": [], "jury": []}
    code, out, _ = compare(capsys, "e.yaml", "--dry-run")
    assert "e-jury-2   new    e-plain-2 up to judgments 1" in out
    assert "8 runs of 8 to go; time: unknown" in out


@pytest.mark.parametrize("asked", [False, True])
def test_arms_whose_judges_differ_share_all_that_no_judge_was_asked_of(
    capsys: pytest.CaptureFixture[str], asked: bool
) -> None:
    """Which an evaluation without rankings and canaries is."""
    own = "judge: {form: expected, template: judge/expected.jinja}"
    write(plain=f"plain: {{}}\n  other: {{{own}}}", seeds="seeds: [1]")
    words = ["sft=null", *([] if asked else ["evaluation.ranked=null"])]
    plan = json.loads(compare(capsys, "e.yaml", "--dry-run", "--json", *words)[1])
    [shares] = [run["shares"] for run in plan["runs"] if run["run"] == "e-other-1"]
    whole = {"run": "e-plain-1", "iteration": 1, "stage": "responses"}
    assert shares == (None if asked else whole)


@pytest.mark.slow
def test_the_plan_of_an_arm_is_what_is_then_shared(capsys: pytest.CaptureFixture[str]) -> None:
    write(seeds="seeds: [1]")
    plan = json.loads(compare(capsys, "e.yaml", "--dry-run", "--json")[1])
    assert compare(capsys, "e.yaml")[0] == 0
    for row in plan["runs"]:
        run = open_run(row["run"])
        with run.store() as store:
            made = [(stage.iteration, stage.stage) for stage in store.stages()]
        assert made[len(made) - len(row["left"]) :] == [tuple(key) for key in row["left"]]
    after = json.loads(compare(capsys, "e.yaml", "--dry-run", "--json")[1])
    assert {(run["state"], len(run["left"])) for run in after["runs"]} == {("finished", 0)}
    assert after["seconds"] == 0


@pytest.mark.parametrize("name", experiments())
def test_a_shipped_experiment_has_arms_of_one_budget_that_share_what_they_can(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    code, out, _ = compare(capsys, name, "--dry-run", "--json")
    plan = json.loads(out)
    assert code == 0
    assert {
        each["arm"]: each["apart"] for each in plan["budgets"] if "tokens" in each["apart"]
    } == {}
    first, *others = [run for run in plan["runs"] if run["seed"] == plan["runs"][0]["seed"]]
    assert first["shares"] is None and all(run["shares"] for run in others)


def arm(name: str, apart: tuple[str, ...] = (), **use: Any) -> ComparedArm:
    spent = {"prompts": 9, "responses": 36, "votes": 36, "tokens": 1000, "steps": 8, "seconds": 60}
    run = ComparedRun(f"e-{name}-1", 1, True, "M2", "M2", None, None)
    return ComparedArm(name, "quickstart", (run,), Use(**{**spent, **use}), apart, ())


def test_what_an_arm_uses_more_of_is_marked_and_a_narrow_terminal_loses_nothing() -> None:
    arms = (arm("plain"), arm("wide", ("tokens",), tokens=1101))
    found = Compared("e", "e.yaml", "verifiable", (1,), arms, {})
    wide, narrow = (unmarked(compare_text(found, width)) for width in (120, 40))
    assert "1,101 !" in wide and "1,000 !" not in wide
    assert "! differs from the first arm's by more than 10%" in wide
    assert max(map(len, narrow.splitlines())) <= 40
    assert "tokens sampled 1,101 !" in " ".join(narrow.split())
