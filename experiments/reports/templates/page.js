"use strict";
// Draws figures when they come into view, and lets tables be sorted, filtered and taken away as CSV.
(() => {
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const root = document.documentElement;
  const narrow = () => window.innerWidth < 640;

  // --- Colours ---------------------------------------------------------------------------------------------------

  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();

  function template() {
    const axis = {
      gridcolor: colour("grid"), linecolor: colour("line"), zerolinecolor: colour("muted"), zerolinewidth: 1,
      tickcolor: colour("line"), automargin: true, title: { standoff: 8 }, ticklabelstandoff: 5,
    };
    return { layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow() ? 11 : 13, color: colour("ink") },
      margin: { l: 8, r: 12, t: 12, b: 8 }, xaxis: axis, yaxis: axis,
      hoverlabel: {
        bgcolor: colour("raised"), bordercolor: colour("muted"), font: { color: colour("ink") }, align: "left", namelength: -1,
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: colour("ink") },
      legend: { orientation: "h", y: -0.02, yref: "container", yanchor: "bottom", x: 0, bgcolor: "rgba(0,0,0,0)", traceorder: "normal" },
      colorway: ["#3B8BD0", "#E0762F", "#2E9E6B", "#C9549B", "#8C7AE6", "#B8860B", "#5FA8A8", "#A05A4A"],
    } };
  }

  // --- Figures ---------------------------------------------------------------------------------------------------

  const figures = all("figure.figure").map((element) => ({
    element,
    plot: element.querySelector(".plot"),
    selects: all("select", element),
    specs: all('script[type="application/json"]', element).map((script) => ({
      key: JSON.parse(script.dataset.key), script,
    })),
    drawn: false,
  }));
  const config = {
    responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"], scrollZoom: false,
  };

  const hovers = window.matchMedia("(hover: hover)").matches; // elsewhere Plotly would always show its buttons

  function chosen(figure) {
    const wanted = figure.selects.map((select) => select.value);
    return figure.specs.find(({ key }) => key.every((value, at) => value === wanted[at]));
  }

  function draw(figure) {
    const spec = chosen(figure);
    if (!spec) return;
    let text = spec.script.textContent;
    for (const name of ["ink", "paper", "muted"]) text = text.replaceAll(`"@${name}"`, JSON.stringify(colour(name)));
    const { data, layout } = JSON.parse(text);
    layout.template = template();
    layout.autosize = true;
    if (narrow() && layout.dragmode === undefined) layout.dragmode = false; // a finger scrolls the page
    if (narrow() && data.length > 14) layout.showlegend = false; // it would leave no room; a touch says the name
    figure.plot.style.minHeight = `${layout.height || 380}px`;
    figure.drawn = true;
    Plotly.react(figure.plot, data, layout, { ...config, displayModeBar: hovers && !narrow() ? "hover" : false });
  }

  // Selectors further right show what goes with those further left.
  function settle(figure) {
    figure.selects.forEach((select, at) => {
      const before = figure.selects.slice(0, at).map((one) => one.value);
      const fitting = new Set(
        figure.specs.filter(({ key }) => before.every((value, i) => value === key[i])).map(({ key }) => key[at]));
      for (const option of select.options) option.hidden = option.disabled = !fitting.has(option.value);
      if (!fitting.has(select.value)) select.value = [...fitting][0];
    });
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((one) => one.isIntersecting)) {
      const figure = figures.find(({ element }) => element === entry.target);
      if (!figure.drawn) draw(figure);
    }
  }, { rootMargin: "300px" });
  for (const figure of figures) {
    settle(figure);
    seen.observe(figure.element);
  }
  const redraw = () => figures.filter((figure) => figure.drawn).forEach(draw);
  window.addEventListener("beforeprint", () => figures.forEach(draw));

  // --- Light and dark --------------------------------------------------------------------------------------------

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", redraw);
  document.getElementById("scheme").addEventListener("click", () => {
    const now = root.dataset.scheme || (dark.matches ? "dark" : "light");
    root.dataset.scheme = now === "dark" ? "light" : "dark";
    redraw();
  });

  // --- Tables ----------------------------------------------------------------------------------------------------

  const tables = all("details.table").map((element) => ({
    element,
    body: element.querySelector("tbody"),
    header: all("th", element).map((cell) => cell.textContent.trim()),
    rows: all("tbody tr", element),
    search: element.querySelector("input"),
    selects: all("select", element),
    count: element.querySelector(".count"),
  }));
  const told = (cell) => cell.textContent.trim();

  function filter(table) {
    const part = table.search ? table.search.value.toLowerCase() : "";
    const wanted = table.selects.filter((select) => select.value !== "")
      .map((select) => [table.header.indexOf(select.dataset.by), select.value]);
    let shown = 0;
    for (const row of table.rows) {
      row.hidden = !row.textContent.toLowerCase().includes(part)
        || wanted.some(([at, value]) => told(row.cells[at]) !== value);
      shown += row.hidden ? 0 : 1;
    }
    const of = table.rows.length;
    table.count.textContent = `${shown === of ? "" : `${shown} of `}${of} row${of === 1 ? "" : "s"}`;
  }

  const value = (cell) => parseFloat(cell.dataset.value ?? told(cell).replaceAll(",", ""));

  function sort(table, at, head) {
    const up = head.getAttribute("aria-sort") === "descending";
    for (const other of all("th", table.element)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const numbers = head.classList.contains("right");
    table.body.append(...[...table.rows].sort((one, other) => {
      const [a, b] = [one.cells[at], other.cells[at]];
      if (!numbers) return (up ? 1 : -1) * told(b).localeCompare(told(a), undefined, { numeric: true });
      const [x, y] = [value(a), value(b)];
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
      return up ? x - y : y - x;
    }));
  }

  // A spreadsheet would run a text that begins like a formula.
  const harmless = (text) => (/^[=@\t\r]|^[+-](?![\d.])/.test(text) && text !== "-" ? `'${text}` : text);
  const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const line = (cells) => cells.map((cell) => quoted(harmless(cell))).join(",");

  function csv(table) {
    const rows = table.rows.map((row) => [...row.cells].map((cell) => cell.dataset.value ?? told(cell)));
    return `${[table.header, ...rows].map(line).join("\r\n")}\r\n`;
  }

  for (const table of tables) {
    table.search?.addEventListener("input", () => filter(table));
    all("th", table.element).forEach((head, at) =>
      head.querySelector("button").addEventListener("click", () => sort(table, at, head)));
    const link = table.element.querySelector(".csv");
    link.download = `${table.element.dataset.name.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "").toLowerCase() || "table"}.csv`;
    link.addEventListener("click", () => {
      if (!link.href.startsWith("blob:")) link.href = URL.createObjectURL(new Blob([csv(table)], { type: "text/csv" }));
    });
  }

  // --- Selectors of one name move together ------------------------------------------------------------------------

  document.addEventListener("change", ({ target }) => {
    if (!(target instanceof HTMLSelectElement)) return;
    const together = all("select").filter((select) => select === target || (
      select.dataset.by === target.dataset.by && target.value !== ""
      && [...select.options].some((option) => option.value === target.value && !option.disabled)));
    for (const select of together) select.value = target.value;
    for (const figure of figures.filter(({ selects }) => selects.some((select) => together.includes(select)))) {
      settle(figure);
      if (figure.drawn) draw(figure);
    }
    for (const table of tables.filter(({ selects }) => selects.some((select) => together.includes(select)))) filter(table);
  });

  root.dataset.ready = "yes";
})();
