"""Reports as self-contained HTML pages: figures inside, no scripts, nothing loaded from anywhere."""

from __future__ import annotations

import base64
from html import escape

from blocks.store import DataStore
from tasks.archive.fits_files import put_bytes
from tasks.products.identity import ProductRef, SummaryValue
from tasks.products.report import ReportContent, ReportFigure, ReportTable

STYLE = """
:root { --ink: #23272f; --soft: #5c6470; --line: #dfe3e8; --card: #ffffff; --page: #f5f6f8; --accent: #2f5d8a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 25px; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 0 0 10px; color: var(--accent); }
p { margin: 6px 0; max-width: 75ch; }
.note { color: var(--soft); font-size: 13.5px; }
.headline { display: flex; flex-wrap: wrap; gap: 12px; margin: 18px 0; }
.number { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 16px; }
.number b { display: block; font-size: 19px; font-variant-numeric: tabular-nums; }
.number span { color: var(--soft); font-size: 13px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 16px 18px;
  margin: 14px 0; overflow-x: auto; }
img { max-width: 100%; height: auto; display: block; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th { text-align: left; border-bottom: 2px solid var(--line); padding: 4px 14px 4px 0; font-weight: 600; }
td { border-bottom: 1px solid var(--line); padding: 4px 14px 4px 0; vertical-align: top; }
td.n, th.n { text-align: right; }
@media print { body { background: none; } section { break-inside: avoid; } }
"""
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render_report(content: ReportContent) -> str:
    """Return a report as one HTML page.

    Every word of the content is escaped: names come from file headers. The page forbids scripts and loading by its
    own content-security policy.

    Parameters
    ----------
    content
        What the report says.

    Returns
    -------
    str
        The page; the same content gives the same page.
    """
    title = escape(content.title)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>{STYLE}</style></head>",
        f"<body><main><h1>{title}</h1>",
    ]
    if content.headline:
        numbers = "".join(
            f'<div class="number"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
            for name, value in content.headline
        )
        parts.append(f'<div class="headline">{numbers}</div>')
    parts += [f"<p>{escape(note)}</p>" for note in content.notes]
    parts += [_table(table) for table in content.tables]
    parts += [_figure(figure) for figure in content.figures]
    parts.append("</main></body></html>")
    return "\n".join(parts) + "\n"


def _table(table: ReportTable) -> str:
    numeric = [
        bool(table.rows) and all(_is_number(row[place]) for row in table.rows if place < len(row))
        for place in range(len(table.columns))
    ]
    head = "".join(
        f'<th class="n">{escape(name)}</th>' if right else f"<th>{escape(name)}</th>"
        for name, right in zip(table.columns, numeric, strict=True)
    )
    body = "\n".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in table.rows)
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>" if table.rows else ""
    return f"<section><h2>{escape(table.title)}</h2>{grid}{_note(table.note)}</section>"


def _is_number(value: SummaryValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: SummaryValue) -> str:
    if isinstance(value, bool):
        return f"<td>{'yes' if value else 'no'}</td>"
    if isinstance(value, float):
        return f'<td class="n">{value:.4g}</td>'
    if isinstance(value, int):
        return f'<td class="n">{value}</td>'
    return f"<td>{escape(value)}</td>"


def _figure(figure: ReportFigure) -> str:
    data = base64.b64encode(figure.png).decode("ascii")
    return (
        f"<section><h2>{escape(figure.title)}</h2>"
        f'<img alt="{escape(figure.title)}" src="data:image/png;base64,{data}">{_note(figure.note)}</section>'
    )


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>' if text else ""


def write_report(
    store: DataStore,
    key: str,
    content: ReportContent,
    *,
    subject: object,
    summary: dict[str, SummaryValue] | None = None,
) -> ProductRef:
    """Publish a report as an HTML page."""
    return put_bytes(store, key, render_report(content).encode(), subject=subject, summary=summary)
