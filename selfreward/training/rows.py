"""Rows of an iteration as token ids, the same ids that sampling sees; what does not fit is dropped.

rows in = rows out + drops
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from selfreward.config import EngineConfig
from selfreward.config.judging import PREVIOUS
from selfreward.engines.chat import Chat
from selfreward.errors import ConfigError, StoppedError
from selfreward.inputs.conversations import LEFT_OUT, Message, messages_of
from selfreward.inputs.judge_templates import run_template
from selfreward.inputs.rankings import Ranking, read_ranked
from selfreward.measures.consistency import Consistency, consistency
from selfreward.measures.votes import ALL, read_votes
from selfreward.records import (
    JUDGE_PAIRS,
    MAX_SCORE,
    Drop,
    JudgePair,
    Judgment,
    PreferencePair,
    Prompt,
    Response,
)
from selfreward.stages.jury import whole_responses
from selfreward.stages.meta import judge_texts
from selfreward.stages.positives import best_responses
from selfreward.storage.changes import versions
from selfreward.storage.directory import Run
from selfreward.storage.store import Store
from selfreward.training.base import DpoRow, OnlineRow, RankedRow, SftRow
from selfreward.training.checks import check_reference
from selfreward.training.seed_rows import copied, first_of, sft_rows


def positive_rows(
    run: Run, store: Store, iteration: int, chat: Chat
) -> tuple[list[SftRow], list[Drop]]:
    """One row per prompt whose best response is good enough, and what is replayed.

    Drops are those of the iteration; what is replayed had its own when it was made.

    Raises:
        StoppedError: No response is good and short enough.
    """
    replay = run.config.train.replay
    rows, drops = _positives(run, store, iteration, chat)
    if not rows:
        reasons = Counter(drop.reason for drop in drops).most_common()
        counts = ", ".join(f"{reason} {count}" for reason, count in reasons) or "no prompts"
        raise StoppedError(
            f"iteration {iteration} has no response to train on; dropped: {counts}",
            f"{first_of(drops)}. {_more_positives(run, drops)}",
        )
    if replay.aift:
        for earlier in range(1, iteration):
            rows += _positives(run, store, earlier, chat)[0]
    if replay.seed:
        rows += sft_rows(run, store, "train", chat)[0]
    return rows, drops


def _more_positives(run: Run, drops: list[Drop]) -> str:
    """What gives rows, by what most of them were lost to."""
    keys = {"score": "train.sft.min_score", "too long": "train.sft.max_length"}
    [(reason, _), *_] = [*Counter(drop.reason for drop in drops).most_common(), ("", 0)]
    if reason in keys:
        return f"`selfreward resume {run.handle} {keys[reason]}=...` tries another value."
    return f"`selfreward show {run.handle} --failed` has the answers; start a run with more."


def _positives(
    run: Run, store: Store, iteration: int, chat: Chat
) -> tuple[list[SftRow], list[Drop]]:
    config, settings = run.config, run.config.train.sft
    prompts = store.records(Prompt, iteration)
    responses = store.records(Response, iteration)
    judgments = store.records(Judgment, iteration)
    best, drops = best_responses(
        prompts, responses, judgments, config.pairs, config.judge.weights, settings.min_score
    )
    asked = {prompt.attempt: messages_of(prompt.text, prompt.columns) for prompt in prompts}
    given = {(response.attempt, response.sample): response for response in responses}
    rows: list[SftRow] = []
    for taken in best:
        prompt = asked[taken.attempt]
        completion = _completion(chat, prompt, given[taken.attempt, taken.sample], thinks=True)
        row = SftRow(chat.prompt_ids(prompt), completion)
        if row.length > settings.max_length:
            detail = f"{row.length} tokens > train.sft.max_length {settings.max_length}"
            item = f"{taken.attempt}/{taken.sample}"
            drops.append(Drop(iteration, "train", item, "too long", detail))
        else:
            rows.append(row)
    return rows, drops


def dpo_rows(run: Run, store: Store, iteration: int, chat: Chat) -> tuple[list[DpoRow], list[Drop]]:
    """One row per preference pair, one per pair of judgments, and those that are replayed.

    With ``train.preferences`` one per prompt whose answers people ordered, and no others. Drops are
    those of the iteration; what is replayed had its own when it was made.

    Raises:
        StoppedError: No pair of the iteration is short enough.
    """
    of_people = run.config.train.preferences is not None
    rows, drops = (
        _human_pairs(run, iteration, chat) if of_people else _pairs(run, store, iteration, chat)
    )
    if not rows:
        raise StoppedError(f"iteration {iteration} has no pair to train on", first_of(drops))
    if run.config.train.replay.aift:
        for earlier in range(1, iteration):
            # What sampled their responses is no more the reference.
            replayed = _pairs(run, store, earlier, chat)[0]
            rows += [replace(row, reference=None) for row in replayed]
    return rows, drops


def _pairs(run: Run, store: Store, iteration: int, chat: Chat) -> tuple[list[DpoRow], list[Drop]]:
    prompts = {p.attempt: p for p in store.records(Prompt, iteration)}
    responses = {(r.attempt, r.sample): r for r in store.records(Response, iteration)}
    weigh = _weighing(run, store, iteration)
    thinks = run.config.dpo.train_thinking
    from_engine = run.config.dpo.reference_logprobs == "engine" and _engines_fit(run, store)
    rows: list[DpoRow] = []
    drops: list[Drop] = []
    longest = run.config.dpo.max_length
    for pair in store.records(PreferencePair, iteration):
        prompt = messages_of(prompts[pair.attempt].text, prompts[pair.attempt].columns)
        prompt_ids = chat.prompt_ids(prompt)
        both = [responses[pair.attempt, sample] for sample in (pair.chosen, pair.rejected)]
        chosen, rejected = (_completion(chat, prompt, response, thinks) for response in both)
        length = len(prompt_ids) + max(len(chosen), len(rejected))
        if length > longest:
            detail = f"{length} tokens > dpo.max_length {longest}"
            item = f"{pair.attempt}/{pair.chosen}/{pair.rejected}"
            drops.append(Drop(iteration, "train", item, "too long", detail))
        else:
            told = _told(chat, both, thinks) if from_engine else None
            rows.append(DpoRow(prompt_ids, chosen, rejected, *weigh(pair), reference=told))
    if JUDGE_PAIRS in run.config.stages(iteration):
        judged, left_out = _judge_pairs(run, store, iteration, chat)
        return rows + judged, drops + left_out
    return rows, drops


def _human_pairs(run: Run, iteration: int, chat: Chat) -> tuple[list[DpoRow], list[Drop]]:
    """One row per ranking of ``train.preferences``; what was not read of them are drops, too."""
    human = read_ranked(copied(run, "preferences"))
    rows: list[DpoRow] = []
    left_out = [
        (f"preferences:{reason}", reason, f"{count} as the file was read")
        for reason, count in human.left_out.items()
    ]
    for number, ranking in enumerate(human.rankings):
        made = _human_pair(ranking, chat, run.config.dpo.max_length)
        if isinstance(made, DpoRow):
            rows.append(made)
        else:
            left_out.append((f"preferences:{number}", *made))
    return rows, [Drop(iteration, "train", *why) for why in left_out]


def check_preferences(run: Run, chat: Chat) -> None:
    """Check that of what people preferred anything can be trained on; stops at the first that can.

    Raises:
        ConfigError: Nothing can.
    """
    if (source := run.config.train.preferences) is None:
        return
    longest, lost = run.config.dpo.max_length, Counter[str]()
    for ranking in read_ranked(copied(run, "preferences")).rankings:
        made = _human_pair(ranking, chat, longest)
        if isinstance(made, DpoRow):
            return
        lost[made[0]] += 1
    why = ", ".join(f"{reason} {count}" for reason, count in lost.most_common())
    raise ConfigError(
        f"train.preferences: nothing in {source.path} can be trained on: {why}",
        f"dpo.max_length={longest} is the most tokens of a prompt with an answer; or give others.",
    )


def _human_pair(ranking: Ranking, chat: Chat, longest: int) -> DpoRow | tuple[str, str]:
    """The first of the best answers, chosen, and the first of the worst; or reason and detail."""
    best = max(ranking.responses, key=lambda answer: answer.preference)
    worst = min(ranking.responses, key=lambda answer: answer.preference)
    if best.preference == worst.preference:
        return "tie", f"{len(ranking.responses)} answers, none preferred"
    asked = messages_of(ranking.prompt, ranking.columns)
    texts = (*(turn["content"] for turn in asked), best.text, worst.text)
    if (token := next(filter(None, map(chat.control_token, texts)), None)) is not None:
        return "control token", token
    if (turn := chat.left_out(asked)) is not None:
        return LEFT_OUT, turn
    (prompt_ids, chosen), (_, rejected) = (
        chat.continuation(asked, "", answer.text) for answer in (best, worst)
    )
    row = DpoRow(prompt_ids, chosen, rejected)
    if row.length > longest:
        return "too long", f"{row.length} tokens > dpo.max_length {longest}"
    return row


def _engines_fit(run: Run, store: Store) -> bool:
    """Whether what was said of the responses can stand for a pass.

    The engine may change while a run is under way, so each that it ever was may have said it.
    """
    for data in versions(run.settings, store.events()):
        try:
            check_reference(run.config.dpo, EngineConfig.model_validate(data["engine"]))
        except ConfigError:
            return False
    return True


def _told(chat: Chat, both: Sequence[Response], thinks: bool) -> tuple[float, float] | None:
    """What the engine said of the two completions as it sampled them for M(t); None where it did
    not of both, or perhaps of other tokens: another end of turn, or thinking that is not trained.
    """
    told = tuple(
        response.logprob
        for response in both
        if response.author == "policy"
        and response.logprob is not None
        and (thinks or not response.thinking)
    )
    return (told[0], told[1]) if len(told) == 2 and chat.end_ids == {chat.end_id} else None


def _judge_pairs(
    run: Run, store: Store, iteration: int, chat: Chat
) -> tuple[list[DpoRow], list[Drop]]:
    """One row per pair of judgments: the judge's prompt, and the two texts as it wrote them."""
    rows: list[DpoRow] = []
    drops: list[Drop] = []
    longest = run.config.dpo.max_length
    for pair, user, started, *said in judge_texts(
        store.records(JudgePair, iteration),
        store.records(Prompt, iteration),
        store.records(Response, iteration),
        store.records(Judgment, iteration),
        run_template(run, "judge"),
    ):
        item = f"judge:{pair.attempt}/{pair.sample}/{pair.chosen}/{pair.rejected}"
        if (token := next(filter(None, map(chat.control_token, said)), None)) is not None:
            drops.append(Drop(iteration, "train", item, "control token", token))
            continue
        (prompt_ids, chosen), (_, rejected) = (
            chat.continuation(user, started, text, is_sampled=True) for text in said
        )
        row = DpoRow(prompt_ids, chosen, rejected)
        if row.length > longest:
            detail = f"{row.length} tokens > dpo.max_length {longest}"
            drops.append(Drop(iteration, "train", item, "too long", detail))
        else:
            rows.append(row)
    return rows, drops


def online_rows(
    run: Run, store: Store, iteration: int, chat: Chat
) -> tuple[list[OnlineRow], list[Prompt], list[Drop]]:
    """One row per accepted prompt to which an answer of any length fits, and the prompt of each.

    Raises:
        StoppedError: There is none.
    """
    online, method = run.config.online, run.config.train.method
    assert online is not None
    room = online.max_length - run.config.online_options["max_completion_length"]
    rows: list[OnlineRow] = []
    asked: list[Prompt] = []
    drops: list[Drop] = []
    for prompt in store.records(Prompt, iteration):
        if prompt.dropped is not None:
            continue
        row = OnlineRow(chat.prompt_ids(messages_of(prompt.text, prompt.columns)))
        if row.length > room:
            detail = f"{row.length} tokens > {room}, what {method}.max_length leaves"
            drops.append(Drop(iteration, "train", str(prompt.attempt), "too long", detail))
        else:
            rows.append(row)
            asked.append(prompt)
    if not rows:
        raise StoppedError(
            f"iteration {iteration} has no prompt to train on",
            f"{first_of(drops)}. `selfreward resume {run.handle} {method}.max_length=...` takes "
            "more.",
        )
    return rows, asked, drops


def _weighing(
    run: Run, store: Store, iteration: int
) -> Callable[[PreferencePair], tuple[float, float]]:
    """The weights of a pair as it is and with its responses exchanged, by ``dpo.weigh_by``."""
    by = run.config.dpo.weigh_by
    if by == "margin":
        return lambda pair: (pair.margin / MAX_SCORE, 0.0)
    if by is None:
        return lambda pair: (1.0, 0.0)
    share = run_consistency(run, store, iteration).value
    if share is None:
        raise StoppedError(
            f"iteration {iteration}: on no prompt do the policy and the model before both tell "
            "responses apart, so their consistency is not known",
            "Start a run with judge.form=expected, whose scores rarely tie, or more prompts; or "
            f"branch off without the weight: `selfreward resume {run.handle} --retrain "
            f"{iteration} --name NEW dpo.weigh_by=null`.",
        )
    return lambda pair: (share, 1 - share)


def run_consistency(run: Run, store: Store, iteration: int) -> Consistency:
    """How far the policy and the juror ``previous`` of a run rank responses alike."""
    other = [judge.model for judge in run.config.judge.jurors].index(PREVIOUS)
    whole = whole_responses(store.records(Response, iteration))
    return consistency(read_votes(store, iteration, ALL), whole, (0, other))


def scored_ids(
    chat: Chat, turns: Sequence[Message], text: str, max_length: int
) -> tuple[int, ...] | str:
    """A conversation with an answer, whole, as a reward model reads it; or why it does not.

    Args:
        max_length: Tokens of all of it.
    """
    if any(map(chat.control_token, (*(turn["content"] for turn in turns), text))):
        return "control token"
    ids = tuple(chat.conversation_ids(turns, text))
    return ids if len(ids) <= max_length else "too long"


def ranked_rows(
    rankings: Iterable[Ranking], chat: Chat, max_length: int
) -> tuple[list[RankedRow], dict[str, int]]:
    """One row per prompt whose answers somebody put in order.

    Args:
        max_length: Tokens of the prompt with an answer; a longer answer is left out.

    Returns:
        Rows, and what was left out by reason: answers (``too long``, ``control token``) and prompts
        (``all tied``, ``one answer``, ``no answer``).
    """
    rows: list[RankedRow] = []
    left_out: Counter[str] = Counter()
    for ranking in rankings:
        answers: list[tuple[int, ...]] = []
        preferences: list[float] = []
        turns = messages_of(ranking.prompt, ranking.columns)
        for response in ranking.responses:
            ids = scored_ids(chat, turns, response.text, max_length)
            if isinstance(ids, str):
                left_out[ids] += 1
            else:
                answers.append(ids)
                preferences.append(response.preference)
        if len({*preferences}) > 1:
            rows.append(RankedRow(tuple(answers), tuple(preferences)))
        else:
            left_out[("no answer", "one answer", "all tied")[min(2, len(preferences))]] += 1
    return rows, dict(left_out)


def _completion(
    chat: Chat, prompt: list[Message], response: Response, thinks: bool
) -> tuple[int, ...]:
    """The ids that were sampled; or, without its thinking, those of the finished turn."""
    if response.token_ids is not None and (thinks or not response.thinking):
        return chat.sampled(response.token_ids)
    return chat.continuation(prompt, "", response.text)[1]
