"""Which engine runs which model family as transformers does: the table in docs/engines.md.

    python -m benchmarks.families [--kinds openvino ctranslate2 transformers vllm] [--write]

Each family is a tiny model with random weights of its published config (tests/support/families.py);
each engine is opened as a run opens it. ``--write`` puts the table into docs/engines.md.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from selfreward.engines.chat import Chat
from selfreward.engines.proved import open_proved
from selfreward.engines.vllm_build import vllm_problem
from selfreward.errors import SelfRewardError
from selfreward.storage import durable

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PAGE = ROOT / "docs" / "engines.md"
START, END = "<!-- families -->\n", "<!-- end of families -->\n"
KINDS = ("openvino", "ctranslate2", "transformers", "vllm")


async def verdict(kind: str, model: Path) -> str:
    """What comes of asking for an engine by name."""
    options = {"kv_cache_memory_bytes": 200_000_000} if kind == "vllm" else {}
    try:
        engine = await open_proved(kind, model, Chat(model), options)
    except SelfRewardError as error:
        return "refused" if "by transformers" in error.message else "cannot run it"
    await engine.close()
    return "proved"


async def taken(model: Path) -> str:
    """The engine that ``auto`` comes to."""
    engine = await open_proved("auto", model, Chat(model), {}, tell=lambda line: None)
    await engine.close()
    return engine.kind


def table(kinds: list[str]) -> str:
    """One row a family, as Markdown."""
    from tests.support.families import FAMILIES, make_family

    missing = "not run here"
    rows = [["family", *KINDS, "`auto`"], ["---"] * (len(KINDS) + 2)]
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SELFREWARD_CACHE"] = f"{directory}/cache"
        for number, family in enumerate(FAMILIES):
            model = make_family(Path(directory) / str(number), family)
            each = [
                asyncio.run(verdict(kind, model)) if kind in kinds else missing for kind in KINDS
            ]
            rows.append([family, *each, asyncio.run(taken(model))])
            print(*rows[-1], sep="\t", file=sys.stderr, flush=True)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    installed = [kind for kind in KINDS if kind != "vllm" or not vllm_problem()]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=installed)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    made = table(arguments.kinds)
    if arguments.write:
        page = PAGE.read_text()
        before, after = page.partition(START)[0], page.partition(END)[2]
        durable.write_file(PAGE, f"{before}{START}{made}{END}{after}")
    else:
        print(made, end="")


if __name__ == "__main__":
    main()
