// Curves: a group's series under the switches, and the two panels that draw them.

class Curves { // the numbers of one group
  constructor(group, pool) {
    this.group = group;
    this.pool = pool;
    this.runs = group.runs.map(run => {
      const stops = pool.rising(run.stops), pairs = pool.rising(run.pairs);
      const axes = Object.fromEntries(Object.entries(run.axes).map(([name, at]) => [name, at ? pool.take(at) : stops]));
      return { ...run, stops, pairs, ends: pairs.filter((_, k) => k % 2), axes };
    });
    this.series = new Map(group.series.map(each => [each.name, each]));
    this.longest = this.runs[group.longest];
  }

  // The last round (from 1) that is not counted, by the place of the slider; 0 counts all.
  before(burn) { return burn ? this.longest.ends[burn - 1] : 0; }

  along(run, axis, round) { return axis === "rounds" ? round : interpolated(run.stops, run.axes[axis], round); }

  // Where a run's cursor can stand.
  stops(run, burn) { return burn ? run.ends.filter(round => round > this.before(burn)) : run.stops; }

  // A run's curve from after the rounds that are not counted: rounds, median, and where there are trials band and single trials.
  curve(name, k, burn) {
    const series = this.series.get(name), curve = series?.curves[k];
    if (!curve) return null;
    const run = this.runs[k], parts = burn && series.counted ? this.parts(series, k) : null;
    if (parts) return this.recounted(series, run, parts, burn);
    const from = this.before(burn), [at, median] = this.line(curve.line, from);
    const found = { at, median };
    if (curve.band) {
      const all = this.pool.rising(curve.band[0]), first = from ? place(all, from) + (all[0] <= from ? 1 : 0) : 0;
      found.band = { at: all.subarray(first), low: this.pool.take(curve.band[1]).subarray(first), high: this.pool.take(curve.band[2]).subarray(first) };
      found.single = () => {
        const values = this.pool.take(curve.single), width = run.pairs.length, start = run.pairs.findIndex(round => round > from);
        return Array.from({ length: run.trials }, (_, r) => [run.pairs.subarray(start), values.subarray(r * width + start, (r + 1) * width)]);
      };
    }
    if (curve.certified && !burn) {
      const [at, low, high] = curve.certified;
      found.certified = { at: this.pool.rising(at), low: this.pool.take(low), high: this.pool.take(high), width: curve.width };
    }
    return found;
  }

  line([at, values], from) {
    const all = this.pool.rising(at), first = from ? place(all, from) + (all[0] <= from ? 1 : 0) : 0;
    return [all.subarray(first), this.pool.take(values).subarray(first)];
  }

  parts(series, k) {
    const curve = series.of ? this.series.get(series.of)?.curves[k] : series.curves[k];
    return curve?.parts ? this.pool.take(curve.parts) : null;
  }

  // Sums that begin after some rounds, trial by trial, and their spread.
  recounted(series, run, parts, burn) {
    const from = this.before(burn), width = run.ends.length, start = run.ends.findIndex(round => round > from);
    if (start < 0) return { at: new Float64Array(), median: [] };
    const at = run.ends.subarray(start), trials = parts.length / width;
    const rows = Array.from({ length: trials }, (_, r) => {
      let sum = 0;
      return Float64Array.from(at, (round, j) => {
        sum += parts[r * width + start + j];
        return series.of ? sum / (round - from) : sum;
      });
    });
    const { low, median, high } = this.spread(rows);
    return { at, median, band: trials > 1 ? { at, low, high } : null, single: () => rows.map(row => [at, row]) };
  }

  // As distopt.report.page.columns.spread.
  spread(rows) {
    const tail = rows.length >= this.group.enough ? this.group.tail : 0;
    const found = { low: [], median: [], high: [] };
    for (let j = 0; j < rows[0].length; j++) {
      const sorted = Float64Array.from(rows.map(row => row[j]).filter(v => !Number.isNaN(v))).sort(), last = sorted.length - 1;
      found.low.push(last < 0 ? NaN : sorted[Math.floor(tail * last)]);
      found.median.push(last < 0 ? NaN : (sorted[Math.floor(last / 2)] + sorted[Math.ceil(last / 2)]) / 2);
      found.high.push(last < 0 ? NaN : sorted[Math.ceil((1 - tail) * last)]);
    }
    return found;
  }

  // A baseline of a series: rounds and values.
  baseline(series, each, burn) {
    if (!burn || !series.counted) return this.line(each.line, this.before(burn));
    if (!each.parts) return null; // a bound from the first round on says nothing of what comes after some
    const { at, median } = this.recounted(series, this.longest, this.pool.take(each.parts), burn);
    return [at, median];
  }

  bandText(runs) {
    const some = runs.filter(run => run.trials > 1);
    if (!some.length) return "";
    const wide = some.filter(run => run.trials >= this.group.enough).length;
    const counts = [...new Set(some.map(run => run.trials))].join(" or ");
    const band = !wide ? "smallest to largest trial" : wide === some.length ? "5 % to 95 % of the trials" : "5 % to 95 % of the trials, or all where they are fewer than 20";
    return { line: `Lines: median of ${counts} trials.`, band: `Bands: ${band}.` };
  }
}

class Panel { // one figure of Bokeh
  static made = 0;

  static async in(host, item) {
    const own = JSON.parse(JSON.stringify(item).replace(/"(p\d+)"/g, `"c${Panel.made++}$1"`)); // ids of its own
    await Bokeh.embed.embed_item(own, host);
    const document = Bokeh.documents.at(-1), panel = new Panel();
    panel.figure = document.roots()[0];
    panel.sources = Object.fromEntries(["bands", "trials", "lines", "dots", "cursor"].map(name => [name, document.get_model_by_name(name).data_source]));
    panel.dots = document.get_model_by_name("dots").glyph;
    panel.cursor = document.get_model_by_name("cursor").glyph;
    const redraw = () => { cancelAnimationFrame(panel.waiting); panel.waiting = requestAnimationFrame(() => panel.tick()); };
    panel.figure.x_range.change.connect(redraw);
    panel.figure.y_range.change.connect(redraw);
    return panel;
  }

  // Give both axes their scale, home and title. A zoom that is kept stays.
  axes(x, y) {
    Object.assign(this, { x, y });
    for (const [range, axis] of [[this.figure.x_range, x], [this.figure.y_range, y]]) {
      const [start, end] = axis.zoom ?? axis.home;
      range.setv({ reset_start: axis.home[0], reset_end: axis.home[1], start, end });
    }
    this.figure.below[0].axis_label = x.title;
    this.tick();
  }

  tick() {
    if (!this.x) return;
    const width = this.figure.inner_width || 400;
    for (const [axis, range, spec, most] of [
      [this.figure.below[0], this.figure.x_range, this.x, Math.max(3, Math.round(width / 110))],
      [this.figure.left[0], this.figure.y_range, this.y, 6],
    ]) {
      const low = Math.min(range.start, range.end), high = Math.max(range.start, range.end);
      const found = high > low ? ticks(spec.scale, low, high, spec.write, most) : [];
      axis.ticker.ticks = found.map(([at]) => at);
      axis.major_label_overrides = new Map(found);
    }
  }

  draw({ bands, trials, lines }) {
    const column = (rows, key) => rows.map(row => row[key]);
    for (const [name, rows, keys] of [["bands", bands, ["xs", "ys", "colour", "alpha"]], ["trials", trials, null], ["lines", lines, null]]) {
      const wanted = keys ?? ["xs", "ys", "colour", "alpha", "dash", "width"];
      this.sources[name].data = Object.fromEntries(wanted.map(key => [key, column(rows, key)]));
    }
  }

  point(x, dots) {
    this.sources.cursor.data = { x: x === null ? [] : [x] };
    this.sources.dots.data = { x: dots.map(d => d[0]), y: dots.map(d => d[1]), colour: dots.map(d => d[2]) };
  }

  paint({ card, ink, dim, grid, line }) { // the colours of the page
    const { figure } = this;
    figure.setv({ background_fill_color: card, border_fill_color: card });
    for (const axis of [...figure.below, ...figure.left]) {
      axis.setv({ axis_label_text_color: ink, major_label_text_color: ink, axis_line_color: line, major_tick_line_color: line });
    }
    for (const each of figure.center) if (each.grid_line_color !== undefined) each.grid_line_color = grid;
    this.cursor.line_color = { value: dim };
    this.dots.line_color = { value: card };
  }
}
