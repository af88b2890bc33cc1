"""Training rows as token ids, the same ids that sampling sees; what does not fit is dropped.

rows in = rows out + drops
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from selfreward.config import SeedSource
from selfreward.engines.chat import Chat
from selfreward.errors import StoppedError
from selfreward.inputs import seeds
from selfreward.inputs.conversations import LEFT_OUT, Message, messages_of
from selfreward.inputs.judge_templates import run_template
from selfreward.inputs.templates import Template
from selfreward.records import Drop, Judgment, PreferencePair, Prompt, Response, kept
from selfreward.stages.criteria import GENERAL
from selfreward.stages.verdict import points
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.training.base import DpoRow, SftRow

UNJUSTIFIED = "no justification"
"""Reason of a drop that a run of an earlier version may have for all rows of ``sft.eft``; today
such a run is refused before it is made."""


def sft_rows(run: Run, store: Store, stage: str, chat: Chat) -> tuple[list[SftRow], list[Drop]]:
    """IFT rows, then EFT rows in the form that the judge will be asked in, then selected ones.

    ``written`` and ``written_expected``: justification and verdict line. ``expected``: the score
    token alone, decimals rounded to the nearest score, halves up. ``criteria``: the same, by the
    criterion ``criteria.GENERAL``, as seed data has one score for the whole answer. A selected
    judgment is the judge's own text, whole. What spells a control token of the chat format, which
    would be trained as the end of its turn, is dropped; and so is an IFT row whose answer would be
    trained without a turn that it follows, as the chat template leaves that out. Of a conversation
    the last answer alone is trained.

    Args:
        stage: Of iteration 0: ``sft``, before judgments are selected, or ``train``.

    Raises:
        StoppedError: No row is left, or none of ``sft.ift`` or ``sft.eft``.
    """
    sft = run.config.sft
    assert sft is not None
    rows: list[SftRow] = []
    drops: list[Drop] = []
    num_kept: Counter[str] = Counter()

    def keep(name: str, prompt_ids: tuple[int, ...], completion_ids: tuple[int, ...]) -> None:
        length = len(prompt_ids) + len(completion_ids)
        if length > sft.max_length:
            detail = f"{length} tokens > sft.max_length {sft.max_length}"
            drops.append(Drop(0, stage, name, "too long", detail))
        else:
            source = name.partition(":")[0]
            rows.append(SftRow(prompt_ids, completion_ids, is_eft=source != "ift"))
            num_kept[source] += 1

    def plain(name: str, *texts: str) -> bool:
        """Whether none spells a control token of the chat format, which would end its turn."""
        token = next(filter(None, map(chat.control_token, texts)), None)
        if token is not None:
            drops.append(Drop(0, stage, name, "control token", token))
        return token is None

    if sft.ift is not None:
        for i, example in enumerate(seeds.read_ift(_source(run.seed_file("ift")))):
            if not plain(f"ift:{i}", example.prompt, example.response):
                continue
            asked = messages_of(example.prompt, example.columns)
            if (turn := chat.left_out(asked)) is not None:
                drops.append(Drop(0, stage, f"ift:{i}", LEFT_OUT, turn))
            else:
                keep(f"ift:{i}", *chat.continuation(asked, "", example.response))
    if sft.eft is not None:
        template, writes = run_template(run, "judge"), run.config.judge.traits.writes
        for i, eft in enumerate(seeds.read_eft(_source(run.seed_file("eft")))):
            if not plain(f"eft:{i}", eft.prompt, eft.response, eft.justification or ""):
                continue
            if eft.teaches(writes=writes):
                keep(f"eft:{i}", *_judged(eft, template, chat, writes=writes))
            else:
                drops.append(Drop(0, stage, f"eft:{i}", UNJUSTIFIED))
    if stage == "train":
        for judgment, user, started in _selected(run, store):
            name = f"selected:{judgment.item}"
            if plain(name, judgment.raw):
                keep(name, *chat.continuation(user, started, judgment.raw))
    if not rows:
        raise StoppedError("the seed step has no row to train on", _why(drops))
    for source in ("ift", "eft"):
        lost = [d for d in drops if d.item.startswith(f"{source}:") and d.reason != UNJUSTIFIED]
        if lost and not num_kept[source]:
            raise StoppedError(f"no row of sft.{source} can be trained on", _why(lost))
    return rows, drops


def _judged(
    eft: seeds.EftExample, template: Template, chat: Chat, *, writes: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids of what a judge is asked about an EFT row, and of what it is to answer."""
    asked = template.asked(eft.prompt, eft.columns)
    user, started = template.render(**asked, response=eft.response, criterion=GENERAL)
    if not writes:
        return chat.score_target(user, points(eft.score))
    return chat.continuation(user, started, f"{eft.justification}\nScore: {eft.score:g}")


def dpo_rows(run: Run, store: Store, iteration: int, chat: Chat) -> tuple[list[DpoRow], list[Drop]]:
    """One row per preference pair.

    Raises:
        StoppedError: No pair is short enough.
    """
    prompts = {p.attempt: p for p in store.records(Prompt, iteration)}
    responses = {(r.attempt, r.sample): r for r in store.records(Response, iteration)}
    thinks = run.config.dpo.train_thinking
    rows: list[DpoRow] = []
    drops: list[Drop] = []
    longest = run.config.dpo.max_length
    for pair in store.records(PreferencePair, iteration):
        prompt = messages_of(prompts[pair.attempt].text, prompts[pair.attempt].columns)
        prompt_ids = chat.prompt_ids(prompt)
        chosen, rejected = (
            _completion(chat, prompt, responses[pair.attempt, sample], thinks)
            for sample in (pair.chosen, pair.rejected)
        )
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


def _completion(
    chat: Chat, prompt: list[Message], response: Response, thinks: bool
) -> tuple[int, ...]:
    """The ids that were sampled; or, without its thinking, those of the finished turn."""
    if response.token_ids is not None and (thinks or not response.thinking):
        return chat.sampled(response.token_ids)
    return chat.continuation(prompt, "", response.text)[1]


def _selected(run: Run, store: Store) -> Iterator[tuple[Judgment, str, str]]:
    """The judgments that were selected, each with what the judge was asked and its turn's start."""
    judgments = kept(store.records(Judgment, 0), store.records(Drop, 0))
    if not judgments:
        return
    template = run_template(run, "judge")
    asked = {p.attempt: template.asked(p.text, p.columns) for p in store.records(Prompt, 0)}
    texts = {(r.attempt, r.sample): r.text for r in store.records(Response, 0)}
    for judgment in judgments:
        response = texts[judgment.attempt, judgment.sample]
        user, started = template.render(**asked[judgment.attempt], response=response)
        yield judgment, user, started


def _source(path: Path) -> SeedSource:
    return SeedSource(path=str(path.resolve()))


def _why(drops: list[Drop]) -> str:
    return "; ".join(f"{drop.item}: {drop.reason} ({drop.detail})" for drop in drops[:3])
