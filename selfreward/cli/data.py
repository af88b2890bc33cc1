"""The verbs on models and data: ``judge``, ``train-reward`` and others; see ``main.py``."""

from pathlib import Path
from typing import Annotated

import typer

from selfreward.cli.options import Json
from selfreward.errors import ConfigError, StoppedError
from selfreward.verbs import console

NO_VERDICT = (
    "The model does not keep to the template's format: try --form expected, another --template, "
    "or judge.max_new_tokens=... where they are cut off."
)
NO_CHOICE = (
    "Name another --judge; one that writes needs a model that ends its reply as "
    "prompts/judge/compare.jinja asks."
)


def judge(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Any model source, or `hosted`.")],
    data: Annotated[str, typer.Option(help="Responses that people ranked: JSON, CSV or parquet.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Such as system_prompt='Be strict.'"),
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="RUN", help="Ask as this run does; MODEL may be M1, ...")
    ] = None,
    template: Annotated[str | None, typer.Option(help="File; default: that of the form.")] = None,
    form: Annotated[
        str | None, typer.Option(help="written (default), expected, written_expected or criteria.")
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare each two responses, in both orders.")
    ] = False,
    votes: Annotated[int | None, typer.Option(help="Per response.", min=1)] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first N prompts.", min=1)] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Such as kind=vllm; may be repeated."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the calibration: .png or .svg.")] = None,
    as_json: Json = False,
) -> None:
    """Measure a judge against people, and against length."""
    from selfreward.charts.files import check_path, save_calibration
    from selfreward.storage.directory import open_run
    from selfreward.verbs.judge import ScoredReport, judge_report
    from selfreward.verbs.judge_text import judge_text
    from selfreward.verbs.layout import listed

    if plot:
        if compare:
            raise ConfigError("--plot: comparisons have no scores to draw")
        check_path(plot)
    found = judge_report(
        model, data, overrides or [],
        like=open_run(like) if like else None, compare=compare, form=form, template=template,
        votes=votes, engine=engine or [], limit=limit, report=console.note,
    )  # fmt: skip
    if plot and isinstance(found, ScoredReport):
        save_calibration(found.calibration, plot, found.model)
        console.note(f"wrote {plot}")
    if as_json:
        console.data_json(found)
    else:
        console.data(judge_text(found))
    if found.parse_rate.value == 0:
        raise StoppedError(f"no vote has a verdict: {listed(found.reasons)}", NO_VERDICT)


def compare_models(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="RUN:M2, or any model source.")
    ],
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Rows of prompt and, maybe, reference; default: ours."),
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="Who compares; may be repeated. Default: the first run's M1."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of the answers; 0: greedy.", min=0)] = 0.0,
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Of an answer; default: the first run's, or 512.", min=1)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the first run's, or 0.")] = None,
    limit: Annotated[int | None, typer.Option(help="Take the first N prompts.", min=1)] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Such as kind=vllm; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep answers, verdicts and results; go on from there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare the answers of models to the same prompts, in both orders."""
    from selfreward.verbs.compare_models import PROMPTS, compare_models
    from selfreward.verbs.compared_text import compared_text

    found = compare_models(
        models, prompts=prompts or PROMPTS, judges=judge or [], temperature=temperature,
        max_new_tokens=max_new_tokens, seed=seed, limit=limit, engine=engine or [], out=out,
        report=console.note,
    )  # fmt: skip
    if as_json:
        console.data_json(found)
    else:
        console.data(compared_text(found, console.width()))
    if out:
        console.note(f"kept in {out}: answers.jsonl, verdicts.jsonl, results.json")
    if not found.has_verdicts:
        raise StoppedError("no judge has a verdict on any two answers", NO_CHOICE)


def train_reward(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="RUN:M1, or any model source.")],
    data: Annotated[str, typer.Option(help="Answers that people ranked: JSON, CSV or parquet.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the reward model goes.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Of TRL's RewardConfig: learning_rate=1e-5."),
    ] = None,
    test: Annotated[
        str | None, typer.Option(metavar="FILE", help="Held-out rankings to measure it by.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens of prompt and answer.", min=8)] = 1024,
    limit: Annotated[int | None, typer.Option(help="Take the first N prompts.", min=1)] = None,
    demonstrations: Annotated[
        str,
        typer.Option(metavar="FILE", help="Good answers whose mean reward is set to 0; or none."),
    ] = "seed/ift.jsonl",
    seed: Annotated[int, typer.Option(help="Of the head and the order.", min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Train a reward model on answers that people ranked."""
    from selfreward.config.base import SeedSource
    from selfreward.config.training import RewardModelConfig
    from selfreward.verbs.named_models import named_model
    from selfreward.verbs.train_reward import (
        check_out,
        options_of,
        read_reward_data,
        reward_text,
    )
    from selfreward.verbs.train_reward import train_reward as train

    config = RewardModelConfig(
        data=SeedSource(path=data),
        limit=limit,
        test=SeedSource(path=test) if test else None,
        demonstrations=None if demonstrations == "none" else SeedSource(path=demonstrations),
        max_length=max_length,
        seed=seed,
        **options_of(overrides or []),
    )
    asked = read_reward_data(config)
    check_out(out)
    found = train(asked, named_model(model, console.note), out, console.note)
    if as_json:
        console.data_json(found)
    else:
        console.data(reward_text(found))


def oasst(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="OpenAssistant/oasst2, a file or a directory.")
    ],
    out: Annotated[Path, typer.Option(help="Directory for ift.jsonl and eft.jsonl.")],
    ift: Annotated[int, typer.Option(help="Most IFT rows.", min=0)] = 3200,
    eft: Annotated[int, typer.Option(help="Most EFT prompts.", min=0)] = 760,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
    split: Annotated[str, typer.Option(help="train or validation.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub data set.")] = None,
    as_json: Json = False,
) -> None:
    """Build IFT and EFT seed data from Open Assistant."""
    from selfreward.inputs.oasst import build
    from selfreward.verbs.layout import listed, table

    counts = build(source, out, num_ift=ift, num_eft=eft, seed=seed, split=split, revision=revision)
    if as_json:
        console.data_json({"files": [f"{out}/ift.jsonl", f"{out}/eft.jsonl"], "counts": counts})
        return
    rows = []
    for name, part in counts.items():
        dropped = part.pop("dropped")
        rows.append([name, listed(part), f"left out: {listed(dropped) or 'none'}"])
    console.data(table(rows))
    console.note(f"use it: sft.ift={out}/ift.jsonl sft.eft={out}/eft.jsonl judge.form=expected")


def clean(
    source: Annotated[str, typer.Argument(metavar="FILE", help="JSON, CSV, parquet or hub id.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="For train.jsonl and dropped.jsonl.")],
    user: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Says whose a prompt is.")
    ] = None,
    per_user: Annotated[int, typer.Option(help="Most prompts of one user.", min=1)] = 200,
    prefix: Annotated[
        int, typer.Option(help="Characters by which prompts that begin alike are one.", min=1)
    ] = 100,
    test: Annotated[
        float, typer.Option(help="Share of the users to hold out in test.jsonl.", min=0, max=0.9)
    ] = 0.0,
    keep_personal: Annotated[
        bool, typer.Option("--keep-personal", help="Keep mail addresses, phone numbers and so on.")
    ] = False,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="OURS=THEIRS", help="Such as prompt=question; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of who is held out.")] = 0,
    split: Annotated[str, typer.Option(help="Split of a hub data set.")] = "train",
    revision: Annotated[str | None, typer.Option(help="Commit of a hub data set.")] = None,
    as_json: Json = False,
) -> None:
    """Drop duplicates, personal data, ties and what one user sent too much of; split by user."""
    from selfreward.config import SeedSource
    from selfreward.inputs.clean import Cleaning
    from selfreward.inputs.clean import clean as clean_rows
    from selfreward.verbs.layout import listed, table

    pairs = [word.partition("=") for word in column or []]
    if wrong := ["".join(pair) for pair in pairs if not (pair[0] and pair[2])]:
        raise ConfigError(f"--column {wrong[0]}: expected OURS=THEIRS, such as prompt=question")
    columns = {ours: theirs for ours, _, theirs in pairs}
    if len(columns) < len(pairs):
        raise ConfigError("--column: one of our names is given twice", "Give each once.")
    given = SeedSource(path=source, split=split, revision=revision, columns=columns)
    how = Cleaning(user, per_user, prefix, test, keep_personal, seed)
    found = clean_rows(given, out, how)
    if as_json:
        console.data_json(found)
        return
    rows = [[path, f"{count:,} rows"] for path, count in found.files.items()]
    console.data(table(rows))
    kinds = f" (personal data: {listed(found.personal)})" if found.personal else ""
    users = "" if found.users is None else f", of {found.users:,} users"
    kept = found.read - sum(found.dropped.values())
    console.data(f"read {found.read:,} rows, kept {kept:,}{users}")
    console.data(f"dropped: {listed(found.dropped) or 'none'}{kinds}")
