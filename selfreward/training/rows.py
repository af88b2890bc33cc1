"""Training rows as token ids, the same ids that sampling sees; what does not fit is dropped.

rows in = rows out + drops
"""

from pathlib import Path

from selfreward import seeds
from selfreward.chat import Chat
from selfreward.config import SeedSource
from selfreward.errors import StoppedError
from selfreward.records import Drop, PreferencePair, Prompt, Response
from selfreward.run import Run
from selfreward.store import Store
from selfreward.training import DpoRow, SftRow


def sft_rows(run: Run, store: Store, iteration: int, chat: Chat) -> tuple[list[SftRow], list[Drop]]:
    """IFT rows, then EFT rows in the form that the judge will be asked in.

    ``written``: justification and verdict line. ``expected``: the score token alone, decimals
    rounded to the nearest score.

    Raises:
        StoppedError: No row is left.
    """
    sft = run.config.sft
    assert sft is not None
    rows: list[SftRow] = []
    drops: list[Drop] = []

    def keep(item: str, prompt_ids: tuple[int, ...], completion_ids: tuple[int, ...]) -> None:
        length = len(prompt_ids) + len(completion_ids)
        if length > sft.max_length:
            detail = f"{length} tokens > sft.max_length {sft.max_length}"
            drops.append(Drop(iteration, "train", item, "too long", detail))
        else:
            rows.append(SftRow(prompt_ids, completion_ids))

    if sft.ift is not None:
        for i, example in enumerate(seeds.read_ift(_source(run.seed_file("ift")))):
            keep(f"ift:{i}", *chat.continuation(example.prompt, "", example.response))
    if sft.eft is not None:
        template = run.template("judge")
        for i, eft in enumerate(seeds.read_eft(_source(run.seed_file("eft")))):
            user, started = template.render(prompt=eft.prompt, response=eft.response)
            if run.config.judge.form == "expected":
                keep(f"eft:{i}", *chat.score_target(user, round(eft.score)))
            elif eft.justification is None:
                drops.append(Drop(iteration, "train", f"eft:{i}", "no justification"))
            else:
                verdict = f"{eft.justification}\nScore: {eft.score:g}"
                keep(f"eft:{i}", *chat.continuation(user, started, verdict))
    if not rows:
        raise StoppedError("the seed step has no row to train on", _why(drops))
    return rows, drops


def dpo_rows(run: Run, store: Store, iteration: int, chat: Chat) -> tuple[list[DpoRow], list[Drop]]:
    """One row per preference pair.

    Raises:
        StoppedError: No pair is short enough.
    """
    prompts = {p.attempt: p.text for p in store.records(Prompt, iteration)}
    texts = {(r.attempt, r.sample): r.text for r in store.records(Response, iteration)}
    rows: list[DpoRow] = []
    drops: list[Drop] = []
    longest = run.config.dpo.max_length
    for pair in store.records(PreferencePair, iteration):
        prompt = prompts[pair.attempt]
        prompt_ids, chosen = chat.continuation(prompt, "", texts[pair.attempt, pair.chosen])
        _, rejected = chat.continuation(prompt, "", texts[pair.attempt, pair.rejected])
        length = len(prompt_ids) + max(len(chosen), len(rejected))
        if length > longest:
            detail = f"{length} tokens > dpo.max_length {longest}"
            item = f"{pair.attempt}/{pair.chosen}/{pair.rejected}"
            drops.append(Drop(iteration, "train", item, "too long", detail))
        else:
            rows.append(DpoRow(prompt_ids, chosen, rejected))
    if not rows:
        raise StoppedError(f"iteration {iteration} has no pair to train on", _why(drops))
    return rows, drops


def _source(path: Path) -> SeedSource:
    return SeedSource(path=str(path.resolve()))


def _why(drops: list[Drop]) -> str:
    return "; ".join(f"{drop.item}: {drop.reason} ({drop.detail})" for drop in drops[:3])
