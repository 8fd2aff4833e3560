"""Figures of a report, each once as SVG in the colours of the page and once as PNG on white."""

import dataclasses
import io
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np

# Name → colour on white. In an SVG it becomes the CSS variable of that name, which
# report_template.html defines for light and dark pages.
COLOURS: Mapping[str, str] = {
  "ink": "#1d2430",
  "soft": "#5d6878",
  "line": "#d9dee6",
  "cog": "#0b6e4f",
  "no-prior": "#c8553d",
  "bc-init": "#b07c00",
  "bc": "#3d6cb9",
  "bc-oracle": "#a8488f",
  "sac": "#6b7686",
}
# Lines of a panel differ without colour, too: one (marker, dashes) for each.
_STYLES: Mapping[str, tuple[str, str | tuple]] = {
  "cog": ("o", "-"),
  "no-prior": ("s", (0, (3, 1.5))),
  "bc-init": ("D", "-."),
  "bc": ("^", (0, (7, 1.5))),
  "bc-oracle": ("v", (0, (1.5, 1))),
  "sac": ("P", ":"),
}
_PANEL_SIZE = (4.8, 3.4)  # inches
_PNG_COLUMNS = 2
_PNG_DPI = 150
_MAX_MARKED_POINTS = 40  # markers on more points would hide the line
_STYLE = {
  "svg.fonttype": "none",
  "svg.hashsalt": "cog",
  "font.size": 10,
  "axes.titlesize": 10.5,
  "text.color": COLOURS["ink"],
  "axes.labelcolor": COLOURS["soft"],
  "axes.edgecolor": COLOURS["soft"],
  "xtick.color": COLOURS["soft"],
  "ytick.color": COLOURS["soft"],
  "grid.color": COLOURS["line"],
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.axisbelow": True,
  "legend.frameon": False,
}


@dataclasses.dataclass(frozen=True)
class Line:
  """A line of a panel, N points, with a band around it.

  Attributes:
    label: in the legend.
    style: a key of COLOURS that says how it is drawn.
    x, y: (N,).
    band: low and high, (N,) each; None: no band.
    ends: points (x, y) at which a run diverged.
  """

  label: str
  style: str
  x: np.ndarray
  y: np.ndarray
  band: tuple[np.ndarray, np.ndarray] | None = None
  ends: tuple[tuple[float, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Panel:
  """One pair of axes. `level`, `mark`: where a thin horizontal or vertical line is drawn."""

  title: str
  x_label: str
  y_label: str
  lines: tuple[Line, ...]
  is_share: bool = True  # the y axis is that of a share: 0 to 1
  level: float | None = None
  mark: float | None = None


def spread(curves: Sequence[Mapping[float, float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Puts the curves of several seeds together.

  Args:
    curves: x → y of each seed.

  Returns:
    x: every x of any seed, ascending, (N,).
    mean: over the seeds that have this x, (N,).
    band: their smallest and their largest value, (2, N).
  """
  x = sorted({point for curve in curves for point in curve})
  values = [[curve[point] for curve in curves if point in curve] for point in x]
  band = np.array([[min(v) for v in values], [max(v) for v in values]])
  return np.array(x), np.array([np.mean(v) for v in values]), band


def svg(panel: Panel) -> str:
  """Returns one panel as an SVG element whose colours are variables of the page."""
  buffer = io.StringIO()
  with matplotlib.rc_context(_STYLE):
    figure = matplotlib.figure.Figure(figsize=_PANEL_SIZE, layout="constrained")
    _draw(figure, figure.subplots(), panel)
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
  text = buffer.getvalue()
  text = text[text.index("<svg") :]
  text = re.sub(r'<g id="[^"]*"', "<g", text)  # the same in every SVG of a page; none refers to it
  for name, colour in COLOURS.items():
    text = text.replace(colour, f"var(--{name})")
  return text.replace("<svg ", '<svg role="img" ', 1)


def write_png(path: pathlib.Path, panels: Sequence[Panel]) -> None:
  """Writes all panels as one picture, aside first."""
  columns = min(_PNG_COLUMNS, len(panels))
  rows = math.ceil(len(panels) / columns)
  aside = path.with_name(f".{os.getpid()}.{path.name}")
  with matplotlib.rc_context(_STYLE):
    size = (columns * _PANEL_SIZE[0], rows * _PANEL_SIZE[1])
    figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
    cells = np.atleast_1d(figure.subfigures(rows, columns)).flat
    for cell, panel in zip(cells, panels, strict=False):  # the last row may have room left
      _draw(cell, cell.subplots(), panel)
    figure.savefig(aside, dpi=_PNG_DPI)
  aside.replace(path)


def _draw(figure, axes: matplotlib.axes.Axes, panel: Panel) -> None:
  """Draws a panel on the axes of a figure or of a subfigure."""
  for value, draw in ((panel.level, axes.axhline), (panel.mark, axes.axvline)):
    if value is not None:
      draw(value, color=COLOURS["soft"], linewidth=0.8, dashes=(4, 3))
  for line in panel.lines:
    marker, dashes = _STYLES[line.style]
    colour = COLOURS[line.style]
    if line.band is not None:
      axes.fill_between(line.x, *line.band, color=colour, alpha=0.18, linewidth=0)
    axes.plot(
      line.x, line.y, linestyle=dashes, color=colour, label=line.label, linewidth=1.6,
      marker=marker if len(line.x) <= _MAX_MARKED_POINTS else None, markersize=4,
    )  # fmt: skip
    for end in line.ends:
      axes.plot(*end, "x", color=colour, markersize=9, markeredgewidth=2)
  axes.set_title(panel.title, loc="left")
  axes.set_xlabel(panel.x_label)
  axes.set_ylabel(panel.y_label)
  axes.margins(x=0.02)
  axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(6))
  axes.xaxis.set_major_formatter(lambda x, _: f"{x:,g}")
  if panel.is_share:
    axes.set_ylim(-0.03, 1.03)
  figure.legend(loc="outside lower center", ncols=3, fontsize=8.5, columnspacing=1.2)
