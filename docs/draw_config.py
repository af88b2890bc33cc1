"""Write docs/config.md from the classes of the config.

python docs/draw_config.py            writes it
python docs/draw_config.py --check    writes nothing; says whether it is as it should be
"""

import sys
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from selfreward.config import SeedSource
from selfreward.config.reference import Key, keys

MARKS = {"always": " \u21bb", "unused": "", "never": " \u2744"}
PAGE = Path(__file__).parent / "config.md"
HEAD = """# Every key of a config

Made by `python docs/draw_config.py` from the classes in `selfreward/config/`.
`selfreward config show CONFIG` prints a config with every value filled in, `--sources` says where
each comes from, and `--explain KEY` what one is for.

A config is a YAML file; `KEY=VALUE` words on the command line win over it, as in
`dpo.learning_rate=5e-7` or `judge.jury.0.weight=2`. SRLM is Self-Rewarding Language Models (arXiv
2401.10020). Keys with a \u21bb may be changed by `resume` at any time, those with
a \u2744 never, as a run has its own copy of what they name, and the others while nothing was made
with them.
"""
SOURCE = """
## Sources

Where a key takes a *source*, a path is short for `{path: PATH}`; a file is looked for beside the
config, in the current directory and among the shipped ones. See [data.md](data.md).
"""
ENVIRONMENT = """
## Environment

| variable | what |
|---|---|
| `SELFREWARD_RUNS` | where runs are; default `runs/` in the current directory |
| `SELFREWARD_CACHE` | what takes long to make again, such as converted models; see `doctor` |
| `SELFREWARD_DEBUG` | 1: show where in the program an error came from |
| `TMPDIR` | where child processes keep what is gone with them |
| `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE` | as for every program that uses the Hugging Face hub |
| `NO_COLOR`, `COLUMNS` | no colours; width of tables |
| the name in `engine.api_key_env` | the key of an endpoint; keys stand nowhere else |
"""


def page() -> str:
    """The whole document."""
    parts = [HEAD]
    everything = list(keys())
    top = [key for key in everything if "." not in key.name and key.type[:5] != "group"]
    parts.append(section("The run", "", top))
    inner = [key for key in everything if key not in top]
    for name, group in groupby(inner, key=lambda key: key.name.partition(".")[0]):
        first, *others = group
        parts.append(section(f"`{name}`", first.doc, others))
    parts += [SOURCE, table(keys(SeedSource)), ENVIRONMENT]
    return "".join(parts)


def section(title: str, about: str, rows: list[Key]) -> str:
    """A heading, a line on the group, and its keys."""
    return f"\n## {title}\n\n{about}\n\n{table(rows)}".replace("\n\n\n\n", "\n\n")


def table(rows: Iterable[Key]) -> str:
    """A row for each key."""
    lines = ["| key | takes | default | |", "|---|---|---|---|"]
    for key in rows:
        mark = MARKS[key.changes]
        default = f"`{key.default}`" if key.default else ""
        lines.append(f"| `{key.name}`{mark} | {key.type} | {default} | {key.doc} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module."""
    made = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made:
        sys.exit(f"{PAGE.name}: is not what the config says; python docs/{Path(__file__).name}")


if __name__ == "__main__":
    main()
