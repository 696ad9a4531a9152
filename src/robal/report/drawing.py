"""One figure, three ways: PNG and SVG for papers, and an SVG that takes its colours from the page around it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#0b0b0b", "#5c5b57", "#e1e0d9", "#fcfcfb"
SERIES = ("#2a78d6", "#eb6834", "#1baf7a", "#4a3aa7", "#c98a00", "#e34948", "#008300", "#d8639b")
# the page gives these names a light and a dark value
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", SURFACE: "surface"} | {
    colour: f"series-{index}" for index, colour in enumerate(SERIES)
}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "robal",
    "text.parse_math": False,  # a class called "$1" is not a formula
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.color": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,  # 9,999 and 10,000, not -1 and 0 beside +1e4
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Drawing:
    """A finished figure. `svg` has no background; `standalone` and `png` are on white."""

    name: str
    about: str
    svg: str
    png: bytes

    @property
    def standalone(self) -> str:
        """The SVG file for papers and slides."""
        end = self.svg.index(">", self.svg.index("<svg")) + 1
        return f'{self.svg[:end]}\n <rect width="100%" height="100%" fill="white"/>{self.svg[end:]}'

    def inline(self, prefix: str = "") -> str:
        """The SVG as part of a page, in which `prefix` tells the runs apart."""
        return inlined(prefix + self.name, self.about, self.svg)


@contextmanager
def style() -> Iterator[None]:
    """The look of the report, put back afterwards; figures are both made and saved inside."""
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        # class names may be in any script; browsers have the letters that the PNG's font lacks
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


def canvas(width: float, height: float) -> Figure:
    """An empty figure, in inches, that fits its parts together by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def label(text: str, most: int = 40) -> str:
    """A legend entry: short, and not beginning with the underscore by which matplotlib hides entries."""
    short = text if len(text) <= most else "…" + text[1 - most :]
    return f" {short}" if short.startswith("_") else short


def legend_above(axes: Axes, columns: int) -> None:
    """The legend over the plot, at its left edge, where it covers nothing; fewer columns where names are long."""
    longest = max((len(str(name)) for name in axes.get_legend_handles_labels()[1]), default=0)
    figure = axes.get_figure(root=True)
    room = 13 * figure.get_figwidth() if figure else 60  # in letters
    columns = max(1, min(columns, int(room) // (longest + 6)))
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, handlelength=1.6, columnspacing=1.4, borderpad=0.2
    )


def draw(name: str, about: str, figure: Figure) -> Drawing:
    """Render a figure, to the same bytes each time.

    Args:
        name: its file name without ending.
        about: one sentence for those who cannot see it.
        figure: made inside `style()`.
    """
    figure.set_facecolor("white")
    png, svg = io.BytesIO(), io.StringIO()
    FigureCanvasAgg(figure)
    figure.savefig(png, format="png", dpi=160, metadata={"Software": None})
    figure.set_layout_engine("none")  # laid out once is enough
    FigureCanvasSVG(figure)
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(svg, format="svg", metadata=nothing, transparent=True)
    return Drawing(name, about, svg.getvalue(), png.getvalue())


def inlined(name: str, about: str, svg: str) -> str:
    """An SVG file as part of a page: no prolog, identifiers of its own, the page's colours, font and width."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    width = re.search(r'viewBox="0 0 ([\d.]+)', svg)
    natural = float(width.group(1)) if width else 400.0
    # 1.6 px a point: text as large as the page's own small print, never blown up on wide screens
    role = f'role="img" aria-label="{escape(about, quote=True)}"'
    opening = f'<svg {role} style="width: 100%; max-width: {natural * 1.6:.0f}px; height: auto"'
    svg = re.sub(r'<svg([^>]*?) width="[^"]*"', lambda found: opening + found.group(1), svg, count=1)
    svg = re.sub(r'<svg([^>]*?) height="[^"]*pt"', r"<svg\1", svg, count=1)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "inherit", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
