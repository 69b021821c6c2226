"""Reads the HTML of a report as a person would: its text, its warnings, its tables, what its figures hold."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any


def said(markup: str) -> str:
    """Markup as text, with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", markup)).split())


class Report:
    """A page of `experiments.reports.page`.

    Args:
        folder: with report.html.
    """

    def __init__(self, folder: Path) -> None:
        self.html = (folder / "report.html").read_text("utf-8")
        self._body = re.sub(r"<(script|style)\b.*?</\1>", "", self.html, flags=re.DOTALL)
        self.text = said(self._body)

    @property
    def headline(self) -> str:
        """The recommendation."""
        (found,) = re.findall(r'<div class="headline">(.*?)</div>', self._body, re.DOTALL)
        return said(found)

    @property
    def boxes(self) -> list[str]:
        """Warnings."""
        return [said(box) for box in re.findall(r'<div class="box" role="note">(.*?)</div>', self._body, re.DOTALL)]

    @property
    def titles(self) -> list[str]:
        """Of all sections."""
        return [said(title) for title in re.findall(r"<h[2-6]>(.*?)</h[2-6]>", self._body)]

    def table(self, name: str) -> list[dict[str, str]]:
        """The rows of a table, cells as they are shown, by column."""
        inside = re.findall(
            r'<details class="table"[^>]*data-name="([^"]*)"[^>]*>(.*?)</details>', self._body, re.DOTALL
        )
        (found,) = [table for title, table in inside if html.unescape(title) == name]
        header = [said(cell) for cell in re.findall(r"<th .*?</th>", found, re.DOTALL)]
        rows = re.findall(r"<tr><td.*?</tr>", found, re.DOTALL)
        cells = [[said(cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows]
        return [dict(zip(header, row, strict=True)) for row in cells]

    @property
    def figures(self) -> dict[str, dict[tuple[str, ...], Any]]:
        """What Plotly gets, by the name of the figure and what is chosen."""
        found = {}
        for figure in re.findall(r'<figure class="figure">.*?</figure>', self.html, re.DOTALL):
            (name,) = re.findall(r'<figcaption class="name">(.*?)</figcaption>', figure)
            data = re.findall(r'<script type="application/json" data-key="([^"]*)">(.*?)</script>', figure, re.DOTALL)
            found[said(name)] = {tuple(json.loads(html.unescape(key))): json.loads(text) for key, text in data}
        return found
