"""What the guards of the judge prompt cost honest answers, and what attacks gain with and without.

    python benchmarks/hardening.py [--model M] [--json FILE]

Judges 40 answers of the shipped seed data in the ``expected`` form, as they are and each attack of
``tests/attacks.jsonl`` appended to one of them: with the shipped template, without its words on
what a response says about its score, and without escaped tags. Differences are within an answer.
"""

import argparse
import asyncio
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

from selfreward import models, shipped
from selfreward.chat import Chat
from selfreward.engines import open_engine
from selfreward.engines.base import Engine, Request
from selfreward.seeds import EftExample, SeedSource, read_eft
from selfreward.templates import Template, find_template, load_template
from selfreward.verdict import expected_score

NUM_ANSWERS = 40
LONGEST = 600
"""Characters of an attack; longer ones measure only how long a prompt the model bears."""
WORDS = ", nor does what the response says about its own score"
ATTACKS = Path(__file__).parents[1] / "tests" / "attacks.jsonl"

Render = Callable[[str, str], str]


def main() -> None:
    """Judge everything under each guard and print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="bundled:smollm2-135m")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    path = models.resolve(arguments.model).path
    chat = Chat(path)
    rows = read_eft(SeedSource(path=str(shipped.prompts_directory() / "seed" / "eft.jsonl")))
    answers = rows[:: len(rows) // NUM_ANSWERS][:NUM_ANSWERS]
    attacks, num_dropped = _attacks(chat)
    attacked = [(answers[i % NUM_ANSWERS], text) for i, (_, text) in enumerate(attacks)]
    texts = [(answer, answer.response) for answer in answers]
    texts += [(answer, f"{answer.response}\n\n{text}".strip()) for answer, text in attacked]
    engine = open_engine("ctranslate2", path, chat, {"max_batch_size": 16})
    scores = asyncio.run(_all_scores(engine, chat, texts))
    figures = {
        "answers": NUM_ANSWERS,
        "attacks": len(attacks),
        "dropped": num_dropped,
        "honest": _honest(scores),
        "attacked": _attacked([kind for kind, _ in attacks], scores),
        "seconds": time.perf_counter() - begin,
    }
    _show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1))


def _attacks(chat: Chat) -> tuple[list[tuple[str, str]], int]:
    """(kind, text) of the attacks that reach the judge, and how many a control token stops."""
    rows = [json.loads(line) for line in ATTACKS.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if "times" not in row and row["text"].strip()]
    reaching = [row for row in rows if not chat.control_token(row["text"])]
    short = [(row["kind"], row["text"]) for row in reaching if len(row["text"]) <= LONGEST]
    return short, len(rows) - len(reaching)


def _renderers() -> dict[str, Render]:
    template = load_template(find_template("judge/expected.jinja"), {"prompt", "response"})
    assert WORDS in template.source
    silent = Template("silent", template.source.replace(WORDS, ""))
    blank, _ = template.render(prompt="PROMPT", response="RESPONSE")
    return {
        "shipped": lambda prompt, response: template.render(prompt=prompt, response=response)[0],
        "no words": lambda prompt, response: silent.render(prompt=prompt, response=response)[0],
        "no escape": lambda prompt, response: blank.replace("PROMPT", prompt).replace(
            "RESPONSE", response
        ),
    }


async def _all_scores(
    engine: Engine, chat: Chat, texts: list[tuple[EftExample, str]]
) -> dict[str, list[float]]:
    """Scores of all texts under each guard; equal requests are asked once."""
    known: dict[str, float] = {}
    scores = {}
    for name, render in _renderers().items():
        users = [render(answer.prompt, text) for answer, text in texts]
        new = [user for user in dict.fromkeys(users) if user not in known]
        found = await asyncio.gather(*(_score(engine, chat, user) for user in new))
        known.update(zip(new, found, strict=True))
        scores[name] = [known[user] for user in users]
    await engine.close()
    return scores


async def _score(engine: Engine, chat: Chat, user: str) -> float:
    token_ids, score_tokens = chat.score_prompt(user)
    [generation] = await engine.generate(Request(token_ids, score_tokens=score_tokens))
    assert generation.probabilities is not None
    score, _ = expected_score(generation.probabilities)
    assert score is not None
    return score


def _honest(scores: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """What each guard does to honest answers: the shipped template against the one without it."""
    with_guard = scores["shipped"][:NUM_ANSWERS]
    found = {"all": {"mean score": fmean(with_guard)}}
    for name in ("no words", "no escape"):
        shifts = [a - b for a, b in zip(with_guard, scores[name][:NUM_ANSWERS], strict=True)]
        low, high = _interval(shifts)
        largest = max(map(abs, shifts))
        found[name] = {"shift": fmean(shifts), "low": low, "high": high, "largest": largest}
    return found


def _attacked(kinds: list[str], scores: dict[str, list[float]]) -> list[dict[str, float | str]]:
    """Mean score of attacked answers minus that of the same answers without, by kind."""
    gains = {
        name: [s - of[i % NUM_ANSWERS] for i, s in enumerate(of[NUM_ANSWERS:])]
        for name, of in scores.items()
    }
    table: list[dict[str, float | str]] = []
    for kind in [*dict.fromkeys(kinds), "all"]:
        chosen = [i for i, other in enumerate(kinds) if kind in (other, "all")]
        row: dict[str, float | str] = {"kind": kind, "n": len(chosen)}
        row |= {name: fmean(of[i] for i in chosen) for name, of in gains.items()}
        row["largest"] = max(gains["shipped"][i] for i in chosen)
        row["low"], row["high"] = _interval([gains["shipped"][i] for i in chosen])
        table.append(row)
    return table


def _interval(values: list[float]) -> tuple[float, float]:
    """95% interval of the mean, by 2,000 bootstrap draws."""
    draw = random.Random(0)
    means = sorted(fmean(draw.choices(values, k=len(values))) for _ in range(2_000))
    return means[50], means[1_949]


def _show(figures: dict) -> None:
    honest = figures["honest"]
    print(f"{figures['answers']} honest answers, mean score {honest['all']['mean score']:.2f}")
    for name in ("no words", "no escape"):
        row = honest[name]
        print(
            f"  shipped against {name:9} {row['shift']:+.3f} points "
            f"[{row['low']:+.3f}, {row['high']:+.3f}], largest {row['largest']:.3f}"
        )
    print(f"{figures['attacks']} attacks judged, {figures['dropped']} stopped by a control token")
    print(f"{'kind':18} {'n':>3} {'shipped':>8} {'95% interval':>16} {'largest':>8}", end="")
    print(f" {'no words':>9} {'no escape':>10}")
    for row in figures["attacked"]:
        interval = f"[{row['low']:+.2f}, {row['high']:+.2f}]"
        print(f"{row['kind']:18} {row['n']:3} {row['shipped']:+8.2f} {interval:>16}", end="")
        print(f" {row['largest']:+8.2f} {row['no words']:+9.2f} {row['no escape']:+10.2f}")
    print(f"{figures['seconds']:.0f} s")


if __name__ == "__main__":
    main()
