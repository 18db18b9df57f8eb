// Numbers: unpacking, scales, ticks, and how values are written.

async function unpacked(id) { // a gzip file written as base64 in a script element
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), c => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function floats(planes) { // float32 whose bytes lie in four planes
  const n = planes.length / 4, bytes = new Uint8Array(planes.length);
  for (let b = 0; b < 4; b++) for (let i = 0; i < n; i++) bytes[4 * i + b] = planes[b * n + i];
  return new Float32Array(bytes.buffer);
}

class Pool {
  constructor(values) { this.values = values; }
  take([start, length]) { return this.values.subarray(start, start + length); }
  rising(reference) { // from differences
    let sum = 0;
    return Float64Array.from(this.take(reference), step => (sum += step));
  }
}

// The place of the last value that is at most x (0 if none is), in rising values.
function place(values, x) {
  let low = 0, high = values.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (values[middle] <= x) low = middle; else high = middle - 1;
  }
  return low;
}

function nearest(values, x) {
  const k = place(values, x);
  return k + 1 < values.length && Math.abs(values[k + 1] - x) < Math.abs(values[k] - x) ? k + 1 : k;
}

function interpolated(from, to, x) { // piecewise linear
  const k = Math.min(place(from, x), from.length - 2);
  if (k < 0) return to[0];
  return to[k] + (to[k + 1] - to[k]) * (x - from[k]) / (from[k + 1] - from[k]);
}

// A scale maps values to where they are drawn, and back. "symlog" is linear between -inner and inner.
function scaled(kind, inner = 1) {
  if (kind === "log") return { kind, there: v => (v > 0 ? Math.min(Math.log10(v), 300) : NaN), back: u => 10 ** u };
  if (kind === "symlog") {
    return {
      kind, inner,
      there: v => Math.sign(v) * (Math.abs(v) <= inner ? Math.abs(v) / inner : Math.min(1 + Math.log10(Math.abs(v) / inner), 300)),
      back: u => Math.sign(u) * inner * (Math.abs(u) <= 1 ? Math.abs(u) : 10 ** (Math.abs(u) - 1)),
    };
  }
  return { kind: "linear", there: v => Math.max(-1e300, Math.min(1e300, v)), back: u => u };
}

// Ticks between two places: [place, text] each.
function ticks(scale, low, high, write, most = 6) {
  const found = [];
  const step = nice((high - low) / most);
  if (scale.kind === "linear") {
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push([k * step, write(k * step, step)]);
  } else if (scale.kind === "log" && high - low < 1.3) {
    const [a, b] = [10 ** low, 10 ** high], linear = nice((b - a) / most);
    for (let k = Math.ceil(a / linear); k * linear <= b * (1 + 1e-9); k++) {
      if (k > 0) found.push([Math.log10(k * linear), write(k * linear, linear)]);
    }
  } else {
    const whole = Math.max(1, Math.ceil(step));
    const minor = scale.kind === "log" && high - low < 3.2 ? [1, 2, 5] : [1];
    for (let k = Math.floor(low / whole) * whole; k <= high; k += whole) {
      for (const m of minor) {
        const value = scale.kind === "log" ? m * 10 ** k : scale.back(k);
        const at = scale.there(value);
        if (at >= low && at <= high) found.push([at, write(value)]);
      }
    }
  }
  return found;
}

function nice(step) {
  const size = 10 ** Math.floor(Math.log10(step)), part = step / size;
  return size * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

const RAISED = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

function power(value) { // a tick in few characters: 0.01, 2 × 10⁻⁷
  if (value === 0) return "0";
  const size = Math.abs(value), sign = value < 0 ? "−" : "";
  if (size >= 1e-3 && size < 1e5) return sign + String(+size.toPrecision(6)).replace(/\B(?=(\d{3})+(?!\d|\.))(?<!\.\d*)/g, ",");
  let exponent = Math.floor(Math.log10(size) + 1e-9);
  const lead = +(size / 10 ** exponent).toPrecision(3);
  return `${sign}${lead === 1 ? "" : lead + "·"}10${String(exponent).replace(/./g, c => RAISED[c])}`;
}

function amount(value) { // a count with a decimal prefix
  for (const [size, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= 0.9995 * size) return `${+(value / size).toPrecision(3)} ${letter}`;
  }
  return String(+value.toPrecision(3));
}

function written(value, fraction = false) { // a value to be read
  if (Number.isNaN(value)) return "—";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (fraction) return `${(100 * value).toFixed(2)} %`;
  const size = Math.abs(value);
  if (value === 0 || (size >= 1e-3 && size < 1e6)) return String(+value.toPrecision(4));
  return value.toExponential(3);
}
