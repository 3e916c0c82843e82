"""The report of a run as one HTML file that needs no network: markup, styles, scripts, the data and
Plotly, all inside."""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

PARTS = Path(__file__).with_name("page")
SCRIPTS = ("text.js", "figures.js", "page.js")


def report_html(content: Mapping[str, Any]) -> str:
    """The page for what `search.reporting.report.collect` returns.

    Data and library are gzip in base64, so that no text of a run can end a script, and the
    library's 5 MB weigh 2.
    """
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    script = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    page = (PARTS / "page.html").read_text(encoding="utf-8")
    title = f"<title>{html.escape(str(content['run']['name']))}</title>"
    page = page.replace("<title>qdlm report</title>", title)
    for mark, text in (("STYLE", (PARTS / "page.css").read_text(encoding="utf-8")), ("SCRIPT", script),
                       ("LIBRARY", _library()), ("DATA", _packed(data))):
        page = page.replace(f"/*{mark}*/", text, 1)
    return page


def write_report(content: Mapping[str, Any], out: Path) -> Path:
    """Write the page; returns `out`. A reader never sees half of it."""
    aside = out.with_name(f".{out.name}.partial")
    aside.write_text(report_html(content), encoding="utf-8")
    aside.replace(out)
    return out


@cache
def _library() -> str:
    return _packed(get_plotlyjs().encode())


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")
