"""Claims about the HTML of reports: one file, nothing from elsewhere, and no text that becomes markup or a script."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("plotly", reason="needs the extra experiments")

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from experiments.reports.page import Figure, Page, Section, Table, figure_json, marked, plotly_script, write_page

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'`&amp;{{ 7 * 7 }}\x1b[31m\u202e\ud800"


class Elements(HTMLParser):
    """Every start tag of a page, and the text inside scripts and elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: list[str] = []
        self._in_script = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        (self.scripts if self._in_script else self.texts).append(data)


def evil_page(name: str) -> Page:
    """A page that says `name` wherever a page can say something."""
    trace = {"type": "scatter", "x": [name, "b"], "y": [1, 2], "name": name, "text": [name, name], "customdata": [name]}
    trace |= {"hovertemplate": f"<b>%{{x}}</b>{name}<extra></extra>"}
    figure = {"data": [trace], "layout": {"title": {"text": name}, "annotations": [{"text": name}]}}
    table = Table(name, [name, "b"], [[name, 1.5], ["x", None]], note=name, filters=[name])
    choices = Figure(name, {(name, "a"): figure, ("b", name): figure}, name, by=(name, "policy"))
    inner = Section(name, [f"```\n{name}\n```"], folded=True)
    return Page(
        name, name, [name], [Section(name, [name], [table], [Figure(name, figure, name), choices], [inner])], name
    )


def written(page: Page, folder: Path) -> Elements:
    return Elements(write_page(page, folder / "page.html").read_text("utf-8"))


def test_no_text_becomes_markup_or_a_script(tmp_path: Path):
    harmless, evil = (written(evil_page(name), tmp_path) for name in ("a long name " * 12, EVIL))
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(attributes) for _, attributes in evil.tags] == [
        sorted(attributes) for _, attributes in harmless.tags
    ]
    assert "<img src=x onerror=alert(1)>" in "".join(evil.texts)  # to be read, as text
    assert "{{ 7 * 7 }}" in "".join(evil.texts) and "\x1b" not in "".join([*evil.texts, *evil.scripts])


def test_the_page_lets_only_its_own_scripts_run_and_nothing_be_fetched(tmp_path: Path):
    page = written(evil_page("a name"), tmp_path)
    policy = next(a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy and "connect-src" not in policy and "http" not in policy
    assert "unsafe" not in policy.partition("script-src")[2].partition(";")[0]
    scripts = [script for script in page.scripts if script.strip() and not script.lstrip().startswith("{")]
    assert len(scripts) == 2
    for script in scripts:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" in policy
    addresses = [a[key] for _, a in page.tags for key in ("src", "href", "action", "srcset") if key in a]
    assert all(address is not None and address.startswith(("#", "data:")) for address in addresses)


def test_the_data_of_a_figure_is_json_that_cannot_end_its_script():
    text = figure_json({"data": [{"name": EVIL}], "layout": {"template": {"layout": {}}, "height": 300}})
    assert not set("<>&") & set(text)
    figure: dict[str, Any] = json.loads(text)
    assert figure["layout"] == {"height": 300}
    shown = figure["data"][0]["name"]
    assert "<" not in shown and "&lt;img" in shown and "\\x1b[31m\\u202e\\ud800" in shown


def test_markup_in_a_figure_is_text_but_for_four_words_in_templates_of_hover_labels():
    said = "<b>%{x}</b><br><i>y</i><a href='x'>z</a><extra></extra>"
    figure = json.loads(figure_json({"data": [{"hovertemplate": said, "text": "<b>one</b>\ntwo"}]}))
    assert figure["data"][0]["hovertemplate"] == "<b>%{x}</b><br><i>y</i>&lt;a href='x'&gt;z&lt;/a&gt;<extra></extra>"
    assert figure["data"][0]["text"] == "&lt;b&gt;one&lt;/b&gt;<br>two"


def test_numbers_of_figures_are_rounded_and_what_is_none_is_null():
    values = np.array([0.1234567891, 1.0, np.nan, np.inf, 1_700_000_000_123.4])
    times = np.array(["2026-01-02T03:04:05"], dtype="datetime64[us]")
    figure = json.loads(figure_json(go.Figure(go.Scatter(x=values, y=times))))
    assert figure["data"][0]["x"] == [0.1234568, 1, None, None, 1_700_000_000_123]
    assert figure["data"][0]["y"] == ["2026-01-02T03:04:05.000"]


def test_a_text_knows_paragraphs_lists_code_and_bold_and_nothing_else():
    text = marked("One **two** `a<b`\n\n- first\n- second *x*\n\n<i>three</i>")
    assert text.replace("\n", "") == (
        "<p>One <strong>two</strong> <code>a&lt;b</code></p>"
        "<ul><li>first</li><li>second *x*</li></ul><p>&lt;i&gt;three&lt;/i&gt;</p>"
    )
    assert marked("```\npython -m x **y** <z>\n```") == "<pre>python -m x **y** &lt;z&gt;</pre>"


def test_cells_are_rounded_on_the_page_and_whole_for_the_csv(tmp_path: Path):
    table = Table("costs", ["policy", "cost", "saved"], [["lru", 1234.5678, "-"], ["cace", 0.123456, "**+1.2 %**"]])
    text = write_page(Page("p", "h", sections=[Section("s", tables=[table])]), tmp_path / "p.html").read_text("utf-8")
    assert '<td class="right" data-value="1234.5678">1,235</td>' in text
    assert '<td class="right" data-value="0.123456">0.123</td>' in text
    assert '<td class="right"><strong>+1.2 %</strong></td>' in text
    assert re.search(r'data-name="costs"', text)


def test_plotly_is_changed_by_the_brackets_alone_that_let_it_be_parsed_once():
    ours, theirs = plotly_script(), get_plotlyjs()
    assert ours.count("self : this, (() => {") == 1 and ours.endswith("})));\n")
    assert ours.replace("self : this, (() => {", "self : this, () => {")[: -len("})));\n")] == theirs.rstrip()[:-4]


def test_a_row_that_does_not_fit_its_header_is_refused():
    with pytest.raises(ValueError, match="costs: a row of 1 cells under a header of 2"):
        Table("costs", ["policy", "cost"], [["lru"]])
    with pytest.raises(ValueError, match="no columns"):
        Table("costs", ["policy"], [["lru"]], filters=["scenario"])
