"""The command line: exit codes, messages, streams, speed, and nothing hostile on the terminal."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from selfreward import __version__
from selfreward.cli.main import invoke
from selfreward.inputs.shipped import recipes
from selfreward.records import FORMS
from selfreward.stages.rules import RULES
from selfreward.storage.directory import open_run
from tests.support import ROOT
from tests.support.runs import SMALL, UNSAFE, at_runs, runs  # noqa: F401

READERS = [
    ["ls"], ["status", "{}"], ["scores", "{}"], ["show", "{}"], ["show", "{}", "0"],
    ["show", "{}", "1"], ["show", "{}", "--best", "2"], ["show", "{}", "--worst", "1"],
    ["show", "{}", "--disagree", "1"], ["show", "{}", "--failed"], ["pairs", "{}"],
]  # fmt: skip


def selfreward(*arguments: str, mood: str | None = None, **more) -> subprocess.CompletedProcess:
    """Run the command line in a process of its own; with a mood, over scripted workers."""
    head = ["-m", "selfreward"] if mood is None else ["-m", "tests.support.cli_driver"]
    environment = {**os.environ, "SCRIPTED_MOOD": mood or "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *head, *arguments], capture_output=True, env=environment, **more
    )


# Speed and imports


def test_help_imports_no_heavy_library() -> None:
    """Which is what makes it quick; ``benchmarks/startup.py`` says how quick."""
    heavy = "torch transformers vllm trl datasets pyarrow scipy matplotlib numpy pydantic rich"
    code = (
        "import sys\n"
        "from selfreward.cli.main import invoke\n"
        "assert invoke(['--help']) == 0\n"
        f"found = sorted(set({heavy.split()}) & set(sys.modules))\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.usefixtures("at_runs")
def test_readers_import_neither_torch_nor_any_library_that_does() -> None:
    heavy = "torch transformers vllm trl datasets pyarrow scipy matplotlib ctranslate2 jinja2"
    code = (
        "import sys\n"
        "from selfreward.cli.main import invoke\n"
        "for verb in (['ls'], ['status'], ['scores', 'whole'], ['show', 'whole'],"
        " ['pairs', 'whole'], ['pairs', 'whole', '--try', 'all'],"
        " ['diff', 'whole:1', 'whole:2']):\n"
        "    assert invoke(verb) == 0\n"
        f"found = sorted(set({heavy.split()}) & set(sys.modules))\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


# Exit codes


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, first and second line of standard error; nothing is on standard output."""
    code = invoke(list(arguments))
    captured = capsys.readouterr()
    first, second, *_ = [*captured.err.splitlines(), "", ""]
    assert captured.out == ""
    return code, first, second


def test_without_a_verb_the_help_is_shown_as_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert invoke([]) == 2
    assert "Commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["scors", "x"], "Did you mean 'scores'"),
        (["scores", "x", "--plto", "y"], "--plot"),
        (["show", "x", "--best", "0"], "--best"),
        (["scores"], "RUN"),
        (["config"], "Missing command"),
    ],
)
def test_usage_errors_exit_2_and_say_what_was_meant(
    capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    code, message, hint = failing(capsys, *arguments)
    assert code == 2
    assert message.startswith("error: ")
    assert said in message
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("itertions=1", "iterations"), ("modle=x", "model"), ("dop.beta=1", "dpo"),
        ("judge.vote=1", "votes"), ("judge.from=written", "form"), ("prompts.cuont=1", "count"),
        ("responses.max_tokens=1", "max_new_tokens"), ("pairs.margin=1", "min_margin"),
        ("responses.temprature=1", "temperature"), ("judge.templat=x", "template"),
        ("prompts.rogue_l_max=0.5", "rouge_l_max"), ("sft.ift.colums={}", "columns"),
        ("sft.eft.limt=1", "limit"), ("prompts.seed=x", "seeds"),
        ("system_promt=x", "system_prompt"), ("prompts.auther=policy", "author"),
        ("pairs.rul=best_worst", "rule"),
        ("chat_template_kwarg={}", "chat_template_kwargs"), ("judge.min_parse=0", "min_parse_rate"),
        ("trust_remot_code=true", "trust_remote_code"),
    ],
)  # fmt: skip
def test_twenty_misspelled_keys_get_twenty_right_suggestions(
    capsys: pytest.CaptureFixture[str], word: str, meant: str
) -> None:
    code, message, hint = failing(capsys, "validate", "quickstart", word)
    assert code == 2
    assert word in message
    assert hint == f"hint: Did you mean {meant}?"


def test_a_filled_in_template_is_printed_as_the_model_is_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["validate", "quickstart", "judge.form=expected", "judge.template=judge/expected.jinja"]
    assert invoke([*words, "--show", "judge"]) == 0
    shown = capsys.readouterr().out
    assert "<|im_start|>user\nGrade how well" in shown
    assert shown.endswith("<|im_start|>assistant\nScore: \n") or shown.endswith("Score:\n")
    hosted = ["judge.model=hosted", "judge.form=written", "judge.template=judge/additive.jinja",
              "judge.engine={kind: server, endpoints: [http://127.0.0.1:1/v1]}"]  # fmt: skip
    assert invoke(["validate", "quickstart", *hosted, "--show", "judge"]) == 0
    text = capsys.readouterr()
    assert text.out.startswith("You are grading")
    assert "its chat format is not on this machine" in text.err
    code, message, hint = failing(capsys, *words, "--show", "criteria")
    assert code == 2
    assert (message, hint) == (
        "error: --show criteria: no such template", "hint: One of: judge, prompts.",
    )  # fmt: skip


def test_choices_stand_in_the_help_and_recipes_in_a_list(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert invoke(["pairs", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(rule in said for rule in RULES)
    assert invoke(["judge", "--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(name in said for name, form in FORMS.items() if form.template)
    assert invoke(["init", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(recipes())
    assert invoke(["init", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipes"].keys() == recipes().keys()


@pytest.mark.usefixtures("at_runs")
def test_a_run_in_place_of_a_model_and_a_model_not_made_yet_are_told_as_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "pairs.csv"
    data.write_text("prompt,chosen,rejected\na,b,c\n")
    code, message, hint = failing(capsys, "judge", "whole", "--data", str(data))
    assert (code, message) == (2, "error: model: whole is a run, not a model")
    assert "selfreward judge M1 --like whole" in hint
    for model in ("M9", "SFT"):
        code, message, _ = failing(capsys, "judge", model, "--like", "whole", "--data", str(data))
        assert (code, message) == (3, f"error: run whole has no {model}, or not yet")


def test_a_bad_config_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("iterations: 1\ndpo:\n  beta: soft\n")
    code, message, _ = failing(capsys, "validate", str(path))
    assert code == 2
    assert f"{path}:3: dpo.beta" in message


@pytest.mark.usefixtures("at_runs")
def test_an_unknown_run_exits_3_and_lists_those_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, message, hint = failing(capsys, "scores", "nobody")
    assert code == 3
    assert "nobody" in message
    assert "whole" in hint


@pytest.mark.usefixtures("at_runs")
@pytest.mark.parametrize("attempt", ["99", "-1"])
def test_an_unknown_key_exits_3_or_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], attempt: str
) -> None:
    code, _, _ = failing(capsys, "show", "whole", attempt)
    assert code == (3 if attempt == "99" else 2)


@pytest.mark.usefixtures("at_runs")
def test_resuming_a_run_in_use_exits_4_and_names_its_owner(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with open_run("hostile").owned():
        code, message, hint = failing(capsys, "resume", "hostile")
    assert code == 4
    assert str(os.getpid()) in message
    assert "status hostile --watch" in hint


def test_a_torn_database_exits_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "records.db").write_text("torn")
    code, message, _ = failing(capsys, "scores", str(tmp_path))
    assert code == 5
    assert "records.db" in message


@pytest.mark.usefixtures("at_runs")
def test_changing_a_frozen_key_on_resume_exits_5(capsys: pytest.CaptureFixture[str]) -> None:
    code, message, _ = failing(capsys, "resume", "whole", "dpo.beta=0.5")
    assert code == 5
    assert "dpo.beta" in message


@pytest.mark.parametrize(
    "name", ["..", ".", "../x", "/tmp/x", "a/b", "", "-x", ".hidden", "a b", "x" * 65, "a\x1b[2J"]
)
def test_unsafe_run_names_exit_2_and_make_nothing(
    tmp_path: Path,
    name: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    code = invoke(["run", "quickstart", f"--name={name}"])
    captured = capsys.readouterr()
    assert code == 2
    assert "run name" in captured.err
    assert not UNSAFE - {"\n"} & set(captured.err)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.usefixtures("at_runs")
def test_a_run_name_in_use_exits_2_and_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, message, hint = failing(capsys, "run", "quickstart", "--name", "whole")
    assert code == 2
    assert "whole exists" in message
    assert "selfreward resume whole" in hint


def test_a_runs_directory_that_cannot_be_made_exits_7(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "file" / "runs"))
    code, message, _ = failing(capsys, "run", "quickstart")
    assert code == 7
    assert "cannot make the run directory" in message
    assert invoke(["doctor"]) == 7


def test_a_runs_directory_that_is_a_link_to_nowhere_exits_7_and_doctor_says_so_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "link"))
    code, _, hint = failing(capsys, "run", "quickstart")
    assert code == 7
    assert "a link to nowhere" in hint
    code, message, hint = failing(capsys, "plan", "quickstart")
    assert code == 7
    assert f"{tmp_path / 'link'}: is a link to nowhere" in message
    assert "remove the link" in hint
    assert invoke(["doctor"]) == 7


def test_a_file_in_the_way_exits_7_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    code, message, _ = failing(capsys, "init", str(tmp_path / "file" / "x"))
    assert code == 7
    assert str(tmp_path / "file") in message


def test_seed_data_from_open_assistant_is_built_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"What is {i}?", "response": f"A number, {i}."} for i in range(5)]
    source = tmp_path / "ift.train.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    assert invoke(["data", "oasst", str(tmp_path), "--out", str(out), "--ift", "3"]) == 0
    assert "ift 3" in capsys.readouterr().out
    assert len((out / "ift.jsonl").read_text().splitlines()) == 3
    assert invoke(["data", "oasst", str(tmp_path), "--out", str(out), "--json"]) == 2
    assert "exists" in json.loads(capsys.readouterr().out)["error"]["message"]
    arguments = ["data", "oasst", str(tmp_path), "--out", str(tmp_path / "more"), "--json"]
    assert invoke(arguments) == 0
    assert json.loads(capsys.readouterr().out)["counts"]["prompts"]["ift"] == 5


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["--version"]) == 0
    assert capsys.readouterr().out == f"selfreward {__version__}\n"


# run and resume, with scripted workers


def test_a_run_takes_the_recipes_name_shows_plain_progress_and_ends_with_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    done = selfreward("run", "quickstart", "iterations=1", *SMALL, mood="well")
    assert done.returncode == 0, done.stderr
    assert b"run quickstart-1:" in done.stderr
    assert b"selfreward show quickstart-1 --best 1" in done.stderr
    assert b"mean score" in done.stdout
    assert b"\x1b" not in done.stdout + done.stderr

    again = selfreward("resume", "quickstart-1", mood="well")
    assert again.returncode == 0
    assert b"finished" in again.stderr
    more = selfreward("resume", "quickstart-1", "iterations=2", "--json", mood="well")
    assert more.returncode == 0, more.stderr
    assert [f["iteration"] for f in json.loads(more.stdout)["iterations"]] == [0, 1, 2]

    branch = ["run", "quickstart", "--from", "quickstart-1:M2", "iterations=1", "--name", "branch"]
    made = selfreward(*branch, *[word for word in SMALL if not word.startswith("sft")], mood="well")
    assert made.returncode == 0, made.stderr
    config = open_run("branch").config
    assert config.sft is None
    assert config.model == str(tmp_path / "quickstart-1" / "models" / "M2")
    missing = selfreward("run", "quickstart", "--from", "quickstart-1:M9", mood="well")
    assert missing.returncode == 3


def _heed_interrupts() -> None:
    """In a child: a shell's background job ignores Ctrl-C, and tests may be run in one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_exits_with_its_code_and_says_how_to_resume(
    tmp_path: Path, number: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.cli_driver",
            "run",
            "quickstart",
            "--name",
            "x",
            *SMALL,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SCRIPTED_MOOD": "forever"},
        preexec_fn=_heed_interrupts,
    )
    database = tmp_path / "x" / "records.db"

    def is_in_the_next_iteration() -> bool:
        if not database.is_file():
            return False
        with contextlib.closing(sqlite3.connect(database)) as db:
            return bool(db.execute("SELECT 1 FROM figures").fetchone())

    try:
        until = time.monotonic() + 60
        while not is_in_the_next_iteration():
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code
    assert b"saved; continue with: selfreward resume x\n" in stderr
    assert b"Traceback" not in stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_program_is_being_loaded_ends_it_quietly(number: int, code: int) -> None:
    """As soon as it is heeded at all, which is when Python has begun."""
    process = subprocess.Popen(
        [sys.executable, "-m", "selfreward", "validate", "quickstart"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_heed_interrupts,
    )  # fmt: skip
    status = Path(f"/proc/{process.pid}/status")
    heeded = 1 << (signal.SIGTERM - 1)
    while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & heeded:
        time.sleep(0.002)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == code
    assert stderr == b""


@pytest.mark.slow
def test_of_two_runs_of_one_name_the_later_exits_2_and_harms_the_other_in_no_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    command = [sys.executable, "-m", "tests.support.cli_driver", "run", "quickstart", "--name", "x",
               *SMALL, "iterations=1"]  # fmt: skip
    environment = {**os.environ, "SCRIPTED_MOOD": "well", "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], said
    lost = said[[process.returncode for process in both].index(2)]
    assert b"error: run x exists" in lost
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.slow
def test_a_method_that_cannot_go_on_exits_6_and_a_bug_exits_1_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    stopped = selfreward("run", "quickstart", "--name", "a", *SMALL, "pairs.min_margin=5",
                         "pairs.min_pairs=4", mood="well")  # fmt: skip
    assert stopped.returncode == 6
    message, hint, saved = stopped.stderr.splitlines()[-3:]
    assert message.startswith(b"error: ")
    assert hint.startswith(b"hint: ")
    assert saved == b"saved; continue with: selfreward resume a"

    bug = selfreward("run", "quickstart", "--name", "b", *SMALL, mood="bug")
    assert bug.returncode == 1
    assert b"internal error: ZeroDivisionError: \\x1b[31mred" in bug.stderr
    assert b"Traceback" not in bug.stderr
    assert b"\x1b" not in bug.stderr
    traced = selfreward("--debug", "resume", "b", mood="bug")
    assert traced.returncode == 1
    assert b"Traceback" in traced.stderr


@pytest.mark.slow
def test_a_run_that_failed_before_its_first_record_leaves_its_name_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path))
    words = ["run", "quickstart", "--name", "a", *SMALL, "iterations=1"]
    failed = selfreward(*words, mood="missing")
    assert failed.returncode == 7
    assert b"nothing was recorded, so there is no run a; its name is free" in failed.stderr
    assert b"resume" not in failed.stderr
    assert list(tmp_path.iterdir()) == []
    diverged = selfreward(*words, mood="diverges")
    assert diverged.returncode == 6
    assert b"saved; continue with: selfreward resume a" in diverged.stderr

    again = ["resume", "a", "--retrain", "1", "--name", "b", "dpo.beta=0.2"]
    branch = selfreward(*again, mood="well")
    assert branch.returncode == 0, branch.stderr
    assert b"a branch of a from the pairs of iteration 1 on" in branch.stderr
    assert open_run("b").config.dpo.beta == 0.2
    # Values that have been checked already, as the first check of each takes seconds.
    other = selfreward("resume", "a", "dpo.beta=0.2", mood="well")  # the training made nothing
    assert other.returncode == 0, other.stderr
    frozen = selfreward("resume", "a", "dpo.beta=0.1", mood="well")
    assert frozen.returncode == 5
    assert b"--retrain 1 --name NEW dpo.beta=0.1" in frozen.stderr
    unknown = selfreward("resume", "a", "--retrain", "1", "train.metod=sft", mood="well")
    assert unknown.returncode == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert selfreward("resume", "a", "--name", "c", mood="well").returncode == 2


@pytest.mark.usefixtures("at_runs")
def test_watching_follows_a_run_until_its_owner_is_gone() -> None:
    command = [sys.executable, "-m", "selfreward", "status", "hostile", "--watch"]
    with open_run("hostile").owned():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(1)
        assert process.poll() is None
    stdout, stderr = process.communicate(timeout=10)
    assert process.returncode == 0
    assert b"hostile  failed" in stdout
    assert b"hostile, iteration 1 of 2 (" in stderr
    assert b": train  1/9" in stderr


@pytest.mark.usefixtures("at_runs")
def test_watching_with_json_prints_a_line_per_change() -> None:
    command = [sys.executable, "-m", "selfreward", "status", "hostile", "--watch", "--json"]
    with open_run("hostile").owned():
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["state"], first["stages"][-2]["state"]) == ("running", "working")
    rest, stderr = process.communicate(timeout=10)
    assert process.returncode == 0
    [last] = map(json.loads, rest.splitlines())
    assert (last["state"], last["stages"][-2]["state"]) == ("failed", "stopped")
    assert stderr == b""


# Streams


@pytest.mark.usefixtures("at_runs")
@pytest.mark.parametrize("name", ["whole", "hostile"])
@pytest.mark.parametrize("verb", READERS, ids=" ".join)
def test_readers_print_no_control_character_and_their_json_parses(
    verb: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [word.format(name) for word in verb]
    assert invoke(arguments) == 0
    text = capsys.readouterr()
    assert not UNSAFE - {"\n"} & set(text.out + text.err)
    assert "nan" not in text.out.casefold().split()
    assert invoke([*arguments, "--json"]) == 0
    parsed = capsys.readouterr()
    json.loads(parsed.out)
    assert parsed.out.replace("\n", "").isprintable()


@pytest.mark.usefixtures("at_runs")
@pytest.mark.parametrize(
    "verb",
    [
        ["plan", "quickstart"], ["config", "show", "quickstart"], ["gc", "whole", "--dry-run"],
        ["config", "show", "quickstart", "dpo.beta=0.2", "--sources"], ["verify", "whole"],
        ["doctor"], ["resume", "whole"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_json_of_other_verbs_parses(
    verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke([*verb, "--json"]) == 0
    json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("at_runs")
def test_errors_are_json_on_standard_output_where_json_is_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert invoke(["scores", "nobody", "--json"]) == 3
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == 3
    assert error["kind"] == "NotFoundError"
    assert "nobody" in error["message"]
    assert "whole" in error["hint"]
    assert invoke(["scors", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "UsageError"


@pytest.mark.usefixtures("at_runs")
def test_a_reader_whose_output_nobody_reads_ends_quietly() -> None:
    command = f"{sys.executable} -m selfreward show whole --best 9 --json | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True)
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("at_runs")
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 0, b""),
        ("2>&-", 0, b""),
        ("<&- >&- 2>&-", 0, b""),
        ("2>/dev/full", 0, b""),
        (">/dev/full", 7, b"error: standard output: No space left on device\n"),
        (">/dev/full --json", 7, b"error: standard output: No space left on device\n"),
        (">/dev/full 2>/dev/full", 7, b""),
    ],
)
@pytest.mark.parametrize("verb", ["show whole", "gc whole --dry-run", "--help"])
def test_a_stream_that_is_closed_or_full_is_no_traceback(
    verb: str, redirection: str, code: int, said: bytes
) -> None:
    if verb == "--help" and "--json" in redirection:
        return
    command = f"{sys.executable} -m selfreward {verb} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True)
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(said if verb != "--help" else said[:7])
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.usefixtures("at_runs")
def test_an_ascii_terminal_gets_escapes_instead_of_a_crash() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "selfreward", "scores", "whole"]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert b"\\xb1" in done.stdout  # the plus-minus sign
