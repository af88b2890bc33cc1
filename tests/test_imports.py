"""Who may import what, and who may write: read from the source, and checked in fresh processes.

The order of the rooms stands here, and nowhere else; docs/architecture.md draws what it comes to.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import selfreward
from tests.support import ROOT

PACKAGE = Path(selfreward.__file__).parent
MODULES = {
    ".".join(("selfreward", *path.relative_to(PACKAGE).with_suffix("").parts)): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.name != "__init__.py"
}
FLOORS = [
    {"errors", "records", "sigterm", "text"}, {"config"}, {"storage"}, {"inputs"}, {"engines"},
    {"stages"}, {"measures", "rewards"}, {"training", "charts", "tracking"}, {"workers"},
    {"verbs", "controller"}, {"api", "viewer"}, {"cli"}, {"__main__"},
]  # fmt: skip
"""The rooms from the ground up; each imports only from those below it."""
HEAVY = {
    "torch", "transformers", "trl", "vllm", "ctranslate2", "openvino", "openvino_genai", "peft",
    "accelerate", "bitsandbytes", "datasets", "trackio", "wandb", "tensorboard", "mlflow",
}  # fmt: skip
TRAINERS = ("dpo", "loop", "online", "options", "reward", "sft")
TRACKERS = ("trackio", "wandb", "tensorboard", "mlflow")
WRAPPERS = {
    "selfreward.engines.ctranslate2", "selfreward.engines.openvino",
    "selfreward.engines.openvino_graph", "selfreward.engines.openvino_trace",
    "selfreward.engines.transformers", "selfreward.engines.vllm",
    "selfreward.training.adapter", "selfreward.training.dpo", "selfreward.training.identity",
    "selfreward.training.job", "selfreward.training.loop", "selfreward.training.online",
    "selfreward.training.quantized",
    "selfreward.training.reward", "selfreward.training.sft", "selfreward.training.starts",
    *(f"selfreward.tracking.{name}" for name in TRACKERS),
}  # fmt: skip
"""The modules that wrap a heavy library; child processes alone import them."""
RESTING = {f"selfreward.training.{name}" for name in ("none", "rloo", "grpo")}
"""What only imports wrappers, and is imported as they are."""

EXTRAS = {"selfreward.rewards.mathematics"}
"""What can be imported only with an optional package."""
WRITERS = {
    "selfreward.storage.durable": "writes every file that is kept",
    "selfreward.storage.database": "opens records.db, to which the store alone writes",
    "selfreward.workers.process": "appends to a child's log",
    "selfreward.tracking.process": "appends to a tracker's log",
    "selfreward.workers.main": "answers through a pipe",
    "selfreward.workers.function_main": "answers through a pipe",
    "selfreward.training.distributed": "tells the train child by lines of its output",
    "selfreward.engines.openvino_graph": "lets OpenVINO save what is deleted or durable publishes",
    "selfreward.engines.reference": "lets transformers save into a directory that is soon deleted",
    "selfreward.inputs.models": "lets transformers save into a directory that durable publishes",
    "selfreward.training.adapter": "fills a directory that durable publishes",
    "selfreward.training.loop": "lets transformers save into a directory that durable publishes",
    "selfreward.viewer.drawing": "answers through a pipe",
    "selfreward.viewer.side": "keeps a side file in the user's cache, which can be made again",
    "selfreward.verbs.doctor": "tries SQLite in a temporary directory",
    "selfreward.verbs.export": "fills a directory that durable publishes",
}
CATCH_ALL = {
    "selfreward.cli.main": "the one handler at the top: a bug becomes a line and an exit code",
    "selfreward.verbs.maintenance": "whatever a check of a damaged run trips over is its finding",
    "selfreward.viewer.drawing": "a bug becomes an answer, so that the viewer lives on",
    "selfreward.training.starts": "a model whose code fails on trees is read row by row",
    "selfreward.engines.batcher": "hands whatever it is to those who asked",
    "selfreward.workers.main": "early imports fail in the job that needs them; a bug is logged",
    "selfreward.workers.function_main": "a user's function raises what it likes; it is recorded",
    "selfreward.tracking.follower": "a tracker raises what it likes, and is tried again",
}
FINDERS = {
    "selfreward.engines.installed": "asks whether a library is installed, for all",
    "selfreward.inputs.bundled": "asks where the file of a package lies",
    "selfreward.inputs.functions": "asks where the source of a user's function lies",
    "selfreward.viewer.app": "asks for a module of ours",
}
WRITING_CALLS = {
    "os.rename", "os.replace", "os.link", "os.symlink", "os.truncate", "os.write", "os.mkfifo",
    "shutil.copy", "shutil.copy2", "shutil.copyfile", "shutil.copytree", "shutil.move",
    "json.dump", "yaml.dump_all", "pickle.dump", "torch.save", "numpy.save", "sqlite3.connect",
}  # fmt: skip
WRITING_METHODS = {
    "write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "save_pretrained",
    "to_parquet", "to_json", "to_csv", "savefig", "save_model",
}  # fmt: skip


def tree(module: str) -> ast.Module:
    return parsed(MODULES[module].read_text(encoding="utf-8"))


parsed = cache(ast.parse)


def imported(nodes: list[ast.stmt]) -> Iterator[str]:
    """Top-level packages that import statements among ``nodes`` load."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def room(module: str) -> str:
    return module.split(".")[1]


def imports_of(module: str) -> set[str]:
    """The modules of the package that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selfreward"):
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= {one if one in MODULES else node.module for one in inner}
    return {one for one in found if one in MODULES or one.count(".") == 1} - {"selfreward"}


@cache
def everywhere(module: str) -> set[str]:
    return set(imported([n for n in ast.walk(tree(module)) if isinstance(n, ast.stmt)]))


def loaded_by(*modules: str) -> set[str]:
    code = f"import sys, {', '.join(modules)}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_rooms_are_those_of_the_floors() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.is_file() or any(path.glob("*.py"))}
    assert rooms - {"__init__", "py"} == set().union(*FLOORS)
    assert len(FLOORS) <= 13


def test_each_room_imports_only_from_rooms_below_it() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upward = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports_of(module)
        if room(other) != room(module) and floor[room(other)] >= floor[room(module)]
    ]
    assert upward == []


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = TopologicalSorter({module: imports_of(module) for module in MODULES})
    assert set(graph.static_order()) >= set(MODULES)  # raises where there is a circle


@pytest.mark.parametrize(
    "modules",
    [
        ["selfreward"],
        sorted(MODULES.keys() - WRAPPERS - RESTING - {"selfreward.__main__", *EXTRAS}),
    ],
    ids=len,
)
def test_importing_loads_no_heavy_library(modules: list[str]) -> None:
    assert loaded_by(*modules) & HEAVY == set()


def test_importing_the_command_line_loads_only_what_every_verb_needs() -> None:
    """`--help` is to answer in 0.3 s, see `benchmarks/startup.py`."""
    loaded = loaded_by("selfreward.cli.main")
    assert loaded & (HEAVY | {"scipy", "numpy", "pandas", "pyarrow", "matplotlib"}) == set()


def test_only_wrappers_import_heavy_libraries_at_the_top() -> None:
    assert {m for m in MODULES if set(imported(tree(m).body)) & HEAVY} == WRAPPERS & set(MODULES)


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("jinja2", {"selfreward.inputs.templates", "selfreward.verbs.report_page"}),
        ("ctranslate2", {"selfreward.engines.ctranslate2"}),
        ("trl", {f"selfreward.training.{name}" for name in TRAINERS}),
        ("openvino", {f"selfreward.engines.openvino{part}" for part in ("", "_graph", "_trace")}),
        ("openvino_genai", {"selfreward.engines.openvino"}),
        ("pickle", set()),
        *((name, {f"selfreward.tracking.{name}"}) for name in TRACKERS),
    ],
)
def test_a_library_is_imported_only_by_the_module_that_wraps_it(
    library: str, modules: set[str]
) -> None:
    assert {module for module in MODULES if library in everywhere(module)} <= modules


def writes(module: str) -> list[str]:
    """Calls in a module that write files, as ``line: call``."""
    found = []
    for node in ast.walk(tree(module)):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        name = call.rpartition(".")[2]
        values = [*node.args[1:], *(k.value for k in node.keywords if k.arg == "mode")]
        if name == "open" and call != "open":
            values = [*node.args, *values]  # path.open(mode)
        modes = [
            v.value for v in values if isinstance(v, ast.Constant) and isinstance(v.value, str)
        ]
        opened = name in ("open", "fdopen") and any(set(mode) & set("wax+") for mode in modes[:1])
        if opened or call in WRITING_CALLS or name in WRITING_METHODS:
            found.append(f"{node.lineno}: {call}")
    return found


def test_only_listed_modules_write_files() -> None:
    """Else what they write could be torn by a crash."""
    assert {m: found for m in MODULES if m not in WRITERS and (found := writes(m))} == {}


def test_every_listed_writer_does_write() -> None:
    assert [module for module in WRITERS if module in MODULES and not writes(module)] == []


def test_the_lint_sees_each_way_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sample.py"
    monkeypatch.setitem(MODULES, "sample", path)
    for call in (
        "open(p, 'w')", "open(p, mode='ab')", "p.open('x')", "p.open(mode='r+')",
        "os.fdopen(1, 'w')", "p.write_text(t)", "os.replace(a, b)", "shutil.move(a, b)",
        "json.dump(a, f)",
    ):  # fmt: skip
        path.write_text(call)
        assert writes("sample"), call
    for call in ("open(p)", "open(p, 'rb')", "p.open()", "json.dumps(a)", "t.replace('a', 'b')"):
        path.write_text(call)
        assert not writes("sample"), call


def test_only_listed_modules_catch_everything() -> None:
    """A bug shows itself; only errors that are expected are caught."""
    broad = {
        module
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or ast.unparse(node.type) in ("Exception", "BaseException"))
        and not any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
    }
    assert broad <= set(CATCH_ALL)


def test_whether_a_library_is_installed_is_asked_in_one_place() -> None:
    """``find_spec`` alone takes a directory for a library."""
    asking = {
        module
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Name | ast.Attribute)
        and ast.unparse(node).rpartition(".")[2] == "find_spec"
    }
    assert asking == set(FINDERS)


def test_the_tree_in_the_readme_is_the_real_one() -> None:
    script = ROOT / "docs" / "draw_rooms.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
