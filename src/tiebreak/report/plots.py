"""Plots as inline SVG: no script, no network, readable without colour."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, ROW, LEFT = 760, 26, 190
BEFORE, AFTER = "#8a94a6", "#1f6feb"
COLOURS = ("#1f6feb", "#d9730d", "#1a7f37", "#8250df", "#8a94a6", "#bf3989")
DASHES = ("none", "6 3")


def paired_bars(title: str, rows: Sequence[tuple[str, float, float]]) -> str:
    """Horizontal bars, before and after, one pair a row."""
    if not rows:
        return ""
    largest = max(1e-9, *(max(before, after) for _, before, after in rows))
    scale = (WIDTH - LEFT - 90) / largest
    parts: list[str] = []
    for i, (name, before, after) in enumerate(rows):
        top = 30 + i * ROW
        parts.append(_text(LEFT - 8, top + 15, name, anchor="end"))
        for value, colour, offset in ((before, BEFORE, 2), (after, AFTER, 12)):
            width = value * scale
            parts.append(
                f'<rect x="{LEFT}" y="{top + offset}" width="{width:.1f}" height="9" '
                f'fill="{colour}"/>'
            )
            parts.append(_text(LEFT + width + 5, top + offset + 8, f"{value:,}", size=9))
    legend = f"{title}: grey before, blue after"
    return _svg(legend, 36 + len(rows) * ROW, parts)


def lines(title: str, names: Sequence[str], series: Sequence[tuple[str, Sequence[float]]]) -> str:
    """Lines over `names`, the first one before and the second one after."""
    if len(names) < 2:
        return ""
    height, bottom = 200, 170
    largest = max(1e-9, *(max(values) for _, values in series))
    step = (WIDTH - LEFT - 40) / (len(names) - 1)
    parts: list[str] = []
    for (label, values), colour in zip(series, (BEFORE, AFTER), strict=False):
        points = [
            (LEFT + i * step, bottom - value / largest * (bottom - 34))
            for i, value in enumerate(values)
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">'
            f"<title>{escape(f'{name}, {label}: {value:,}')}</title></circle>"
            for (x, y), name, value in zip(points, names, values, strict=True)
        ]
    shown = max(1, len(names) // 8)
    parts += [
        _text(LEFT + i * step, bottom + 18, name, anchor="middle", size=10)
        for i, name in enumerate(names)
        if i % shown == 0
    ]
    parts.append(_text(LEFT - 8, 38, f"{largest:,}", anchor="end", size=10))
    parts.append(_text(LEFT - 8, bottom, "0", anchor="end", size=10))
    return _svg(f"{title}: grey before, blue after", height, parts)


def matrix(title: str, names: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Counts by the value before (rows) and after (columns); off the diagonal is what moved."""
    side = 96
    moved = [n for i, row in enumerate(counts) for j, n in enumerate(row) if i != j]
    largest = max(1, *moved)
    parts: list[str] = []
    for i, name in enumerate(names):
        parts.append(_text(LEFT - 8, 70 + i * 40, f"{name} before", anchor="end"))
        parts.append(_text(LEFT + i * side + side / 2, 42, f"{name} after", anchor="middle"))
        for j, count in enumerate(counts[i]):
            x, y = LEFT + j * side, 50 + i * 40
            colour, share = ("#8a94a6", 0.25) if i == j else (_moved(i, j), 0.7 * count / largest)
            parts.append(
                f'<rect x="{x}" y="{y}" width="{side - 3}" height="37" fill="{colour}" '
                f'fill-opacity="{share:.2f}" stroke="#d0d7de"/>'
            )
            parts.append(_text(x + side / 2, y + 23, f"{count:,}", anchor="middle"))
    legend = f"{title}: orange is raised, blue lowered, grey stayed"
    return _svg(legend, 60 + len(names) * 40, parts)


def intervals(title: str, rows: Sequence[tuple[str, float, float, float]]) -> str:
    """A value a row with the bounds of what chance would make of it."""
    if not rows:
        return ""
    least, most = min(low for _, _, low, _ in rows), max(high for *_, high in rows)
    scale = (WIDTH - LEFT - 90) / max(most - least, 1e-9)
    parts: list[str] = []
    for i, (name, value, low, high) in enumerate(rows):
        y = 44 + i * ROW
        x, left, right = (LEFT + (each - least) * scale for each in (value, low, high))
        parts.append(_text(LEFT - 8, y + 4, name, anchor="end"))
        parts.append(
            f'<line x1="{left:.1f}" x2="{right:.1f}" y1="{y}" y2="{y}" stroke="{BEFORE}" '
            f'stroke-width="3"/><circle cx="{x:.1f}" cy="{y}" r="5" fill="{AFTER}"/>'
        )
        parts.append(_text(right + 8, y + 4, f"{value:.3f}", size=10))
    return _svg(title, 54 + len(rows) * ROW, parts)


def curves(
    title: str, across: str, series: Sequence[tuple[str, Sequence[tuple[float, float]]]]
) -> str:
    """Lines through points, named at the side; `across` says what goes from left to right."""
    points = [point for _, line in series for point in line]
    if not points:
        return ""
    height, top, bottom, right = 320, 40, 270, WIDTH - 190
    least_x, most_x = min(x for x, _ in points), max(x for x, _ in points)
    least_y, most_y = min(0.0, *(y for _, y in points)), max(y for _, y in points)
    scale_x = (right - 60) / max(most_x - least_x, 1e-9)
    scale_y = (bottom - top) / max(most_y - least_y, 1e-9)
    parts: list[str] = []
    for i, (name, line) in enumerate(series):
        colour, dashes = COLOURS[i % len(COLOURS)], DASHES[i // len(COLOURS) % len(DASHES)]
        path = " ".join(
            f"{60 + (x - least_x) * scale_x:.1f},{bottom - (y - least_y) * scale_y:.1f}"
            for x, y in line
        )
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{dashes}"><title>{escape(name)}</title></polyline>'
        )
        y = top + 10 + i * 18
        parts.append(
            f'<line x1="{right + 14}" x2="{right + 38}" y1="{y - 4}" y2="{y - 4}" '
            f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dashes}"/>'
        )
        parts.append(_text(right + 44, y, name, size=11))
    for x, told in ((60, least_x), (right, most_x)):
        parts.append(_text(x, bottom + 16, f"{told:,.4g}", anchor="middle", size=10))
    parts.append(_text((60 + right) / 2, bottom + 32, across, anchor="middle", size=11))
    for y, told in ((bottom, least_y), (top, most_y)):
        parts.append(_text(54, y + 4, f"{told:,.4g}", anchor="end", size=10))
    parts.append(
        f'<polyline points="60,{top} 60,{bottom} {right},{bottom}" fill="none" stroke="#d0d7de"/>'
    )
    return _svg(title, height, parts)


def _moved(before: int, after: int) -> str:
    return "#d9730d" if after > before else "#1f6feb"


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}" font-family="system-ui, sans-serif">'
        f"<title>{escape(title)}</title>{_text(0, 16, title, size=13)}{''.join(parts)}</svg>"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" '
        f'fill="currentColor">{escape(text)}</text>'
    )
