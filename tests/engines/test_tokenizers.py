"""A tokenizer whose class is known is the one that AutoTokenizer opens."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from selfreward.engines import tokenizers
from selfreward.engines.tokenizers import open_tokenizer
from tests.support.families import FAMILIES, make_family
from tests.support.models import make_model, make_sentencepiece_model

TEXTS = ("", "hi  there\n10 11", "<|start|>user\nx<|end|>", "na\u00efve \U0001f600", " a")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenizers"


def facts(tokenizer: Any) -> tuple[object, ...]:
    """All that a stage or a training asks of a tokenizer."""
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    turns = [{"role": "user", "content": "hi"}]
    return (
        type(tokenizer), ids, [tokenizer.encode(text) for text in TEXTS],
        [tokenizer.decode(each, skip_special_tokens=s) for each in ids for s in (False, True)],
        tokenizer.special_tokens_map, tokenizer.eos_token_id, tokenizer.all_special_ids,
        tokenizer.get_vocab(), tokenizer.chat_template, tokenizer.model_max_length,
        tokenizer.clean_up_tokenization_spaces,
        tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True),
        tokenizer.backend_tokenizer.to_str(),
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_known_class_opens_the_tokenizer_that_auto_tokenizer_does(
    family: str, tmp_path: Path, cache: Path
) -> None:
    model = make_family(tmp_path / "model", family)
    expected = facts(AutoTokenizer.from_pretrained(model, local_files_only=True))
    assert facts(open_tokenizer(model)) == expected
    [mark] = cache.iterdir()
    again = make_family(tmp_path / "again", family, seed=1)
    assert facts(open_tokenizer(again)) == expected and [*cache.iterdir()] == [mark]


def test_so_does_one_of_sentencepiece(tmp_path: Path) -> None:
    template = "{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}"
    words = ("[INST]", "[/INST]")
    model = make_sentencepiece_model(tmp_path, template, words, eos="</s>", bos="<s>")
    expected = facts(AutoTokenizer.from_pretrained(model, local_files_only=True))
    assert facts(open_tokenizer(model)) == facts(open_tokenizer(model)) == expected


def test_the_class_goes_by_the_configs_alone(tmp_path: Path, cache: Path) -> None:
    model = make_model(tmp_path / "model")
    open_tokenizer(model)
    for name in ("config.json", "tokenizer_config.json"):
        changed = json.loads((model / name).read_text()) | {"a": 1}
        (model / name).write_text(json.dumps(changed))
        open_tokenizer(model)
    assert len([*cache.iterdir()]) == 3


@pytest.mark.parametrize(
    "kept",
    ["", "os:system", "transformers.no:Such", "transformers.models:Such", "\x00", "transformers.:"],
)
def test_what_names_no_class_is_looked_up_anew(kept: str, tmp_path: Path, cache: Path) -> None:
    model = make_model(tmp_path / "model")
    first = facts(open_tokenizer(model))
    [mark] = cache.iterdir()
    told = mark.read_text()
    mark.write_text(kept)
    assert facts(open_tokenizer(model)) == first and mark.read_text() == told


def test_another_version_of_transformers_is_asked_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "model")
    open_tokenizer(model)
    monkeypatch.setattr(tokenizers, "version", lambda name: "9")
    open_tokenizer(model)
    assert len([*cache.iterdir()]) == 2


def test_code_that_comes_with_a_model_is_never_kept(tmp_path: Path, cache: Path) -> None:
    model = make_model(tmp_path / "model")
    (model / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        "class Own(PreTrainedTokenizerFast):\n    pass\n"
    )
    config = json.loads((model / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [None, "own.Own"]}}
    (model / "tokenizer_config.json").write_text(json.dumps(config))
    assert type(open_tokenizer(model, trust_remote_code=True)).__name__ == "Own"
    assert not cache.exists()


def test_a_known_class_needs_no_torch(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    open_tokenizer(model)
    code = (
        "import sys\nfrom pathlib import Path\nfrom selfreward.engines.chat import Chat\n"
        "Chat(Path(sys.argv[1])).prompt_ids('hi')\nprint('torch' in sys.modules)"
    )
    again = [sys.executable, "-c", code, str(model)]
    assert subprocess.run(again, capture_output=True, text=True, check=True).stdout == "False\n"
