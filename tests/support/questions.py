"""Held-out questions that models answered and judges compared, as a test says."""

from collections.abc import Mapping, Sequence

from selfreward.inputs.questions import Question, dump_questions
from selfreward.measures.reports import Answer, Answers, Contest, Contests, Estimate
from selfreward.storage import durable
from selfreward.storage.directory import Run

QUESTIONS = [
    Question("Name four letters.", "naming", "a b c d"), Question("Say it.", "saying", "a"),
    Question("And now?", "naming", "b"), Question("Why?", "saying", "c"),
]  # fmt: skip
ANSWERS = {
    "M1": ["a b c d", "one two", "same", "x"],
    "M2": ["a b c d", "one", "same", "y z"],
    "M3": ["a b x y", "three four", "same", ""],
}
RESULTS = {
    ("M1", "reference", "M1"): [0.5, 0.5, 0.5, 1.0],
    ("M2", "M1", "M1"): [0.5, 0.0, 0.5, 1.0],
    ("M3", "M1", "M1"): [1.0, None, 0.5, 0.0],
    ("M3", "M2", "M1"): [0.0, 1.0, 0.5, 0.0],
    ("M3", "M1", "hosted"): [0.5, 1.0, 0.5, 0.0],
    ("M3", "M2", "hosted"): [0.5, 0.5, 0.5, 0.0],
}


def answer(text: str) -> Answer:
    """One that is cut off if it is `one two`, and cannot be compared if it is empty."""
    return Answer(text, len(text.split()), text == "one two", None if text else "empty")


def ask_four(run: Run) -> None:
    """Have three models answer four questions, and two judges compare them."""
    answered(run, QUESTIONS, {m: list(map(answer, a)) for m, a in ANSWERS.items()}, RESULTS)


_HALF = Estimate(0.5, 0.25, 0.75, 4)
Results = Mapping[tuple[str, str, str], Sequence[float | None]]
"""Of contests by question, by model, opponent and judge."""


def answered(
    run: Run,
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    results: Results,
) -> None:
    """Have models answer held-out questions, and judges compare them, as is said here."""
    durable.write_file(run.seed_file("questions"), dump_questions(questions))
    with run.owned() as store:
        for model, given in answers.items():
            iteration = int(model.removeprefix("M")) - 1
            store.save_report(iteration, "answers", Answers(model, tuple(given)))
            held = tuple(
                Contest(*who, tuple(found), _HALF, _HALF, _HALF)
                for who, found in results.items()
                if who[0] == model
            )
            if held:
                store.save_report(iteration, "contests", Contests(held, None))
