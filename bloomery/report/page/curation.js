// What other limits would keep: a histogram of each statistic and, where a rule has limits, two sliders over what is known.

const SVG = "http://www.w3.org/2000/svg";
const round = value => Number(value.toPrecision(4)).toLocaleString("en-US", { maximumSignificantDigits: 4 });
const whole = value => value.toLocaleString("en-US");

function shape(name, attributes, text = "") {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}

// Where a value stands, from 0 to 1; limits beyond what is drawn stand at its edge.
function position(found, value) {
  const part = found.log ? Math.log(value / found.low) / Math.log(found.high / found.low)
    : (value - found.low) / (found.high - found.low);
  return Math.min(1, Math.max(0, part));
}

function histogram(svg, found, low, high) {
  const width = svg.clientWidth || 600, height = 220, foot = 22, top = 8, left = 34;
  const most = Math.max(...found.counts, 1), room = height - foot - top;
  const x = part => left + part * (width - left), y = count => top + room * (1 - Math.log1p(count) / Math.log1p(most));
  const bins = found.counts.length, parts = [];
  const single = !found.log && found.high - found.low === bins;                   // one bin a whole number
  const value = part => found.log ? found.low * (found.high / found.low) ** part : found.low + part * (found.high - found.low);
  for (let count = 1; count <= most; count *= 10) {
    parts.push(shape("line", { class: "grid", x1: left, x2: width, y1: y(count), y2: y(count) }),
      shape("text", { x: left - 6, y: y(count) + 4, "text-anchor": "end" }, count >= 1e6 ? `${count / 1e6}M` : count >= 1e3 ? `${count / 1e3}k` : count));
  }
  parts.push(shape("line", { class: "grid", x1: left, x2: width, y1: height - foot, y2: height - foot }));
  found.counts.forEach((count, bin) => {
    const begin = bin / bins, shown = value(single ? begin : (bin + 0.5) / bins), out = shown < low || shown > high;
    if (count) parts.push(shape("rect", { class: out ? "out" : "in", x: x(begin), width: Math.max((width - left) / bins - 0.5, 1), y: y(count), height: height - foot - y(count) }));
  });
  for (const [look, limits] of [["was", found.limits ?? []], ["limit", [low, high]]]) limits.forEach((limit, upper) => {
    if (!Number.isFinite(limit)) return;
    const place = x(position(found, limit + (single && upper ? 1 : 0)));          // behind the bin it still keeps
    parts.push(shape("line", { class: look, x1: place, x2: place, y1: 0, y2: height - foot }));
  });
  const ticks = Math.min(width < 500 ? 3 : 6, single ? bins : 6);
  for (let i = 0; i < ticks; i++) {
    const part = single ? (Math.floor(i * bins / ticks) + 0.5) / bins : i / (ticks - 1);
    const anchor = single ? "middle" : i === 0 ? "start" : i === ticks - 1 ? "end" : "middle";
    parts.push(shape("text", { x: x(part), y: height - 4, "text-anchor": anchor }, round(value(part) - (single ? 0.5 : 0))));
  }
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("aria-label", `Histogram of ${found.name}, ${whole(found.counts.reduce((a, b) => a + b, 0))} documents from ${round(found.low)} to ${round(found.high)}`);
  svg.replaceChildren(...parts);
}

for (const panel of all(".limits")) {
  const about = curation[panel.dataset.curation], select = panel.querySelector("select");
  const [low, high] = all("input", panel), [lowSaid, highSaid] = all("output", panel);
  const byName = Object.fromEntries(about.statistics.map(found => [found.name, found]));
  const groups = { "rules, with limits": about.statistics.filter(f => f.stops), "measured only": about.statistics.filter(f => !f.stops) };
  for (const [label, found] of Object.entries(groups)) {
    const group = document.createElement("optgroup");
    group.label = label;
    group.append(...found.map(one => new Option(one.name)));
    if (found.length) select.append(group);
  }

  // The lower slider counts from "no limit" at 0, the upper one to "no limit" at its end.
  const limits = found => [low.value > 0 ? found.stops[low.value - 1] : -Infinity, found.stops[high.value] ?? Infinity];

  const say = () => {
    const found = byName[select.value], sliders = panel.querySelector(".sliders"), told = panel.querySelector(".told"), ask = panel.querySelector(".ask");
    sliders.hidden = ask.hidden = !found.stops;
    if (!found.stops) {
      told.textContent = "No rule limits this.";
      histogram(panel.querySelector("svg"), found, -Infinity, Infinity);
      return;
    }
    const [from, to] = limits(found), kept = found.pool - (low.value > 0 ? found.fewer[low.value - 1] : 0) - (found.more[high.value] ?? 0);
    lowSaid.textContent = Number.isFinite(from) ? round(from) : "no limit";
    highSaid.textContent = Number.isFinite(to) ? round(to) : "no limit";
    low.setAttribute("aria-valuetext", lowSaid.textContent);
    high.setAttribute("aria-valuetext", highSaid.textContent);
    const more = kept - about.kept, number = document.createElement("b");
    number.textContent = whole(kept);
    const share = about.read ? ` (${more > 0 ? "+" : "−"}${(100 * Math.abs(more) / about.read).toFixed(1)} % of all read)` : "";
    const then = more > 0 && found.then.length ? ` What comes back would still have to pass ${found.then.join(", ")}.` : "";
    told.replaceChildren(number, more === 0 ? " documents are kept, as now." :
      ` documents would be kept, ${whole(Math.abs(more))} ${more > 0 ? "more" : "fewer"}${share}.${then}`);
    const word = limit => Number.isFinite(limit) ? String(limit) : "none", command = document.createElement("code");
    command.textContent = `bloomery rethreshold ${about.folder} ${found.name}=${word(from)},${word(to)}`;
    ask.replaceChildren("With all other limits as they are; dashed lines are the limits that were set; heights are logarithms. Several at once, exactly: ", command);
    histogram(panel.querySelector("svg"), found, from, to);
  };
  const choose = () => {
    const found = byName[select.value];
    if (found.stops) {
      const [from, to] = found.limits;
      low.max = high.max = found.stops.length;
      low.value = from === null ? 0 : found.stops.indexOf(from) + 1;
      high.value = to === null ? found.stops.length : found.stops.indexOf(to);
    }
    say();
  };
  select.addEventListener("change", choose);
  low.addEventListener("input", () => { if (+low.value - 1 > +high.value) high.value = low.value - 1; say(); });
  high.addEventListener("input", () => { if (+high.value < +low.value - 1) low.value = +high.value + 1; say(); });
  addEventListener("resize", say);
  select.value = about.statistics.reduce((best, one) => (one.pool ?? -1) > (best.pool ?? -1) ? one : best).name;
  choose();
}
