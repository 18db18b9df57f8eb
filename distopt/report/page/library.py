"""The chart library of a page: BokehJS as the package bokeh brings it, compressed, and the figure that each chart is made of."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from pathlib import Path
from typing import Any

SCRIPT = "server/static/js/bokeh.min.js"
HEIGHT = 340


@cache
def script() -> tuple[str, str]:
    """BokehJS as base64 of a gzip file, and its version. The licence is in its first lines."""
    import bokeh

    text = (Path(bokeh.__file__).parent / SCRIPT).read_bytes()
    return base64.b64encode(gzip.compress(text, 9, mtime=0)).decode(), bokeh.__version__


def chart() -> dict[str, Any]:
    """An empty figure as JSON: bands, single trials, lines and dots, each as one glyph whose rows the page's script fills.

    Axes are linear: the script hands over values that it has transformed, and the ticks with their labels.
    """
    from bokeh.embed import json_item
    from bokeh.models import (
        BoxZoomTool,
        ColumnDataSource,
        FixedTicker,
        PanTool,
        Range1d,
        ResetTool,
        SaveTool,
        WheelZoomTool,
    )
    from bokeh.plotting import figure

    box = BoxZoomTool()
    fig = figure(
        height=HEIGHT,
        sizing_mode="stretch_width",
        x_range=Range1d(start=0, end=1),
        y_range=Range1d(start=0, end=1),
        tools=[box, PanTool(), WheelZoomTool(), ResetTool(), SaveTool()],
        toolbar_location="right",
        min_border_left=62,
        min_border_right=8,
        min_border_top=8,
        outline_line_color=None,
        border_line_color=None,
    )
    fig.toolbar.logo = None
    fig.toolbar.active_drag, fig.toolbar.active_scroll = box, None
    for axis in fig.axis:
        axis.ticker = FixedTicker(ticks=[])
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "12px"
        axis.axis_label_standoff = 4
        axis.major_tick_in, axis.minor_tick_line_color = 0, None

    def source(*columns: str) -> ColumnDataSource:
        return ColumnDataSource({name: [] for name in columns})

    fig.patches(
        source=source("xs", "ys", "colour", "alpha"),
        fill_color="colour",
        fill_alpha="alpha",
        line_width=0,
        name="bands",
    )
    for name in ("trials", "lines"):
        fig.multi_line(
            source=source("xs", "ys", "colour", "alpha", "dash", "width"),
            line_color="colour",
            line_alpha="alpha",
            line_dash="dash",
            line_width="width",
            line_join="round",
            name=name,
        )
    fig.vspan(source=source("x"), line_width=1, name="cursor")
    fig.scatter(source=source("x", "y", "colour"), size=8, fill_color="colour", line_color="white", name="dots")
    return dict(json_item(fig))
