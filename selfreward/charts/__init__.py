"""Drawings of figures: each chart once, for ``--plot``, the report and the viewer."""

from selfreward.charts.base import Links, Theme, css
from selfreward.charts.catalog import (
    CHARTS,
    Drawable,
    charts_of,
    draw,
    list_links,
)
from selfreward.charts.data import ChartData, chart_data

__all__ = [
    "CHARTS",
    "ChartData",
    "Drawable",
    "Links",
    "Theme",
    "chart_data",
    "charts_of",
    "css",
    "draw",
    "list_links",
]
