"""Fingerprints: what decides a run's records, as one sha256.

Each stage keeps that of what it was made from, so that an input which was altered after the fact
is found before anything is built on it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from types import MappingProxyType
from typing import Any

from selfreward.errors import IntegrityError
from selfreward.storage.tables import RESTORE

_EARLIER_KINDS = ("auto", "ctranslate2", "transformers", "vllm", "server")
"""What ``engine.kind`` could be while it was frozen and part of the fingerprint."""


def fingerprint_of(
    config: Mapping[str, object], run: Path, kinds: Mapping[str, str] = MappingProxyType({})
) -> str:
    """sha256 over the keys of a config that decide, and the templates and seed data of a run.

    Args:
        config: As it is written, defaults and all.
        run: The run's directory.
        kinds: Kinds of engines that are taken in, by the key in the config.

    Raises:
        IntegrityError: What lies in the place of a template or of seed data is no file.
    """
    from selfreward.config.readers import decides

    def deciding(data: Any, key: str) -> Any:
        if isinstance(data, list):
            return [deciding(item, f"{key}.{i}") for i, item in enumerate(data)]
        if not isinstance(data, Mapping):
            return data
        inner = ((f"{key}.{name}".lstrip("."), name, value) for name, value in data.items())
        return {
            name: kinds.get(at) or deciding(value, at)
            for at, name, value in inner
            if at in kinds or decides(at)
        }

    sha = hashlib.sha256(json.dumps(deciding(config, ""), sort_keys=True).encode())
    inputs = [*run.glob("templates/*.jinja"), *run.glob("seeds/*.jsonl")]
    for path in sorted(inputs):
        if not path.is_file():
            raise IntegrityError(f"{path}: not a file", RESTORE)
        sha.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def possible_fingerprints(configs: Sequence[dict[str, object]], run: Path) -> Iterator[str]:
    """Fingerprints that a run may have had, from the likeliest.

    Args:
        configs: What its config is and was, see ``changes.versions``.
        run: The run's directory.
    """
    return chain((fingerprint_of(config, run) for config in configs), _earlier(configs, run))


def _earlier(configs: Sequence[dict[str, object]], run: Path) -> Iterator[str]:
    """Those that the kinds of engines were part of, by all that these may have been."""
    for config in configs:
        keys = _engine_kinds(config)
        for kinds in product(_EARLIER_KINDS, repeat=len(keys)):
            yield fingerprint_of(config, run, dict(zip(keys, kinds, strict=True)))


def _engine_kinds(data: Any, key: str = "") -> list[str]:
    """Keys of all kinds of engines in a config, such as ``judge.engine.kind``."""
    if not isinstance(data, dict | list):
        return []
    entries = data.items() if isinstance(data, dict) else enumerate(data)
    inner = [(f"{key}.{name}".lstrip("."), value) for name, value in entries]
    own = [at for at, _ in inner if at.endswith("engine.kind")]
    return own + [found for at, value in inner for found in _engine_kinds(value, at)]
