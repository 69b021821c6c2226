"""A report as one HTML file that needs no network: what a page consists of, and how it is written.

A command says what is on its page as plain text, tables and Plotly figures; `write_page` does the rest: escaping,
downloads as CSV, filters, light and dark, a phone's width. Nothing that comes from data can become markup or a script:
templates escape it, figures hold plain text, and the page's own policy (Content-Security-Policy) lets no script run
but those of `templates/`, and nothing be fetched.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from cace_env.config import printable
from cace_env.files import replace_file
from experiments.reading.markdown import number

# Colours that follow the reader's scheme: text, background, and what is less than both. Others have to suit both.
INK: Final = "@ink"
PAPER: Final = "@paper"
MUTED: Final = "@muted"
TEMPLATES: Final = Path(__file__).with_name("templates")
DEFAULT_HEIGHT: Final = 380  # of a figure [px]
LONG: Final = 12  # rows of a table, from which on there is a box to filter by
LONG_CELL: Final = 60  # letters, from which on a cell has several lines
LONG_HEADER: Final = 26  # the same of a header
MOST_DIGITS: Final = 7  # of numbers in figures
MARKUP_IN_HOVER: Final = re.compile(r"&lt;(/?(?:b|i|extra)|br)&gt;")
STRONG: Final = re.compile(r"\*\*([^*]+)\*\*")
CODE: Final = re.compile(r"`([^`]+)`")

Cell = str | int | float | None  # numbers are rounded on the page and whole in the CSV; None is "-"


@dataclass(frozen=True)
class Table:
    """A table, which the reader can sort, filter and take away as CSV.

    Attributes:
        name: stands above it, and names the CSV.
        header: one cell per column.
        rows: cells, as many as `header` has; text all in `**...**` is bold.
        note: stands below it.
        filters: columns with a selector of their values; selectors of one name move together over the whole page.
        folded: whether it is closed at first.
    """

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    filters: Sequence[str] = ()
    folded: bool = False

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{self.name}: a row of {len(row)} cells under a header of {len(self.header)}")
        unknown = set(self.filters) - set(self.header)
        if unknown:
            raise ValueError(f"{self.name}: filters {sorted(unknown)} are no columns")


@dataclass(frozen=True)
class Figure:
    """An interactive figure, drawn when it comes into view.

    Attributes:
        name: stands above it.
        figure: of Plotly, or a mapping with `data` and `layout` (quicker to build). Every text in it is plain: markup
            is shown as typed, and a line feed breaks the line. Only `hovertemplate` and `texttemplate` may hold `<b>`,
            `<i>`, `<br>` and `<extra>`. Its template is left out: fonts, grid and background are the page's. With `by`
            several figures by key, of which one is shown.
        caption: stands below it.
        by: what the keys of `figure` say, each with a selector; selectors of one name move together over the whole
            page. One name: keys are strings; several: tuples of strings.
    """

    name: str
    figure: Any
    caption: str = ""
    by: Sequence[str] = ()

    @property
    def shown(self) -> dict[tuple[str, ...], Any]:
        """The figures by key; the key of a figure alone is empty."""
        if not self.by:
            return {(): self.figure}
        return {(key,) if isinstance(key, str) else tuple(key): figure for key, figure in self.figure.items()}


@dataclass(frozen=True)
class Section:
    """A part of a page: texts, then figures, then tables, then further parts.

    Attributes:
        title: also in the list of contents, if the section is not inside another one.
        texts: paragraphs. A line that begins with `- ` is an item of a list, a text that begins with three backticks is
            shown as typed, `**...**` is bold and `` `...` `` is code; nothing else has a meaning.
        tables: below the figures.
        figures: below the texts.
        sections: inside this one.
        folded: whether it is closed at first.
    """

    title: str
    texts: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    sections: Sequence[Section] = ()
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: of the page.
        headline: the recommendation, in one sentence.
        boxes: warnings that cannot be overlooked, as texts of a `Section`.
        sections: in the order in which they are read; teaching, command and versions come last.
        subtitle: what was run, when, with what.
    """

    title: str
    headline: str
    boxes: Sequence[str] = ()
    sections: Sequence[Section] = ()
    subtitle: str = ""


def plot(data: Sequence[Mapping[str, Any]], x: str = "", y: str = "", **layout: Any) -> dict[str, Any]:
    """A figure as a mapping, with titles at its axes.

    Args:
        data: traces of Plotly.
        x: title of the x axis; none where it is empty. More of the axis stands in `xaxis`.
        y: the same of the y axis.
        **layout: of Plotly.
    """
    for axis, title in (("xaxis", x), ("yaxis", y)):
        if title:
            layout[axis] = {"title": {"text": title}, **layout.get(axis, {})}
    return {"data": data, "layout": layout}


def write_page(page: Page, path: Path) -> Path:
    """Writes a page as one file of HTML; a reader finds the old or the new one, whole.

    Args:
        page: what is on it.
        path: of the file; its folder has to be there.

    Returns:
        `path`.
    """
    plotly, ours = plotly_script(), (TEMPLATES / "page.js").read_text("utf-8")
    template = _environment().get_template("page.html.j2")
    numbers = count(1)
    text = template.render(
        page=page,
        style=Markup((TEMPLATES / "page.css").read_text("utf-8")),
        scripts=[Markup(script) for script in (plotly, ours)],
        allowed=" ".join(f"'sha256-{_hash(script)}'" for script in (plotly, ours)),
        next_number=lambda: next(numbers),
    )
    replace_file(path, text)
    return path


@cache
def plotly_script() -> str:
    """plotly.js with its one large function in brackets, if it is there as we know it.

    Browsers parse a function twice that they call later, and one in brackets once: a third of a second less for five
    megabytes.
    """
    text, begin, end = get_plotlyjs(), "self : this, () => {", "}));"
    if text.count(begin) != 1 or not text.rstrip().endswith(end):
        return text
    return text.rstrip().removesuffix(end).replace(begin, begin.replace("()", "(()")) + "})));\n"


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "marked": marked,
        "inline": _inline,
        "figure_json": figure_json,
        "height": _height,
        "names": lambda key: json.dumps([printable(name) for name in key]),
        "cell": cell_text,
    }
    environment.globals |= {
        "numeric": numeric_columns,
        "values_of": _values_of,
        "LONG": LONG,
        "LONG_CELL": LONG_CELL,
        "LONG_HEADER": LONG_HEADER,
    }
    return environment


def marked(text: str) -> Markup:
    """A text of a `Section` as HTML; whatever is not among its few signs is escaped."""
    if text.startswith("```"):
        inside = text.removeprefix("```").removesuffix("```").strip("\n")
        return Markup("<pre>{}</pre>").format(printable(inside))
    parts: list[Markup] = []
    for block in re.split(r"\n\s*\n|\n(?=- )", text.strip()):
        if block.startswith("- "):
            item = Markup("<li>{}</li>").format(_inline(block[2:]))
            if parts and parts[-1].endswith("</ul>"):
                parts[-1] = Markup(parts[-1].removesuffix("</ul>")) + item + Markup("</ul>")
            else:
                parts.append(Markup("<ul>{}</ul>").format(item))
        else:
            parts.append(Markup("<p>{}</p>").format(_inline(block)))
    return Markup("\n").join(parts)


def _inline(text: str) -> Markup:
    """Escaped text with code and bold; there may be code in what is bold."""
    strong = STRONG.split(printable(text))  # every second part is bold
    return Markup("").join(
        Markup("<strong>{}</strong>").format(_coded(part)) if at % 2 else _coded(part) for at, part in enumerate(strong)
    )


def _coded(text: str) -> Markup:
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else Markup("{}").format(part)
        for at, part in enumerate(CODE.split(text))
    )


def cell_text(cell: Cell) -> Markup:
    """A cell as it is shown."""
    if cell is None or cell != cell:
        return Markup("-")
    if isinstance(cell, int):
        return Markup(f"{cell:,}")
    if isinstance(cell, float):
        return Markup(number(cell))
    if len(cell) > 4 and cell.startswith("**") and cell.endswith("**"):
        return Markup("<strong>{}</strong>").format(printable(cell[2:-2]))
    return Markup("{}").format(printable(cell))


def numeric_columns(table: Table) -> list[bool]:
    """Whether each column holds numbers, which stand to the right."""
    return [all(_is_number(row[at]) for row in table.rows) and bool(table.rows) for at in range(len(table.header))]


def _is_number(cell: Cell) -> bool:
    return not isinstance(cell, str) or re.match(r"(\*\*)?[+-]?\d|-?$", cell) is not None


def _values_of(table: Table, column: str) -> list[str]:
    """What stands in a column, each once."""
    at = list(table.header).index(column)
    return list(dict.fromkeys(str(row[at]) for row in table.rows))


def figure_json(figure: Any) -> Markup:
    """A figure as JSON that may stand inside a script element: no text in it can end the element or be markup."""
    parts = figure if isinstance(figure, Mapping) else figure.to_plotly_json()
    layout = {key: value for key, value in parts.get("layout", {}).items() if key != "template"}
    text = json.dumps({"data": _plain(parts["data"]), "layout": _plain(layout)}, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _height(figure: Figure) -> int:
    """The height of the first of its figures [px]."""
    first = next(iter(figure.shown.values()))
    parts = first if isinstance(first, Mapping) else first.to_plotly_json()
    return int(parts.get("layout", {}).get("height") or DEFAULT_HEIGHT)


def _plain(value: Any, key: str = "") -> Any:
    """What JSON can hold: texts escaped, numbers rounded, NaN as null."""
    if isinstance(value, str):
        escaped = html.escape(printable(value), quote=False).replace("\n", "<br>")
        return MARKUP_IN_HOVER.sub(r"<\1>", escaped) if key in ("hovertemplate", "texttemplate") else escaped
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return _rounded(value)
    if isinstance(value, Mapping) and "bdata" in value:  # how Plotly packs arrays
        return _plain(_unpacked(value), key)
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, str(name)) for name, inner in value.items()}
    if isinstance(value, np.datetime64):
        return str(value.astype("datetime64[ms]"))
    if isinstance(value, date):  # or a datetime
        return value.isoformat()
    if isinstance(value, np.ndarray) and value.dtype.kind == "M":
        return np.datetime_as_string(value, unit="ms").tolist()
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), key)
    return [_plain(inner, key) for inner in value]


def _unpacked(packed: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    values = np.frombuffer(base64.b64decode(packed["bdata"]), dtype=np.dtype(packed["dtype"]))
    return values.reshape([int(size) for size in str(packed["shape"]).split(",")]) if "shape" in packed else values


def _rounded(value: float) -> float | None:
    if not np.isfinite(value):
        return None
    return round(value) if abs(value) >= 10**MOST_DIGITS or value.is_integer() else float(f"{value:.{MOST_DIGITS}g}")
