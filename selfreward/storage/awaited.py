"""What a run waits for: responses that a judge from elsewhere, see ``judge.jury``, has to score."""

from selfreward.records import Response, judge_stage
from selfreward.storage.store import Store

Key = tuple[int, int]


def is_answered(store: Store, iteration: int) -> bool:
    """Whether all responses of an iteration are there, those of M1 included."""
    answered = [stage for stage in store.planned(iteration) if stage in ("responses", "anchors")]
    return bool(answered) and all(store.finished(iteration, stage) for stage in answered)


def awaited(store: Store, iteration: int, juror: int, truncated: bool) -> list[Response] | None:
    """The responses that a judge is still to score, in key order: those that a model would judge.

    Args:
        truncated: See ``judge.truncated``.

    Returns:
        None while the responses are not finished, and once the stage is.
    """
    if not is_answered(store, iteration) or store.finished(iteration, judge_stage(juror)):
        return None
    query = "SELECT DISTINCT attempt, sample FROM judgments WHERE iteration = ? AND juror = ?"
    judged: set[Key] = {(a, s) for a, s in store.query(query, (iteration, juror))}
    return [
        response
        for response in store.each(Response, iteration)
        if response.dropped is None
        and (truncated or not response.truncated)
        and (response.attempt, response.sample) not in judged
    ]
