"""What ``plan`` says of memory: 16 bytes a trained parameter, and what engines are told."""

import json
from pathlib import Path
from typing import Any

import pytest

from selfreward.config.load import build_config
from selfreward.verbs.plan import plan_of, plan_text
from selfreward.verbs.planned_stages import steps_of
from tests.support.models import write_headers

PARAMETERS = 8_030_261_248
"""Of Llama 3 8B (arXiv 2407.21783, table 3)."""


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model of which only the headers are there; nobody reads more of it."""
    path = write_headers(tmp_path / "llama", {"w": (PARAMETERS,)})
    (path / "config.json").write_text("{}")
    return str(path)


def memory(model: str, *overrides: str) -> dict[str, Any]:
    found: dict[str, Any] = plan_of(build_config({"model": model}, list(overrides)), None)["memory"]
    return found


@pytest.mark.parametrize(
    ("override", "each"),
    [
        ("seed=1", 16),  # weight, gradient and Adam's two moments in float32
        ("dpo.precompute_ref_log_probs=false", 20),  # a reference model stays beside it
        ("lora={r: 4}", 4),  # of the frozen weights
        ("lora={r: 4} dpo.precompute_ref_log_probs=false", 4),  # the adapter is switched off
    ],
)
def test_training_takes_so_many_bytes_a_parameter(override: str, each: int, model: str) -> None:
    words = override.replace("} ", "}\n").split("\n")
    found = memory(model, *words)
    assert found["parameters"] == PARAMETERS
    assert found["training"] == each * PARAMETERS
    assert found["lora"] == ("lora" in override)


def test_a_method_that_samples_keeps_its_reference_unless_it_has_no_kl(model: str) -> None:
    words = ["train.method=rloo", "judge.function=selfreward.rewards.repetition:distinct",
             "sft=null", "evaluation.ranked=null", "evaluation.canaries=false"]  # fmt: skip
    assert memory(model, *words)["training"] == 20 * PARAMETERS
    assert memory(model, *words, "rloo.beta=0")["training"] == 16 * PARAMETERS


def test_what_is_sampled_in_training_is_planned(model: str) -> None:
    """10 prompts, 4 responses to each, 16 responses a step, each used for 2 updates: 5 steps."""
    words = ["train.method=rloo", "judge.function=selfreward.rewards.repetition:distinct",
             "sft=null", "evaluation.ranked=null", "evaluation.canaries=false", "prompts.count=10",
             "rloo.max_completion_length=50", "rloo.num_iterations=2"]  # fmt: skip
    plan: dict[str, Any] = plan_of(build_config({"model": model}, words), None)
    row = next(row for row in plan["per_iteration"] if row["stage"] == "train")
    assert (row["records"], row["sampled"]) == (10, 40 * 50)
    assert row["note"] == "prompts, 4 responses to each, 5 steps"
    assert row["steps"] == plan["steps"] / plan["iterations"] == 5


def test_a_judge_that_is_asked_in_training_is_planned(model: str) -> None:
    """16 responses, each judged: by three texts that are written, or by one reading."""
    words = ["train.method=rloo", "sft=null", "prompts.count=4", "rloo.max_completion_length=50"]

    def row(*more: str) -> dict[str, Any]:
        config = build_config({"model": model}, [*words, *more])
        plan: dict[str, Any] = plan_of(config, None)
        return next(row for row in plan["per_iteration"] if row["stage"] == "train")

    written = row("judge.max_new_tokens=100")
    expected = row("judge.form=expected", "judge.template=judge/expected.jinja")
    unasked = row(
        "judge.weight=0", "judge.jury=[{function: 'selfreward.rewards.repetition:distinct'}]"
    )
    assert written["sampled"] == 16 * (50 + 3 * 100)
    assert expected["sampled"] == unasked["sampled"] == 16 * 50
    assert unasked["read"] < expected["read"] and unasked["read"] < written["read"]


def test_engines_take_what_they_are_told(model: str) -> None:
    assert memory(model)["engine"] == {}
    words = [
        "engine={kind: vllm, gpu_memory_utilization: 0.8, block_size: 32}",
        "judge.model=org/judge", "judge.engine={kind: vllm, kv_cache_memory_bytes: 5}",
    ]  # fmt: skip
    assert memory(model, *words)["engine"] == {
        "engine.gpu_memory_utilization": 0.8, "judge.engine.kv_cache_memory_bytes": 5,
    }  # fmt: skip


def test_a_plan_shows_memory_and_says_what_it_cannot_know(model: str) -> None:
    def line(*overrides: str, source: str = model) -> str:
        plan = plan_of(build_config({"model": source}, list(overrides)), None)
        [found] = [line for line in plan_text(plan).split("\n") if line.startswith("memory: ")]
        return found.removeprefix("memory: ")

    assert line() == "training 8.03 billion parameters takes 128.5 GB"
    assert line("launch.processes=8").endswith(
        "128.5 GB, or in shards 16.1 GB in each of 8 processes"
    )
    assert line("lora={r: 4}").endswith("32.1 GB and 16 bytes a number of the adapter")
    told = line("engine={kind: vllm, gpu_memory_utilization: 0.8}")
    assert told.endswith("; engines are told engine.gpu_memory_utilization=0.8")
    assert line(source="nobody/nothing") == "unknown, the model is not on this machine yet"
    Path(model, "model.safetensors").unlink()
    assert "unknown" in line()


def test_a_disk_that_is_too_small_is_told(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def text(free: int) -> str:
        usage = type("usage", (), {"free": free})
        monkeypatch.setattr("shutil.disk_usage", lambda place: usage)
        return plan_text(plan_of(build_config({"model": model}), None))

    enough = plan_of(build_config({"model": model}), None)["disk"]
    need = enough["run"] + enough["cache"]
    assert need > 4 * PARAMETERS * enough["models"]
    assert "NOT ENOUGH" not in text(need)
    assert text(need - 1).count(" - NOT ENOUGH\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "more"),
    [
        (["judge.jury=[{model: OTHER}]"], 1),
        (["judge.jury=[{model: OTHER}, {model: OTHER, weight: 2}]"], 1),
        (["prompts.author=OTHER"], 1),
        (["evaluation.contests=[{model: OTHER}]"], 1),
        (["judge.jury=[{model: OTHER, engine: {kind: vllm}}]"], 0),  # reads the model as it lies
        (["judge.jury=[{model: nobody/nothing}]"], 0),  # its size is not known here
    ],
)
def test_engines_keep_a_copy_of_each_other_model_that_they_ask(
    words: list[str], more: int, model: str, tmp_path: Path
) -> None:
    other = write_headers(tmp_path / "other", {"w": (1000,)})
    (other / "config.json").write_text("{}")

    def cache(*words: str) -> int:
        line = ["iterations=2", "engine.kind=openvino", "evaluation.contests=[]", *words]
        found: int = plan_of(build_config({"model": model}, line), None)["disk"]["cache"]
        return found

    assert cache() == 4 * PARAMETERS  # of the policy, while it runs
    assert cache("evaluation.contests=[{model: M1}]") == 2 * 4 * PARAMETERS
    one = ("engine.kind=auto", "iterations=1", "evaluation.contests=[{model: M1}]")
    assert cache(*one) == 2 * 4 * PARAMETERS  # it may be openvino that is taken
    assert cache("engine.kind=ctranslate2") == 2 * 4 * PARAMETERS
    asked = [word.replace("OTHER", str(other)) for word in words]
    assert cache(*asked) == 4 * PARAMETERS + more * 4 * 1000


def test_rewrites_are_counted_among_the_prompts_and_read_less_than_demonstrations() -> None:
    plain = prompts_row("prompts.count=10")
    found = prompts_row("prompts.count=10", "prompts.evolve.share=0.25")
    assert found["note"] == "accepted of at most 116 tried, 2 of them rewrites"  # 2.5, to even
    assert found["sampled"] == plain["sampled"]
    assert 0.8 * plain["read"] < found["read"] != plain["read"]


def prompts_row(*words: str) -> dict[str, Any]:
    rows = plan_of(build_config({}, words), None)["per_iteration"]
    return next(row for row in rows if row["stage"] == "prompts")


def test_what_selection_samples_and_reads_is_in_the_sums() -> None:
    words = ["iterations=1", "sft.selection.prompts=2", "sft.selection.max_new_tokens=50"]
    plain, selects = (plan_of(build_config({}, w), None) for w in (words[:1], words))
    selection = selects["sft"]["selection"]
    assert selection["sampled"] > 0
    for key, name in (("sampled", "sampled_at_most"), ("read", "read_estimate")):
        assert selects["tokens"][name] == plain["tokens"][name] + selection[key]


def test_seed_rows_that_are_trained_on_again_are_among_the_steps() -> None:
    words = ["iterations=1", "train.method=sft", "prompts.count=16"]
    plans = [
        plan_of(build_config({}, [*words, f"train.replay.seed={seed}"]), None)
        for seed in ("false", "true")
    ]
    [without, again] = [plan["per_iteration"][-1] for plan in plans]
    rows = plans[1]["sft"]["rows"]
    assert f"beside {rows:,} rows of seed data" in again["note"]
    options = build_config({}, words).train.sft.options
    assert again["steps"] == steps_of("sft", options, without["records"] + rows, 1)
    assert again["read"] - without["read"] == plans[1]["sft"]["tokens_estimate"]


def test_what_is_read_of_pairs_that_are_compared_is_counted() -> None:
    words = ["iterations=1", "evaluation.questions=null", "judge.form=written"]
    plans = [
        plan_of(build_config({}, [*words, f"evaluation.compare={on}"]), None)["evaluation"]
        for on in ("false", "true")
    ]
    least = 2 * plans[1]["models"] * plans[1]["pairs"] * 1000 // 4  # of the template alone
    assert plans[1]["pairs"] > 0 and plans[1]["read"] - plans[0]["read"] > least


def test_answers_of_people_are_among_those_that_may_tie() -> None:
    words = [
        "iterations=1", "prompts.count=4", "responses.n=2", "judge.break_ties=true",
        "prompts.dataset={path: seed/ift.jsonl, columns: {demonstration: response}}",
    ]  # fmt: skip
    for people, orders in (("false", 4 * 2 * 1), ("true", 4 * 3 * 2)):
        config = build_config({}, [*words, f"responses.demonstrations={people}"])
        rows = {row["stage"]: row for row in plan_of(config, None)["per_iteration"]}
        assert rows["comparisons"]["records"] == orders


def test_a_pair_of_people_costs_as_much_as_a_pair_of_the_loop(tmp_path: Path) -> None:
    """Both read a prompt with an answer twice."""
    responses = [{"text": text * 396, "rank": rank} for rank, text in enumerate("abc")]
    lines = [json.dumps({"prompt": str(i) * 4, "responses": responses}) for i in range(3)]
    ranked = tmp_path / "ranked.jsonl"
    ranked.write_text("\n".join(lines), encoding="utf-8")
    config = build_config({}, [f"train.preferences.path={ranked}"])
    [row] = [row for row in plan_of(config, None)["per_iteration"] if row["stage"] == "train"]
    assert (row["records"], row["read"]) == (3, 3 * 2 * 100)
