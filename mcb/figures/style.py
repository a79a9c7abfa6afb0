"""What all figures share: widths of a printed page, a colour-blind-safe palette, quiet axes."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PAGE_WIDTH, COLUMN_WIDTH = 7.0, 3.5  # inches: a page's text and one of its two columns
DPI = 200
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 8.5, 8.0, 7.0  # points

# Okabe & Ito (2008), without their yellow, which is lost on white, and with a grey for an eighth mode.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, GREY = "#222222", "#8A8A8A"
PRIMARY, ACCENT = PALETTE[0], PALETTE[1]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` by `height` inches whose axes never overlap."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def finish(axes: Axes, title: str = "", x_label: str = "", y_label: str = "") -> None:
    """Labels in the common sizes, thin lines, no box around the plot."""
    axes.set_title(title, fontsize=TITLE_SIZE, color=INK, pad=4)
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE, color=INK, labelpad=2)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE, color=INK, labelpad=2)
    axes.tick_params(labelsize=TICK_SIZE, colors=INK, width=0.6, length=2.5, pad=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(linewidth=0.6, color=INK)


def mode_colour(mode: int) -> str:
    """Colour of a true mode, the same in every figure; they repeat after eight."""
    return PALETTE[mode % len(PALETTE)]


def mode_marker(mode: int) -> str:
    """Marker of a true mode, so that colour is never the only difference."""
    return MARKERS[mode % len(MARKERS)]
