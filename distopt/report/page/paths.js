// The agents' and the target's paths in the plane, frame by frame.

class Stage {
  constructor(host, group, curves, pool, night) {
    Object.assign(this, { host, group, pool, night, frame: 0, chosen: 0 });
    this.runs = group.paths.runs.map(run => ({ ...curves.runs[run.run], agents: run.agents, rounds: pool.rising(run.rounds), x: pool.take(run.x), target: run.target ? pool.take(run.target) : null }));
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("class", "stage");
    this.svg.setAttribute("role", "img");
    this.slider = element("input", { type: "range", min: 0, max: this.runs[0].rounds.length - 1, value: 0, step: 1, "aria-label": "Round", oninput: event => { this.stop(); this.show(+event.target.value); } });
    this.text = element("output");
    this.button = element("button", { type: "button", "data-key": "play", onclick: () => (this.timer ? this.stop() : this.play()) }, "Play");
    const select = element("select", { "aria-label": "Method", onchange: event => { this.choose(+event.target.value); } }, ...this.runs.map((run, k) => element("option", { value: k }, run.name)));
    host.replaceChildren(element("div", { class: "card" }, this.svg, element("div", { class: "player" },
      ...(this.runs.length > 1 ? [select] : []), ...(calm ? [] : [this.button]), this.slider, this.text),
      element("p", { class: "note" }, `Dots: the agents. ${this.runs[0].target ? "Cross and dashed line: the minimiser of the round's cost. " : ""}Thin lines: where the agents have been.${calm ? " Your system asks for little motion: move the slider." : ""}`)));
    this.choose(0);
  }

  choose(k) {
    this.chosen = k;
    const run = this.runs[k], all = [...run.x, ...(run.target ?? [])].filter(Number.isFinite), ends = [0, 1].map(axis => {
      const values = [];
      for (const part of [run.x, run.target ?? []]) for (let i = axis; i < part.length; i += 2) if (Number.isFinite(part[i])) values.push(part[i]);
      values.sort((a, b) => a - b);
      return [values[Math.floor(0.002 * (values.length - 1))] ?? 0, values[Math.ceil(0.998 * (values.length - 1))] ?? 1];
    });
    const size = Math.max(...ends.map(([a, b]) => b - a), 1e-12), unit = 100 / size;
    this.at = (x, y) => [(x - ends[0][0]) * unit, (ends[1][1] - y) * unit].map(v => +v.toFixed(2));
    const [width, height] = ends.map(([a, b]) => (b - a) * unit);
    this.svg.setAttribute("viewBox", `-6 -6 ${(width + 12).toFixed(1)} ${(height + 12).toFixed(1)}`);
    this.slider.max = run.rounds.length - 1;
    const shape = (tag, attributes) => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
      this.svg.append(made);
      return made;
    };
    this.svg.replaceChildren();
    this.colour = this.night() ? run.dark : run.colour;
    this.goal = run.target ? shape("path", { class: "goal" }) : null;
    this.trails = Array.from({ length: run.agents }, () => shape("path", { class: "trail", stroke: this.colour }));
    this.dots = Array.from({ length: run.agents }, () => shape("circle", { class: "dot", r: run.agents > 40 ? 0.8 : 1.2, fill: this.colour }));
    this.cross = run.target ? shape("path", { class: "cross" }) : null;
    this.svg.setAttribute("aria-label", `Paths of the agents of ${run.name}`);
    this.show(Math.min(this.frame, run.rounds.length - 1));
  }

  show(frame) {
    this.frame = frame;
    const run = this.runs[this.chosen], wide = 2 * run.agents, first = Math.max(0, frame - 60);
    const line = (values, step, offset, from) => {
      let path = "", pen = "M";
      for (let f = from; f <= frame; f++) {
        const [x, y] = [values[f * step + offset], values[f * step + offset + 1]];
        if (!Number.isFinite(x) || !Number.isFinite(y)) { pen = "M"; continue; }
        path += pen + this.at(x, y).join(" ");
        pen = "L";
      }
      return path;
    };
    this.dots.forEach((dot, i) => {
      const [x, y] = [run.x[frame * wide + 2 * i], run.x[frame * wide + 2 * i + 1]], there = Number.isFinite(x) && Number.isFinite(y);
      dot.style.display = there ? "" : "none";
      if (there) { const [cx, cy] = this.at(x, y); dot.setAttribute("cx", cx); dot.setAttribute("cy", cy); }
      this.trails[i].setAttribute("d", line(run.x, wide, 2 * i, first));
    });
    if (run.target) {
      this.goal.setAttribute("d", line(run.target, 2, 0, 0));
      const [x, y] = this.at(run.target[2 * frame], run.target[2 * frame + 1]);
      this.cross.setAttribute("d", `M${x - 2} ${y}h4M${x} ${y - 2}v4`);
    }
    this.slider.value = frame;
    const round = run.rounds[frame];
    this.text.textContent = round ? `after round ${round.toLocaleString("en")}` : "at the start";
    this.slider.setAttribute("aria-valuetext", this.text.textContent);
  }

  play() {
    const last = this.runs[this.chosen].rounds.length - 1;
    if (this.frame >= last) this.show(0);
    this.button.textContent = "Pause";
    this.timer = setInterval(() => (this.frame >= this.runs[this.chosen].rounds.length - 1 ? this.stop() : this.show(this.frame + 1)), 50);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.button.textContent = "Play";
  }
}
