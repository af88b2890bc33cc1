"""A run directory: safe names, one owner, a frozen config, a fingerprint of all that went in."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfreward.config.load import build_config, load_config
from selfreward.config.run import RUNTIME_KEYS
from selfreward.config.yamlfile import read_yaml
from selfreward.errors import (
    ConfigError,
    IntegrityError,
    LockedError,
    NotFoundError,
    PreflightError,
)
from selfreward.inputs.collect import create_run
from selfreward.inputs.judge_templates import run_template
from selfreward.records import Drop, Prompt, Response, Stage
from selfreward.storage.create import discard_empty, new_directory
from selfreward.storage.directory import Run, list_runs, open_run
from selfreward.storage.fingerprints import fingerprint_of
from selfreward.storage.store import Store

SMALL = [
    "sft.ift={path: seed/ift.jsonl, limit: 3}", "sft.eft={path: seed/eft.jsonl, limit: 2}",
    "prompts.seeds={path: seed/ift.jsonl, limit: 9}",
]  # fmt: skip


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "runs"
    monkeypatch.setenv("SELFREWARD_RUNS", str(root))
    return root


def make(name: str = "run", *overrides: str) -> Run:
    return create_run(build_config({}, [*SMALL, *overrides]), name)


# Names

HOSTILE_NAMES = [
    "", ".", "..", "...", "../x", "../../etc/passwd", "a/b", "a/../../b", "/etc/passwd", "/", "//x",
    "~", "~root", "-rf", "--help", ".hidden", "_x", "a b", " a", "a ", "a\n", "a\nb", "a\tb",
    "a\x00b", "é", "名", "\uff41", "a\u202eb", "a:b", "a*", "a?b", 'a"b', "a'b", "a|b", "a\\b",
    "..\\x", "%2e%2e", "a;true", "$(id)", "`id`", "${HOME}", "a" * 65, "a" * 300, "\x1b[2J",
]  # fmt: skip


def test_there_are_many_hostile_names() -> None:
    assert len(set(HOSTILE_NAMES)) >= 30


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_is_refused_and_nothing_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="not a run name"):
        make(name)
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_hostile_name_opens_nothing(name: str) -> None:
    make()
    with pytest.raises(NotFoundError, match="no run"):
        open_run(name)


@pytest.mark.parametrize("name", ["a", "0", "demo-2.1_x", "CON", "a" * 64, "a..b"])
def test_a_plain_name_is_taken(root: Path, name: str) -> None:
    assert make(name).path == root / name
    assert open_run(name).name == name
    assert [run.name for run in list_runs()] == [name]


def test_a_name_in_use_is_refused_with_what_to_do_and_the_run_is_left_alone(root: Path) -> None:
    run = make()
    with run.owned() as store:
        store.add([Prompt(1, 0, "a", "a", None)])
    before = run.fingerprint
    with pytest.raises(ConfigError) as error:
        make("run", "seed=7")
    assert "selfreward resume run" in error.value.hint
    assert Run(run.path).fingerprint == before
    assert [path.name for path in root.iterdir()] == ["run"]


def test_an_unknown_run_is_an_error_that_lists_the_known_ones() -> None:
    make("first")
    with pytest.raises(NotFoundError) as error:
        open_run("frist")
    assert "first" in error.value.hint


def test_a_run_is_opened_by_path_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make()
    monkeypatch.chdir(run.path)
    for path in (str(run.path), "."):
        assert open_run(path).name == "run"


# Making


def test_a_new_run_holds_copies_of_all_that_it_reads(tmp_path: Path) -> None:
    rows = tmp_path / "mine.jsonl"
    rows.write_text(json.dumps({"prompt": "p", "response": "r"}) + "\n")
    config = tmp_path / "mine.yaml"
    config.write_text(
        "# my run\nsft: {ift: mine.jsonl, eft: null}\n"
        "prompts: {human_shots: 1, generated_shots: 0}\n"
    )
    run = create_run(load_config(config), "run", config)
    rows.unlink()
    assert (run.path / "config.yaml").read_text().startswith("# my run")
    assert json.loads(run.seed_file("ift").read_text()) == {"prompt": "p", "response": "r"}
    assert json.loads(run.seed_file("prompts").read_text()) == {"prompt": "p"}
    assert not run.seed_file("eft").exists()
    assert run_template(run, "judge").sha256 and run_template(run, "prompts").sha256
    config.unlink()
    assert run.config == Run(run.path).config
    assert run.config.sft is not None and run.config.sft.eft is None


def test_a_run_with_wrong_inputs_is_not_made(tmp_path: Path) -> None:
    torn = tmp_path / "torn.jsonl"
    torn.write_text('{"prompt": "p", "resp')
    for override in (f"sft.ift={torn}", "judge.template=judge/none.jinja", "sft.eft=none.jsonl"):
        with pytest.raises(ConfigError):
            make("run", override)
    assert list_runs() == []
    assert list(tmp_path.iterdir()) == [torn]


def test_a_run_that_cannot_be_written_is_not_made(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(PreflightError, match="No space left"):
            make()
    assert list(root.iterdir()) == []
    make()


# Config on resume


def test_what_nothing_was_made_with_can_change_until_something_is() -> None:
    run = make("run", "iterations=2")
    for word in ("dpo.beta=0.2", "responses.n=8", "seed=1", "engine.compute_type=int8"):
        run.configure([word])
    assert run.config == Run(run.path).config
    assert (run.config.dpo.beta, run.config.responses.n, run.config.seed) == (0.2, 8, 1)
    with run.owned() as store:
        finish(run, store, 0, "train", digest="m1")
        finish(run, store, 0, "evaluate")
        finish(run, store, 1, "prompts")
        store.add([Response(1, 0, 0, "begun", "stop", 1)])
    before = run.resolved.read_bytes()
    for word, stage in {
        "seed=2": "train of iteration 0", "sft.learning_rate=1.0": "train of iteration 0",
        "lora={r: 4}": "train of iteration 0", "prompts.count=9": "prompts of iteration 1",
        "responses.n=9": "responses of iteration 1", "sft=null": "sft",
        "responses.max_new_tokens=9": "evaluate of iteration 0",
        "engine.compute_type=float32": "evaluate of iteration 0",
        "judge.votes=7": "train of iteration 0", "judge.break_ties=true": "train of iteration 0",
    }.items():  # fmt: skip
        with pytest.raises(IntegrityError, match=word.partition("=")[0]) as error:
            run.configure(["iterations=5", word])
        assert stage in error.value.message
    for word in ("judge.template=judge/expected.jinja", "prompts.dataset=x.jsonl"):
        with pytest.raises(IntegrityError, match="own copy"):
            run.configure([word])
    with pytest.raises(ConfigError):
        run.configure(["iteration=3"])
    with pytest.raises(ConfigError, match="iteration 1 has begun"):
        run.configure(["iterations=0"])
    run.configure([])
    assert run.resolved.read_bytes() == before
    run.configure(["dpo.beta=0.3", "pairs.min_margin=1.0", "iterations=1"])
    with run.owned() as store:
        Run(run.path).check_fingerprints(store)
        kinds = [kind for _, kind, _ in store.events()]
        assert kinds.count("configured") == 5
        finish(run, store, 1, "responses")
        Run(run.path).check_fingerprints(store)


def test_a_change_is_noted_and_a_stage_is_held_against_the_config_of_its_own_time() -> None:
    run = make("run", "iterations=2")
    with run.owned() as store:
        finish(run, store, 0, "train", digest="m1")
    run.configure(["dpo.beta=0.25"])
    with run.owned() as store:
        finish(run, store, 0, "evaluate")
        finish(run, store, 1, "prompts")
        Run(run.path).check_fingerprints(store)
        [text] = [text for _, kind, text in store.events() if kind == "configured"]
        assert json.loads(text)["changed"] == {"dpo.beta": [0.1, 0.25]}
        for altered in ("beta: 0.1", "beta: 0.3"):  # by hand; 0.1 once was right
            text = run.resolved.read_text()
            run.resolved.write_text(text.replace("beta: 0.25", altered))
            with pytest.raises(IntegrityError, match="evaluate of iteration 0"):
                Run(run.path).check_fingerprints(store)
            run.resolved.write_text(text)


def test_a_training_that_came_to_no_end_is_begun_anew_with_other_options() -> None:
    run = make("run", "iterations=1")
    with run.owned() as store:
        finish(run, store, 0, "train", digest="m1")
        store.set_progress(0, "train", 1, 1, 1.0)
        store.set_progress(1, "train", 3, 9, 1.0)
        for iteration in (0, 1):
            store.log_training(iteration, 1, {"loss": float("nan")})
    run.configure(["engine.concurrency=3"])
    with run.store() as store:
        assert store.train_log(1)
    run.configure(["dpo.learning_rate=1e-7"])
    with run.store() as store:
        assert not store.train_log(1) and store.train_log(0)
        assert [(p.iteration, p.stage) for p in store.progress()] == [(0, "train")]
    run.model_directory(2).mkdir()  # published, but not yet committed
    with pytest.raises(IntegrityError, match=r"dpo\.learning_rate") as error:
        run.configure(["dpo.learning_rate=1e-8"])
    assert "--retrain 1" in error.value.hint


def test_iterations_can_grow_and_speed_can_change_without_another_fingerprint() -> None:
    run = make("run", "iterations=2")
    before = run.fingerprint
    run.configure(["iterations=5", "engine.concurrency=3", "engine.max_batch_size=2"])
    again = Run(run.path)
    assert (run.config.iterations, again.config.iterations) == (5, 5)
    assert again.config.engine.concurrency == 3
    assert again.fingerprint == before


def test_another_engine_may_go_on_with_a_run_also_with_one_of_an_earlier_version() -> None:
    """Earlier versions took the kinds of engines into the fingerprint."""
    judge = "judge.engine={kind: ctranslate2}"
    run = make("run", "engine.kind=auto", "judge.model=org/judge", judge)
    kinds = {"engine.kind": "auto", "judge.engine.kind": "ctranslate2"}
    with run.owned() as store:
        plain = read_yaml(run.resolved)[0]
        earlier = run.stage_fingerprint(store, 0, "train", fingerprint_of(plain, run.path, kinds))
        store.finish_stage(Stage(0, "train", 1, 0, "d", earlier, 1.0, {}))
        finish(run, store, 1, "prompts")
        run.check_fingerprints(store)
    run.configure(["engine.kind=transformers", "judge.engine.kind=transformers"])
    with run.owned() as store:
        assert Run(run.path).config.engine.kind == "transformers"
        Run(run.path).check_fingerprints(store)
        run.resolved.write_text(run.resolved.read_text().replace("beta: 0.1", "beta: 0.2"))
        with pytest.raises(IntegrityError, match="train of iteration 0"):
            Run(run.path).check_fingerprints(store)


# Fingerprint

CHANGED = {
    "revision": "abc", "system_prompt": "Be brief.", "chat_template_kwargs": {"x": 1},
    "lora": {"r": 8}, "prompts.dataset": {"path": "x"}, "judge.form": "expected",
    "prompts.max_attempts": 99,
}  # fmt: skip


def leaves(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def other(key: str, value: Any) -> Any:
    """A valid value that differs."""
    if key in CHANGED:
        return CHANGED[key]
    match key.rpartition(".")[2], value:
        case _, bool():
            return not value
        case _, int():
            return value + 1
        case _, float():
            return value / 2 if value else 0.5
        case _, list():
            return [*value, "more"]
        case ("columns", _):
            return {"a": "b"}
        case ("limit", None):
            return 7
        case _:
            return "other"


ENGINE = [key for key in RUNTIME_KEYS if "engine." in key and "staged" not in key]
OPTIONS = [f"{key}={'server' if key.endswith('kind') else 1}" for key in ENGINE]
OPTIONS = [word for word in OPTIONS if not word.startswith("launch.")] + ["sft.selection={}"]
FULL = yaml.safe_load(yaml.safe_dump(build_config({}, [*SMALL, *OPTIONS]).model_dump(mode="json")))
LEAVES = [key for key, _ in leaves(FULL) if key != "pairs.rule"]  # which has one value only


def test_every_leaf_of_the_config_is_looked_at() -> None:
    assert {"seed", "dpo.beta", "sft.ift.path", "judge.votes", "prompts.keywords"} <= set(LEAVES)
    assert set(LEAVES) > RUNTIME_KEYS


@pytest.fixture(scope="module")
def run_to_alter(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SELFREWARD_RUNS", str(tmp_path_factory.mktemp("runs")))
        return make("run", *OPTIONS)


@pytest.mark.parametrize("key", LEAVES)
def test_each_config_value_alters_the_fingerprint_unless_it_decides_no_record(
    run_to_alter: Run, key: str
) -> None:
    """A new key that is not in RUNTIME_KEYS is taken for one that decides records."""
    path = run_to_alter.path / "config.resolved.yaml"
    before, text = run_to_alter.fingerprint, path.read_text()
    data = yaml.safe_load(text)
    *groups, name = key.split(".")
    group = data
    for part in groups:
        group = group[part]
    group[name] = other(key, group[name])
    path.write_text(yaml.safe_dump(data))
    try:
        after = Run(run_to_alter.path).fingerprint
    finally:
        path.write_text(text)
    assert (after == before) == (key in RUNTIME_KEYS | {"iterations"})


def test_the_fingerprint_is_that_of_an_equal_run() -> None:
    assert make("a").fingerprint == make("b").fingerprint


@pytest.mark.parametrize("text", ["{torn", "7", "[1]"])
def test_facts_on_the_base_model_that_cannot_be_read_are_one_error_that_names_the_file(
    text: str,
) -> None:
    run = make()
    (run.path / "models" / "M0.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"models/M0\.json: cannot be read"):
        run.base_model()


@pytest.mark.parametrize(
    "name",
    ["templates/judge.jinja", "templates/prompts.jinja", "seeds/ift.jsonl", "seeds/eft.jsonl",
     "seeds/prompts.jsonl", "models/M0.json", "config.resolved.yaml"],
)  # fmt: skip
def test_altered_inputs_are_found_before_a_run_goes_on(name: str) -> None:
    run = make()
    (run.path / "models" / "M0.json").write_text(json.dumps({"path": "/m", "digest": "d0"}))
    with run.owned() as store:
        finish(run, store, 0, "train", digest="m1")
        finish(run, store, 1, "prompts")
        finish(run, store, 1, "responses")
        run.check_fingerprints(store)

        path = run.path / name
        text = path.read_text()
        changed = text.replace("d0", "d1").replace("beta: 0.1", "beta: 0.2")
        path.write_text(changed if changed != text else text.replace(" a", " another", 1))
        assert path.read_text() != text
        with pytest.raises(IntegrityError, match="train of iteration 0"):
            Run(run.path).check_fingerprints(store)
        path.unlink()
        if name != "config.resolved.yaml":
            with pytest.raises(IntegrityError):
                Run(run.path).check_fingerprints(store)
        path.write_text(text)
        Run(run.path).check_fingerprints(store)


def finish(run: Run, store: Store, iteration: int, stage: str, digest: str = "d") -> None:
    fingerprint = run.stage_fingerprint(store, iteration, stage)
    store.finish_stage(Stage(iteration, stage, 1, 0, digest, fingerprint, 1.0, {}))


def test_a_stages_fingerprint_holds_the_digests_of_the_stages_before_it() -> None:
    prints = []
    for name, digest in (("a", "one"), ("b", "one"), ("c", "two")):
        run = make(name)
        with run.owned() as store:
            finish(run, store, 0, "train", digest)
            prints.append(run.stage_fingerprint(store, 1, "prompts"))
    assert prints[0] == prints[1] != prints[2]


def test_a_policy_that_is_gone_or_cut_is_refused() -> None:
    run = make()
    with pytest.raises(IntegrityError, match="M1 is needed but not whole"):
        run.policy(1)


def test_without_a_seed_step_m1_is_m0() -> None:
    run = make("run", "sft=null")
    (run.path / "models" / "M0.json").write_text(json.dumps({"path": "/m", "digest": "d0"}))
    assert run.policy(0) == run.policy(1) == Path("/m")


# Owners


def test_a_second_owner_is_refused_within_two_seconds_and_changes_nothing() -> None:
    run = make()
    with run.owned() as store:
        store.add([Prompt(1, 0, "a", "a", None)])
        before = store.owner()
        begin = time.monotonic()
        with pytest.raises(LockedError) as error, Run(run.path).owned():
            raise AssertionError("owned twice")
        assert time.monotonic() - begin < 2
        assert store.owner() == before
        assert f"process {os.getpid()}" in error.value.message
        assert "selfreward status run" in error.value.hint
        store.add([Prompt(1, 1, "b", "b", None)])
    with run.owned() as store:
        assert store.epoch == before["epoch"] + 1


OWN = """
import sys
from pathlib import Path
from selfreward.errors import LockedError
from selfreward.storage.fingerprints import fingerprint_of
from selfreward.storage.directory import Run
try:
    with Run(Path(sys.argv[1])).owned() as store:
        print("owned", store.epoch, flush=True)
        sys.stdin.read()
except LockedError:
    print("refused", flush=True)
"""


def own(run: Run) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OWN, str(run.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_of_many_processes_that_start_at_once_exactly_one_owns_the_run() -> None:
    run = make()
    processes = [own(run) for _ in range(6)]
    lines = sorted(first_line(process) for process in processes)
    for process in processes:
        process.communicate()
    assert lines == ["owned 1", *["refused"] * 5]


def test_the_run_of_a_killed_owner_can_be_owned_again_at_once() -> None:
    run = make()
    process = own(run)
    assert first_line(process) == "owned 1"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with run.owned() as store:
        assert store.epoch == 2


ORPHAN = """
import sys
from pathlib import Path
from selfreward.errors import LockedError
from selfreward.records import Prompt
from selfreward.storage.store import Store
with Store(Path(sys.argv[1]), epoch=int(sys.argv[2])) as store:
    store.add([Prompt(1, 0, "mine", "", None)])
    print("wrote", flush=True)
    sys.stdin.readline()
    try:
        store.add([Prompt(1, 1, "too late", "", None)])
    except LockedError:
        print("refused", flush=True)
"""


def test_an_orphan_commits_nothing_once_the_run_has_a_new_owner() -> None:
    run = make()
    with run.owned() as store:
        epoch = store.epoch
    child = subprocess.Popen(
        [sys.executable, "-c", ORPHAN, str(run.records), str(epoch)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert first_line(child) == "wrote"
    with run.owned() as store:
        answer, _ = child.communicate("go on\n")
        assert answer.strip() == "refused"
        assert [prompt.text for prompt in store.records(Prompt, 1)] == ["mine"]


def test_a_run_can_be_read_while_it_is_owned() -> None:
    run = make()
    with run.owned() as store, run.store() as reader:
        store.add([Prompt(1, 0, "a", "a", None)])
        assert len(reader.records(Prompt, 1)) == 1


def test_a_run_is_discarded_only_while_it_has_nothing_to_lose() -> None:
    run = make("mistaken")
    (run.path / "models" / "M0.json").write_text('{"path": "base", "digest": "0"}')
    with run.owned() as store:
        store.set_progress(0, "train", 0, 9, 1.0)
        store.add_event("error", "no such model")
        assert not discard_empty(Run(run.path))  # in use
    assert discard_empty(run) and not run.path.exists()
    for number, leave in enumerate(LEFT):
        run = make(f"run-{number}")
        leave(run)
        assert not discard_empty(run) and run.path.exists()
        with pytest.raises(ConfigError, match="exists"):
            make(f"run-{number}")


def _store(write: Callable[[Store], None]) -> Callable[[Run], None]:
    def leave(run: Run) -> None:
        with run.owned() as store:
            write(store)

    return leave


LEFT = [
    _store(lambda store: store.add([Prompt(1, 0, "", "", "short")])),
    _store(lambda store: store.add([Drop(0, "train", "ift:0", "too long")])),
    _store(lambda store: store.log_training(0, 1, {"loss": 1.0})),
    _store(lambda store: store.finish_stage(Stage(0, "train", 1, 0, "d", "f", 1.0, {}))),
    _store(lambda store: store.save_report(0, "health", {})),
    lambda run: (run.path / "checkpoints" / "M1" / "checkpoint-1").mkdir(parents=True),
    lambda run: run.model_directory(1).mkdir(),
]


def test_the_name_of_a_run_that_recorded_nothing_is_free_for_the_next(root: Path) -> None:
    make("run", "seed=1")
    assert make("run", "seed=2").config.seed == 2
    assert [path.name for path in root.iterdir()] == ["run"]
    (root / "other").mkdir()  # no run, so somebody else's
    with pytest.raises(ConfigError, match="other exists"):
        make("other")


def test_a_run_that_another_process_is_about_to_launch_is_left_to_it(root: Path) -> None:
    run = make("run", "seed=1")
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with sqlite3.connect(run.records) as db:
        db.execute("UPDATE owner SET pid = ?", (other.pid,))
    with pytest.raises(ConfigError, match="run run exists"):
        make("run", "seed=2")
    other.communicate()
    assert make("run", "seed=2").config.seed == 2


def test_what_a_killed_maker_left_goes_with_the_next_run_unless_another_is_at_work(
    root: Path,
) -> None:
    (root / ".tmp-dead" / "models").mkdir(parents=True)
    with new_directory(root / "first") as temporary:
        make("second")
        assert temporary.is_dir()
    make("third")
    assert sorted(path.name for path in root.iterdir()) == ["first", "second", "third"]
