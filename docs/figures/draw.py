"""Draw the figures of the documentation: ``python docs/figures/draw.py`` rewrites the SVG files beside this script."""

from __future__ import annotations

from html import escape
from pathlib import Path

BOX_WIDTH, BOX_HEIGHT, GAP = 88, 34, 20
STEP = BOX_WIDTH + GAP
INK, PAPER, STAGE, DATA, FRAME = "#22303c", "#ffffff", "#e3eefb", "#fdf1d8", "#c3ced8"
STYLE = (
    f"text {{ font: 12.5px system-ui, sans-serif; fill: {INK}; }} .title {{ font-weight: 600; font-size: 14px; }}"
    f" .note {{ font-size: 11.5px; fill: #5a6b7a; }} path {{ stroke: {INK}; fill: none; marker-end: url(#tip); }}"
)
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
    f'<path d="M0 0L8 4L0 8z" style="fill:{INK};stroke:none;marker-end:none"/></marker>'
)


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>'


def box(column: float, y: float, words: str, colour: str = STAGE) -> str:
    """Draw one stage or product in a column of the grid."""
    x = 24 + column * STEP
    rectangle = (
        f'<rect x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" fill="{colour}" stroke="{FRAME}"/>'
    )
    lines = words.split("\n")
    middle = x + BOX_WIDTH / 2
    first = y + BOX_HEIGHT / 2 + 4.5 - 7 * (len(lines) - 1)
    return rectangle + "".join(text(middle, first + 14 * n, line, anchor="middle") for n, line in enumerate(lines))


def middle(column: float) -> float:
    return 24 + column * STEP + BOX_WIDTH / 2


def path(x: float, y: float, way: str) -> str:
    return f'<path d="M{x:g} {y:g}{way}"/>'


def along(column: float, y: float) -> str:
    """Draw the arrow from one column to the next."""
    return path(middle(column) + BOX_WIDTH / 2 + 2, y + BOX_HEIGHT / 2, f"h{GAP - 4}")


def rise(column: float, y: float, to_y: float) -> str:
    """Draw an arrow straight up to the lower edge of a box."""
    return path(middle(column), y - 2, f"V{to_y + BOX_HEIGHT + 2:g}")


def chain(y: float, names: list[str]) -> str:
    """Draw boxes in a row, joined by arrows; a name that starts with '=' is data."""
    boxes = [box(n, y, name.lstrip("="), DATA if name.startswith("=") else STAGE) for n, name in enumerate(names)]
    return "".join(boxes) + "".join(along(n, y) for n in range(len(names) - 1))


def panel(y: float, height: float, width: float, title: str, note: str) -> str:
    frame = f'<rect x="8" y="{y:g}" width="{width - 16:g}" height="{height:g}" rx="10" fill="none" stroke="{FRAME}"/>'
    return frame + text(24, y + 24, title, "title") + text(width - 24, y + 24, note, "note", "end")


def drawing(width: float, height: float, title: str, parts: list[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">'
        f"<title>{escape(title)}</title><defs><style>{STYLE}</style>{TIP}</defs>"
        f'<rect width="{width:g}" height="{height:g}" rx="12" fill="{PAPER}"/>' + "\n".join(["", *parts, "</svg>", ""])
    )


def flows() -> str:
    """Draw the exposure flow, the tile flow and the survey flow."""
    width = 24 * 2 + 9 * STEP - GAP
    exposure = [
        "=raw\nexposure",
        "split",
        "references",
        "dq_init",
        "mask",
        "detect",
        "stars",
        "psf_fit",
        "psf_validate",
    ]
    lower, branch = 198 + BOX_HEIGHT + 2, 252 + BOX_HEIGHT / 2
    tile = ["find_\nexposures", "coadd", "mask", "detect", "epochs", "psf_interp", "stamps", "shapes", "catalog"]
    parts = [
        panel(8, 140, width, "Exposure flow", "every CCD by itself: a bad CCD fails alone"),
        chain(46, exposure),
        box(2, 100, "headers"),
        box(3, 100, "WCS index", DATA),
        along(2, 100),
        path(middle(1), 46 + BOX_HEIGHT + 2, f"V{100 + BOX_HEIGHT / 2:g}h{STEP - BOX_WIDTH / 2 - 2:g}"),
        panel(160, 140, width, "Tile flow", "every tile when the exposures it needs are done"),
        chain(198, tile),
        box(0, 252, "WCS index", DATA),
        rise(0, 252, 198),
        box(1, 252, "CCD images", DATA),
        rise(1, 252, 198),
        box(5, 252, "PSF models", DATA),
        rise(5, 252, 198),
        box(7, 252, "spread_model"),
        path(middle(5) + 34, lower, f"v10H{middle(7) - 56:g}V{branch:g}h10"),
        path(middle(7) + BOX_WIDTH / 2 + 2, branch, f"H{middle(8):g}V{lower:g}"),
        panel(312, 92, width, "Survey flow", "duplicates resolved, the mean shear with its error"),
        chain(350, ["=tile\ncatalogues", "merge", "=survey\ncatalogue", "mean_shear", "report", "=report.html"]),
    ]
    return drawing(width, 412, "The exposure flow, the tile flow and the survey flow of Shearline", parts)


def layers() -> str:
    """Draw who may import whom."""
    width, left = 620, 24

    def bar(y: float, x: float, wide: float, name: str, words: str, colour: str = STAGE) -> str:
        frame = f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="40" rx="6" fill="{colour}" stroke="{FRAME}"/>'
        return frame + text(x + 12, y + 25, name, "title") + text(x + wide - 12, y + 25, words, "note", "end")

    inside, half = width - 2 * left - 24, (width - 2 * left - 36) / 2
    parts = [
        bar(12, left, width - 2 * left, "deployments", "when and where"),
        bar(66, left, width - 2 * left, "flows", "how stages are wired; the command line"),
        f'<rect x="{left}" y="120" width="{width - 2 * left}" height="300" rx="6" fill="none" stroke="{FRAME}"/>',
        text(left + 12, 142, "tasks", "title"),
        bar(152, left + 12, inside, "mask.py, detect.py, …", "one file per stage", DATA),
        bar(206, left + 12, inside, "stage.py", "what makes a function a stage: reuse, retries, events", DATA),
        bar(260, left + 12, half, "records.py", "what is done already", DATA),
        bar(260, left + 24 + half, half, "session.py", "worker processes", DATA),
        bar(314, left + 12, half, "archive", "bytes", DATA),
        bar(314, left + 24 + half, half, "science", "arrays", DATA),
        bar(368, left + 12, half, "products", "what exists", DATA),
        bar(368, left + 24 + half, half, "errors", "what to do next", DATA),
        bar(434, left, width - 2 * left, "blocks", "the store, the CRDS cache: bytes and names only"),
        *(f'<path d="M{width / 2:g} {y:g}v10"/>' for y in (54, 108, 194, 248, 302, 356, 422)),
    ]
    return drawing(width, 486, "The layers of Shearline: arrows only point down", parts)


if __name__ == "__main__":
    here = Path(__file__).parent
    (here / "flows.svg").write_text(flows(), encoding="utf-8")
    (here / "layers.svg").write_text(layers(), encoding="utf-8")
