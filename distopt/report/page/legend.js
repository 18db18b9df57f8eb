// The view of a group: its switches, its two panels, and the legend, which is also the readout of the cursor.

function element(tag, attributes = {}, ...children) { // text is never read as HTML
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function swatch(colour, dash) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("width", "26"); made.setAttribute("height", "10"); made.setAttribute("aria-hidden", "true");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  for (const [name, value] of Object.entries({ x1: 0, x2: 26, y1: 5, y2: 5, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash.join(" ") })) line.setAttribute(name, value);
  made.append(line);
  return made;
}

const BASE_DASHES = [[6, 3], [2, 3], [10, 3, 2, 3]];

class View {
  constructor(host, curves, number, colours, changed) {
    Object.assign(this, { host, curves, number, colours, changed });
    const names = [...curves.series.keys()], runs = curves.runs;
    const second = ["tracking_error", "consensus_error", "accuracy"].find(name => names.includes(name) && name !== names[0]) ?? names[1] ?? names[0];
    const first = ["average_dynamic_regret", "cost"].find(name => names.includes(name)) ?? names[0];
    const [a, b] = [curves.longest.stops[0], curves.longest.stops.at(-1)];
    this.defaults = {
      y0: first, y1: second, x: "rounds", xs: b / a >= 50 ? "log" : "linear", ys: "auto", two: names.length > 1,
      bands: runs.length <= 8, single: false, burn: 0, hide: "", zx: "", z0: "", z1: "",
    };
    this.state = { ...this.defaults };
    this.marks = new Set(); // hidden entries
    // what the legend lists: runs, then baselines and bounds by their names
    this.entries = runs.map((run, k) => ({ key: String(k), name: run.name, run, k }));
    const labels = new Set();
    for (const series of curves.series.values()) for (const each of series.baselines) labels.add(each.label);
    [...labels].forEach((label, k) => this.entries.push({ key: `b${k}`, name: label, base: label, dash: BASE_DASHES[k % BASE_DASHES.length] }));
  }

  colour(entry) { return entry.base ? this.colours().base : this.colours().night ? entry.run.dark : entry.run.colour; }
  shown(entry) { return !this.marks.has(entry.key); }
  get panels() { return this.state.two && this.curves.series.size > 1 ? [0, 1] : [0]; }

  async build(item) {
    const { curves, state } = this, options = (pairs, chosen) => pairs.map(([value, text]) => element("option", { value, selected: value === chosen }, text));
    this.controls = {};
    const select = (key, pairs, label) => (this.controls[key] = element("select", { "data-key": key, "aria-label": label, onchange: event => this.set({ [key]: event.target.value }) }, ...options(pairs, state[key])));
    const check = key => (this.controls[key] = element("input", { type: "checkbox", "data-key": key, onchange: event => this.set({ [key]: event.target.checked }) }));
    const list = [...curves.series.values()].map(each => [each.name, each.title]);
    const steps = curves.longest.ends.length - 1, several = curves.runs.some(run => run.trials > 1), counted = [...curves.series.values()].some(each => each.counted);
    this.burnText = element("output");
    const switches = element("div", { class: "switches" },
      element("label", {}, "Against ", select("x", curves.group.axes.map(axis => [axis.name, axis.name]), "Horizontal axis")),
      element("label", {}, "Horizontal ", select("xs", [["linear", "linear"], ["log", "logarithmic"]], "Horizontal scale")),
      element("label", {}, "Vertical ", select("ys", [["auto", "automatic"], ["linear", "linear"], ["log", "logarithmic"], ["symlog", "symmetric log"]], "Vertical scale")),
      ...(several ? [element("label", {}, check("bands"), "bands"), element("label", {}, check("single"), "single trials")] : []),
      ...(list.length > 1 ? [element("label", {}, check("two"), "two charts")] : []),
      element("button", { type: "button", "data-key": "reset", onclick: () => this.set({ zx: "", z0: "", z1: "" }) }, "Reset zoom"),
      ...(steps > 0 ? [element("label", { class: "burn" }, "Begin after round ", (this.controls.burn = element("input", {
        type: "range", min: 0, max: steps, step: 1, "data-key": "burn", "aria-label": counted ? "Count regrets from a later round on" : "Leave out the first rounds",
        oninput: event => this.set({ burn: +event.target.value, zx: "", z0: "", z1: "" }),
      })), this.burnText)] : []),
    );
    this.canvases = [0, 1].map(p => element("div", { class: "canvas", tabindex: 0, role: "group", "data-panel": p, onkeydown: event => this.key(event) }));
    this.remarks = [0, 1].map(() => element("p", { class: "note" }));
    this.boxes = [0, 1].map(p => element("div", { class: "panel" }, select(`y${p}`, list, p ? "Second series" : "First series"), this.remarks[p], this.canvases[p]));
    this.grid = element("div", { class: "panels" }, ...this.boxes);
    this.table = element("table");
    this.live = element("p", { class: "unseen", "aria-live": "polite" });
    this.values = element("details", { ontoggle: () => this.tabulate() }, element("summary", {}, "Values as a table"), element("div", { class: "scroll" }));
    this.host.replaceChildren(element("div", { class: "card" }, switches, this.grid, element("div", { class: "legend" }, this.table), this.live, this.values,
      element("p", { class: "note" }, "A click on a name hides it; a double click, or Shift and a click, shows it alone. Drag in a chart to zoom. Arrow keys move the cursor of a chart that has the focus.")));
    this.drawn = [];
    for (const p of [0, 1]) {
      const panel = await Panel.in(this.canvases[p], item);
      this.drawn.push(panel);
      for (const name of ["mousemove", "tap"]) panel.figure.on_event(name, event => this.move(this.back(event.x)));
      panel.figure.x_range.change.connect(() => this.zoomed(p));
      panel.figure.y_range.change.connect(() => this.zoomed(p));
    }
    this.head = element("tr");
    this.rows = this.entries.map(entry => {
      const button = element("button", { type: "button", "data-entry": entry.key, title: "Click: hide or show. Double click: alone.", onclick: event => this.toggle(entry, event), ondblclick: () => this.alone(entry) });
      const row = element("tr", { class: entry.base ? "base" : "" }, element("th", { scope: "row" }, button), element("td", { "data-panel": 0 }), element("td", { "data-panel": 1 }));
      return { entry, row, button, cells: [...row.querySelectorAll("td")] };
    });
    this.table.append(element("thead", {}, this.head), element("tbody", {}, ...this.rows.map(each => each.row)));
    this.ready = true;
    this.draw();
  }

  // ------------------------------------------------------------------------------------------------------------ state

  set(changes) {
    if ("x" in changes || "xs" in changes) Object.assign(changes, { zx: "" });
    for (const p of [0, 1]) if (`y${p}` in changes || "ys" in changes) changes[`z${p}`] = "";
    Object.assign(this.state, changes);
    if ("x" in changes) this.at = null;
    this.draw();
    this.changed();
  }

  restore(read) { // from texts, of which nothing is believed
    const { curves, defaults } = this, list = [...curves.series.keys()], state = { ...defaults };
    const among = (key, values) => { if (values.includes(read(key))) state[key] = read(key); };
    among("y0", list); among("y1", list);
    among("x", curves.group.axes.map(axis => axis.name));
    among("xs", ["linear", "log"]); among("ys", ["auto", "linear", "log", "symlog"]);
    for (const key of ["two", "bands", "single"]) if (["0", "1"].includes(read(key))) state[key] = read(key) === "1";
    if (/^\d{1,4}$/.test(read("burn") ?? "")) state.burn = Math.min(+read("burn"), curves.longest.ends.length - 1);
    for (const key of ["zx", "z0", "z1"]) {
      const ends = (read(key) ?? "").split(",").map(Number);
      if (ends.length === 2 && ends.every(Number.isFinite) && ends[0] < ends[1]) state[key] = ends.join();
    }
    this.marks = new Set((read("hide") ?? "").split(",").filter(key => this.entries.some(entry => entry.key === key)));
    Object.assign(this.state, state);
    this.at = null;
    if (this.ready) this.draw();
  }

  * saved() { // what differs from the defaults, as texts
    const now = { ...this.state, hide: [...this.marks].join() };
    for (const [key, value] of Object.entries(now)) if (value !== this.defaults[key]) yield [key, typeof value === "boolean" ? String(+value) : String(value)];
  }

  toggle(entry, event) {
    if (event.shiftKey) return this.alone(entry);
    if (!this.marks.delete(entry.key)) this.marks.add(entry.key);
    this.draw(); this.changed();
  }

  alone(entry) { // again: all
    const others = this.entries.filter(each => each !== entry).map(each => each.key);
    const already = this.shown(entry) && others.every(key => this.marks.has(key));
    this.marks = new Set(already ? [] : others);
    this.draw(); this.changed();
  }

  zoomed(p) { // keep a zoom; what is the same on both panels moves on both
    if (!this.ready || this.busy) return;
    this.busy = true;
    const text = range => [range.start, range.end].map(v => +v.toPrecision(6)).join(), home = range => Math.abs(range.start - range.reset_start) + Math.abs(range.end - range.reset_end) < 1e-9 * Math.abs(range.reset_end - range.reset_start);
    const { x_range, y_range } = this.drawn[p].figure;
    this.state.zx = home(x_range) ? "" : text(x_range);
    this.state[`z${p}`] = home(y_range) ? "" : text(y_range);
    this.drawn[1 - p].figure.x_range.setv({ start: x_range.start, end: x_range.end });
    this.busy = false;
    this.changed();
  }

  // ---------------------------------------------------------------------------------------------------------- drawing

  draw() {
    if (!this.ready) return;
    const { state, curves } = this, colours = this.colours();
    for (const [key, control] of Object.entries(this.controls)) {
      if (control.type === "checkbox") control.checked = state[key]; else control.value = state[key];
    }
    const from = curves.before(state.burn);
    this.burnText.textContent = from ? `${from.toLocaleString("en")} (of ${curves.longest.ends.at(-1).toLocaleString("en")})` : "0 (all rounds count)";
    this.grid.classList.toggle("one", this.panels.length === 1);
    this.boxes[1].hidden = this.panels.length === 1;
    this.busy = true;
    this.plots = this.panels.map(p => this.plot(state[`y${p}`]));
    const x = this.horizontal();
    this.plots.forEach((plot, p) => {
      const panel = this.drawn[p], y = this.vertical(plot, state[`z${p}`]);
      plot.scale = y.scale;
      panel.axes(x, y);
      panel.draw(this.glyphs(plot, x.scale, y.scale));
      panel.paint(colours);
      this.remarks[p].textContent = this.remark(plot, y.scale);
      this.canvases[p].setAttribute("aria-label", `Chart: ${plot.series.title}. Arrow keys move the cursor.`);
    });
    this.busy = false;
    for (const { entry, row, button } of this.rows) {
      row.hidden = Boolean(entry.base) && !this.plots.some(plot => plot.lines.some(line => line.entry === entry));
      button.setAttribute("aria-pressed", String(this.shown(entry)));
      button.replaceChildren(swatch(this.colour(entry), entry.base ? entry.dash : entry.run.dash), element("bdi", {}, entry.name));
    }
    this.move(this.at ?? null);
    this.tabulate();
  }

  plot(name) { // the lines of a series: those of runs that have it, and its baselines
    const series = this.curves.series.get(name), { burn } = this.state;
    const lines = [];
    for (const entry of this.entries) {
      if (entry.base) {
        const each = series.baselines.find(base => base.label === entry.base);
        const found = each && this.curves.baseline(series, each, burn);
        if (found) lines.push({ entry, run: this.curves.runs[each.run ?? this.curves.group.longest], curve: { at: found[0], median: found[1] } });
      } else {
        const curve = this.curves.curve(name, entry.k, burn);
        if (curve) lines.push({ entry, run: entry.run, curve });
      }
    }
    return { series, lines };
  }

  axis() { return this.curves.group.axes.find(axis => axis.name === this.state.x); }

  horizontal() {
    const { state, curves } = this, places = curves.runs.flatMap(run => {
      const stops = curves.stops(run, state.burn);
      return stops.length ? [curves.along(run, state.x, stops[0]), curves.along(run, state.x, stops.at(-1))] : [];
    }).filter(Number.isFinite);
    let [low, high] = places.length ? [Math.min(...places), Math.max(...places)] : [1, 2];
    this.log = state.xs === "log" && low > 0;
    const scale = scaled(this.log ? "log" : "linear");
    if (!this.log && low > 0 && low < 0.1 * high) low = 0;
    let home = [scale.there(low), scale.there(high)];
    if (!(home[1] > home[0])) home = [home[0] - 0.5, home[0] + 0.5];
    const write = state.x.endsWith("seconds") ? power : state.x === "rounds" ? v => (v < 1e5 ? power(v) : amount(v)) : amount;
    this.back = scale.back;
    this.there = scale.there;
    return { scale, home, write, title: this.axis().title + (this.log ? " (logarithmic)" : ""), zoom: this.parse(state.zx) };
  }

  parse(text) { return text ? text.split(",").map(Number) : null; }

  // The scale and the ends of a vertical axis. Runs that are well are seen whole; baselines and runs that diverged may stretch it somewhat.
  vertical(plot, zoom) {
    const { series } = plot, visible = plot.lines.filter(line => this.shown(line.entry));
    const finite = values => [...values].filter(Number.isFinite);
    const well = visible.filter(line => !line.entry.base && line.run.status !== "diverged");
    const main = well.length ? well : visible;
    const all = finite(visible.flatMap(line => [...line.curve.median])), own = finite(main.flatMap(line => [...line.curve.median]));
    const below = all.filter(v => (series.signed ? v < 0 : v <= 0)).length;
    let kind = this.state.ys === "auto" ? (series.fraction ? "linear" : "log") : this.state.ys;
    if (!all.some(v => v !== 0)) kind = "linear";
    Object.assign(plot, { dropped: 0, below });
    if (kind === "log" && below > 0.1 * all.length) kind = "symlog";
    else if (kind === "log") plot.dropped = visible.reduce((sum, line) => sum + [...line.curve.median].filter((v, j) => v <= 0 && line.curve.at[j] > 1).length, 0); // in the first round nothing has changed: a 0 there is no news
    const sizes = (own.some(v => v) ? own : all).map(Math.abs).filter(v => v > 0).sort((a, b) => a - b);
    const inner = sizes.length ? 10 ** Math.floor(Math.log10(Math.max(sizes[Math.floor(0.2 * (sizes.length - 1))], sizes.at(-1) / 1e150))) : 1;
    const scale = scaled(kind, inner), there = values => finite([...values].map(scale.there));
    let ends = this.ends(there(own), there(all));
    if (this.state.bands) {
      const wide = there(main.flatMap(line => (line.curve.band ? [...line.curve.band.low, ...line.curve.band.high] : [])));
      const room = scale.kind === "linear" ? ends[1] - ends[0] : 1;
      if (wide.length) ends = [Math.max(this.least(wide), ends[0] - room), Math.min(this.most(wide), ends[1] + room)].map((v, k) => (k ? Math.max(v, ends[1]) : Math.min(v, ends[0])));
    }
    const others = there(visible.filter(line => !main.includes(line)).flatMap(line => [...line.curve.median]));
    if (others.length) {
      const room = Math.max(scale.kind === "linear" ? 0 : 3, ends[1] - ends[0]);
      ends = [Math.max(Math.min(ends[0], this.least(others)), ends[0] - room), Math.min(Math.max(ends[1], this.most(others)), ends[1] + room)];
    }
    if (!(ends[1] > ends[0])) ends = [ends[0] - (Math.abs(ends[0]) || 1) * 0.5, ends[0] + (Math.abs(ends[0]) || 1) * 0.5];
    const margin = 0.04 * (ends[1] - ends[0]);
    const write = series.fraction ? (v, step) => `${+(100 * v).toPrecision(step ? 4 : 3)} %` : series.unit ? v => amount(v) : v => power(v);
    return { scale, home: [ends[0] - margin, ends[1] + margin], write, zoom: this.parse(zoom) };
  }

  least(values) { return values.reduce((a, b) => Math.min(a, b), Infinity); }
  most(values) { return values.reduce((a, b) => Math.max(a, b), -Infinity); }
  ends(own, all) { const some = own.length ? own : all; return some.length ? [this.least(some), this.most(some)] : [0, 1]; }

  glyphs(plot, xs, ys) {
    const { state, curves } = this, night = this.colours().night, bands = [], trials = [], lines = [];
    const across = (run, rounds) => Float64Array.from(rounds, round => xs.there(curves.along(run, state.x, round)));
    const up = values => Float64Array.from(values, ys.there);
    for (const { entry, run, curve } of [...plot.lines].reverse()) { // the first is on top
      if (!this.shown(entry)) continue;
      const colour = this.colour(entry), x = across(run, curve.at);
      for (const [band, alpha] of [[state.bands && curve.band, night ? 0.22 : 0.15], [curve.certified, 0.35]]) {
        if (band) bands.push(...this.polygons(across(run, band.at), band.low, band.high, ys).map(([px, py]) => ({ xs: px, ys: py, colour, alpha })));
      }
      if (state.single && curve.single) for (const [at, values] of curve.single()) trials.push({ xs: across(run, at), ys: up(values), colour, alpha: 0.3, dash: [], width: 0.8 });
      lines.push({ xs: x, ys: up(curve.median), colour, alpha: 1, dash: entry.base ? entry.dash : run.dash, width: entry.base ? 1.4 : 2 });
    }
    return { bands, trials, lines };
  }

  polygons(x, low, high, ys) { // one for each stretch without gaps; what a logarithm cannot show ends far below
    const floor = ys.kind === "log" ? -320 : NaN, found = [];
    let start = 0;
    const bottom = j => (Number.isNaN(low[j]) ? NaN : Number.isFinite(ys.there(low[j])) ? ys.there(low[j]) : floor);
    for (let j = 0; j <= x.length; j++) {
      if (j < x.length && Number.isFinite(bottom(j)) && !Number.isNaN(ys.there(high[j])) && Number.isFinite(x[j])) continue;
      if (j - start > 1) {
        const px = [], py = [];
        for (let i = start; i < j; i++) { px.push(x[i]); py.push(ys.there(high[i])); }
        for (let i = j - 1; i >= start; i--) { px.push(x[i]); py.push(bottom(i)); }
        found.push([px, py]);
      }
      start = j + 1;
    }
    return found;
  }

  remark(plot, scale) {
    const parts = [], { burn, bands, single } = this.state, from = this.curves.before(burn);
    if (scale.kind === "log") parts.push("Logarithmic axis.");
    if (scale.kind === "symlog") parts.push(`Symmetric log axis: linear between ±${power(scale.inner)}${plot.below ? ", since there are values of 0 or less" : ""}.`);
    if (plot.dropped) parts.push(`${plot.dropped} ${plot.dropped === 1 ? "value" : "values"} of 0 or less cannot be drawn on it.`);
    if (from && plot.series.counted) parts.push(`Counted from round ${(from + 1).toLocaleString("en")} on.`);
    const text = this.curves.bandText(plot.lines.filter(line => !line.entry.base && this.shown(line.entry)).map(line => line.run));
    if (text) parts.push(text.line);
    if (text && bands) parts.push(text.band);
    const proved = plot.lines.filter(line => line.curve.certified?.width != null && this.shown(line.entry)).map(line => line.curve.certified.width);
    if (proved.length) parts.push(`Certified at the end to ${power(+Math.max(...proved).toPrecision(1))} of the value; a darker band where that can be seen.`);
    if (text && single) parts.push("Thin lines: single trials.");
    return parts.join(" ");
  }

  // ----------------------------------------------------------------------------------------------------------- cursor

  // Move the cursor to a place on the horizontal axis, null for the end; each run shows its nearest recorded round.
  move(at) {
    this.at = at;
    const { curves, state } = this, reference = this.place(curves.longest, at ?? Infinity);
    const last = at === null || at === undefined;
    this.panels.forEach(p => {
      const dots = [], plot = this.plots[p];
      for (const { entry, cells } of this.rows) {
        const line = plot.lines.find(each => each.entry === entry), found = line && this.shown(entry) ? this.value(line, last ? Infinity : at) : null;
        this.fill(cells[p], found, plot.series.fraction);
        if (found && !last) dots.push([this.there(found.x), plot.scale.there(found.value), this.colour(entry)]);
      }
      this.drawn[p].point(last ? null : this.there(reference.x), dots);
    });
    for (const { cells } of this.rows) cells[1].hidden = this.panels.length === 1;
    this.spot = last ? "at the end" : state.x === "rounds" ? `round ${reference.round.toLocaleString("en")}` : `at ${amount(reference.x)} ${state.x}`;
    this.head.replaceChildren(element("th", { scope: "col" }, this.spot), ...this.plots.map(plot => element("th", { scope: "col" }, plot.series.title)));
  }

  place(run, at) {
    const stops = this.curves.stops(run, this.state.burn);
    const places = this.state.x === "rounds" ? stops : stops.map(round => this.curves.along(run, this.state.x, round));
    const k = nearest(places, at);
    return { k, round: stops[k], x: places[k], beyond: at !== Infinity && at > places.at(-1) + Math.max(1e-9, 0.02 * (places.at(-1) - places[0])) };
  }

  value({ run, curve }, at) {
    const spot = this.place(run, at);
    if (spot.beyond || !curve.at.length) return null;
    const j = nearest(curve.at, spot.round), found = { ...spot, value: curve.median[j] };
    if (curve.band) { const i = nearest(curve.band.at, spot.round); Object.assign(found, { low: curve.band.low[i], high: curve.band.high[i] }); }
    return found;
  }

  fill(cell, found, fraction) {
    cell.replaceChildren();
    if (!found) return cell.append("—", element("small"));
    cell.append(element("span", { class: "value", "data-value": found.value, "data-round": found.round }, written(found.value, fraction)));
    const band = found.low === undefined ? {} : { "data-low": found.low, "data-high": found.high };
    cell.append(element("small", band, found.low === undefined ? "" : `[${written(found.low, fraction)}, ${written(found.high, fraction)}]`));
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const run = this.curves.longest, stops = this.curves.stops(run, this.state.burn), now = this.at === null || this.at === undefined ? stops.length - 1 : this.place(run, this.at).k;
    const k = Math.max(0, Math.min(stops.length - 1, now + step));
    this.move(this.curves.along(run, this.state.x, stops[k]));
    const plot = this.plots[Math.min(+event.currentTarget.dataset.panel, this.plots.length - 1)];
    const said = plot.lines.filter(line => this.shown(line.entry)).map(line => [line.entry.name, this.value(line, this.at)]).filter(([, found]) => found);
    this.live.textContent = `${this.spot}: ${said.map(([name, found]) => `${name} ${written(found.value, plot.series.fraction)}`).join("; ")}`;
  }

  // ------------------------------------------------------------------------------------------------------------ table

  tabulate() {
    if (!this.values?.open || !this.ready) return;
    const { curves, state } = this, run = curves.longest, stops = curves.stops(run, state.burn), count = Math.min(40, stops.length);
    const picked = [...new Set(Array.from({ length: count }, (_, i) => stops[Math.round(i * (stops.length - 1) / Math.max(1, count - 1))]))];
    const columns = this.plots.flatMap(plot => plot.lines.filter(line => this.shown(line.entry)).map(line => ({ line, series: plot.series })));
    const head = element("tr", {}, element("th", { scope: "col" }, state.x), ...columns.map(({ line, series }) => element("th", { scope: "col" }, element("bdi", {}, line.entry.name), element("small", {}, series.title))));
    const rows = picked.map(round => {
      const at = curves.along(run, state.x, round);
      return element("tr", {}, element("th", { scope: "row" }, state.x === "rounds" ? round.toLocaleString("en") : amount(at)),
        ...columns.map(({ line, series }) => { const found = this.value(line, at); return element("td", {}, found ? written(found.value, series.fraction) : "—"); }));
    });
    this.values.querySelector(".scroll").replaceChildren(element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
  }
}
