"""The cards of a model and of its pairs on the hub: where they come from, with proof, and limits.

    records, figures, manifests -> Markdown with YAML on top, as the hub shows it

No text of a model, no path of this machine and no name that was not meant for others goes in: what
a config names by path is called a local file.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selfreward import __version__
from selfreward.errors import IntegrityError
from selfreward.measures.best import Best, best_of
from selfreward.measures.figures import IterationFigures
from selfreward.records import FORMS, Stage
from selfreward.storage.committed import model_of, trainings
from selfreward.storage.directory import Run
from selfreward.storage.starts import start_of
from selfreward.storage.tables import RESTORE
from selfreward.verbs.console import unmarked
from selfreward.verbs.findings import findings
from selfreward.verbs.layout import percent
from selfreward.verbs.lineage import Ancestor, lineage, trained_otherwise
from selfreward.verbs.scores import health_lines, scores_of

PLOT = "scores.png"
_PAPER = "[Self-Rewarding Language Models](https://arxiv.org/abs/2401.10020)"
_BUNDLED = {"bundled:smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
"""Models that come as packages: where they are on the hub, and their license."""
_LOCAL = re.compile(r"://|^[/~\\]|^\.\.?/|^[A-Za-z]:[\\/]|/(?:home|Users)/")
"""Addresses, and paths that mean something on one machine only."""
LIMITS = """\
- The scores are those of the judge that the config names, often the model itself. They are no
  external evaluation, and rise whatever happens: see its figures beside "longer wins".
- What models wrote of the prompts and answers that it was trained on was not checked by people:
  what is false, unsafe or biased in it may be in this model.
- Nothing was measured of safety, of other languages than those of the prompts, or of
  conversations of several turns."""
COLUMNS = (
    ("column", "what it is"),
    ("`prompt`, `chosen`, `rejected`", "lists of messages (`role`, `content`), as TRL takes them"),
    ("`score_chosen`, `score_rejected`", "mean score by the judges, 0 to 5 points"),
    ("`margin`", "their difference"),
    ("`iteration`, `attempt`", "which prompt of the run"),
    ("`chosen_sample`, `rejected_sample`", "which of its answers"),
)
OF_JUDGE = (
    ("column", "what it is"),
    ("`prompt`", "what the judge was told, as a list of messages"),
    ("`chosen`, `rejected`", "the judgment that the model itself preferred, and the other"),
    ("`elo_chosen`, `elo_rejected`", "their ratings by its comparisons"),
    ("`iteration`, `attempt`, `sample`", "which answer of the run"),
    ("`chosen_vote`, `rejected_vote`", "which of its judgments"),
)


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a run began with, as others may know it."""

    hub: str | None
    """Its id on the hub; None where it is a local one."""
    revision: str | None
    digest: str
    license: str | None
    """As on the hub; None where it is not known."""


def base_of(run: Run) -> Base:
    """The base model of a run.

    Raises:
        IntegrityError: It is not known any more.
    """
    facts = run.base_model()
    if not facts:
        raise IntegrityError(f"{run.path / 'models' / 'M0.json'}: is not there", RESTORE)
    source, revision = str(facts.get("source", "")), facts.get("revision")
    if source in _BUNDLED:
        name, known = _BUNDLED[source]
        return Base(name, None, facts["digest"], known)
    is_on_hub = revision is not None and not Path(source).exists()
    return Base(
        source if is_on_hub else None, revision, facts["digest"], _license(Path(facts["path"]))
    )


def model_card(run: Run, number: int, *, plot: bool, pairs: str | None) -> str:
    """README.md of M(number).

    Args:
        plot: Whether ``PLOT`` is sent along.
        pairs: Repository of the pairs, if they are sent, too.
    """
    from huggingface_hub import ModelCardData

    base, scores = base_of(run), scores_of(run)
    rounds = [f for f in scores.iterations if f.iteration < number]
    with run.store() as store:
        trained = [s for s in trainings(store) if s.iteration < number]
        ancestors = [made for made in lineage(store) if made.iteration < number]
        otherwise = trained_otherwise(run, store)
    said = (made.method.lower() for made in ancestors if made.method != "no training")
    methods = list(dict.fromkeys(said))
    data = ModelCardData(
        base_model=base.hub, license=base.license, datasets=pairs, library_name="transformers",
        pipeline_tag="text-generation", tags=["self-rewarding", *methods, "selfreward"],
    )  # fmt: skip
    blocks = [
        f"---\n{data.to_yaml()}\n---",
        f"# M{number} of {_code(run.name)}",
        f"Model M{number} of a self-rewarding run: from {_name(base)} by {_PAPER}, in which a "
        "model writes prompts, answers them, scores its answers as a judge and "
        f"{_learned(ancestors, by_people=run.config.train.preferences is not None)}.",
        f"## Lineage\n\n{_lineage(base, ancestors)}",
        f"## What was found\n\n{_findings(rounds, best_of(run, rounds))}",
        f"{_scores(rounds)}",
        *([f"![Scores, pairs and judge by iteration]({PLOT})"] if plot else []),
        *_warnings(rounds),
        f"## The judge\n\n{_judge(rounds)}",
        f"## Templates\n\n{_templates(run)}",
        f"## Limits\n\n{LIMITS}",
        f"## License\n\n{_licensed(base)}",
        f"## To make it again\n\n{_again(run, trained, otherwise)}",
    ]
    return "\n\n".join(blocks) + "\n"


def pairs_card(
    run: Run,
    number: int,
    repository: str | None,
    counts: Mapping[int, int],
    judged: Mapping[int, int] | None = None,
) -> str:
    """README.md of the pairs that M(number) was trained on, directly or before.

    Args:
        repository: Of the model.
        counts: Pairs by iteration, of those that trained by DPO.
        judged: Pairs of judgments by iteration, of those that had any (``meta``).
    """
    from huggingface_hub import DatasetCardData

    base, judged = base_of(run), judged or {}
    directories = {"default": ("data", counts), "judgments": ("judgments", judged)}
    data = DatasetCardData(
        license=base.license, task_categories=["text-generation"],
        pretty_name=f"Pairs of {run.name}",
        tags=["preference", "dpo", "synthetic", "self-rewarding", "selfreward"],
        configs=[{"config_name": name,
                  "data_files": [{"split": "train", "path": f"{directory}/*.parquet"}]}
                 for name, (directory, rounds) in directories.items() if rounds],
    )  # fmt: skip
    with run.store() as store:
        authors = {t: f"M{start_of(store, t)}" for t in counts}
    rows = [[f"`{directory}/iteration-{t}.parquet`", authors[t], f"M{t + 1}", f"{n:,}"]
            for directory, rounds in directories.values() for t, n in rounds.items()]  # fmt: skip
    model = f"[{repository}](https://huggingface.co/{repository})" if repository else f"M{number}"
    columns = [f"## Columns\n\n{_markdown(COLUMNS)}"]
    if judged:
        columns.append(f"Of `judgments`, pairs of what the judge wrote:\n\n{_markdown(OF_JUDGE)}")
    blocks = [
        f"---\n{data.to_yaml()}\n---",
        f"# Preference pairs of {_code(run.name)}",
        f"What {model} learned from by DPO ({_PAPER}). {_written(run)}",
        _markdown([["file", "written by", "trained", "pairs"], *rows]),
        *columns,
        f"## Provenance\n\n- Base model: {_name(base)}, sha256 `{base.digest}`\n"
        f"{_pair_settings(run)}",
        f"## License\n\n{_licensed(base)} {_of_people(run)}",
    ]
    return "\n\n".join(blocks) + "\n"


# Parts


def _written(run: Run) -> str:
    """Who wrote the pairs, in whole sentences."""
    said = "**Prompts and answers are written by models**, by that of each iteration."
    if run.config.prompts.dataset is not None:
        answers = "the answers"
        if run.config.responses.demonstrations:
            answers = "most answers: the last of each prompt, by sample, is a person's"
        said = f"**The prompts are those of {_dataset(run)}.** Models wrote {answers}."
    if others := run.config.judge.imported_jurors:
        who = ", ".join(_code(name) for name in others.values())
        scores = f"Among the scores are those of {who}, which came from elsewhere."
    else:
        scores = "Scores are by the run's own judges, and nobody checked them."
    return f"{said} {scores} What models wrote may be false, unsafe or biased."


def _of_people(run: Run) -> str:
    """What is in the pairs that the base model's license is not of."""
    if run.config.prompts.dataset is None:
        return "Prompts of the seed data are not in here; the models had them as examples."
    theirs = "the prompts"
    if run.config.responses.demonstrations:
        theirs += " and people's answers"
    return f"What is of {_dataset(run)}, {theirs}, has the license that it has there."


def _dataset(run: Run) -> str:
    assert run.config.prompts.dataset is not None
    path = run.config.prompts.dataset.path
    return "a local file" if _LOCAL.search(path) else f"`{path.replace('`', '_')}`"


def _learned(made: Sequence[Ancestor], *, by_people: bool) -> str:
    """What the models of the iterations learned from; DPO perhaps from what people preferred."""
    pairs = "answers that people preferred to others" if by_people else "the best and the worst"
    ways = {
        "DPO": f"learns from {pairs} by DPO",
        "SFT": "learns from the best by SFT",
        "RLOO": "learns from rewards of its answers by RLOO",
        "GRPO": "learns from rewards of its answers by GRPO",
        "no training": "stays as it is",
    }
    methods = {ancestor.method for ancestor in made if ancestor.iteration} or {"DPO"}
    return " or ".join(said for method, said in ways.items() if method in methods)


def _lineage(base: Base, trained: Sequence[Ancestor]) -> str:
    rows = [["model", "made by", "rows", "sha256"], ["M0", _name(base), "", f"`{base.digest}`"]]
    for made in trained:
        how = f"{made.method} of {made.base}"
        rows.append([made.model, how, f"{made.rows:,}", f"`{made.digest}`"])
    note = (
        "The sha256 is over names and checksums of the files as `MANIFEST.json` of the run lists "
        "them; each training began from exactly the model it names, which is the reference of all "
        "but SFT."
    )
    return f"{_markdown(rows)}\n\n{note}"


def _name(base: Base) -> str:
    if base.hub is None:
        return "a local model"
    at = f" at `{base.revision}`" if base.revision else ""
    return f"[{base.hub}](https://huggingface.co/{base.hub}){at}"


def _findings(rounds: Sequence[IterationFigures], best: Best | None) -> str:
    said = [f"- {unmarked(sentence)}" for sentence in findings(rounds, best)]
    return "\n".join(said) or "Nothing was measured."


def _scores(rounds: Sequence[IterationFigures]) -> str:
    rows = [["iteration", "prompts", "responses", "mean score", "parsed", "pairs", "margin"]]
    for figures in rounds:
        if figures.iteration:
            rows.append([
                f"{figures.iteration}: M{figures.start} -> M{figures.iteration + 1}",
                f"{figures.prompts.accepted:,}", f"{figures.responses.n:,}",
                _mean(figures.scores.mean, figures.scores.se), _share(figures.judgments.parse_rate),
                f"{figures.pairs.n:,}", _mean(figures.pairs.margin, figures.pairs.margin_se),
            ])  # fmt: skip
    if len(rows) == 1:
        return "It was trained on seed data alone, so there are no scores of its making."
    return f"{_markdown(rows)}\n\n± is the standard error of a mean, clustered by prompt."


def _warnings(rounds: Sequence[IterationFigures]) -> Iterator[str]:
    if lines := health_lines(rounds):
        yield "What was not healthy:\n\n" + "\n".join(f"- {_plain(line)}" for line in lines)


def _judge(rounds: Sequence[IterationFigures]) -> str:
    rows = [["model", "held-out pairs", "agrees with people", "longer wins", "canary uplift"]]
    for figures in rounds:
        if figures.judge is not None:
            uplift = figures.canaries.uplift.value if figures.canaries else None
            rows.append([
                f"M{figures.iteration + 1}", f"{figures.judge.pairs:,}",
                percent(figures.judge.accuracy), percent(figures.judge.longest),
                "-" if uplift is None else f"{uplift:+.2f} points",
            ])  # fmt: skip
    if len(rows) == 1:
        return "How well the models judge was not measured against people."
    return (
        f"{_markdown(rows)}\n\nShare of pairs that are ordered as people do, with 95% intervals "
        "over prompts; *longer wins* is the judge that takes the longer answer. *Canary uplift*: "
        "what an answer wins by words that ask for a high score."
    )


def _templates(run: Run) -> str:
    settings = run.settings["judge"]
    parts = [f"Judge: form `{settings['form']}`, {_votes(settings)} on each answer."]
    for path in sorted(run.path.glob("templates/*.jinja")):
        text = path.read_text(encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        parts.append(
            f"<details><summary>{path.name}, sha256 {digest}</summary>\n\n{_fenced(text, 'jinja')}"
            "\n\n</details>"
        )
    return "\n\n".join(parts)


def _licensed(base: Base) -> str:
    if base.license is None:
        return (
            "The license of the base model applies to what is made from it; it could not be read "
            "here, so look it up before you share this."
        )
    return (
        f"The base model has the license `{base.license}`, which applies to what is made from it."
    )


def _pair_settings(run: Run) -> str:
    settings = run.settings
    judge, pairs = settings["judge"], settings["pairs"]
    return (
        f"- Judge: `{judge['form']}`, {_votes(judge)}; pair rule `{pairs['rule']}`, least "
        f"margin {pairs['min_margin']:g} points\n- Made by selfreward {__version__}"
    )


def _votes(judge: Mapping[str, Any]) -> str:
    form = FORMS[judge["form"]]
    if form.by_criterion:
        return "a vote by each criterion"
    return f"{judge['votes']} votes" if form.writes else "one vote"


def _again(run: Run, trained: Sequence[Stage], otherwise: Mapping[str, Mapping[str, Any]]) -> str:
    versions = {name: v for stage in trained for name, v in stage.versions.items()}
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    text = yaml.safe_dump(_shareable(run.settings), sort_keys=False, allow_unicode=True)
    return (
        f"`selfreward run config.yaml` with selfreward {__version__} and the config below, in "
        "which local files and endpoints are not named; versions that trained it: "
        f"{listed or 'not recorded'}.{_otherwise(trained, otherwise)}\n\n"
        f"<details><summary>config.yaml</summary>\n\n{_fenced(text, 'yaml')}\n\n</details>"
    )


def _otherwise(trained: Sequence[Stage], otherwise: Mapping[str, Mapping[str, Any]]) -> str:
    """In whole sentences what models were trained with before the config became what it is."""
    said = []
    for model in dict.fromkeys(map(model_of, trained)):
        if values := _shareable(otherwise.get(model, {})):
            keys = ", ".join(f"{_code(key)} {_plain(json.dumps(v))}" for key, v in values.items())
            said.append(f" The config was changed afterwards: {model} was trained with {keys}.")
    return "".join(said)


def _shareable(value: Any) -> Any:
    """Settings without paths of this machine and addresses."""
    if isinstance(value, dict):
        return {key: _shareable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shareable(inner) for inner in value]
    if isinstance(value, str) and _LOCAL.search(value):
        return "(a local file or an endpoint)"
    return value


def _license(path: Path) -> str | None:
    """What the card in a model directory says."""
    card = path / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import metadata_load

    try:
        found = metadata_load(card) or {}
    except (ValueError, OSError, yaml.YAMLError):
        return None
    told = found.get("license")
    return told if isinstance(told, str) and re.fullmatch(r"[a-z0-9.+-]{1,40}", told) else None


# Markdown


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(name: str) -> str:
    return f"`{re.sub('[^A-Za-z0-9._-]', '_', name)}`"


def _plain(text: str) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([\\`*_<>\[\]|#])", r"\\\1", unmarked(text))


def _fenced(text: str, language: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _mean(value: float | None, error: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
