"""Contender: a pipeline of distilabel samples and judges, then TRL by hand.

Its ``TransformersLLM`` loads the model in a process for each of the two steps and gives the prompts
to the text-generation pipeline of transformers, which takes them one by one: the answers to a
prompt are a batch, a judgment is alone. Both steps are ``TextGeneration``; the judge gets our
prompt, as UltraFeedback's own asks for a reply that a small model does not write. Whether a text
was cut off is not told, so one that has as many tokens as it may counts as cut off. The seconds of
a stage are those of its calls of the model.
"""

import argparse
import time
from pathlib import Path
from typing import Any

from distilabel.models import TransformersLLM
from distilabel.pipeline import Pipeline
from distilabel.steps import LoadDataFromDicts, Step, StepInput, StepOutput
from distilabel.steps.tasks import TextGeneration

from benchmarks.peers.training import train
from benchmarks.peers.work import (
    SAMPLING,
    Answer,
    Report,
    Work,
    best_and_worst,
    parse_score,
    read_work,
)


class TimedLLM(TransformersLLM):  # type: ignore[misc]
    """Writes the seconds of each call to a file: it works in a process of its own."""

    seconds_file: str

    def generate_outputs(self, *args: Any, **kwargs: Any) -> Any:
        """As in the base class."""
        start = time.perf_counter()
        outputs = super().generate_outputs(*args, **kwargs)
        with Path(self.seconds_file).open("a") as file:
            print(time.perf_counter() - start, file=file)
        return outputs


class AskJudge(Step):  # type: ignore[misc]
    """Makes each answer an instruction to the judge."""

    work: str
    """Path of what there is to do."""

    @property
    def inputs(self) -> list[str]:
        """Columns that it reads."""
        return ["instruction", "generation"]

    @property
    def outputs(self) -> list[str]:
        """Columns that it writes."""
        return ["instruction", "asked", "answer", "answer_tokens"]

    def process(self, inputs: StepInput) -> StepOutput:
        """Rewrite the rows of a batch."""
        work = read_work(self.work)
        for row in inputs:
            answer = (row["generation"] or "").strip()
            row["asked"], row["answer"] = row["instruction"], answer
            row["answer_tokens"] = tokens_of(row, "sample")
            row["instruction"] = work.judge_prompt("written", row["asked"], answer)
        yield inputs


def tokens_of(row: dict[str, Any], task: str) -> int:
    """Tokens that a task says it sampled for a row."""
    found = row["distilabel_metadata"][f"statistics_{task}"]["output_tokens"]
    return int(found[0] if isinstance(found, list) else found)


def run_pipeline(work: Work, work_path: str) -> list[dict[str, Any]]:
    """Rows with ``asked``, ``answer`` and the judgment as ``generation``."""
    num_rows = len(work.prompts) * work.responses
    with Pipeline(name="race", cache_dir=f"{work.scratch}/cache") as pipeline:
        prompts = LoadDataFromDicts(
            data=[{"instruction": prompt} for prompt in work.prompts],
            batch_size=len(work.prompts),
        )
        sample = TextGeneration(
            name="sample",
            llm=llm(work, "sample", work.tokens),
            num_generations=work.responses,
            group_generations=False,
            input_batch_size=len(work.prompts),
        )
        ask = AskJudge(name="ask", work=work_path, input_batch_size=num_rows)
        judge = TextGeneration(
            name="judge", llm=llm(work, "judge", work.judge_tokens), input_batch_size=num_rows
        )
        prompts >> sample >> ask >> judge
    data = pipeline.run(use_cache=False)
    return [dict(row) for row in data["default"]["train"]]


def llm(work: Work, stage: str, tokens: int) -> TimedLLM:
    """A model for one step."""
    return TimedLLM(
        model=work.model,
        torch_dtype="float32",
        device="cpu",
        seconds_file=f"{work.scratch}/{stage}.seconds",
        generation_kwargs={
            **SAMPLING, "do_sample": True, "repetition_penalty": 1.0, "max_new_tokens": tokens,
        },
    )  # fmt: skip


def iteration(work: Work, work_path: str) -> Report:
    """Sample and judge in the pipeline, pair, train."""
    report = Report(loads=2)
    answers = []
    for row in run_pipeline(work, work_path):
        tokens, judge_tokens = row["answer_tokens"], tokens_of(row, "judge")
        answer = Answer(row["asked"], row["answer"], tokens, tokens < work.tokens)
        answer.score = parse_score(row["generation"] or "", judge_tokens < work.judge_tokens)
        report.judge_tokens += judge_tokens
        answers.append(answer)
    for stage in ("sample", "judge"):
        lines = (Path(work.scratch) / f"{stage}.seconds").read_text().split()
        report.seconds[stage] = sum(map(float, lines))
    report.count(answers)
    if not answers:
        raise SystemExit("the pipeline gave no rows")
    train(work, report, best_and_worst(answers))
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("work")
    parser.add_argument("--form", choices=["written"], required=True)
    arguments = parser.parse_args()
    iteration(read_work(arguments.work), arguments.work).print()


if __name__ == "__main__":
    # The steps are loaded by name in processes of their own, where this file is not ``__main__``.
    from benchmarks.peers import with_distilabel

    with_distilabel.main()
