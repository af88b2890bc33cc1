"""What the models of a run answer to its held-out questions, M1's answers before all others."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfreward.errors import ConfigError, IntegrityError, NotFoundError
from selfreward.inputs.questions import Question, copied_questions
from selfreward.measures.best import FIRST
from selfreward.measures.reports import Answer, Answers, Contest, Contests
from selfreward.stages.pool import rouge_l
from selfreward.storage.directory import Run
from selfreward.storage.starts import start_of
from selfreward.storage.store import Store
from selfreward.storage.tables import RESTORE
from selfreward.viewer.asked import one_of, whole
from selfreward.viewer.lists import SHOWN
from selfreward.viewer.pages import cut

PAGE = 200
"""Questions of a page of the list, at most."""
_COMPARED = 20_000
"""Characters of an answer by which it is told how far it differs from M1's."""
_RESULTS = {1.0: "won", 0.5: "tie", 0.0: "lost", None: "none"}
"""Of ``reports.Contest``, in words; ``none``: no verdict."""
_WORD = re.compile(r"[\w'\u2019]+")
_SORTS = ("changed", "number")
_NAMES = {"model", "judge", "kind", "result", "sort", "after"}


@dataclass(frozen=True, slots=True)
class _Model:
    """A model and all that it answered."""

    name: str
    base: str | None
    """The model that it was made from; None of M1."""
    answers: tuple[Answer, ...]
    """By question."""
    contests: tuple[Contest, ...]

    def results(self, number: int) -> list[str]:
        """Against M1, by judge."""
        return [_RESULTS[each.results[number]] for each in self.contests if each.opponent == FIRST]


@dataclass(frozen=True, slots=True)
class _Row:
    """A question, by the answer of the model that is looked at."""

    number: int
    result: str
    """Against M1."""
    changed: float | None
    """See ``_changed``; None before there are answers."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Which questions are wanted, in which order; see docs/viewer.md."""

    model: int
    """Place among the models; by its answers the questions are filtered and sorted."""
    judge: int
    """Place among the judges."""
    kind: str | None
    result: str | None
    sort: str
    after: int
    """Questions of the pages before."""


def questions_page(run: Run, given: Mapping[str, str]) -> dict[str, Any]:
    """A page of the held-out questions: of each how long the answers are, and who won.

    Args:
        given: ``model`` (``M2``; else the newest), ``judge`` (from 0), ``kind``, ``result`` (of
            the model against M1, as the judge has it), ``sort`` (``changed``: the least like M1's
            answer first; ``number``), ``after`` (as ``next`` of the page before).

    Raises:
        NotFoundError: The run has no questions.
        ConfigError: A parameter is not known or not what it has to be.
        IntegrityError: Questions and answers do not belong together.
    """
    questions, models = _read(run)
    judges = _judges(models)
    asked = _asked(given, questions, models, judges)
    rows = _rows(questions, models, asked)
    tally = Counter(row.result for row in rows)
    found = [row for row in rows if asked.result in (None, row.result)]
    page = found[asked.after : asked.after + PAGE]
    end = asked.after + len(page)
    return {
        **_about(models, judges, asked),
        "kinds": Counter(question.kind for question in questions),
        "tally": {name: tally[name] for name in _RESULTS.values()},
        "total": len(questions),
        "count": len(found),
        "first": asked.after,
        "next": end if end < len(found) else None,
        "questions": [
            {
                "number": row.number,
                "kind": questions[row.number].kind,
                "text": questions[row.number].prompt[:SHOWN],
                "changed": row.changed,
                "answers": [
                    {**_short(models, model, row.number), "results": model.results(row.number)}
                    for model in models
                ],
            }
            for row in page
        ],
    }


def question_page(
    run: Run, number: int, given: Mapping[str, str], *, full: bool = False
) -> dict[str, Any]:
    """What each model answers to a question, whole, with every result; texts as ``pages.CUT`` says.

    Args:
        number: Of the question, from 0: its place in the run's ``seeds/questions.jsonl``.
        given: As in ``questions_page``; which questions come before and after.
        full: Send all of every text.

    Raises:
        NotFoundError: The run has no such question.
        ConfigError: As in ``questions_page``, like the next.
        IntegrityError: See there.
    """
    questions, models = _read(run)
    if number >= len(questions):
        raise NotFoundError(
            f"run {run.name} has no held-out question {number}",
            f"They go from 0 to {len(questions) - 1}.",
        )
    judges = _judges(models)
    asked = _asked(given, questions, models, judges)
    rows = _rows(questions, models, asked)
    order = [row.number for row in rows if asked.result in (None, row.result)]
    at = order.index(number) if number in order else None
    question = questions[number]
    page = {
        **_about(models, judges, asked),
        "number": number,
        "total": len(questions),
        "previous": order[at - 1] if at else None,
        "next": order[at + 1] if at is not None and at + 1 < len(order) else None,
        "kind": question.kind,
        "prompt": question.prompt,
        "reference": question.reference,
        "answers": [
            {
                **_short(models, model, number),
                "base": model.base,
                "text": model.answers[number].text,
                "num_tokens": model.answers[number].num_tokens,
                "changed": _changed(models[0].answers[number], model.answers[number]),
                "contests": [
                    {
                        "opponent": each.opponent,
                        "judge": each.judge,
                        "result": _RESULTS[each.results[number]],
                    }
                    for each in model.contests
                ],
            }
            for model in models
        ],
    }
    return page if full else cut(page)


def _read(run: Run) -> tuple[list[Question], list[_Model]]:
    """The questions, and the models that answered them; none before M1 did."""
    if not (run.settings.get("evaluation") or {}).get("questions"):
        raise NotFoundError(
            f"run {run.name} asks its models no held-out questions",
            "Those of a config are `evaluation.questions`; see docs/contests.md.",
        )
    questions = copied_questions(run.seed_file("questions"))
    with run.store() as store, store.snapshot():
        query = "SELECT iteration FROM reports WHERE name = 'answers' ORDER BY iteration"
        models = [_model(store, row[0], len(questions)) for row in list(store.query(query))]
    return questions, models if models and models[0].name == FIRST else []


def _model(store: Store, iteration: int, questions: int) -> _Model:
    kept = store.report(iteration, "answers", Answers)
    held = store.report(iteration, "contests", Contests)
    assert kept is not None
    contests = held.contests if held else ()
    if any(n != questions for n in (len(kept.answers), *(len(c.results) for c in contests))):
        raise IntegrityError(
            f"{store.path}: the answers of iteration {iteration} are not those to the "
            f"{questions} questions in seeds/questions.jsonl",
            RESTORE,
        )
    base = f"M{start_of(store, iteration)}" if iteration else None
    return _Model(f"M{iteration + 1}", base, kept.answers, contests)


def _judges(models: Sequence[_Model]) -> list[str]:
    """Who compares answers with M1's, the first judge first."""
    found = [[c.judge for c in model.contests if c.opponent == FIRST] for model in models]
    return max(found, key=len, default=[])


def _asked(
    given: Mapping[str, str],
    questions: Sequence[Question],
    models: Sequence[_Model],
    judges: Sequence[str],
) -> _Asked:
    if unknown := sorted(given.keys() - _NAMES):
        raise ConfigError(
            f"{unknown[0]}: no such parameter", f"Known: {', '.join(sorted(_NAMES))}."
        )
    names = [model.name for model in models]
    model, kind, result = (given.get(name) or None for name in ("model", "kind", "result"))
    return _Asked(
        model=names.index(one_of("model", model, names)) if model else len(names) - 1,
        judge=whole("judge", given.get("judge") or "0", max(0, len(judges) - 1)),
        kind=kind and one_of("kind", kind, sorted({each.kind for each in questions})),
        result=result and one_of("result", result, tuple(_RESULTS.values())),
        sort=one_of("sort", given.get("sort") or "changed", _SORTS),
        after=whole("after", given.get("after") or "0", 10**8),
    )


def _about(models: Sequence[_Model], judges: list[str], asked: _Asked) -> dict[str, Any]:
    return {
        "models": [model.name for model in models],
        "judges": judges,
        "model": models[asked.model].name if models else None,
        "judge": asked.judge,
    }


def _rows(questions: Sequence[Question], models: Sequence[_Model], asked: _Asked) -> list[_Row]:
    """The questions of the kind that is wanted, in order, whatever their results."""
    rows = []
    for number, question in enumerate(questions):
        if asked.kind not in (None, question.kind):
            continue
        if not models:
            rows.append(_Row(number, "none", None))
            continue
        model, first = models[asked.model], models[0]
        results = model.results(number)
        result = results[asked.judge] if asked.judge < len(results) else "none"
        changed = _changed(first.answers[number], model.answers[number])
        rows.append(_Row(number, result, changed))
    if asked.sort == "changed":
        rows.sort(key=lambda row: -(row.changed or 0.0))  # stable: equal ones by number
    return rows


def _changed(one: Answer, other: Answer) -> float:
    """How far two answers differ, 0 (the same words in the same order) to 1 (no word in common).

    1 less ROUGE-L F1 (Lin 2004) over words, which are those of the page's word diff
    (``static/diff.js``).
    """
    if one.text == other.text:
        return 0.0
    a, b = (_WORD.findall(answer.text, 0, _COMPARED) for answer in (one, other))
    return 1 - rouge_l(a, b) if a or b else 0.0


def _short(models: Sequence[_Model], model: _Model, number: int) -> dict[str, Any]:
    """What is said of an answer wherever it stands."""
    answer, first = model.answers[number], models[0].answers[number]
    return {
        "model": model.name,
        "length": len(answer.text),
        "longer": len(answer.text) - len(first.text),
        "truncated": answer.truncated,
        "dropped": answer.dropped and answer.dropped[:SHOWN],
    }
