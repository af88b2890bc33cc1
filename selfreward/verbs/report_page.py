"""The page of a report, HTML that needs nothing but itself, and the file that it becomes.

What is shown may have been written by a model that means ill: Jinja escapes every value, control
characters are spelled out, and the policy in the head lets no script run and nothing load, whatever
slips through. Only the SVG of our own charts goes in as it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from selfreward import __version__
from selfreward.charts import css
from selfreward.charts.files import save_charts
from selfreward.errors import ConfigError, PreflightError
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.text import spelled
from selfreward.verbs.report import Report, report_of

TEMPLATE = "report.html.jinja"
SECTIONS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "scores": (
        "Scores",
        "How the judge's scores are spread and where their mean is, with its standard error "
        "clustered by prompt. Ties and scores at the ceiling choose nothing.",
        ("means", "rates", "scores"),
    ),
    "length": (
        "Score against length",
        "A judge that goes by length makes answers grow.",
        ("lengths", "length"),
    ),
    "judge": (
        "The judge, held against people",
        "Held-out pairs that people ranked: the share each new model orders as they do, beside the "
        "judge that takes the longer answer; 50% is chance. Calibration: what share of a prompt's "
        "other answers people like less, by the judge's score.",
        ("agreement", "drift", "calibration"),
    ),
    "benchmarks": (
        "Benchmarks",
        "Questions with one right answer, none of which was trained on: the share that each model "
        "answers rightly, with its 95% interval over questions. What a model lost against M1 is "
        "the alignment tax (InstructGPT, arXiv 2203.02155, 4.2). The chart has those of the run's "
        "evaluations, by acc; the table also what was asked on demand.",
        ("benchmarks",),
    ),
    "training": (
        "Pairs and DPO",
        "What became of the prompts, and what training logged. A reward of the chosen answers that "
        "falls below 0 takes probability from both sides.",
        ("pairs", "dpo", "loss", "accuracy", "rewards", "logprobs", "points", "kl"),
    ),
    "prompts": ("Prompts", "How many the policy had to write, and how varied they are.",
                ("prompts",)),
    "costs": ("Time and tokens", "Over all launches.", ("time", "tokens")),
}  # fmt: skip
"""Heading, words and charts of each section."""


def page(report: Report) -> str:
    """The HTML of a report."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template(TEMPLATE)
    return template.render(
        report=report,
        sections=_sections(report),
        light=css("light"),
        dark=css("dark"),
        version=__version__,
    )


def write_report(run: Run, output: Path | None, figures: Path | None) -> dict[str, Any]:
    """Write the page, and with ``figures`` each chart as a file in that directory.

    Args:
        output: None: ``report.html`` in the run directory.

    Returns:
        ``output``, ``bytes``, ``is_finished`` and ``figures``, the files of charts.

    Raises:
        ConfigError: The directory of ``output`` does not exist, or a directory lies in its place.
        PreflightError: It cannot be written there.
    """
    path = run.path / "report.html" if output is None else output
    if not path.parent.is_dir() or path.is_dir():
        raise ConfigError(f"--output {path}: expected a file in an existing directory")
    report, data = report_of(run)
    text, files = page(report), []
    try:
        durable.write_file(path, text)
        if figures is not None:
            figures.mkdir(exist_ok=True)
            files = save_charts(data, figures, run.name)
    except OSError as error:
        where = error.filename or path
        hint = f"Write it elsewhere: selfreward report {run.name} --output FILE.html"
        raise PreflightError(f"{where}: cannot be written ({error.strerror})", hint) from None
    return {
        "output": str(path),
        "bytes": len(text.encode()),
        "is_finished": report.is_finished,
        "figures": [str(file) for file in files],
    }


def _shown(value: Any) -> Any:
    """What autoescaping is given: text without characters that act."""
    return spelled(value) if type(value) is str else value


def _sections(report: Report) -> list[Mapping[str, Any]]:
    """Those with a chart or a table."""
    from markupsafe import Markup

    tables = {"judge": report.people, "benchmarks": report.benchmarks, "prompts": report.prompts}
    found: list[Mapping[str, Any]] = []
    for name, (heading, words, charts) in SECTIONS.items():
        drawn = [picture for at in charts for picture in report.charts if picture.name == at]
        pictures = [{"title": each.title, "svg": Markup(each.svg)} for each in drawn]
        if pictures or tables.get(name):
            found.append({"name": name, "heading": heading, "words": words,
                          "pictures": pictures, "table": tables.get(name)})  # fmt: skip
    return found
