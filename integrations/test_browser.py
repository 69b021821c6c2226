"""Claims about reports in a real browser: they fetch nothing, run nothing foreign, and can be used, on a phone too."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from playwright.sync_api import Browser, Dialog, Page, sync_playwright

from experiments import compare, report
from experiments.training.page import write_training_report
from tests.support.small import SMALL

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or "chromium"
EVIL = "<img src=x onerror=alert(1)>"
DESKTOP, PHONE = (1280, 900), (390, 844)
TRAINING = {
    "algorithm": EVIL, "steps": 30, "status": "finished", "cases": ["small", EVIL], "cace_vs_lru": 0.95,
    "cace_by_case": {"small": 0.96, EVIL: 0.94}, "validation_seeds": [1_000_000, 1_000_009],
    "commands": ["python -m experiments.train"], "versions": {"cace-env": "1"}, "started": "2026-01-01T00:00:00",
}  # fmt: skip


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two environments, in which a policy and a model bear names that are markup."""
    home = tmp_path_factory.mktemp("compared")
    (home / "small.yaml").write_text(yaml.safe_dump(SMALL))
    policies = "lru,cace,cace-no-recency,gdsf,belady,ollama,agent:eviction,patient-wsjf+lru,agent:swap"
    asked = ["--env", "both", "--policies", policies, "--seeds", "10", "--scenarios", str(home / "small.yaml")]
    assert compare.main([*asked, "--out", str(home / "run")]) == 0
    for path in (home / "run").glob("*.[cj]s*"):
        text = path.read_text()
        for name in ("gdsf", "mellum-4b"):
            text = re.sub(rf"(?<![\w-]){name}(?![\w-])", f"{EVIL}{name}", text)
        path.write_text(text)
    assert report.main([str(home / "run")]) == 0
    return home / "run" / "report.html"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a training of three evaluations."""
    home = tmp_path_factory.mktemp("trained")
    (home / "run.json").write_text(json.dumps(TRAINING))
    (home / "config.yaml").write_text("env: eviction\n")
    columns = ["global_step", "requests", "is_best", "validation/cost_vs_lru", "validation/small", f"validation/{EVIL}"]
    rows = [[0, 100, 1, 1.2, 1.1, 1.3], [10, 200, 1, 0.9, 0.95, 0.85], [30, 400, 0, 0.93, 0.9, 0.96]]
    with (home / "metrics.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return write_training_report(home)


class Opened:
    """A page in the browser, with all that it said and asked for."""

    def __init__(self, browser: Browser, path: Path, size: tuple[int, int], scheme: Any) -> None:
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        self.page: Page = context.new_page()
        self.said: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.said.append(f"request: {request.url}"))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]")
        assert self.said.pop(0) == f"request: {path.as_uri()}"
        self.said = [line for line in self.said if line != "request: data:,"]  # the empty icon

    def _dismiss(self, dialog: Dialog) -> None:
        self.said.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def look_at_everything(self) -> None:
        """Opens what is folded, and brings each figure into view until it is drawn."""
        self.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        for figure in self.page.locator("figure.figure").all():
            figure.scroll_into_view_if_needed()
            figure.locator(".plot .main-svg").first.wait_for()

    def choose(self, figure: str, by: str, value: str) -> None:
        self.figure(figure).locator(f'select[data-by="{by}"]').select_option(value)

    def figure(self, name: str) -> Any:
        found = self.page.locator("figure.figure", has=self.page.locator("figcaption.name", has_text=name)).first
        found.scroll_into_view_if_needed()
        found.locator(".plot .main-svg").first.wait_for()
        return found

    def table(self, name: str) -> Any:
        title = self.page.locator("summary .name", has_text=re.compile(f"^{re.escape(name)}$"))
        return self.page.locator("details.table", has=title).first

    def close(self) -> None:
        self.page.context.close()


@pytest.fixture
def desktop(browser: Browser, compared: Path) -> Iterator[Opened]:
    opened = Opened(browser, compared, DESKTOP, "light")
    yield opened
    opened.close()


@pytest.mark.parametrize("which", ["compared", "trained"])
@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (DESKTOP, "dark"), (PHONE, "light"), (PHONE, "dark")])
def test_a_report_shows_all_it_has_without_errors_requests_or_scrolling_sideways(
    browser: Browser, which: str, size: tuple[int, int], scheme: str, request: pytest.FixtureRequest
):
    opened = Opened(browser, request.getfixturevalue(which), size, scheme)
    opened.look_at_everything()
    assert opened.said == []
    assert opened.page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert opened.page.locator("img").count() == 0
    opened.close()


def test_names_that_are_markup_are_shown_as_they_are(desktop: Opened):
    desktop.look_at_everything()
    assert f"{EVIL}gdsf" in desktop.page.locator("main").inner_text()
    ticks = desktop.figure("Cost saved against LRU").locator(".yaxislayer-above text").all_text_contents()
    assert f"{EVIL}gdsf" in ticks
    legend = desktop.figure("Who sat where").locator(".legendtext").all_text_contents()
    assert f"{EVIL}mellum-4b" in legend
    assert desktop.said == []


def test_the_page_could_not_fetch_anything_if_it_tried(desktop: Opened):
    tried = desktop.page.evaluate(
        "() => fetch('http://127.0.0.1:9/x').then(() => 'fetched', (error) => `refused: ${error.name}`)"
    )
    assert tried.startswith("refused")
    assert any("Content Security Policy" in line for line in desktop.said)


def test_a_filter_leaves_the_rows_that_fit_and_counts_them(desktop: Opened):
    table = desktop.table("All policies, all scenarios")
    everything = table.locator("tbody tr").count()
    table.locator("input").fill("belady")
    shown = table.locator("tbody tr:visible")
    assert 0 < shown.count() < everything and all("belady" in text for text in shown.all_inner_texts())
    assert table.locator(".count").inner_text() == f"{shown.count()} of {everything} rows"
    table.locator("input").fill("")
    table.locator('select[data-by="environment"]').select_option("Swap-v0")
    assert all("Swap-v0" in text for text in table.locator("tbody tr:visible").all_inner_texts())


def test_selectors_of_one_name_move_together(desktop: Opened):
    desktop.choose("Cost saved against LRU", "scenario", "small-swap")
    assert desktop.figure("Who sat where").locator('select[data-by="scenario"]').input_value() == "small-swap"
    table = desktop.table("All policies, all scenarios")
    assert all("small-swap" in text for text in table.locator("tbody tr:visible").all_inner_texts())
    ticks = desktop.figure("Cost saved against LRU").locator(".yaxislayer-above text").all_text_contents()
    assert "agent:swap" in ticks and "agent:eviction" not in ticks


def test_a_click_on_a_column_sorts_by_it(desktop: Opened):
    table = desktop.table("All policies, all scenarios")
    header = table.locator("th").all_inner_texts()
    at = header.index("evictions")
    for direction in ("descending", "ascending"):
        table.locator("th button").nth(at).click()
        assert table.locator("th").nth(at).get_attribute("aria-sort") == direction
        cells = table.locator(f"tbody tr td:nth-child({at + 1})").all_inner_texts()
        values = [float(cell.replace(",", "")) for cell in cells if cell != "-"]
        assert values == sorted(values, reverse=direction == "descending")


def test_every_table_can_be_taken_away_as_csv(desktop: Opened):
    for table in desktop.page.locator("details.table").all():
        table.evaluate("(one) => { one.open = true; }")
        with desktop.page.expect_download() as download:
            table.locator(".csv").click()
        assert download.value.suggested_filename.endswith(".csv")
        rows = list(csv.reader(io.StringIO(Path(download.value.path()).read_text("utf-8"))))
        assert rows[0] == [text.strip() for text in table.locator("th button").all_inner_texts()]
        assert len(rows) - 1 == table.locator("tbody tr").count()


def test_a_bar_says_who_waited_for_a_model_and_for_whom_it_left(desktop: Opened):
    desktop.choose("Who sat where", "scenario", "small")
    figure = desktop.figure("Who sat where")
    middles = """(plot) => { const shown = plot.querySelector('.nsewdrag').getBoundingClientRect();
        return [...plot.querySelectorAll('.barlayer .point path')].map((bar) => bar.getBoundingClientRect())
        .filter((box) => box.width > 20 && box.left > shown.left && box.right < shown.right && box.top > 0)
        .map((box) => [box.x + box.width / 2, box.y + box.height / 2]); }"""
    said = []
    for x, y in figure.locator(".plot").evaluate(middles)[:40]:
        desktop.page.mouse.move(x, y)
        desktop.page.wait_for_timeout(100)  # labels follow the mouse a little later
        said += figure.locator(".hoverlayer .hovertext").all_text_contents()
    assert any(
        re.search(r"loaded for \d+ requests?, .*waited .* s.*leaves for .+, unused for", text) for text in said
    ), said


def test_dragging_over_a_timeline_zooms(desktop: Opened):
    figure = desktop.figure("Who sat where")
    read = "(plot) => plot.layout.xaxis.range.map(Number)"
    before = figure.locator(".plot").evaluate(read)
    box = figure.locator(".plot .nsewdrag").first.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    desktop.page.mouse.move(box["x"] + box["width"] * 0.4, y)
    desktop.page.mouse.down()
    desktop.page.mouse.move(box["x"] + box["width"] * 0.6, y, steps=5)
    desktop.page.mouse.up()
    low, high = figure.locator(".plot").evaluate(read)
    assert before[0] < low < high < before[1]


def test_the_buttons_of_a_figure_have_no_box_and_come_with_the_pointer(desktop: Opened):
    figure = desktop.figure("Who sat where")
    group = figure.locator(".modebar-group").first
    shown = "(group) => [getComputedStyle(group).opacity, getComputedStyle(group).backgroundColor]"
    desktop.page.mouse.move(1, 1)
    desktop.page.wait_for_timeout(500)
    assert group.evaluate(shown) == ["0", "rgba(0, 0, 0, 0)"]
    figure.locator(".plot").hover()
    desktop.page.wait_for_timeout(500)
    assert group.evaluate(shown) == ["1", "rgba(0, 0, 0, 0)"]


def test_a_phone_shows_no_buttons_over_a_figure(browser: Browser, compared: Path):
    opened = Opened(browser, compared, PHONE, "light")
    assert opened.figure("Who sat where").locator(".modebar-group").count() == 0
    opened.close()


def test_light_and_dark_follow_the_reader_and_the_switch(browser: Browser, compared: Path):
    opened = Opened(browser, compared, DESKTOP, "dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    line = opened.figure("Time to first token").locator(".legendtext").first
    dark, text = opened.page.evaluate(paper), line.evaluate("(one) => getComputedStyle(one).fill")
    opened.page.locator("#scheme").click()
    line = opened.figure("Time to first token").locator(".legendtext").first
    assert opened.page.evaluate(paper) == "rgb(255, 255, 255)" != dark
    assert line.evaluate("(one) => getComputedStyle(one).fill") != text
    opened.close()
