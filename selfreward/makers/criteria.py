"""Responses that wait until the criteria of their prompt are known."""

from collections.abc import Iterable, Sequence

from selfreward.records import Criterion, Response


class CriteriaWait:
    """Knows the criteria of one judge, and who waits for which.

    Args:
        criteria: Those that are committed.
        judged: Prompts with a judged response. If they have no criteria none could be read, and
            they are not asked about again.
    """

    def __init__(self, criteria: Iterable[Criterion], judged: Iterable[int]) -> None:
        self._criteria: dict[int, list[Criterion]] = {}
        self._take(criteria)
        self._without = {attempt for attempt in judged if attempt not in self._criteria}
        self._asked: set[int] = set()
        self._waiting: dict[int, list[Response]] = {}

    def of(self, attempt: int) -> Sequence[Criterion]:
        """The criteria of a prompt; none if there are none, or not yet."""
        return self._criteria.get(attempt, ())

    def admit(
        self, responses: Sequence[Response], criteria: Sequence[Criterion]
    ) -> tuple[list[Response], list[int]]:
        """Take in what is new.

        Returns:
            Responses to be judged now, and prompts whose criteria are to be asked for.
        """
        for response in responses:
            self._waiting.setdefault(response.attempt, []).append(response)
        self._take(criteria)
        ready: list[Response] = []
        unknown: list[int] = []
        touched = [*(c.attempt for c in criteria), *(r.attempt for r in responses)]
        for attempt in dict.fromkeys(touched):
            if attempt in self._criteria or attempt in self._without:
                ready += self._waiting.pop(attempt, [])
            elif attempt not in self._asked:
                self._asked.add(attempt)
                unknown.append(attempt)
        return ready, unknown

    def give_up(self, attempt: int) -> list[Response]:
        """Have a prompt go without criteria; return the responses that waited for them."""
        self._without.add(attempt)
        return self._waiting.pop(attempt, [])

    def _take(self, criteria: Iterable[Criterion]) -> None:
        for criterion in criteria:
            self._criteria.setdefault(criterion.attempt, []).append(criterion)
