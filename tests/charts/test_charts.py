"""Every chart: what it shows are the figures, where it leads is asked for, and no text acts."""

import re
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import pytest

from selfreward.charts import CHARTS, ChartData, Theme, chart_data, charts_of, css, draw, list_links
from selfreward.charts.base import PALETTES, Palette
from selfreward.charts.files import save_arms, save_calibration, save_charts, save_overview
from selfreward.charts.training import MOST_POINTS, thinned
from selfreward.errors import ConfigError, NotFoundError
from selfreward.measures.arms import ArmMeasure
from selfreward.measures.curves import Curve, OnlineFigures
from selfreward.measures.diversity import DataFigures, Diversity
from selfreward.measures.evaluated import BenchmarkFigures, CanaryFigures
from selfreward.measures.figures import IterationFigures
from selfreward.measures.reports import CalibrationBin, Estimate
from selfreward.storage.directory import Run
from selfreward.verbs.scores import scores_of
from tests.support import ROOT
from tests.support.figures import judge_figures
from tests.support.runs import HOSTILE, UNSAFE, at_runs, runs

__all__ = ["at_runs", "runs"]
SVG = "{http://www.w3.org/2000/svg}"
PAYLOAD = f'"><script>x</script><a href=//evil>]]>&lt; $\\frac{{1}}{{2}}$ {HOSTILE}'
BINS = [
    CalibrationBin(
        s - 0.4, s + 0.4, s, 9, Estimate(s / 5, s / 6, s / 4, 9), Estimate(s, None, None, 9)
    )
    for s in (1.0, 2.0, 4.0)
]


def data_of(run: Run) -> ChartData:
    figures = scores_of(run).iterations
    with run.store() as store:
        return chart_data(store, figures)


def measured(figures: IterationFigures) -> IterationFigures:
    """The same with all that an evaluation and a round of DPO find."""
    curve = Curve(4, 0, -50.0, -49.0, -52.0)
    estimate = Estimate(0.2, 0.1, 0.3, 20)
    varied = Diversity(9, 7.0, 0.8, 0.9, 6)
    return replace(
        figures,
        data=DataFigures(varied, varied, 2, 9, ("a b", "a b"), {"write": 5, PAYLOAD: 4}),
        judge=judge_figures((0.7, 0.6, 0.8), (0.1, -0.1, 0.2)),
        drift=estimate,
        canaries=CanaryFigures(estimate, 0, None),
        benchmarks={"obqa": BenchmarkFigures({"acc": estimate}, None)},
        training=replace(
            figures.training, loss=curve, accuracy=curve, chosen_reward=curve,
            rejected_reward=curve, reward_margin=curve, chosen_logp=curve, rejected_logp=curve,
            online=OnlineFigures(9, {}, reward=curve, kl=curve, length=curve, truncated=curve),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def full(runs: Path) -> ChartData:
    """A run in which every chart has something to show, and one reason means ill."""
    data = data_of(Run(runs / "whole"))
    figures = [measured(f) for f in data.iterations]
    hostile = replace(figures[-1].prompts, dropped={PAYLOAD: 3, "similar": 2}, attempts=9)
    figures[-1] = replace(figures[-1], prompts=hostile, seconds={"prompts": 9.0, "train": 70.0})
    names = ("loss", "rewards/accuracies", "rewards/chosen", "rewards/rejected",
             "rewards/margins", "logps/chosen", "logps/rejected", "reward", "kl")  # fmt: skip
    rows = [{"step": i, **dict.fromkeys(names, 1 / (i + 1))} for i in range(600)]
    rows[30]["loss"] = float("nan")
    logs = {f.iteration: rows for f in figures}
    calibration = {f.iteration: BINS for f in figures}
    return ChartData(tuple(figures), logs, calibration, data.lengths)


def each(data: ChartData, theme: Theme = "light", links: bool = False) -> dict[str, str]:
    to = list_links("a b/<c>") if links else None
    return {
        f"{wanted.name} {wanted.iteration}": draw(wanted.name, data, theme, to, wanted.iteration)
        for wanted in charts_of(data.iterations)
    }


def tips(svg: str) -> list[str]:
    return [title.text or "" for title in ElementTree.fromstring(svg).iter(f"{SVG}title")]


@pytest.mark.slow
def test_every_chart_of_the_table_is_drawn(full: ChartData) -> None:
    wanted = charts_of(full.iterations)
    assert {one.name for one in wanted} == set(CHARTS)
    assert all((one.iteration is not None) == CHARTS[one.name].each for one in wanted)
    assert len({(one.name, one.iteration) for one in wanted}) == len(wanted)
    for svg in each(full).values():
        assert tips(svg)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["whole", "hostile"])
def test_every_chart_that_is_offered_can_be_drawn_from_what_is_read_for_it(
    runs: Path, name: str
) -> None:
    run = Run(runs / name)
    figures = scores_of(run).iterations
    for wanted in charts_of(figures):
        with run.store() as store:
            data = chart_data(store, figures, wanted.name, wanted.iteration)
        assert draw(wanted.name, data, "dark", None, wanted.iteration).startswith("<svg")


@pytest.mark.slow
@pytest.mark.parametrize("theme", get_args(Theme))
def test_a_chart_holds_nothing_but_shapes_and_words(full: ChartData, theme: Theme) -> None:
    allowed = {"svg", "g", "path", "use", "text", "tspan", "title", "a", "defs", "clipPath", "rect"}
    drawn = each(full, theme, links=True)
    assert any("frac" in svg for svg in drawn.values())
    for svg in drawn.values():
        assert not UNSAFE & set(svg)
        ids = []
        for element in ElementTree.fromstring(svg).iter():
            assert element.tag.removeprefix(SVG) in allowed
            ids += [element.get("id")] * ("id" in element.attrib)
            for name, value in element.attrib.items():
                assert name not in ("style", "class", "target") and not name.startswith("on")
                if name == "href":
                    assert value.startswith(("#", "/run/a%20b%2F%3Cc%3E/list?"))
                elif name != "aria-label":
                    assert "evil" not in value and "//" not in value
        assert len(ids) == len(set(ids))


def test_text_is_shown_as_it_stands_and_is_never_mathematics(full: ChartData) -> None:
    svg = draw("prompts", full)
    assert any("$\\frac{1}{2}$" in tip and "<script>" in tip for tip in tips(svg))
    assert "&lt;script&gt;" in svg and "<script" not in svg


@pytest.mark.slow
def test_ids_of_different_charts_differ(full: ChartData) -> None:
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in each(full).values()]
    assert all(ids)
    assert len(set().union(*ids)) == sum(map(len, ids))


@pytest.mark.slow
def test_the_same_figures_give_the_same_bytes_in_any_process(runs: Path) -> None:
    code = (
        "import hashlib; from pathlib import Path; from selfreward.storage.directory import Run\n"
        "from tests.charts.test_charts import data_of, each\n"
        f"drawn = each(data_of(Run(Path({str(runs / 'whole')!r}))), links=True)\n"
        "print(hashlib.sha256(repr(drawn).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(found) == 1


def test_bars_of_scores_are_the_figures_and_lead_to_what_they_count(full: ChartData) -> None:
    for figures in full.answered:
        bins, t = figures.scores.bins, figures.iteration
        assert bins is not None
        svg = draw("scores", full, "light", list_links("r"), t)
        counts = [int(tip.split()[0]) for tip in tips(svg)]
        assert counts == [count for count in bins.counts if count]
        links = [a.get("href", "") for a in ElementTree.fromstring(svg).iter(f"{SVG}a")]
        asked = [parse_qs(urlsplit(link).query) for link in links]
        assert len(asked) == len(counts)
        filled = [middle for middle, n in zip(bins.middles, bins.counts, strict=True) if n]
        for query, middle in zip(asked, filled, strict=True):
            assert query["kind"] == ["responses"] and query["iteration"] == [str(t)]
            low, high = float(query["min_score"][0]), float(query["max_score"][0])
            assert 0 <= low < high <= 5
            assert low <= middle <= high


def test_bars_of_prompts_and_pairs_are_the_figures(full: ChartData) -> None:
    for name, of in (
        ("prompts", lambda f: {"accepted": f.prompts.accepted, **f.prompts.dropped}),
        ("pairs", lambda f: {
            "with a pair": f.pairs.paired, "all scores equal": f.pairs.dropped.get("tie", 0)}),
    ):  # fmt: skip
        told = tips(draw(name, full))
        for figures in full.answered:
            for label, count in of(figures).items():
                said = re.compile(rf"iteration {figures.iteration}: {count} of \d+( prompts)?, ")
                if count and label != PAYLOAD:
                    assert [tip for tip in told if said.match(tip) and tip.endswith(label)]
        total = sum(int(tip.split(": ")[1].split()[0]) for tip in told)
        assert total == sum(
            f.prompts.accepted + sum(f.prompts.dropped.values()) if name == "prompts"
            else f.pairs.prompts for f in full.answered
        )  # fmt: skip


@pytest.mark.slow
def test_marks_lead_nowhere_without_links(full: ChartData) -> None:
    assert all("<a " not in svg for svg in each(full).values())


def test_a_chart_that_is_not_there_is_named_with_those_that_are(full: ChartData) -> None:
    for name, iteration in (("nonsense", None), ("scores", None), ("scores", 77), ("means", 1)):
        with pytest.raises(NotFoundError, match=f"no chart {name}") as raised:
            draw(name, full, "light", None, iteration)
        assert "agreement" in raised.value.hint
    with pytest.raises(NotFoundError):
        draw("means", ChartData(()))


@pytest.mark.slow
def test_colors_of_the_theme_page_are_variables_that_css_defines(full: ChartData) -> None:
    used = set()
    for svg in each(full, "page").values():
        assert not re.findall(r'="#[0-9a-fA-F]{3,8}"', svg)
        used |= set(re.findall(r"var\((--[\w-]+)\)", svg))
    for theme in ("light", "dark"):
        assert used <= set(re.findall(r"(--[\w-]+):", css(theme)))


def luminance(color: str) -> float:
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_words_and_series_stand_out_from_the_paper(theme: Theme) -> None:
    """WCAG 2.2 AA: 4.5 to 1 for text, 3 to 1 for shapes."""
    palette: Palette = PALETTES[theme]
    paper = luminance(palette.paper)

    def contrast(color: str) -> float:
        low, high = sorted((luminance(color), paper))
        return (high + 0.05) / (low + 0.05)

    assert min(map(contrast, (palette.ink, palette.muted, palette.series[0]))) >= 4.5
    assert min(map(contrast, palette.series)) >= 3
    assert len(palette.names()) == len(palette.series) + 4


def test_long_logs_are_thinned_to_means_that_keep_the_mean() -> None:
    rows = [{"step": i, "loss": float(i % 7), "other": 0.0} for i in range(1000)]
    steps, values, together = thinned(rows, "loss")
    assert together == 5 and len(steps) == 200 <= MOST_POINTS
    assert sum(values) / len(values) == pytest.approx(sum(r["loss"] for r in rows) / 1000)
    assert thinned(rows[:50], "loss") == (
        [*range(50)], [row["loss"] for row in rows[:50]], 1,
    )  # fmt: skip
    assert thinned(rows, "none") == ([], [], 1)


def panels(path: Path) -> int:
    return path.read_text().count("-axes_")


def test_an_overview_has_a_panel_on_rewards_where_they_were_logged(
    full: ChartData, tmp_path: Path
) -> None:
    bare = [replace(f, training=replace(f.training, chosen_reward=None)) for f in full.iterations]
    save_overview(full, tmp_path / "a.svg", "x")
    save_overview(ChartData(tuple(bare)), tmp_path / "b.svg", "x")
    assert panels(tmp_path / "a.svg") == panels(tmp_path / "b.svg") + 1


def test_overviews_are_png_and_svg_files(full: ChartData, tmp_path: Path) -> None:
    save_overview(full, tmp_path / "p.png", "x")
    width, height = struct.unpack(">II", (tmp_path / "p.png").read_bytes()[16:24])
    assert width > height > 300
    save_overview(full, tmp_path / "p.svg", PAYLOAD)
    ElementTree.parse(tmp_path / "p.svg")
    for path in (tmp_path / "p.exe", tmp_path / "nowhere" / "p.png"):
        with pytest.raises(ConfigError):
            save_overview(full, path, "x")
    with pytest.raises(NotFoundError):
        save_overview(ChartData(()), tmp_path / "p.png", "x")


@pytest.mark.slow
def test_every_chart_is_saved_as_png_and_svg(full: ChartData, tmp_path: Path) -> None:
    files = save_charts(full, tmp_path, PAYLOAD)
    assert {*tmp_path.iterdir()} == {*files}
    assert len(files) == 2 * len(charts_of(full.iterations))
    for path in files:
        if path.suffix == ".svg":
            assert not UNSAFE & set(path.read_text())
            ElementTree.parse(path)
        else:
            assert path.read_bytes().startswith(b"\x89PNG")


def test_a_calibration_has_a_second_panel_where_people_gave_points(tmp_path: Path) -> None:
    none = Estimate(None, None, None, 0)
    for name, bins in (("a", BINS), ("b", [replace(row, human_score=none) for row in BINS])):
        save_calibration(bins, tmp_path / f"{name}.svg", "model")
    assert [panels(tmp_path / f"{name}.svg") for name in "ab"] == [2, 1]


def test_arms_have_a_panel_for_each_measure_and_a_mark_for_each_model(tmp_path: Path) -> None:
    def measured_by(name: str, *values: float) -> ArmMeasure:
        models = {
            f"M{number}": Estimate(value, value - 0.1, value + 0.1, 9)
            for number, value in enumerate(values, 1)
        }
        last = models[f"M{len(models)}"]
        return ArmMeasure(name, "share", models, last, last, {"1": last.value}, None, None)

    long = "win rate over M1, " + PAYLOAD
    found = {
        "plain": [measured_by("verifiable", 0.2, 0.4), measured_by(long, 0.5)],
        "rpo": [measured_by("verifiable", 0.2)],
        "none": [],
    }
    path = tmp_path / "a.svg"
    save_arms(found, "verifiable", path, "an experiment")
    assert panels(path) == 2
    text = path.read_text(encoding="utf-8")
    tips = re.findall(r"<title>([^<]*)</title>", text)
    assert tips == [
        "plain, M1: 20.0 %",
        "plain, M2: 40.0 %",
        "rpo, M1: 20.0 %",
        "plain, M1: 50.0 %",
    ]
    assert text.index(">verifiable<") < text.index(">win rate over M1, ")
    assert "<script" not in text and not UNSAFE & set(text)
    assert all(text.count(f">{arm}<") == 1 for arm in found)  # one legend for both panels
    save_arms(found, None, tmp_path / "a.png", "an experiment")
    with pytest.raises(NotFoundError, match="experiment e has no model to plot"):
        save_arms({"none": []}, None, path, "e")
    with pytest.raises(ConfigError, match=r"a\.pdf"):
        save_arms(found, None, tmp_path / "a.pdf", "e")
