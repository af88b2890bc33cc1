"""What all charts share: size, the colors of a theme, marks that tell and lead, and the SVG.

    panel(axis, data, pen, iteration) -> Figure -> SVG text, or PNG and SVG files

An SVG made here holds no script, no style sheet and no ``style`` attribute, so that it can stand in
a page with the strictest content security policy; all text in it is escaped and never mathematics.
The same figures give the same bytes.
"""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from selfreward.text import spelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Theme = Literal["light", "dark", "page"]
"""``page``: colors are the CSS variables ``--chart-...`` that the page defines, see ``css``."""
Links = Callable[[Mapping[str, object]], str]
"""Told what a list is to show, such as ``{"kind": "responses", "iteration": 2}``, gives its URL."""
WIDTH, HEIGHT = 4.8, 3.2
"""Inches of a panel, 72 units of the SVG each."""
FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_LABEL, _TOLD = 18, 200
"""Characters of a series' name, and of what a mark tells."""
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_TIP = "tip-"
_STYLE = re.compile(r"([a-z-]+):\s*([^;]+)")
_NUMBER = re.compile(r"-?\d+\.\d{3,}")


@dataclass(frozen=True, slots=True)
class Palette:
    """Colors of a theme, each unlike the others."""

    ink: str
    muted: str
    grid: str
    paper: str
    series: tuple[str, ...]
    """Of things side by side; the first is the policy's or the judge's, the second what it is held
    against."""

    def names(self) -> dict[str, str]:
        """Name of the CSS variable of each color."""
        numbered = {color: f"--chart-{at}" for at, color in enumerate(self.series, 1)}
        plain = {getattr(self, name): f"--chart-{name}" for name in _PLAIN}
        return plain | numbered


_PLAIN = ("ink", "muted", "grid", "paper")
_LIGHT = Palette(
    ink="#1f2933", muted="#52606d", grid="#d5dae0", paper="#ffffff",
    series=("#2a6f97", "#d96f14", "#8a949e", "#4f8a5b", "#8562a8", "#b8455d", "#96772a", "#3f8f8f"),
)  # fmt: skip
_DARK = Palette(
    ink="#e6e9ec", muted="#a9b4bf", grid="#3b4652", paper="#14191f",
    series=("#6fb1d6", "#f0a25c", "#96a1ab", "#82c08f", "#b697d8", "#e58a9c", "#d1b25f", "#77c4c4"),
)  # fmt: skip
PALETTES: dict[Theme, Palette] = {"light": _LIGHT, "dark": _DARK, "page": _LIGHT}


def css(theme: Theme) -> str:
    """Declarations of the CSS variables that charts of the theme ``page`` are drawn with."""
    return " ".join(f"{name}: {color};" for color, name in PALETTES[theme].names().items())


@dataclass(slots=True)
class Pen:
    """What a panel draws with."""

    palette: Palette
    links: Links | None = None
    tips: list[str] = field(default_factory=list)
    """What marks tell when pointed at."""

    @property
    def first(self) -> str:
        """Color of what the panel is about."""
        return self.palette.series[0]

    @property
    def second(self) -> str:
        """Color of what that is held against."""
        return self.palette.series[1]

    def mark(self, artist: Any, tip: str, where: Mapping[str, object] | None = None) -> None:
        """Let a mark tell what it stands for, and lead to the list behind it.

        Args:
            artist: Of matplotlib.
            tip: Plain text.
            where: What the list is to show; None leads nowhere.
        """
        artist.set_gid(f"{_TIP}{len(self.tips)}")
        self.tips.append(tip[:_TOLD])
        if where is not None and self.links is not None:
            artist.set_url(self.links(where))

    def legend(self, axis: Any, columns: int = 1) -> None:
        """Name the series above the panel, where no mark can be under it."""
        axis.legend(
            loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.1,
            handlelength=1.2, columnspacing=1.2, labelcolor=self.palette.ink,
        )  # fmt: skip


@contextmanager
def styled(palette: Palette, theme: Theme | None) -> Iterator[None]:
    """Let matplotlib draw as all charts are drawn; without a theme on paper, else on the page's."""
    import matplotlib

    settings = {
        "text.parse_math": False, "font.family": "DejaVu Sans", "font.size": 10,
        "svg.fonttype": "none", "svg.hashsalt": "selfreward", "path.simplify": True,
        "figure.facecolor": palette.paper if theme is None else "none", "axes.facecolor": "none",
        "text.color": palette.ink, "axes.labelcolor": palette.muted, "axes.labelsize": 9.5,
        "xtick.color": palette.muted, "ytick.color": palette.muted, "xtick.labelsize": 9.5,
        "ytick.labelsize": 9.5, "axes.edgecolor": palette.muted, "axes.linewidth": 0.8,
        "xtick.major.size": 2, "ytick.major.size": 2, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y",
        "grid.color": palette.grid, "grid.linewidth": 0.7, "axes.axisbelow": True,
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.6,
        "lines.markersize": 5, "errorbar.capsize": 4, "axes.unicode_minus": True,
        "axes.formatter.useoffset": False,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


def over_iterations(axis: Any, iterations: Sequence[int], letter: str = "") -> None:
    """Let the axis below show iterations, or models with ``letter`` M, as many as there is room."""
    step = -(-len(iterations) // 10)
    shown = iterations[::step]
    axis.set_xticks(shown, [f"{letter}{number}" for number in shown])
    axis.set_xlim(iterations[0] - 0.6, iterations[-1] + 0.6)
    axis.set_xlabel("model" if letter else "iteration")


def bars_above(
    axis: Any, at: Sequence[float], parts: Mapping[str, Sequence[float]], pen: Pen, width: float
) -> dict[str, list[Any]]:
    """Bars on top of each other, a color each; those of nothing are left out.

    Returns:
        The bars of each part, in order; the caller marks them.
    """
    below = [0.0] * len(at)
    drawn = {}
    for place, (label, values) in enumerate(parts.items()):
        color = pen.palette.series[place % len(pen.palette.series)]
        bars = axis.bar(at, values, bottom=below, color=color, width=width, label=_short(label))
        drawn[label] = list(bars)
        below = [b + v for b, v in zip(below, values, strict=True)]
    axis.set_ylim(0, 1.08 * max(below, default=0) or 1)
    return drawn


def _short(label: str) -> str:
    shown = spelled(label)
    return shown if len(shown) <= _LABEL else f"{shown[: _LABEL - 1]}…"


def svg_text(figure: "Figure", pen: Pen, theme: Theme, title: str, prefix: str) -> str:
    """The SVG of a figure, without a prolog, so that it can stand in HTML, too.

    Args:
        title: What a screen reader says of it.
        prefix: Of all its ids, so that several can stand in a page.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    file = io.StringIO()
    FigureCanvasSVG(figure).print_svg(file, metadata={"Date": None})
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(file.getvalue())
    _strip(root)
    used = {v[1:] for e in root.iter() if (v := e.get(f"{{{_XLINK}}}href", "")).startswith("#")}
    used |= {e.get("clip-path", "")[5:-1] for e in root.iter() if e.get("clip-path")}
    names = PALETTES[theme].names() if theme == "page" else {}
    for element in [*root.iter()]:
        _plain(element, names, used, prefix)
        tip = element.get("id", "").removeprefix(f"{prefix}-{_TIP}")
        if tip.isdecimal():
            told = ElementTree.Element(f"{{{_SVG}}}title")
            told.text = spelled(pen.tips[int(tip)])
            element.insert(0, told)
            del element.attrib["id"]
    root.attrib.update({"role": "group", "stroke-linejoin": "round", "font-family": FONTS})
    root.set("aria-label", spelled(title))
    return ElementTree.tostring(root, encoding="unicode")


def png_bytes(figure: "Figure") -> bytes:
    """The PNG of a figure, 150 dots an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(150)
    file = io.BytesIO()
    FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    return file.getvalue()


def _strip(root: ElementTree.Element) -> None:
    """Take out what is not drawn: metadata, and the one style sheet."""
    for parent in root.iter():
        for child in [*parent]:
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
        if parent.text and not parent.text.strip():
            parent.text = None
        if parent.tail and not parent.tail.strip():
            parent.tail = None


def _plain(
    element: ElementTree.Element, names: Mapping[str, str], used: set[str], prefix: str
) -> None:
    """Attributes for styles, own ids, short numbers, links that stay in the page."""
    for name, value in _STYLE.findall(element.attrib.pop("style", "")):
        if name != "font-family":
            element.set(name, value.strip())
    for name in ("fill", "stroke"):
        if variable := names.get(element.get(name, "")):
            element.set(name, f"var({variable})")
    name = element.attrib.pop("id", "")
    if name in used or name.startswith((_TIP, "axes_")):
        element.set("id", f"{prefix}-{name}")
    if clip := element.get("clip-path"):
        element.set("clip-path", f"url(#{prefix}-{clip[5:]}")
    if link := element.attrib.pop(f"{{{_XLINK}}}href", ""):
        element.set("href", f"#{prefix}-{link[1:]}" if link[:1] == "#" else link)
        element.attrib.pop("target", None)
    if element.get("transform", "").startswith("rotate(-0"):
        del element.attrib["transform"]
    for name in {"d", "x", "y", "transform"} & element.attrib.keys():
        short = _NUMBER.sub(lambda m: f"{float(m[0]):.2f}", element.attrib[name])
        element.set(name, " ".join(short.split()))
