"""Line charts as inline SVG, whose colours come from the style sheet of the page, so that they fit light and dark."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from markupsafe import Markup

WIDTH, HEIGHT = 360, 220
LEFT, RIGHT, TOP, BOTTOM = 44, 20, 10, 38
"""Margins around the plot, in the units of the picture, which are about the pixels of a phone."""

Number = Callable[[float], str]


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
        name: What the legend calls it.
        points: (x, y), in the order in which they are joined.
        notes: What each point says when pointed at, or none.
        radii: Size of the dot at each point, units of the picture; no dots where absent.
    """

    name: str
    points: Sequence[tuple[float, float]]
    notes: Sequence[str] = ()
    radii: Sequence[float] = ()


def percent(value: float) -> str:
    """Write a share as a whole percentage."""
    return f"{100 * value:.0f}\u202f%"


def compact(value: float) -> str:
    """Write a number in few characters."""
    return f"{value:.6g}" if value == 0 or 0.001 <= abs(value) < 1e5 else f"{value:.0e}".replace("e-0", "e-")


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers, 1, 2 or 5 times a power of ten apart, that reach from `low` or below to `high` or above.

    Args:
        low: Smallest value, finite.
        high: Largest value; where it is no larger than `low`, a unit is added.
        most: Most numbers but one.
    """
    high = high if high > low else low + (abs(low) or 1.0)
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if math.ceil((high - low) / (power * factor)) < most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def line_chart(
    lines: Sequence[Line],
    x_name: str,
    y_name: str,
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    x_number: Number = compact,
    y_number: Number = compact,
    diagonal: bool = False,
) -> Markup:
    """Draw lines over two axes.

    Args:
        lines: At least one with a point; the first three differ in colour and dashes.
        x_name: What the x axis shows, with its unit.
        y_name: What the y axis shows.
        x_range: Ends of the x axis; those of the points where absent.
        y_range: Ends of the y axis, as for x.
        x_number: Writes a number of the x axis.
        y_number: Writes a number of the y axis.
        diagonal: Whether to draw the line on which both are equal.

    Returns:
        An `<svg>` element; every text in it is escaped.
    """
    points = [point for line in lines for point in line.points]
    first, last = x_range or (min(x for x, _ in points), max(x for x, _ in points))
    last = last if last > first else first + 1
    columns = [x for x in ticks(first, last) if first <= x <= last]
    rows = ticks(*(y_range or (min(y for _, y in points), max(y for _, y in points))))
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(x: float) -> float:
        return round(LEFT + plot_width * (x - first) / (last - first), 1)

    def down(y: float) -> float:
        return round(TOP + plot_height * (1 - (y - rows[0]) / (rows[-1] - rows[0])), 1)

    parts = [
        Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            WIDTH, HEIGHT, f"{', '.join(line.name for line in lines)}: {y_name} over {x_name}"
        )
    ]
    for y in rows:
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, down(y), WIDTH - RIGHT))
        parts.append(_text(LEFT - 6, down(y) + 4, y_number(y), "end"))
    for x in columns:
        parts.append(_text(across(x), HEIGHT - BOTTOM + 16, x_number(x), "middle"))
    parts.append(_text(LEFT + plot_width / 2, HEIGHT - 6, x_name, "middle", "axis"))
    if diagonal:
        ends = (across(first), down(first), across(last), down(last))
        parts.append(Markup('<path class="diagonal" d="M{} {}L{} {}"/>').format(*ends))
    for number, line in reversed([*enumerate(lines)]):  # the first on top
        places = [(across(x), down(y)) for x, y in line.points]
        path = " ".join(f"{x} {y}" for x, y in places)
        parts.append(Markup('<g class="line{}"><polyline points="{}"/>').format(number, path))
        for index, (x, y) in enumerate(places):
            note = Markup("<title>{}</title>").format(line.notes[index]) if line.notes else ""
            if line.radii:
                radius = round(line.radii[index], 1)
                parts.append(
                    Markup('<circle class="dot" cx="{}" cy="{}" r="{}">{}</circle>').format(x, y, radius, note)
                )
            elif note:
                parts.append(Markup('<circle class="touch" cx="{}" cy="{}" r="6">{}</circle>').format(x, y, note))
        parts.append(Markup("</g>"))
    return Markup("").join([*parts, Markup("</svg>")])


def _text(x: float, y: float, text: str, anchor: str, name: str = "tick") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(name, x, y, anchor, text)
