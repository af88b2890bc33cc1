"""The report: one page that needs nothing but itself, whatever the records hold."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from html.parser import HTMLParser
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from selfreward.cli.main import invoke
from selfreward.config.load import build_config
from selfreward.errors import ConfigError, NotFoundError, PreflightError
from selfreward.inputs.collect import create_run
from selfreward.records import Drop, Judgment, PreferencePair, Prompt, Record, Response, Stage
from selfreward.storage import durable
from selfreward.storage.directory import Run
from selfreward.text import spelled
from selfreward.verbs.examples import cut
from selfreward.verbs.report_page import write_report
from tests.support.runs import HOSTILE, SMALL, UNSAFE, at_runs, runs

__all__ = ["at_runs", "runs"]
LIMIT = 2_000_000
SVG = {"svg", "g", "path", "use", "text", "title", "defs", "clippath", "rect"}
"""Elements of charts, of which there are as many as there are ticks and marks."""
PAYLOADS = [
    "<script>alert(1)</script>", "</div></article></body><img src=x onerror=alert(1)>",
    "<svg onload=alert(1)>", "<style>*{display:none}</style>", '" onmouseover="alert(1)',
    "' autofocus onfocus=alert(1) x='", "<iframe src=//evil></iframe>", "<!-- ", "--><b>", "]]>",
    "<base href=//evil>", "<meta http-equiv=refresh content=0;url=//evil>", "{{ 7*7 }}",
    "{% for x in y %}", "&lt;b&gt; &#60;b&#62;", "<a href='javascript:alert(1)'>x</a>",
    "</textarea></title></style></script>", "<link rel=stylesheet href=//evil>", "$x_2$", HOSTILE,
]  # fmt: skip


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return "".join(self.texts)


def made(name: str, text: Callable[[str], str], *overrides: str, rounds: int = 1) -> Run:
    """A run that is not finished, with ``text`` in every place that holds any."""
    run = create_run(build_config({}, [*SMALL, *overrides]), name)
    with run.owned() as store:
        for t in range(1, rounds + 1):
            store.plan({t: run.config.stages(t)})
            store.add(_records(t, text))
            pairs = [PreferencePair(t, attempt, 1, 0, 5.0, 1.5) for attempt in range(3)]
            store.finish_stage(Stage(t, "pairs", 3, 1, "", "", 1.0, {}), pairs)
            store.set_progress(t, "train", 1, 9, 2.0, text("note"))
            store.log_training(t, 1, {"loss": 0.7, "rewards/chosen": 0.1})
        store.add_event("error", text("error"))
    return run


def _records(t: int, text: Callable[[str], str]) -> Iterable[Record]:
    for attempt in range(3):
        yield Prompt(t, attempt, text("prompt"), text("raw"), None, "", 9)
        for sample in range(2):
            yield Response(t, attempt, sample, text("answer"), "stop", 9, text("thinking"))
            for vote, score in enumerate([(1.0, 2.0), (5.0, None)][sample]):
                reason = None if score else text("reason")
                yield Judgment(t, attempt, sample, vote, "written", text("judge"), score, reason)
    yield Prompt(t, 3, text("prompt"), text("raw"), text("why"), text("detail"), 9)
    yield Drop(t, "pairs", "0/0", text("why"), text("detail"))
    yield Drop(t, "train", "0", text("why"), text("detail"))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SELFREWARD_RUNS", str(tmp_path / "runs"))
    return tmp_path


def html(run: Run, path: Path) -> str:
    write_report(run, path, None)
    return path.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("at_runs")
def test_a_report_needs_nothing_but_itself(runs: Path, tmp_path: Path) -> None:
    text = html(Run(runs / "whole"), tmp_path / "r.html")
    page = Page(text)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {
        "script",
        "iframe",
        "object",
        "embed",
        "link",
        "base",
        "form",
        "img",
        "image",
    }
    policies = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    for _, attributes in page.elements:
        assert not {"src", "srcset", "style", "action"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("href") or "#").startswith("#")
    assert {*re.findall(r"url\(.", text)} == {"url(#"}
    assert "@import" not in text and "http://www.w3.org/2000/svg" in text
    assert {*re.findall(r"https?://[^\"'\s]+", text)} == {"http://www.w3.org/2000/svg"}
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    aims = {a["href"] for tag, a in page.elements if tag in ("a", "use")}
    assert {aim and aim[1:] for aim in aims} <= {*ids}


@pytest.mark.slow
@pytest.mark.usefixtures("at_runs")
def test_the_same_run_gives_the_same_report(runs: Path, tmp_path: Path) -> None:
    run = Run(runs / "whole")
    assert html(run, tmp_path / "a.html") == html(run, tmp_path / "b.html")


def test_no_element_and_no_attribute_comes_from_records(root: Path) -> None:
    starts = {"prompt": 0, "answer": 3, "judge": 9}  # each text that is shown is another one
    following = {place: cycle(PAYLOADS[at:] + PAYLOADS[:at]) for place, at in starts.items()}

    said: list[str] = []

    def evil(place: str) -> str:
        said.append(f"{place} {next(following[place]) if place in starts else PAYLOADS[1]}")
        return said[-1]

    text = html(made("run", evil), root / "evil.html")
    (root / "runs" / "run").rename(root / "away")
    lengths = map(len, said)
    plain = Page(html(made("run", lambda _: "x" * next(lengths)), root / "plain.html"))
    page = Page(text)
    assert [(tag, [*a]) for tag, a in page.elements if tag not in SVG] == [
        (tag, [*a]) for tag, a in plain.elements if tag not in SVG
    ]
    assert {tag for tag, _ in page.elements} == {tag for tag, _ in plain.elements}
    assert not UNSAFE & set(text)
    assert [payload for payload in PAYLOADS if spelled(payload) not in page.text] == []


@pytest.mark.slow
def test_answers_of_two_megabytes_are_cut_and_counted(root: Path) -> None:
    for fill in ("é", "<", "\U000e0041"):
        run = made(f"run{ord(fill)}", lambda place, fill=fill: f"{place} " + fill * 2_000_000)
        text = html(run, root / "r.html")
        assert len(text.encode()) < LIMIT
        left = [int(n.replace(",", "")) for n in re.findall(r"([\d,]+) more characters", text)]
        assert left and min(left) > 1_990_000


@pytest.mark.slow
def test_any_number_of_iterations_stays_under_two_megabytes(root: Path) -> None:
    number = iter(range(10**6))
    run = made("run", lambda place: f"{place} {next(number)} " + "<" * 300, rounds=40)
    text = html(run, root / "r.html")
    assert len(text.encode()) < LIMIT
    assert "28 iterations between the first and the last ones are left out" in text
    assert "shown for the first and the last 4" in text
    assert 'aria-label="Scores, iteration 40"' in text
    assert 'aria-label="Scores, iteration 20"' not in text


@pytest.mark.usefixtures("at_runs")
def test_only_a_report_of_an_unfinished_run_says_so(runs: Path, tmp_path: Path) -> None:
    whole = html(Run(runs / "whole"), tmp_path / "a.html")
    hostile = html(Run(runs / "hostile"), tmp_path / "b.html")
    assert "Finished: M0 to M3" in whole
    assert "not finished" not in whole
    assert "This run is not finished. It ended with an error in iteration 1" in hostile


@pytest.mark.usefixtures("at_runs")
def test_a_run_being_written_is_reported_as_such(runs: Path, tmp_path: Path) -> None:
    run = Run(runs / "hostile")
    with run.locked():
        assert "It is being written in iteration 1" in html(run, tmp_path / "r.html")


@pytest.mark.usefixtures("at_runs")
def test_examples_are_those_that_show_finds_with_what_the_judge_said(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Page(html(Run(runs / "whole"), tmp_path / "r.html")).text
    for option, title in (
        ("--best", "Best"),
        ("--worst", "Worst"),
        ("--disagree", "Most disputed"),
    ):
        assert invoke(["show", "whole", option, "1", "--json"]) == 0
        shown = json.loads(capsys.readouterr().out)[0]
        group = text.partition(f"{title} answers")[2]
        assert group.lstrip().startswith(f"Prompt {shown['attempt']}, answer ")
        assert shown["prompt"]["text"] in group
        assert any(vote["raw"] in group for r in shown["responses"] for vote in r["votes"])


@pytest.mark.usefixtures("at_runs")
@pytest.mark.parametrize(("model", "said"), [("policy", "scores its own work"), ("M1", "by M1")])
def test_what_a_mean_score_is_stands_beside_it(root: Path, model: str, said: str) -> None:
    run = made("run", str, f"judge.model={model}")
    text = html(run, root / "r.html")
    assert text.count(said) == 2  # above the table, and above the charts
    assert text.index(said) < text.index("mean score")
    assert "never an external evaluation" in text


def test_a_run_without_scores_has_a_report_and_one_without_records_has_none(root: Path) -> None:
    run = create_run(build_config({}, SMALL), "run")
    with pytest.raises(NotFoundError, match="no records yet"):
        html(run, root / "r.html")
    assert not (root / "r.html").exists()
    with run.owned() as store:
        store.plan({1: run.config.stages(1)})
        store.add([Prompt(1, 0, "Why?", "", None)])
        store.set_progress(1, "prompts", 1, 6, 1.0)
    text = html(run, root / "r.html")
    assert "Nothing yet: no answers are scored" in text
    assert "not finished" in text


def test_an_iteration_without_records_is_no_obstacle(root: Path) -> None:
    run = made("run", str)
    with run.owned() as store:
        store.set_progress(2, "prompts", 0, 6, 0.0)
    assert "iteration 2 of 2" in html(run, root / "r.html")


def test_what_cannot_be_written_says_where_to_write_instead(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made("run", str)
    for path in (root / "nowhere" / "r.html", root):
        with pytest.raises(ConfigError, match="expected a file in an existing directory"):
            write_report(run, path, None)

    def refuse(path: Path, data: str | bytes) -> None:
        raise PermissionError(30, "Read-only file system", str(path))

    monkeypatch.setattr(durable, "write_file", refuse)
    with pytest.raises(PreflightError, match=r"report.html: cannot be written \(Read-only") as told:
        write_report(run, None, None)
    assert "--output FILE.html" in told.value.hint


@pytest.mark.slow
@pytest.mark.usefixtures("at_runs")
def test_the_verb_writes_into_the_run_and_charts_beside(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["scores", "whole"]) == 0  # who reads leaves SQLite's files beside the records
    capsys.readouterr()
    before = {path.name for path in (runs / "whole").iterdir()}
    assert invoke(["report", "whole", "--figures", str(tmp_path / "figures"), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    output = Path(found["output"])
    assert {path.name for path in (runs / "whole").iterdir()} == before | {"report.html"}
    assert output.stat().st_size == found["bytes"] < LIMIT
    assert found["is_finished"] is True
    assert {Path(file) for file in found["figures"]} == {*(tmp_path / "figures").iterdir()}
    assert invoke(["verify", "whole"]) == 0
    output.unlink()


@pytest.mark.slow
@pytest.mark.usefixtures("at_runs")
def test_a_report_loads_no_library_that_holds_models(runs: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from selfreward.storage.directory import Run\n"
        "from selfreward.verbs.report_page import write_report\n"
        f"run, path = Run(Path({str(runs / 'whole')!r})), Path({str(tmp_path / 'r.html')!r})\n"
        "write_report(run, path, None)\n"
        "print(*{m.partition('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "trl", "vllm", "datasets", "ctranslate2", "peft"}
    assert not heavy & {*done.stdout.split()}


def test_a_cut_keeps_what_is_shown_short_and_counts_the_rest() -> None:
    for text in ("", "short", "x" * 50, "\x1b" * 50, "a\u202eb" * 20, "\U000e0041" * 9):
        found = cut(text, 30)
        assert len(found.text) <= 30
        assert spelled(text[: len(text) - found.more]) == found.text
        if len(spelled(text)) <= 30:
            assert found.more == 0
