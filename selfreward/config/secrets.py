"""Keys, tokens and passwords where they would be written down: found before anything is.

A config is copied into the run directory, its records and its logs, and people publish those. So a
secret belongs into an environment variable, and no message here ever repeats one.
"""

import os
import re
from collections.abc import Iterator

from selfreward.config.yamlfile import Path_, place_of
from selfreward.errors import ConfigError

_TOKENS = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|"
    r"glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|AKIA[A-Z0-9]{16}|gsk_[A-Za-z0-9]{20,}|"
    r"nvapi-[\w-]{20,}|r8_[A-Za-z0-9]{20,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]+|"
    r"[Bb]earer +[\w.~+/-]{16,}"
    r")"
)
"""How the tokens of the known services begin, JSON web tokens, and what goes into a header."""
_PASSWORD = re.compile(r"\w://[^\s/@:]*:[^\s/@]+@")
_ASSIGNED = re.compile(
    r"\b\w*(?:token|secret|passw(?:or)?d|api_?key|access_?key)\w*=(?![$\s]|$)", re.IGNORECASE
)
"""A secret set within a command, as in ``HF_TOKEN=... accelerate launch``."""
_NAMES = re.compile(
    r"(?:.*[_-])?(?:token|secret|passw(?:or)?d|api_?key|access_?key|authorization)", re.IGNORECASE
)
"""Keys whose value would be one."""
_TEXTS = ("eos_token", "pad_token", "bos_token", "unk_token")
"""Keys of libraries that sound like it, and are not."""
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


def check_secrets(data: object, places: dict[Path_, str], name: str) -> None:
    """Look through a config for what must not be written down.

    Args:
        data: Plain data, before anything else is checked, as other errors repeat what they found.
        places: Where each key stands; see ``read_yaml``.
        name: Of the config, for what ``places`` lacks.

    Raises:
        ConfigError: With the key, and without its value.
    """
    for loc, value in _leaves(data):  # keys among them
        if (what := _secret(str(loc[-1]) if loc else "", value)) is None:
            continue
        where = place_of(loc, places, name)
        key = ".".join(part for part in loc if isinstance(part, str) and part) or "a word"
        raise ConfigError(
            f"{where}: {key} holds {what}, which would be written into the run",
            "Put it into an environment variable: endpoints read theirs by the name in "
            "api_key_env, the hub reads HF_TOKEN.",
        )


def secret_in(text: str) -> str | None:
    """What kind of secret any text holds, going by its form; None if none is seen."""
    if _TOKENS.search(text):
        return "an access token"
    if _PASSWORD.search(text):
        return "an address with a password"
    return None


def _leaves(data: object, at: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield (*at, ""), str(key)
            yield from _leaves(value, (*at, key))
    elif isinstance(data, list | tuple):
        for i, value in enumerate(data):
            yield from _leaves(value, (*at, i))
    elif isinstance(data, str):
        yield at, data


def _secret(key: str, value: str) -> str | None:
    """What kind of secret a value is; None if it is none."""
    if key == "api_key_env" and not _VARIABLE.fullmatch(value) and value not in os.environ:
        return "no name of an environment variable but, it seems, the key itself"
    if (what := secret_in(value)) is not None:
        return what
    if key == "command" and _ASSIGNED.search(value):
        return "a secret"
    if _NAMES.fullmatch(key) and key not in _TEXTS and value:
        return "a secret"
    return None
