"""Tokenizers of transformers, without torch where it is known of which class a model's is.

``AutoTokenizer`` names a class by a model's configs, and imports torch and much of transformers for
it, which takes four seconds. What it named once for the same configs is kept in the cache; the
class itself needs neither.
"""

import hashlib
import json
import pkgutil
from pathlib import Path
from typing import Any

from selfreward.engines.installed import version
from selfreward.inputs import shipped
from selfreward.storage import durable

_OWN = "transformers."
"""Where classes are that are kept: code that comes with a model is looked up each time."""
_NAMING = ("config.json", "tokenizer_config.json", "tekken.json")
"""Files by which ``AutoTokenizer`` names a class (transformers, tokenization_auto.py); of the last
it asks whether it is there. Of a path it asks whether it is one of some names of the hub, which no
absolute one is."""


def open_tokenizer(model: Path, trust_remote_code: bool = False) -> Any:
    """A model's tokenizer, as ``AutoTokenizer`` opens it.

    Args:
        model: Model directory.
        trust_remote_code: Whether code that comes with the model may run.
    """
    mark = shipped.cache_directory() / "tokenizers" / _key(model)
    if found := _named(mark):
        return found.from_pretrained(model, local_files_only=True)
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(
        model, trust_remote_code=trust_remote_code, local_files_only=True
    )
    kind = type(tokenizer)
    if model.is_absolute() and kind.__module__.startswith(_OWN):
        durable.keep_if_writable(mark, f"{kind.__module__}:{kind.__qualname__}")
    return tokenizer


def _key(model: Path) -> str:
    files = [model / name for name in _NAMING]
    texts = [file.read_text(errors="replace") if file.is_file() else None for file in files]
    made_of = [version("transformers"), *texts, model.is_absolute()]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _named(mark: Path) -> Any:
    """The class that is kept; None where there is none, or what is there names none."""
    try:
        name = mark.read_text()
        return pkgutil.resolve_name(name) if name.startswith(_OWN) else None
    except (OSError, ValueError, ImportError, AttributeError):
        return None
