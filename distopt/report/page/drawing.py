"""Networks as inline SVG, with their figures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from distopt.errors import printable
from distopt.report.network import Portrait, arrowheads, layout

SIDE, MARGIN, MOST = 320, 16, 3000
"""The side and the margin of a drawing, and the links at most in it."""


@dataclass(frozen=True)
class Drawing:
    """A network: what it is called, its picture, and its figures by name."""

    title: str
    svg: Markup
    rows: dict[str, str]
    notes: tuple[str, ...]


def drawing(portrait: Portrait, title: str, weights: str) -> Drawing:
    """The drawing of a network. Rare links are pale; arcs have heads."""
    where = layout(portrait)
    low, high = where.min(0), where.max(0)
    size = max(float((high - low).max()), 1e-9)
    room = SIDE - 2 * MARGIN
    at = MARGIN + (where - (low + high) / 2) / size * room + room / 2
    at[:, 1] = SIDE - at[:, 1]
    links, presence, notes = portrait.links, portrait.presence, list(portrait.notes)
    if len(links) > MOST:
        keep = np.sort(np.random.default_rng(0).choice(len(links), MOST, replace=False))
        notes.append(f"{MOST:,} of {len(links):,} links are drawn.")
        links, presence = links[keep], presence[keep]
    parts = [f'<svg class="network" viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="Drawing of the network">']
    ink = float(np.clip(14 / np.sqrt(max(len(links), 1)), 0.1, 0.9))
    for strength in np.unique(presence.round(1)):
        lines = at[links[presence.round(1) == strength]]
        path = "".join(f"M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}" for a, b in lines)
        parts.append(f'<path class="links" opacity="{ink * max(0.15, float(strength)):.2f}" d="{path}"/>')
    if portrait.arcs is not None and len(portrait.links) <= MOST:
        heads = "".join(
            f"M{a[0]:.1f} {a[1]:.1f}L{b[0]:.1f} {b[1]:.1f}L{c[0]:.1f} {c[1]:.1f}Z"
            for a, b, c in arrowheads(at, portrait.arcs)
        )
        parts.append(f'<path class="heads" opacity="{ink:.2f}" d="{heads}"/>')
    radius = float(np.clip(60 / np.sqrt(portrait.agents), 1.5, 11))
    marks = portrait.marks()
    inside = max(map(len, marks)) <= 2
    for i, (mark, (x, y)) in enumerate(zip(marks, at, strict=True)):
        called = f"agent {i}" if portrait.names is None else escape(printable(portrait.names[i]))
        parts.append(
            f'<circle class="agent" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{called}</title></circle>'
        )
        if radius > 9:
            kind, low = ("id", y) if inside else ("name", y + radius + 7)
            parts.append(f'<text class="{kind}" x="{x:.1f}" y="{low:.1f}">{escape(mark)}</text>')
    svg = Markup("".join([*parts, "</svg>"]))  # made of numbers, and of escaped names
    return Drawing(title, svg, portrait.rows(weights), tuple(notes))
