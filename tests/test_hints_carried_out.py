"""What a message tells a user to do helps: the hint is carried out, and then the thing works."""

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from selfreward.errors import StoppedError
from selfreward.storage.directory import runs_root
from selfreward.verbs import judge
from selfreward.workers import children
from tests.support.cli_driver import Workers
from tests.support.fuzz import Law
from tests.support.preflight import REACHED
from tests.support.runs import SMALL, at_runs, runs  # noqa: F401

FEW = " ".join(shlex.quote(word) for word in [*SMALL, "iterations=1"])
HOSTED = "judge.form=written judge.template=judge/additive.jinja"
SERVER = "{kind: server, endpoints: [http://127.0.0.1:1/v1]"


@dataclass(frozen=True, slots=True)
class Case:
    """A mistake, what of the message tells how to mend it, and what it comes to.

    Args:
        words: That fail.
        told: A pattern that the message and its hint hold; its groups are what they tell to do.
        then: The command line with what was told in place of ``{0}``, ``{1}``; it has to succeed.
            After ``!`` stands one for the shell, which is run first.
    """

    words: str
    told: str
    then: str


CASES = [
    Case("validate quickstart itertions=1", r"Did you mean (\w+)\?", "validate quickstart {0}=1"),
    Case("plan quickstart dpo.learning_rat=1e-6", r"mean (\w+)\?", "plan quickstart dpo.{0}=1e-6"),
    Case(
        "config show quickstart judge.vote=1", r"mean (\w+)\?", "config show quickstart judge.{0}=1"
    ),
    Case(
        "config show quickstart --explain dpo.bata",
        r"mean ([\w.]+)\?",
        "config show quickstart --explain {0}",
    ),
    Case("scors whole", r"Did you mean '(\w+)'", "{0} whole"),
    Case("scores", r"hint: selfreward (.*)", "{0}"),
    Case("scores nobody", r"Runs there: .*\b(whole)", "scores {0}"),
    Case("show nobody", r"Runs there: .*\b(whole)", "show {0}"),
    Case("status nobody", r"Runs there: .*\b(whole)", "status {0}"),
    Case("verify nobody", r"Runs there: .*\b(whole)", "verify {0}"),
    Case("gc nobody", r"Runs there: .*\b(whole)", "gc {0} --dry-run"),
    Case("show whole 99", r"from \d+ to (\d+)", "show whole {0}"),
    Case("show whole --iteration 9", r"prompts: (\d)", "show whole --iteration {0}"),
    Case(
        "pairs whole --min-margin 1", r"Every rule: (--try all)", "pairs whole --min-margin 1 {0}"
    ),
    Case("pairs whole --try best", r"'best_worst', '(\w+)'", "pairs whole --try {0}"),
    Case("repair whole", r"hint: selfreward (\w+ )RUN (--try all)", "{0} whole {1}"),
    Case("scores whole --plot x.pdf", r"expected a (\.png)", "scores whole --plot x{0}"),
    Case("run quickstart --name whole", r"`selfreward (resume whole)`", "{0}"),
    Case("run quickstart --name whole", r"(--name)\.", f"run quickstart {FEW} {{0}} other"),
    Case(
        "run quickstart --from whole:M9 --name x",
        r"has: M0, (M1)",
        f"run quickstart {FEW} sft=null --from whole:{{0}} --name x",
    ),
    Case("resume whole --name x", r"hint: selfreward (.*)", "{0}"),
    Case("resume whole dpo.beta=0.5", r"selfreward (resume .*) NEW (.*)", "{0} new {1}"),
    Case(
        "resume whole --retrain 9",
        r"It has those of \d+, (\d+)",
        "resume whole --retrain {0} --name x",
    ),
    Case("resume whole iterations=0", r"iteration (\d) has begun", "resume whole iterations={0}"),
    Case(
        f"run quickstart {FEW} --name short pairs.min_margin=2 pairs.min_pairs=6",
        r"`selfreward (pairs short)`",
        "{0}",
    ),
    Case(
        f"run quickstart {FEW} --name less pairs.min_pairs=99",
        r"give (\d+) pairs at most",
        f"run quickstart {FEW} --name less pairs.min_pairs={{0}}",
    ),
    Case("init .", r"(Choose another directory)", "init elsewhere"),
    Case("init there --recipe nope", r"Recipes: (\w+)", "init there --recipe {0}"),
    Case("validate nope", r"Recipes: (\w+)", "validate {0}"),
    Case(
        "data oasst plain.jsonl --out out",
        r"(Choose another directory)",
        "data oasst plain.jsonl --out another",
    ),
    Case(
        "validate quickstart judge.template=judge/exp.jinja",
        r"(judge/expected\.jinja)",
        "validate quickstart judge.template={0}",
    ),
    Case("validate quickstart --show nope", r"One of: (\w+)", "validate quickstart --show {0}"),
    Case(
        "validate quickstart sft.ift=seed/itf.jsonl",
        r"mean (\S+) or",
        "validate quickstart sft.ift={0}",
    ),
    Case(
        "validate quickstart sft.ift=wide.jsonl",
        r"`?(iconv .*)",
        "!{0}! validate quickstart sft.ift=new.jsonl",
    ),
    Case(
        "validate quickstart engine.kind=transformer",
        r"mean (\w+)\?",
        "validate quickstart engine.kind={0}",
    ),
    Case(
        "validate quickstart engine.device=gpu",
        r"mean (\w+)\?",
        "validate quickstart engine.device={0}",
    ),
    Case(
        "validate quickstart engine.intra_thread=2",
        r"mean (\w+)\?",
        "validate quickstart engine.{0}=2",
    ),
    Case(
        "validate quickstart dpo.loss_type=sigmod",
        r"mean (\w+)\?",
        "validate quickstart dpo.loss_type={0}",
    ),
    Case(
        "validate quickstart dpo.loss_type=exo_pair",
        r"Set (dpo\S+),",
        "validate quickstart dpo.loss_type=exo_pair {0}",
    ),
    Case(
        "validate quickstart dpo.max_steps=0",
        r"hint: (-1) trains",
        "validate quickstart dpo.max_steps={0}",
    ),
    Case(
        "validate quickstart sft.save_total_limit=1",
        r"expected (\d) or more",
        "validate quickstart sft.save_total_limit={0}",
    ),
    Case(
        "validate quickstart 'lora={init_lora_weights: pissa}'",
        r"Take (true), (\w+)",
        "validate quickstart 'lora={{init_lora_weights: {1}}}'",
    ),
    Case(
        "validate quickstart sft.eft_weight=2 sft.loss_type=dft",
        r"or set (\S+)\.",
        "validate quickstart {0} sft.loss_type=dft",
    ),
    Case(
        "validate quickstart pairs.rule=anchored",
        r"needs (responses.anchors) of (\d)",
        "validate quickstart pairs.rule=anchored {0}={1}",
    ),
    Case(
        "validate quickstart prompts.dataset=plain.jsonl",
        r"holds (\d) different",
        "validate quickstart prompts.dataset=plain.jsonl iterations=1 prompts.count={0}",
    ),
    Case(
        f"validate quickstart {HOSTED} judge.model=hosted",
        r"Set (judge\.engine): {kind: (\w+),",
        f"validate quickstart {HOSTED} judge.model=hosted '{{0}}={{{{kind: {{1}}, endpoints: [http://127.0.0.1:1/v1]}}}}'",
    ),
    Case(
        "validate quickstart 'sft.selection={}'",
        r"Set (judge\.form=\w+)",
        "validate quickstart 'sft.selection={{}}' {0} judge.template=judge/additive.jinja",
    ),
    Case(
        f"validate quickstart {HOSTED} sft.eft=plain.jsonl",
        r"Set (judge\.form=\S+) with (\S+),",
        "validate quickstart {0} {1} sft.eft=plain.jsonl",
    ),
    Case(
        "validate twice.yaml",
        r"(Keep one) of the two",
        "!sed -i 2d twice.yaml! validate twice.yaml",
    ),
    Case(
        "validate quickstart launch.command=nope",
        r"or (correct) the command",
        "validate quickstart launch.command=env",
    ),
    Case(
        "validate quickstart \"launch.command=''\"",
        r"or (null) for torchrun",
        "validate quickstart launch.command={0}",
    ),
    Case(
        "validate quickstart model=no/such/model",
        r"(bundled|give a hub id)",
        "validate quickstart model=bundled:smollm2-135m",
    ),
    Case(
        f"validate quickstart 'engine={SERVER}, api_key_env: A_KEY}}'",
        r"export (\w+)=",
        f"validate quickstart 'engine={SERVER.replace('{', '{{')}, api_key_env: {{0}}}}}}'",
    ),
    Case(
        "judge bundled:smollm --data seed/heldout.jsonl",
        r"there is: (\S+)",
        "judge bundled:{0} --data seed/heldout.jsonl",
    ),
    Case(
        "judge bundled:smollm2-135m --data seed/heldot.jsonl",
        r"mean (\S+) or",
        "judge bundled:smollm2-135m --data {0}",
    ),
]


@pytest.fixture
def place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Where the mistakes are made: some files, a finished run, and workers without a model."""
    shutil.copytree(runs_root() / "whole", tmp_path / "runs" / "whole")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(children, "Children", Workers)
    monkeypatch.setattr(judge, "judge_in_child", _stop)
    row = '{"prompt": "Name a fish.", "response": "A cod.", "score": 3}\n'
    (tmp_path / "plain.jsonl").write_text(row)
    (tmp_path / "wide.jsonl").write_bytes(row.encode("utf-16"))
    (tmp_path / "twice.yaml").write_text("seed: 1\nseed: 2\n")
    (tmp_path / "quickstart.yaml").write_text("")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ift.jsonl").write_text("")
    return tmp_path


def _stop(*args: object) -> None:
    raise StoppedError(REACHED)


@pytest.mark.slow
@pytest.mark.usefixtures("at_runs", "place")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words[:60])
def test_what_a_hint_tells_to_do_mends_it(law: Law, case: Case) -> None:
    said = law.obey(shlex.split(case.words))
    assert said.code != 0, said
    found = re.search(case.told, said.err)
    assert found, said.err
    then = case.then.format(*found.groups())
    if "export" in case.told:
        law.patch.setenv(found[1], "key")
    if then.startswith("!"):
        _, first, then = then.split("!")
        subprocess.run(first, shell=True, check=True)
    again = law.obey(shlex.split(then))
    assert again.code == 0 or REACHED in again.err, (then, again)
