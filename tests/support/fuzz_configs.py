"""Config files and ``key=value`` words: wrong ones, and some that may well be right."""

from typing import Any

from selfreward.config.reference import keys
from tests.support.fuzz import Draw, damaged_bytes

YAML_VALUES = [
    "null", "~", "true", "no", "0", "1", "-1", "2", "7", "3.5", "-0.0", "1e400", ".nan", "-.inf",
    "1e-6", "0x10", "0o7", "1_000", "1:30", "99999999999999999999999", "-1e-320", "''", "a", "'1'",
    "'null'", "[]", "{}", "[a]", "[1, 2]", "[null]", "[[]]", "{a: 1}", "{1: 2}", "{a: {b: [c]}}",
    "'\\0'", '"\\0"', '"\\ud800"', '"\\u2028"', '"a\\nb"', '"\\x1b[31m"', "2020-01-01",
    "2020-13-01", "2020-01-01T00:00:00Z", "!!binary YQ==", "!!binary /w==", "!!set {a}",
    "!!omap [a: 1]", "!!pairs [a: 1]", "!!python/object:os.system {}", "!!str 1", "!!int a",
    "!!float x", "!!bool 3", "!!null x", "!!timestamp x", "!x y", "&a [*a]", "*a", "<<: 1",
    "{<<: {a: 1}}", "{a: 1, a: 2}", "@x", "`x`", "%x", "? a", "- a", "|", ">", "|\n  x", "'",
    '"', "[", "{", "}", ": :", "M1", "M7", "policy", "hosted", "seed/ift.jsonl", "seed/eft.jsonl",
    "seed/heldout.jsonl", "judge/expected.jinja", "judge/additive.jinja", "written", "expected",
    "criteria", "written_expected", "auto", "server", "transformers", "ctranslate2", "vllm",
    "{kind: server, endpoints: [http://127.0.0.1:1/v1]}", "{kind: server}", "~nobody/x", "~", "/",
    ".", "..", "/dev/null", "/dev/zero", "/proc/self/mem", "bundled:x", "bundled:", "x.gguf",
    "x" * 300, "é", "日本", "😀", "sigmoid", "[sigmoid, ipo]", "cosine", "adamw_torch", "0,1",
    "all", "'$HOME'", "'{{ x }}'", "['*']", "{min_lr: 1e-7}", "best_worst", "anchored",
    "[ties, drift]",
]  # fmt: skip
"""YAML that is right for some key, for none, or no YAML at all."""

OPTIONS = [
    *(f"{group}.{name}" for group in ("sft", "dpo") for name in (
        "learning_rate", "num_train_epochs", "max_steps", "per_device_train_batch_size",
        "gradient_accumulation_steps", "lr_scheduler_type", "lr_scheduler_kwargs", "optim",
        "optim_args", "warmup_steps", "warmup_ratio", "weight_decay", "max_grad_norm", "bf16",
        "fp16", "tf32", "save_steps", "save_total_limit", "gradient_checkpointing", "use_cpu",
        "gradient_checkpointing_kwargs", "dataloader_num_workers", "neftune_noise_alpha",
        "torch_compile", "fsdp", "deepspeed", "ddp_backend", "accelerator_config", "loss_type",
        "adam_beta1", "adam_epsilon", "optim_target_modules", "parallelism_config", "seed",
        "dataloader_prefetch_factor", "ddp_timeout", "loss_weights", "label_smoothing",
        "torch_empty_cache_steps", "activation_offloading", "hub_token",
    )),
    *(f"dpo.{name}" for name in (
        "f_divergence_type", "f_alpha_divergence_coef", "ld_alpha", "use_weighting", "rpo_alpha",
        "precompute_ref_log_probs", "discopop_tau", "disable_dropout", "sync_ref_model",
    )),
    *(f"lora.{name}" for name in (
        "r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "use_dora",
        "init_lora_weights", "layers_to_transform", "rank_pattern", "alpha_pattern",
        "target_parameters",
        "modules_to_save", "loftq_config", "eva_config", "layer_replication", "exclude_modules",
    )),
    *(f"{group}.{name}" for group in ("engine", "judge.engine") for name in (
        "device", "compute_type", "inter_threads", "max_batch_size", "max_batch_tokens", "dtype",
        "attn_implementation", "endpoints", "model", "api_key_env", "timeout_s", "max_retries",
        "omit", "tensor_parallel_size", "kind",
    )),
    "judge.jury", "judge.jury.0.model", "judge.jury.0", "sft.ift.columns.prompt",
    "chat_template_kwargs.enable_thinking", "chat_template_kwargs.a.b",
]  # fmt: skip
"""Keys of libraries, which no class of ours declares, and of what ``keys`` holds back."""


def config_keys() -> list[str]:
    """All dotted keys, those of libraries among them."""
    return [key.name for key in keys()] + OPTIONS


def key_types() -> dict[str, str]:
    """What each key of ours takes, in words."""
    return {key.name: key.type for key in keys() if key.type != "group"}


def odd_yaml(draw: Draw, depth: int = 0) -> str:
    """YAML in flow style, mostly."""
    how = draw.random()
    if depth > 3 or how < 0.75:
        return draw.choice(YAML_VALUES)
    inner = [odd_yaml(draw, depth + 1) for _ in range(draw.randrange(4))]
    if how < 0.87:
        return f"[{', '.join(inner)}]"
    names = [draw.choice(["a", "path", "model", "kind", "limit", "columns", "1", "''", "engine"])
             for _ in inner]  # fmt: skip
    return "{" + ", ".join(f"{n}: {v}" for n, v in zip(names, inner, strict=True)) + "}"


_RIGHT = {
    "model": ["bundled:smollm2-135m", "org/model", "."],
    "revision": ["null", "main", "abc"],
    "chat_template": ["null", "chat/chatml.jinja"],
    "chat_template_kwargs": ["{}", "{enable_thinking: false}", "{date: 2024-01-01}"],
    "judge.model": ["policy", "M1", "hosted", "bundled:smollm2-135m"],
    "judge.form": ["written", "expected", "criteria", "written_expected"],
    "judge.template": ["judge/additive.jinja", "judge/expected.jinja", "judge/criterion.jinja"],
    "judge.criteria_template": ["judge/criteria.jinja"],
    "judge.jury": ["[]", "[{model: M1, form: expected, template: judge/expected.jinja}]",
                   "[{model: hosted, form: written, template: judge/additive.jinja, "
                   "engine: {kind: server, endpoints: [http://127.0.0.1:1/v1], model: x}}]"],
    "prompts.author": ["policy", "bundled:smollm2-135m"],
    "prompts.template": ["instruct/few_shot.jinja", "instruct/topic.jinja"],
    "prompts.topics": ["null", "[a, b]"],
    "prompts.evolve": ["null", "{}", "{share: 0.2, by: uniform, operations: [rarer]}"],
    "prompts.keywords": ["[]", "[a, b]"],
    "pairs.rule": ["best_worst", "all_pairs", "length_control", "anchored"],
    "health.stop_on": ["[]", "[ties, drift]"],
    "launch.command": ["null", "true --x", "'true \"a b\"'"],
    "launch.engine_devices": ["null", "'0'", "0,1"],
    "launch.train_devices": ["null", "'1'"],
    "engine.kind": ["auto", "transformers", "ctranslate2", "server"],
    "lora": ["null", "{r: 8}", "{r: 4, target_modules: [q_proj]}", "{}"],
    "lr_scheduler_type": ["linear", "cosine", "constant", "cosine_with_min_lr"],
    "lr_scheduler_kwargs": ["{min_lr: 1e-7}", "{}"],
    "optim": ["adamw_torch", "sgd", "adafactor", "adamw_torch_fused"],
    "loss_type": ["sigmoid", "[sigmoid]", "[sigmoid, ipo]", "hinge", "nll", "sft"],
    "endpoints": ["[http://127.0.0.1:1/v1]", "[http://[::1]:1/v1]"],
    "omit": ["[]", "[seed]"],
    "device": ["cpu", "auto"], "compute_type": ["float32", "int8"], "dtype": ["float32", "auto"],
    "template": ["judge/additive.jinja"], "split": ["train"],
    "target_modules": ["[q_proj]", "all-linear", "null"],
}  # fmt: skip
"""Values that may well be right, by key, or by its last part."""


def right_yaml(draw: Draw, key: str, types: dict[str, str]) -> str:
    """A value that may well be right for a key."""
    name, kind = key.rpartition(".")[2], types.get(key, "number")
    if choices := _RIGHT.get(key) or _RIGHT.get(name):
        return draw.choice(choices)
    if "null" in kind and draw.random() < 0.3:
        return "null"
    if kind.startswith("source"):
        names = {"evaluation.ranked": "heldout", "sft.eft": "eft", "sft.selection.ranked": "eft"}
        file = f"seed/{names.get(key, 'ift')}.jsonl"
        return draw.choice([file, f"{{path: {file}, limit: 3}}"])
    if kind.startswith("int"):
        return draw.choice(["1", "2", "3", "8", "64", "4096"])
    if kind.startswith("number"):
        return draw.choice(["0.1", "0.5", "0.9", "1", "1e-5", "2", "8"])
    if kind.startswith("true"):
        return draw.choice(["true", "false"])
    return draw.choice(["a", "Be strict.", "null"])


def likely_word(draw: Draw, types: dict[str, str]) -> str:
    """``dotted.key=value`` that may well be right."""
    key = draw.choice([*types, *OPTIONS])
    return f"{key}={right_yaml(draw, key, types)}"


def odd_word(draw: Draw, known: list[str]) -> str:
    """``dotted.key=value``, or what is none."""
    key = draw.choice(known)
    how = draw.random()
    if how < 0.08:
        key = draw.choice(
            [
                "",
                ".",
                "..",
                "a",
                "dpo.",
                ".dpo",
                "dpo..beta",
                "dpo.beta.x",
                "é",
                "\ud800",
                "model.x",
                "sft.ift.path.x",
                "judge.jury.-1",
                "judge.jury.99999999999",
                "=",
                "judge.jury.0.jury",
                "engine.kind.x",
                "judge.jury.²",
                " dpo.beta",
                "\0",
            ]
        )
    if how > 0.98:
        return draw.choice([key, f"{key}==", "=", "", "=1", f"{key}:1", f"{key} = 1", f"--{key}=1"])
    return f"{key}={odd_yaml(draw)}"


def odd_config(draw: Draw, known: list[str], recipes: list[bytes]) -> bytes:
    """The text of a config file: a real one damaged, or keys of ours with odd values."""
    how = draw.random()
    if how < 0.35:
        return damaged_bytes(draw.choice(recipes), draw)
    if how < 0.42:
        return draw.choice([
            b"", b"\n", b"# nothing", b"null", b"[]", b"- a", b"a", b"5", b"{}", b"---\n---\n",
            b"--- a\n--- b", b"\xef\xbb\xbfseed: 1", b"seed: 1\x00", b"\xff\xfes\x00", b"[" * 500,
            b"{a: " * 500, b"- " * 3000, b"? " * 1000, b"a: " * 900, b"&a [*a, *a]",
            b"seed: &a 1\nmodel: *a",
            b"a: &a [1]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (i, i) for i in range(9)),
            b"<<: {seed: 1}", b"<<: [a]", b"%YAML 9.9\n---\nseed: 1", b"%TAG ! x\n---\nseed: !a 1",
            b"seed: 1\nseed: 2", b"'", b'"\\', b"!!map", b"!!seq a", b"!!python/none x",
            b"? {a: 1}\n: 2",
            b"1: 2", b"null: 1", b"true: 1", b"? \n", b"seed: 1_0",
            b"system_prompt: |\n" + b" x\n" * 999,
        ])  # fmt: skip
    tree: dict[str, Any] = {}
    for _ in range(draw.randrange(1, 6)):
        *groups, name = draw.choice(known).split(".")
        place = tree
        for group in groups:
            inner = place.get(group)
            if not isinstance(inner, dict):
                inner = place[group] = {}
            place = inner
        place[name] = odd_yaml(draw)
    return f"{_flow(tree)}\n".encode(errors="surrogatepass")


def _flow(tree: dict[str, Any], indent: int = 0) -> str:
    lines = []
    for name, value in tree.items():
        head = f"{' ' * indent}{name}:"
        if isinstance(value, dict):
            lines += [head, _flow(value, indent + 2)]
        else:
            lines.append(f"{head} {value}")
    return "\n".join(lines)
