"use strict";
// Draws the charts, sorts and filters the tables, switches the theme. Data comes from the page itself and is never markup.

const root = document.documentElement;
const { training, curation } = JSON.parse(document.getElementById("data").textContent);
const choice = { axis: "step", scale: "linear" };
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const colour = name => getComputedStyle(root).getPropertyValue(name).trim();
const numbers = values => values.map(value => typeof value === "number" ? value : null);

// A stage that logged no tokens keeps its steps when the others switch.
const axisOf = chart => chart.series.some(s => s.x[choice.axis]) ? choice.axis : "step";

function traces(chart, axis) {
  const looks = { first: colour("--accent"), second: colour("--cool"), third: colour("--third") };
  const dashes = { first: "solid", second: "dash", third: "dot" };
  const several = new Set(chart.series.map(s => s.look)).size > 1;
  return chart.series.map(s => ({
    type: "scatter", x: s.x[axis], y: numbers(s.y), name: s.name,
    mode: s.role === "points" ? "lines+markers" : "lines",
    line: { color: looks[s.look], width: s.role === "raw" ? 1 : 2, dash: s.role !== "raw" && several ? dashes[s.look] : "solid" },
    marker: { color: looks[s.look], size: 5 },
    opacity: s.role === "raw" ? 0.3 : 1,
    showlegend: s.role !== "raw" && several,
    hovertemplate: "%{y:.5~g}<extra>%{fullData.name}</extra>",
  }));
}

function layout(chart, axis, resumes) {
  const soft = colour("--soft"), line = colour("--line"), card = colour("--card");
  const positive = chart.series.every(s => numbers(s.y).every(y => y === null || y > 0));
  const log = choice.scale === "log" && positive;
  const most = Math.max(...chart.series.flatMap(s => numbers(s.y)));
  const marks = Object.entries(chart.marks).filter(([, y]) => typeof y === "number").sort((a, b) => a[1] - b[1]);
  const ruler = { gridcolor: line, zerolinecolor: line, linecolor: line, tickfont: { size: 11 }, automargin: true, fixedrange: false };
  const suffix = { step: "step", tokens: "tokens", minutes: "minutes at work" }[axis];
  return {
    autosize: true, margin: { l: 44, r: 12, t: 10, b: 38 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: soft },
    hovermode: "x unified", hoverlabel: { bgcolor: card, bordercolor: line, font: { color: colour("--ink"), size: 12 } },
    legend: { orientation: "h", x: 1, xanchor: "right", y: 1, yanchor: "bottom", font: { size: 11 } },
    xaxis: { ...ruler, showgrid: false, exponentformat: "SI", title: { text: suffix, font: { size: 11 }, standoff: 6 } },
    yaxis: { ...ruler, type: log ? "log" : "linear", nticks: 6, exponentformat: most >= 1e4 ? "SI" : log ? "none" : "power", minexponent: 4 },
    shapes: [
      ...resumes.filter(r => typeof r[axis] === "number").map(r => (
        { type: "line", x0: r[axis], x1: r[axis], yref: "paper", y0: 0, y1: 1, line: { color: soft, width: 1, dash: "dot" } })),
      ...marks.map(([, y]) => (
        { type: "line", xref: "paper", x0: 0, x1: 1, y0: y, y1: y, line: { color: colour("--cool"), width: 1.2, dash: "dash" } })),
    ],
    annotations: marks.map(([text, y], i) => ({                 // side by side: levels of xz and zstd nearly meet
      text, y: log ? Math.log10(y) : y, xref: "paper", x: 1 - 0.17 * (i && marks.length - 1 - i), xanchor: "right", yanchor: "bottom",
      showarrow: false, font: { size: 11, color: colour("--cool") } })),
  };
}

function draw(plot) {
  const stage = training[plot.dataset.stage], chart = stage.charts[plot.dataset.chart], axis = axisOf(chart);
  Plotly.react(plot, traces(chart, axis), layout(chart, axis, stage.resumes), { displayModeBar: false, responsive: true });
}
const visible = () => all(".plot").filter(plot => plot.offsetParent !== null);
const drawAll = () => visible().forEach(draw);

for (const group of all("[data-switch]")) {
  group.addEventListener("click", event => {
    if (!event.target.value) return;
    all("button", group).forEach(button => button.setAttribute("aria-pressed", button === event.target));
    if (group.dataset.switch === "unit") group.nextElementSibling.dataset.unit = event.target.value;
    else { choice[group.dataset.switch] = event.target.value; drawAll(); }
  });
}
all("details.more").forEach(box => box.addEventListener("toggle", () => all(".plot", box).forEach(plot => box.open && draw(plot))));

document.getElementById("theme").addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  drawAll();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

for (const browser of all(".browser")) {
  const choices = all("select", browser), search = browser.querySelector("[data-search]");
  const documents = all(".document", browser).map(node => ({ node, text: node.textContent.toLowerCase() }));
  const filter = () => {
    const words = search.value.trim().toLowerCase();
    let shown = 0;
    for (const { node, text } of documents) {
      node.hidden = !text.includes(words) || choices.some(({ value, dataset: { by } }) => value && !node.dataset[by].split(" ").includes(value));
      shown += !node.hidden;
    }
    browser.querySelector("output").textContent = `${shown} of ${documents.length} shown`;
  };
  choices.forEach(choice => choice.addEventListener("change", filter));
  search.addEventListener("input", filter);
  browser.querySelector(".controls").hidden = false;            // without a script they would do nothing
  filter();
}
for (const input of all("[data-rows]")) {
  input.addEventListener("input", () => {
    const words = input.value.trim().toLowerCase(), rows = all("tbody tr", document.querySelector(input.dataset.rows));
    rows.forEach(row => { row.hidden = !row.textContent.toLowerCase().includes(words); });
    input.closest(".controls").querySelector("output").textContent = words ? `${rows.filter(r => !r.hidden).length} of ${rows.length} shown` : "";
  });
}
for (const table of all("table.sortable")) {
  all("thead th", table).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      all("thead th", table).forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (a, b) => {
        const [x, y] = [Number(key(a)), Number(key(b))];
        return Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b), "en", { numeric: true }) : x - y;
      };
      const body = table.tBodies[0];
      body.append(...[...body.rows].sort((a, b) => down ? compare(b, a) : compare(a, b)));
    });
  });
}
drawAll();
