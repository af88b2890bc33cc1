"""What `validate`, `plan` and a run refuse before any work: the same configs, in the same words."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from selfreward.cli.main import invoke
from selfreward.config import LaunchConfig, SeedSource
from selfreward.config.load import build_config, load_config
from selfreward.errors import ConfigError, IntegrityError, PreflightError, SelfRewardError
from selfreward.inputs import models
from selfreward.inputs.collect import create_run
from selfreward.inputs.seeds import read_prompts
from selfreward.inputs.shipped import recipes
from selfreward.records import FORMS
from selfreward.training.base import Training
from selfreward.training.checks import check_gpus, check_training
from selfreward.verbs.plan import plan_of, plan_text
from selfreward.verbs.validate import filled_in, validate
from selfreward.workers import jobs
from selfreward.workers.checks import check_changed
from tests.support.training import dpo_rows, tiny_model

AT = "{kind: server, endpoints: ['http://127.0.0.1:1/v1']}"
ELSEWHERE = AT.replace("127.0.0.1:1", "127.0.0.1:2")
HOSTED = ["judge.model=hosted", f"judge.engine={AT}", "judge.form=written"]

SIX_BUT_TWO = ["evaluation.questions=held.jsonl", "prompts.dataset=six.jsonl", "prompts.count=3"]


class Resolving(Exception):
    """The run begins to look for its model: all was accepted before."""


STRICT = "selfreward.rewards.constraints:strict"


def validated(words: list[str]) -> None:
    validate(build_config({}, words), None)


def planned(words: list[str]) -> None:
    plan_of(build_config({}, words), None)


def prepared(words: list[str]) -> None:
    run = create_run(build_config({}, words), "run")
    with pytest.raises(Resolving):
        jobs.prepare(run)


@pytest.fixture(autouse=True)
def nothing_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*given: object, **named: object) -> None:
        raise Resolving

    monkeypatch.setattr(models, "resolve", resolve)
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "started.jinja").write_text(
        "{% block user %}{{ prompt }} {{ response }}{% endblock %}"
        "{% block started %}Score: {% endblock %}"
    )
    (tmp_path / "second.jinja").write_text("{% block user %}{{ demonstrations[99] }}{% endblock %}")
    (tmp_path / "model.bin").touch()
    rows = [json.dumps({"prompt": f"Name number {i % 6}."}) + "\n" for i in range(60)]
    (tmp_path / "six.jsonl").write_text("".join(rows))
    held = {"prompt": "Name number 1, then name number 2."}
    (tmp_path / "held.jsonl").write_text(json.dumps(held) + "\n")
    few = [{"prompt": f"Question {i}?", "response": "a"} for i in range(7)]
    few += [few[0], {"prompt": "Two\nlines.", "response": "a"}]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    scored = [{"prompt": "p", "response": r, "score": s} for r, s in (("a", 1), ("b", 4))]
    (tmp_path / "scored.jsonl").write_text("".join(json.dumps(row) + "\n" for row in scored))


def refusal(check: Callable[[list[str]], None], words: list[str]) -> tuple[type, str, str]:
    with pytest.raises(SelfRewardError) as refused:
        check(words)
    return type(refused.value), refused.value.message, refused.value.hint


BAD = [
    # what the config's own types say
    (["model=no/such/model"], "model: no/such/model does not exist"),
    (["model=bundled:nothing"], "no bundled model is named 'nothing'"),
    (["model=model.bin"], "neither a directory nor a .gguf"),
    (["model=org/m", "trust_remote_code=true"], "without a revision"),
    (["revision=main"], "not a hub model"),
    (["prompts.author=nobody"], "prompts.author: nobody does not exist"),
    (["iterations=-1"], "iterations"),
    (["dpo.weight_decay=.nan"], "dpo.weight_decay: found nan, expected a finite number"),
    (["lora={r: 8, lora_dropout: .inf}"], "lora.lora_dropout: found inf"),
    (["sft.lr_scheduler_kwargs={min_lr: -.inf}"], "sft.lr_scheduler_kwargs.min_lr: found -inf"),
    (["engine={kind: vllm, gpu_memory_utilization: .inf}"], "engine.gpu_memory_utilization"),
    (["judge.jury=[{weight: .inf}]"], "judge.jury.0.weight: Input should be a finite number"),
    (["pairs.rule=anchored"], "responses.anchors"),
    (["health.stop_on=[luck]"], "health.stop_on"),
    (["evaluation.limit=0"], "evaluation.limit"),
    (["launch.processes=0"], "launch.processes"),
    # templates and seed data
    (["prompts.template=second.jinja"], "prompts template: "),
    (["judge.form=expected", "judge.template=judge/criterion.jinja"], "does not fit"),
    (["sft.selection={}", "judge.form=expected"], "sft.selection: makes written judgments"),
    (["sft.ift=nowhere.jsonl"], "nowhere.jsonl"),
    (
        ["prompts.dataset=six.jsonl", "prompts.count=100"],
        "holds 6 different prompts, but 2 iterations of prompts.count=100 draw 200",
    ),
    (
        [*SIX_BUT_TWO, "prompts.overlap_words=3"],
        "holds 4 different prompts, but 2 iterations of prompts.count=3 draw 6, once those are left"
        " out that share 3 words in a row with held-out ones, such as 'Name number 1.'",
    ),
    (["sft.ift=few.jsonl"], "sft.ift: 7 prompts of one line in few.jsonl, but prompts.human_shots"),
    (["prompts.seeds={path: seed/ift.jsonl, limit: 7}"], "prompts.seeds: 7 prompts in seed/ift"),
    (["sft=null", "prompts.human_shots=300"], "prompts.seeds: 142 prompts of one line in seed"),
    (["sft.eft=scored.jsonl"], "none of the 2 scored answers in scored.jsonl has a justification"),
    (["sft.eft=scored.jsonl", "judge.form=written_expected"], "judge.form=written_expected is"),
    (["sft.eft=scored.jsonl", "sft.selection={}"], "none of the 2 scored answers"),
    # engines
    (["engine.kind=ctranslate"], "engine.kind: no engine 'ctranslate'"),
    (["engine.intra_thread=2"], "engine.intra_thread: auto has no such option"),
    (["engine.max_batch_size=0"], "engine.max_batch_size: 0"),
    (["engine.kind=server"], "engine.endpoints: expected a list"),
    (["judge.engine.kind=foo"], "judge.engine.kind: no engine 'foo'"),
    (["judge.engine={kind: server, endpoints: [ftp://a]}"], "judge.engine.endpoints: ftp://a"),
    (["judge.jury=[{engine: {kind: transformers, beams: 2}}]"], "judge.jury.0.engine.beams"),
    # judges
    (["judge.model=hosted"], "judge.model=hosted, but judge.engine.kind is auto"),
    (["judge.model=M7", "iterations=1"], "judge.model: M7 does not exist"),
    (["judge.model=no/such/judge"], "judge.model: no/such/judge does not exist"),
    ([*HOSTED, "judge.form=expected", "judge.template=judge/expected.jinja"], "tokenizer"),
    ([*HOSTED, "judge.template=started.jinja"], "judge.template=started.jinja starts"),
    ([f"judge.jury=[{{model: org/a, engine: {AT}}}, {{model: org/b, engine: {AT}}}]"], "serves"),
    # TRL, transformers, accelerate and torch
    (["dpo.loss_weights=[1, 2]"], "dpo.loss_weights: 2 for 1"),
    (["dpo.loss_type=[sigmoid, sft]", "dpo.loss_weights=[1]"], "dpo.loss_weights: 1 for 2"),
    (["dpo.loss_type=nonsense"], "dpo.loss_type: found 'nonsense'"),
    (["dpo.loss_type=exo_pair"], "dpo.label_smoothing"),
    (["dpo.loss_type=aot", "dpo.use_weighting=true"], "dpo.use_weighting"),
    (["dpo.f_divergence_type=nonsense"], "dpo.f_divergence_type: found 'nonsense'"),
    (["dpo.f_divergence_type=forward_kl", "dpo.loss_type=apo_zero"], "does not go with"),
    (["dpo.lr_scheduler_type=cosine_with_min_lr"], "lr_scheduler_kwargs"),
    (["sft.lr_scheduler_type=reduce_lr_on_plateau"], "sft: lr_scheduler_type"),
    (["sft.lr_scheduler_kwargs={min_lr: 0}"], "unexpected keyword argument 'min_lr'"),
    (["sft.learning_rate=-1"], "sft: Invalid learning rate"),
    (["sft.max_steps=0"], "sft.max_steps: 0"),
    (["sft.eft_weight=5", "sft.loss_type=dft"], "sft.eft_weight=5 does not go with sft.loss_type"),
    (["sft.eft_weight=0"], "sft.eft_weight"),
    (["sft.adam_beta1=2"], "sft: Invalid beta"),
    (["dpo.torch_compile_backend=foo"], "DynamoBackend"),
    (["dpo.dataloader_prefetch_factor=2"], "dataloader_num_workers"),
    (["dpo.accelerator_config={x: 1}"], "dpo: AcceleratorConfig"),
    (["dpo.optim=adamw"], "dpo.optim: found 'adamw'"),
    # peft
    (["lora={r: 0}"], "lora.r: found 0"),
    (["lora={target_modules: [lm_head]}"], "lora.target_modules"),
    (["lora={target_modules: all-linear, layers_pattern: h}"], "lora: `layers_pattern`"),
    (["lora={init_lora_weights: loftq}"], "lora.init_lora_weights=loftq does not start"),
    # launch
    (["launch.command=no-such-launcher --nodes 2"], "cannot start no-such-launcher"),
    (["launch.command=accelerate 'launch"], "launch.command: No closing quotation"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "said"), BAD, ids=[" ".join(words) for words, _ in BAD])
def test_what_a_run_refuses_before_it_works_validate_and_plan_refuse_in_the_same_words(
    words: list[str], said: str
) -> None:
    kind, message, hint = refusal(validated, words)
    assert said in message
    assert "\n" not in message
    assert (kind, message, hint) == refusal(prepared, words)
    if kind is PreflightError:
        planned(words)  # another machine may have what this one lacks
    else:
        assert (kind, message, hint) == refusal(planned, words)


@pytest.mark.parametrize(
    "words",
    [
        [f"evaluation.contests=[{{function: {STRICT}}}]", "evaluation.questions=held.jsonl"],
        [f"judge.jury=[{{}}, {{function: {STRICT}}}]", "prompts.dataset=six.jsonl"],
    ],
)
def test_a_run_refuses_a_function_that_cannot_take_what_it_gets_as_validate_does(
    words: list[str],
) -> None:
    words = ["prompts.count=3", *words]
    kind, message, hint = refusal(validated, words)
    assert "needs an argument 'constraints', and gets prompts, completions" in message
    assert (kind, message, hint) == refusal(prepared, words)


@pytest.mark.parametrize("limit", [1, 3])
def test_the_quickstart_may_ask_as_few_questions_as_one_likes(limit: int) -> None:
    path = recipes()["quickstart"]
    validate(load_config(path, [f"evaluation.questions.limit={limit}"]), path)


def test_a_run_whose_function_lies_elsewhere_by_now_goes_on() -> None:
    (there := Path("there")).mkdir()
    (there / "mine.py").write_text("def one(completions):\n    return [1 for _ in completions]\n")
    config = there / "config.yaml"
    config.write_text("evaluation: {contests: [{function: 'mine:one'}]}\n")
    run = create_run(load_config(config), "run", config)
    with pytest.raises(Resolving):
        jobs.prepare(run)
    (there / "mine.py").rename("mine.py")
    with pytest.raises(Resolving):
        jobs.prepare(run)
    Path("mine.py").unlink()
    with pytest.raises(ConfigError, match=r"there is no mine.py"):
        jobs.prepare(run)


def test_a_judge_that_is_no_reward_model_is_refused_in_the_same_words() -> None:
    Path("plain").mkdir()
    Path("plain/config.json").write_text(
        '{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}'
    )
    words = ["evaluation.contests=[{model: plain, form: reward}]"]
    kind, message, hint = refusal(validated, words)
    assert message.startswith("evaluation.contests.0.model: plain is a LlamaForCausalLM and no")
    assert (kind, message, hint) == refusal(prepared, words)
    Path("plain/config.json").write_text("{}")
    assert "plain: transformers cannot read its config" in refusal(validated, words)[1]


def test_a_row_that_is_held_to_what_there_is_not_is_refused_before_anything_is_made() -> None:
    held = [{"max_words": 3}, {"max_word": 3}, {"case": "upper"}] * 4
    rows = [{"prompt": f"Say {i}.", "constraints": of} for i, of in enumerate(held)]
    Path("held_to.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["prompts.count=3", f"judge.jury=[{{function: {STRICT}}}]"]
    words += ["prompts.dataset=held_to.jsonl"]
    kind, message, hint = refusal(validated, words)
    assert message.startswith("prompts.dataset: row 2: no constraint 'max_word'; there are")
    assert (kind, message, hint) == refusal(prepared, words)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["sft=null", "dpo.bf16=true", "dpo.use_cpu=true"],
        ["sft.ift=few.jsonl", "prompts.human_shots=5"],
        ["sft.ift=few.jsonl", "prompts.seeds=seed/zh.jsonl"],
        ["sft.ift=few.jsonl", "prompts.dataset=few.jsonl", "prompts.count=4"],
        ["launch.command=sh", "dpo.bf16=true", "dpo.tf32=true"],  # another machine's to know
        ["launch.processes=2", "sft.bf16=true", "dpo.ddp_backend=gloo"],
        ["prompts.dataset=six.jsonl", "prompts.count=3"],
        [*SIX_BUT_TWO, "prompts.overlap_words=4"],
        ["lora={r: 8, target_modules: all-linear}", "dpo.loss_type=[sigmoid, sft]"],
        ["dpo.loss_type=exo_pair", "dpo.label_smoothing=0.001", "dpo.optim=adafactor"],
        [*HOSTED, f"judge.jury=[{{model: policy}}, {{model: org/judge, engine: {ELSEWHERE}}}]"],
        ["prompts.author=org/author", "sft.lr_scheduler_type=cosine", "sft.warmup_steps=0.1"],
    ],
    ids=" ".join,
)
def test_what_a_run_accepts_validate_and_plan_accept(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    validated(words)
    planned(words)
    prepared(words)


@pytest.mark.parametrize(
    ("words", "key", "file"),
    [
        ([], "sft.ift", "seed/ift.jsonl"),
        (["sft.ift=seed/zh.jsonl"], "sft.ift", "seed/zh.jsonl"),
        (["sft.ift=seed/zh.jsonl", "prompts.seeds=seed/eft.jsonl"], "prompts.seeds",
         "seed/eft.jsonl"),
        (["sft.ift=null"], "prompts.seeds", "seed/ift.jsonl"),
        (["sft=null"], "prompts.seeds", "seed/ift.jsonl"),
    ],
)  # fmt: skip
def test_new_prompts_are_written_after_the_ift_data_unless_others_are_named(
    words: list[str], key: str, file: str
) -> None:
    config = build_config({}, words)
    copy = create_run(config, "run").seed_file("prompts")
    expected = read_prompts(SeedSource(path=file))
    assert read_prompts(SeedSource(path=str(copy))) == expected
    plan = plan_of(config, None)
    assert plan["demonstrations"] == {"prompts": len(expected), "path": file, "key": key}
    assert f"after {len(expected)} of {file} ({key})" in plan_text(plan)
    said = {part["name"]: part["detail"] for part in validate(config, None)}
    assert said["seed prompts"] == f"{len(expected)} of {file} ({key})"


def test_validate_says_where_a_template_lies_and_which_rows_are_odd(tmp_path: Path) -> None:
    (tmp_path / "judge").mkdir()
    template = tmp_path / "judge" / "additive.jinja"
    template.write_text("{% block user %}{{ prompt }} {{ response }}{% endblock %}")
    rows = [{"prompt": f"Why {i}?", "response": "So."} for i in range(9)]
    rows += [rows[0], {"prompt": "Long?", "response": "word " * 820}]
    (tmp_path / "ift.json").write_text(json.dumps(rows))
    (tmp_path / "c.yaml").write_text("sft: {ift: ift.json}")
    parts = validate(load_config(tmp_path / "c.yaml"), tmp_path / "c.yaml")
    said = {(part["name"], part["warning"]): part["detail"] for part in parts}
    assert said["judge template", False].startswith(f"{template}, ")
    assert said["prompts template", False].startswith("instruct/few_shot.jinja (shipped), ")
    assert said["IFT", False] == "11 rows of ift.json, 1 of them again"
    assert said["IFT", True].startswith("1 row of over 4,096 characters")
    hosted = load_config(tmp_path / "c.yaml", HOSTED)
    asked = filled_in(hosted, tmp_path / "c.yaml", "judge")
    assert asked["user"] == "Why 0? So."


@pytest.mark.parametrize("name", ["quickstart", "self-rewarding"])
def test_every_recipe_is_accepted(name: str) -> None:
    assert invoke(["validate", str(recipes()[name])]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("option", ["bf16=true", "bf16=1", "tf32=true", "tf32=1"])
@pytest.mark.parametrize("group", ["sft", "dpo"])
def test_bfloat16_and_tf32_need_a_gpu_that_has_them(
    group: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for type_ in ("bf16_gpu", "tf32"):
        monkeypatch.setattr(f"transformers.utils.is_torch_{type_}_available", lambda: False)
    word = f"{group}.{option}"
    for check in (validated, prepared):
        kind, said, _ = refusal(check, [word])
        assert f"{word.partition('=')[0]}: there is no GPU here that computes in" in said
        assert kind is PreflightError
    planned([word])


@pytest.mark.parametrize(
    "words",
    [["dpo.tf32=1", "sft.loss_weights=1e-5"], ["engine.kind=nothing", "dpo.tf32=1"],
     ["track=[wandb]", "dpo.learnin_rate=1"], ["judge.engine.kind=none", "track=[wandb]"]],
    ids=str,
)  # fmt: skip
def test_what_is_wrong_on_any_machine_is_told_before_what_this_one_lacks(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.utils.is_torch_tf32_available", lambda: False)
    monkeypatch.setattr("selfreward.tracking.base.has_module", lambda name: False)
    for check in (validated, prepared, planned):
        assert refusal(check, words)[0] is ConfigError


def test_training_must_see_a_gpu_for_each_process_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("selfreward.training.checks.has_cuda", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    with pytest.raises(ConfigError, match="but training would see 4 GPUs"):
        check_gpus(LaunchConfig())
    with pytest.raises(PreflightError, match="8 training processes on this machine, but 4 GPUs"):
        check_gpus(LaunchConfig(processes=8))
    with pytest.raises(PreflightError, match="but 2 GPUs"):
        check_gpus(LaunchConfig(processes=4, train_devices="2,3"))
    check_gpus(LaunchConfig(processes=4))
    check_gpus(LaunchConfig(train_devices="3"))
    check_gpus(LaunchConfig(processes=8, command=sys.executable))


@pytest.mark.slow
def test_the_command_line_refuses_alike(capfd: pytest.CaptureFixture[str]) -> None:
    said = []
    for verb in (["validate"], ["plan"], ["run", "--name", "bad"]):
        assert invoke([*verb, str(recipes()["quickstart"]), "dpo.loss_weights=[1, 2]"]) == 2
        errors = capfd.readouterr().err.splitlines()
        said.append([line for line in errors if line.startswith(("error:", "hint:"))])
    assert said[0] == said[1] == said[2]
    assert said[0][0] == "error: dpo.loss_weights: 2 for 1 of dpo.loss_type"


def test_validate_says_what_it_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["validate", str(recipes()["quickstart"]), "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert parts[-1] == {"name": "options", "detail": "engine, sft, dpo: known", "warning": False}


@pytest.mark.slow
def test_losses_that_pass_with_a_divergence_are_those_that_trl_trains_with(tmp_path: Path) -> None:
    from selfreward.training.dpo import train_dpo
    from selfreward.training.options import _DPO_LOSSES

    trained, passed = set(), set()
    options = {"f_divergence_type": "js_divergence", "max_steps": 1}
    with tiny_model(tmp_path / "M0") as start, pytest.MonkeyPatch.context() as patch:
        for loss in _DPO_LOSSES.split():
            smoothing = {"label_smoothing": 0.1} if loss in ("exo_pair", "robust") else {}
            chosen = {**options, "loss_type": loss, **smoothing}
            try:
                check_training("dpo", chosen, LaunchConfig())
                passed.add(loss)
            except ConfigError:
                patch.setattr("selfreward.training.options._check_losses", lambda checked: None)
            try:
                train_dpo(
                    Training("dpo", start, tmp_path / loss, tmp_path / "c", chosen, None, 0),
                    dpo_rows(2),
                    on_log=lambda *_: None,
                    on_step=lambda *_: None,
                )
                trained.add(loss)
            except ValueError:
                pass
            patch.undo()
    assert passed == trained


def test_a_models_path_is_looked_up_beside_the_config_first(tmp_path: Path) -> None:
    place = tmp_path / "project"
    (place / "m" / "judge").mkdir(parents=True)
    (tmp_path / "m").mkdir()
    for model in (place / "m", place / "m" / "judge"):
        (model / "config.json").write_text("{}")
    jury = "[{model: m/judge}, {model: m}, {model: M1}, {model: org/other}]"
    config = place / "c.yaml"
    config.write_text(
        f"model: m\nprompts: {{author: ./m}}\njudge: {{model: m/judge, jury: {jury}}}\n"
    )
    found = create_run(load_config(config), "run", config).config
    mine, judge = str((place / "m").resolve()), str((place / "m" / "judge").resolve())
    assert (found.model, found.prompts.author, found.judge.model) == (mine, mine, judge)
    assert [juror.model for juror in found.judge.jury] == [judge, mine, "M1", "org/other"]
    validate(load_config(config), config)
    assert plan_of(load_config(config), config)["model"] == mine


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        ("written", "Rate from 1 to 10. Score: <n>", "'1 to 10'"),
        ("written", "Give points out of 100. Score: <n>", "'out of 100'"),
        ("written", "Answer in JSON.", "JSON"),
        ("expected", "First explain, then give the score.", "writes nothing"),
        ("expected", "Give the score alone, 0 to 5.", None),
        ("written", "First explain in 100 words. Score: <0 to 5>", None),
    ],
)
def test_validate_warns_of_a_judge_template_that_asks_for_what_is_not_read(
    tmp_path: Path, form: str, text: str, said: str | None
) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{% block user %}" + text + "{{ prompt }}{{ response }}{% endblock %}")
    words = [f"judge.form={form}", f"judge.template={template}"]
    warned = [p for p in validate(build_config({}, words), None) if p["warning"]]
    assert [p["name"] for p in warned] == ([] if said is None else ["judge template"])
    assert all(said is not None and said in p["detail"] for p in warned)


def test_no_shipped_template_is_warned_of_and_a_model_to_download_is() -> None:
    for form, traits in FORMS.items():
        if not traits.template:
            continue
        words = [f"judge.form={form}", f"judge.template={traits.template}"]
        assert not any(p["warning"] for p in validate(build_config({}, words), None))
    [part] = [p for p in validate(build_config({}, ["model=org/m"]), None) if p["warning"]]
    assert (part["name"], "org/m is not on this machine" in part["detail"]) == ("model", True)


def test_a_run_whose_prompts_are_used_up_is_not_extended_and_an_extension_can_be_undone() -> None:
    run = create_run(
        build_config({}, ["prompts.dataset=six.jsonl", "prompts.count=3", "iterations=1"]), "run"
    )
    check = partial(check_changed, run)
    before = run.resolved.read_bytes()
    with pytest.raises(ConfigError, match="6 different prompts, but 3 iterations"):
        run.configure(["iterations=3"], check)
    assert run.resolved.read_bytes() == before
    run.configure(["iterations=2"], check)
    run.configure(["iterations=1"], check)
    assert run.config.iterations == 1


def test_what_a_run_is_changed_to_is_checked_like_a_new_config_and_by_its_own_copies() -> None:
    run = create_run(build_config({}, ["sft.selection={}", "evaluation.contests=[]"]), "run")
    check = partial(check_changed, run)
    before = run.resolved.read_bytes()
    for words, said in {
        "dpo.betta=1": "dpo.betta", "lora={r: 0}": r"lora\.r", "judge.form=criteria": "criterion",
        "judge.break_ties=true": "compare.jinja", "judge.jury=[{}]": "judge.jury",
        "evaluation.compare=true": "compare.jinja", "judge.model=M7": "M7",
    }.items():  # fmt: skip
        with pytest.raises((ConfigError, IntegrityError), match=said):
            run.configure([words], check)
    assert run.resolved.read_bytes() == before
    run.configure(["dpo.beta=0.2", "judge.votes=1", "evaluation.canaries=false"], check)


def test_what_a_run_is_changed_to_must_have_its_eft_rows_and_demonstrations() -> None:
    words = ["judge.form=expected", "judge.template=judge/expected.jinja", "sft.eft=scored.jsonl"]
    run = create_run(build_config({}, words), "run")
    Path("scored.jsonl").unlink()
    check = partial(check_changed, run)
    with pytest.raises(ConfigError, match=r"none of the 2 scored answers in scored\.jsonl"):
        run.configure(["judge.form=written"], check)
    with pytest.raises(ConfigError, match=r"sft\.ift: 142 prompts of one line"):
        run.configure(["prompts.human_shots=200"], check)
    run.configure(["prompts.human_shots=7", "sft.eft_weight=5"], check)
