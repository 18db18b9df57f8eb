// The page: colours, what the address remembers, copying, and building charts when they come into sight.

const root = document.documentElement, theme = document.getElementById("theme"), system = matchMedia("(prefers-color-scheme: dark)");
const views = new Map(), stages = [];
const probe = element("span", { hidden: true });
document.body.append(probe);

function colours() {
  const night = theme.value ? theme.value === "dark" : system.matches, found = { night };
  for (const name of ["card", "ink", "dim", "grid", "line", "base"]) {
    probe.style.color = `var(--${name})`;
    found[name] = getComputedStyle(probe).color;
  }
  return found;
}

function painted() {
  if (theme.value) root.dataset.theme = theme.value; else delete root.dataset.theme;
  for (const view of views.values()) view.draw();
  for (const stage of stages) stage.choose(stage.chosen);
}

function remembered() { return new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : ""); }

let later = 0;
function remember() { // soon, since a drag changes much in little time
  clearTimeout(later);
  later = setTimeout(() => {
    const kept = new URLSearchParams();
    if (theme.value) kept.set("theme", theme.value);
    for (const [k, view] of views) for (const [key, value] of view.saved()) kept.set(`${k}.${key}`, value);
    history.replaceState(null, "", kept.size ? `#${kept}` : location.pathname + location.search);
  }, 150);
}

function restore() {
  const read = remembered();
  theme.value = ["light", "dark"].includes(read.get("theme")) ? read.get("theme") : "";
  for (const [k, view] of views) view.restore(key => read.get(`${k}.${key}`));
  painted();
}

function failed(error) {
  const fault = document.getElementById("fault");
  fault.hidden = false;
  fault.textContent = `The charts could not be made in this browser (${error.message}). The tables stand.`;
  for (const each of document.querySelectorAll(".loading")) each.remove();
  throw error;
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "copied";
    } catch { // no clipboard: mark the text, so that a key copies it
      getSelection().selectAllChildren(source);
      button.textContent = "marked";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  });
}
for (const link of document.querySelectorAll("nav a")) { // the address keeps what it remembers
  link.addEventListener("click", event => {
    event.preventDefault();
    document.querySelector(link.getAttribute("href")).scrollIntoView();
  });
}
theme.addEventListener("change", () => { painted(); remember(); });
system.addEventListener("change", painted);

try {
  const data = JSON.parse(document.getElementById("data").textContent);
  const pool = new Pool(floats(await unpacked("numbers")));
  const script = document.createElement("script");
  script.textContent = new TextDecoder().decode(await unpacked("bokeh"));
  document.head.append(script);
  Bokeh.set_log_level("warn");
  data.groups.forEach((group, k) => {
    if (!group.series.length) return document.querySelector(`[data-charts="${k}"]`).replaceChildren("These runs have no series that could be drawn.");
    const curves = new Curves(group, pool);
    views.set(k, new View(document.querySelector(`[data-charts="${k}"]`), curves, k, colours, remember));
    if (group.paths) stages.push(new Stage(document.querySelector(`[data-paths="${k}"]`), group, curves, pool, () => colours().night));
  });
  restore();
  addEventListener("hashchange", () => location.hash.includes("=") && restore());
  const seen = new IntersectionObserver(found => {
    for (const { isIntersecting, target } of found) {
      if (!isIntersecting) continue;
      seen.unobserve(target);
      const k = +target.dataset.charts;
      views.get(k).build(data.figure).then(() => (target.dataset.ready = "yes")).catch(failed);
    }
  }, { rootMargin: "600px" });
  for (const k of views.keys()) seen.observe(document.querySelector(`[data-charts="${k}"]`));
  root.dataset.ready = "yes";
} catch (error) {
  failed(error);
}
