"""The judge's own judgments judged, and pairs of them (Meta-Rewarding, arXiv 2407.19594).

    K judgments of each response to a prompt
      |-- the response whose scores differ most
      |-- each two of its judgments, in both orders  -> MetaJudgment
      `-- Elo over these verdicts, highest over lowest -> JudgePair

accepted prompts in = judge pairs + drops
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

from selfreward.config import Config
from selfreward.config.judging import MetaConfig
from selfreward.engines.base import ChatFormat, Engine, RequestError
from selfreward.inputs.templates import Template
from selfreward.records import (
    JUDGE_PAIRS,
    META,
    Drop,
    JudgePair,
    Judgment,
    MetaJudgment,
    Prompt,
    Response,
)
from selfreward.stages.base import Work, are, first_time, seed_of
from selfreward.stages.comparisons import choose
from selfreward.stages.elo import Verdict, elo, highest_and_lowest, position_weights

if TYPE_CHECKING:
    from selfreward.engines.sessions import Session

Contest = tuple[Response, list[Judgment]]
"""A response and the judgments of it that are compared: at least two, of different texts."""


def contests(
    responses: Sequence[Response], judgments: Sequence[Judgment], settings: MetaConfig
) -> dict[int, Contest]:
    """By attempt, the response whose scores have the highest variance; of equals the first.

    A judgment takes part if it is the first judge's, has a verdict, and no earlier one of the same
    response has the same text. A prompt is not in it if no response has two of these.

    Args:
        responses: Of the policy and whole; others are passed over.
    """
    written: defaultdict[tuple[int, int], dict[str, Judgment]] = defaultdict(dict)
    for judgment in sorted(judgments, key=lambda j: (j.attempt, j.sample, j.vote)):
        if judgment.juror == 0 and judgment.score is not None:
            of_response = written[judgment.attempt, judgment.sample]
            of_response.setdefault(judgment.raw.strip(), judgment)
    found: dict[int, tuple[float, Contest]] = {}
    for response in sorted(responses, key=lambda r: (r.attempt, r.sample)):
        able = [*written[response.attempt, response.sample].values()]
        if response.author != "policy" or response.truncated or len(able) < 2:
            continue
        spread = _variance([judgment.score or 0.0 for judgment in able])
        if response.attempt not in found or spread > found[response.attempt][0]:
            found[response.attempt] = spread, (response, able[: settings.judgments])
    return {attempt: contest for attempt, (_, contest) in found.items()}


def _variance(scores: Sequence[float]) -> float:
    """In exact arithmetic where scores are whole points, so that equals are equal."""
    n, total = len(scores), sum(scores)
    return (n * sum(score * score for score in scores) - total * total) / n**2


def meta_work(
    session: "Session",
    committed: Sequence[MetaJudgment],
    templates: tuple[Template, Template],
    prompts: Sequence[Prompt],
    chosen: dict[int, Contest],
    config: Config,
) -> Work:
    """Having the policy compare its judgments of a response, each two in both orders.

    Args:
        templates: Of the judge and of the meta-judge.
        prompts: All of the iteration.
        chosen: See ``contests``.
    """
    known = {(m.attempt, m.first, m.second) for m in committed}
    by_attempt = {prompt.attempt: prompt for prompt in prompts}
    ask = partial(_compare, session.engine, session.chat, *templates, config)
    asks, total = [], 0
    for response, judgments in chosen.values():
        for a, b in combinations(judgments, 2):
            for first, second in ((a, b), (b, a)):
                total += 1
                if (response.attempt, first.vote, second.vote) not in known:
                    asks.append(partial(ask, by_attempt[response.attempt], response, first, second))
    return Work(META, committed, total, first_time(asks), are(MetaJudgment))


async def _compare(
    engine: Engine, chat: ChatFormat, judge: Template, meta: Template, config: Config,
    prompt: Prompt, response: Response, first: Judgment, second: Judgment,
) -> list[MetaJudgment]:  # fmt: skip
    key = (response.iteration, response.attempt, response.sample, first.vote, second.vote)

    def render() -> tuple[str, str]:
        asked = judge.asked(prompt.text, prompt.columns)
        told, started = judge.render(**asked, response=response.text)
        said = [chat.split_thinking(vote.raw, started)[1].strip() for vote in (first, second)]
        if token := next(filter(None, map(chat.control_token, said)), None):
            raise RequestError("control token", token)  # it would be structure, not text
        return meta.render(asked=told, judgment_a=said[0], judgment_b=said[1])

    seed = seed_of(config.seed, META, *key)
    found = await choose(engine, chat, render, config.judge, seed, f"{META} {key[1:]}")
    return [MetaJudgment(*key, *found.of(first.vote, second.vote))]


def judge_pairs(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    verdicts: Sequence[MetaJudgment],
    settings: MetaConfig,
) -> tuple[list[JudgePair], list[Drop]]:
    """The judgment of the highest Elo over that of the lowest, of one response of each prompt.

    Position weights are over all verdicts of the iteration, ratings over those on one response.
    Input order does not matter.

    Returns:
        Pairs in key order, and a Drop for every accepted prompt (``attempt``) that gave none.
    """
    chosen = contests(responses, judgments, settings)
    weights = position_weights(Verdict(v.first, v.second, v.winner) for v in verdicts)
    by_attempt: defaultdict[int, list[MetaJudgment]] = defaultdict(list)
    for verdict in verdicts:
        by_attempt[verdict.attempt].append(verdict)
    pairs, drops = [], []
    for prompt in sorted(prompts, key=lambda p: p.attempt):
        if prompt.dropped is not None:
            continue
        contest, said = chosen.get(prompt.attempt), by_attempt[prompt.attempt]
        made = _pair(contest, said, weights, settings) if contest else _ONE
        if isinstance(made, JudgePair):
            pairs.append(made)
        else:
            drops.append(Drop(prompt.iteration, JUDGE_PAIRS, str(prompt.attempt), *made))
    return pairs, drops


_ONE = ("too few", "no response has two judgments with a verdict and texts of their own")


def _pair(
    contest: Contest,
    verdicts: Sequence[MetaJudgment],
    weights: tuple[float, float],
    settings: MetaConfig,
) -> JudgePair | tuple[str, str]:
    """The pair of one response, or why there is none: a reason and a detail."""
    response, judgments = contest
    if all(verdict.reason is not None for verdict in verdicts):
        return "no verdict", f"of {len(verdicts)} comparisons of its judgments"
    plain = [Verdict(v.first, v.second, v.winner) for v in verdicts]
    ratings = elo([judgment.vote for judgment in judgments], plain, weights)
    ends = highest_and_lowest(ratings)
    if ends is None:
        return "tie", f"{len(ratings)} judgments of one Elo"
    best, worst = ends
    length = next(len(j.raw) for j in judgments if j.vote == best)
    if settings.max_length is not None and length > settings.max_length:
        return "too long", f"{length} characters > meta.max_length {settings.max_length}"
    return JudgePair(
        response.iteration, response.attempt, response.sample, best, worst, ratings[best],
        ratings[worst],
    )  # fmt: skip


def judge_texts(
    pairs: Sequence[JudgePair],
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    judgments: Sequence[Judgment],
    template: Template,
) -> Iterator[tuple[JudgePair, str, str, str, str]]:
    """What DPO is given of each: what the judge was told, how its turn was started, two judgments.

    Args:
        template: The judge's.
    """
    asked = {p.attempt: template.asked(p.text, p.columns) for p in prompts}
    texts = {(r.attempt, r.sample): r.text for r in responses}
    said = {(j.attempt, j.sample, j.vote): j.raw for j in judgments if j.juror == 0}
    for pair in pairs:
        at = (pair.attempt, pair.sample)
        user, started = template.render(**asked[pair.attempt], response=texts[at])
        yield pair, user, started, said[*at, pair.chosen], said[*at, pair.rejected]
