"""The kinds of engine: which there are, what options each takes, and opening one of them."""

import difflib
import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from selfreward.engines.base import Engine
from selfreward.engines.chat import Chat
from selfreward.engines.installed import has_cuda, has_gpu
from selfreward.engines.openvino_build import bf16_problem, openvino_problem
from selfreward.engines.server.balancer import Balancer
from selfreward.engines.vllm_build import is_cpu_build, vllm_problem
from selfreward.errors import ConfigError, PreflightError

_Count = Annotated[int, Field(ge=1)]
_BATCH: dict[str, Any] = {"max_batch_size": _Count, "max_batch_tokens": _Count}
_ATTENTION = r"^(eager|sdpa|flex_attention|flash_attention_[2-4]|[\w.-]+/[\w.:@-]+)$"
"""Names of transformers, or a kernel of the hub."""
_Compute = Literal[
    "default", "auto", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16",
    "bfloat16", "float32",
]  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "openvino": {
        "precision": Literal["f32", "bf16"],
        "cache_size": _Count,
        "max_num_seqs": _Count,
        "max_num_batched_tokens": _Count,
        **_BATCH,
    },
    "ctranslate2": {
        "device": Literal["cpu", "cuda", "auto"],
        "device_index": int | list[int],
        "compute_type": _Compute | dict[str, _Compute],
        "inter_threads": _Count,
        "intra_threads": Annotated[int, Field(ge=0)],
        "max_queued_batches": Annotated[int, Field(ge=-1)],
        "flash_attention": bool,
        "tensor_parallel": bool,
        **_BATCH,
    },
    "transformers": {
        "dtype": Literal["auto", "float32", "float16", "bfloat16"],
        "device_map": str | int | dict[str, str | int],
        "attn_implementation": Annotated[str, Field(pattern=_ATTENTION)],
        **_BATCH,
    },
    "server": {
        "endpoints": Any,  # which ``Balancer`` looks at itself, as it does at the last three
        "model": str | None,
        "api_key_env": str | None,
        "timeout_s": Any,
        "max_retries": Any,
        "omit": Any,
    },
}
"""By engine: arguments of ``OpenVINOEngine`` (most are of OpenVINO's ``SchedulerConfig``), of
``ctranslate2.Generator`` and of ``AutoModelForCausalLM.from_pretrained`` with what they take, and
how many sequences and tokens a batch may hold. Listed here so that checking them loads no library:
what an engine itself would refuse, it refuses once M1 is trained. Those of vLLM, which are many,
are asked of it."""
TRANSFORMERS = ("transformers:AutoTokenizer", "transformers:AutoModelForCausalLM")
"""What loading a model with transformers imports, see ``engine_imports``."""
KINDS = ("auto", "ctranslate2", "openvino", "server", "transformers", "vllm")
MEMORY_OPTIONS = ("gpu_memory_utilization", "kv_cache_memory_bytes")
"""Options of vLLM that tell it how much memory to take."""
_MODULES = {"server": "server.engine"}
"""Where an engine is, if not in the module of its name."""
_AUTO = ("openvino", "ctranslate2", "transformers")
"""In order of preference, where vLLM has no GPU, each where it is proved on the model. OpenVINO
runs on CPUs alone."""


def check_options(kind: str, options: Mapping[str, Any]) -> None:
    """Check an engine's name and options before any model is loaded.

    Raises:
        ConfigError: No such engine, or an option that it does not have.
        PreflightError: vLLM or OpenVINO is asked for but not installed, or its build does not fit;
            or this CPU lacks the instructions for bf16.
    """
    if kind not in KINDS:
        raise ConfigError(f"engine.kind: no engine {kind!r}", _near(kind, KINDS))
    if kind == "vllm":
        _check_vllm(options)
        return
    known = {
        name: t for k in (_AUTO if kind == "auto" else (kind,)) for name, t in OPTIONS[k].items()
    }
    for name, value in options.items():
        if name not in known:
            raise ConfigError(f"engine.{name}: {kind} has no such option", _near(name, known))
        _check_value(name, value, known[name])
    if kind == "openvino" and (problem := openvino_problem()):
        raise PreflightError(f"engine.kind=openvino: {problem.message}", problem.fix)
    if options.get("precision") == "bf16" and (problem := bf16_problem()):
        raise PreflightError(f"engine.precision=bf16: {problem.message}", problem.fix)
    if kind == "server":
        Balancer(options, model=None)


def open_engine(
    kind: str, model: Path, chat: Chat, options: Mapping[str, Any], *, fixed: bool = False
) -> Engine:
    """Load a model.

    Args:
        kind: ``vllm``, ``openvino``, ``ctranslate2``, ``transformers`` or ``server``. ``auto``:
            see ``candidates``.
        model: Model directory.
        chat: Of the same model.
        options: The engine's own; under ``auto`` each engine takes those that it has.
        fixed: Whether no other weights will follow; endpoints need to know.

    Raises:
        ConfigError: See ``check_options``.
        PreflightError: The engine is not installed, cannot run this architecture, or found too
            little memory.
    """
    check_options(kind, options)
    if kind != "auto":
        more = {"fixed": fixed} if kind == "server" else {}
        engine: Engine = _module(kind).open_engine(model, chat, options, **more)
        return engine
    *others, last = candidates(kind, options)
    for name in others:
        try:
            return open_engine(name, model, chat, own_options(name, options))
        except PreflightError:
            continue
    return open_engine(last, model, chat, own_options(last, options))


def candidates(kind: str, options: Mapping[str, Any]) -> tuple[str, ...]:
    """The engines that a kind may come to, in order of preference: one, but for ``auto``.

    On CPUs those that lack fewest of the options go first: ``compute_type=int8`` is meant for
    CTranslate2.
    """
    if kind != "auto":
        return (kind,)
    if _has_vllm_on_cuda():
        return ("vllm", "ctranslate2", "transformers")
    has_openvino = not openvino_problem() and not has_cuda()
    found = [name for name in _AUTO if has_openvino or name != "openvino"]
    return tuple(sorted(found, key=lambda name: len(options.keys() - OPTIONS[name].keys())))


def engine_imports(kind: str) -> tuple[str, ...]:
    """What an engine of this kind will import that is slow to, for ``pkgutil.resolve_name``."""
    is_likely = kind == "openvino" or (kind == "auto" and not has_gpu())
    if is_likely and not openvino_problem():
        return ("transformers:PreTrainedTokenizerFast", "selfreward.engines.openvino:")
    return TRANSFORMERS


def own_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that an engine has."""
    known = set(_module("vllm").OPTIONS if kind == "vllm" else OPTIONS[kind])
    return {key: value for key, value in options.items() if key in known}


def _module(kind: str) -> ModuleType:
    try:
        return importlib.import_module(f"selfreward.engines.{_MODULES.get(kind, kind)}")
    except ImportError as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        raise PreflightError(
            f"engine.kind={kind}: {error}",
            f"pip install {missing}, or set another engine.kind."
            if missing
            else "`selfreward doctor` checks the installation; or set another engine.kind.",
        ) from None


def _check_value(name: str, value: Any, kind: Any) -> None:
    try:
        TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(value)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        wanted = " or ".join(dict.fromkeys(fault["msg"] for fault in faults))
        near = ""
        if isinstance(value, str) and get_origin(kind) is Literal:
            near = _near(value, get_args(kind))
        raise ConfigError(f"engine.{name}: {value!r:.80}: {wanted}", near) from None


def _check_vllm(options: Mapping[str, Any]) -> None:
    if problem := vllm_problem():
        raise PreflightError(f"engine.kind=vllm: {problem.message}", problem.fix)
    module = _module("vllm")
    for name in options:
        if name in module.OWNED:
            raise ConfigError(f"engine.{name} cannot be set", f"{module.OWNED[name]}.")
        if name not in module.OPTIONS:
            close = _near(name, module.OPTIONS, "They are the arguments of vLLM's AsyncEngineArgs.")
            raise ConfigError(f"engine.{name}: vllm has no such option", close)
    if options.get("enable_sleep_mode") and is_cpu_build():
        raise PreflightError(
            "engine.enable_sleep_mode: vLLM's CPU build cannot sleep",
            "Remove it; without a GPU there is none to let go.",
        )


def _has_vllm_on_cuda() -> bool:
    return not (vllm_problem() or is_cpu_build()) and has_cuda()


def _near(name: str, known: Iterable[str], otherwise: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    if close:
        return f"Did you mean {close[0]}?"
    return otherwise or f"One of: {', '.join(sorted(known))}."
