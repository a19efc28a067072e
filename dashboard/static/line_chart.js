// Curves over steps, as SVG that follows the theme by its classes. Of a long curve each column of pixels keeps its first,
// lowest, highest and last point: no spike is lost.

const SVG = "http://www.w3.org/2000/svg";
const [HEIGHT, LEFT, BOTTOM, TOP, RIGHT] = [280, 44, 26, 10, 4];

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function thinned(points, numColumns, low, high) {
  if (points.length <= 4 * numColumns) return points;
  const columns = new Map();
  for (const point of points) {
    const key = Math.floor(((point[0] - low) / (high - low || 1)) * numColumns);
    const column = columns.get(key);
    if (!column) columns.set(key, [point, point, point, point]);
    else {
      if (point[1] < column[1][1]) column[1] = point;
      if (point[1] > column[2][1]) column[2] = point;
      column[3] = point;
    }
  }
  return [...columns.values()].flatMap((column) => [...new Set(column)].sort((a, b) => a[0] - b[0]));
}

const NAMES = { train: "training", valid: "validation" };

class LineChart extends HTMLElement {
  points = { train: [], valid: [] };
  drawing = 0;

  connectedCallback() {
    this.svg = element("svg", { role: "img", tabindex: "0" });
    this.legend = document.createElement("div");
    this.legend.className = "legend";
    this.output = document.createElement("output");
    for (const [name, word] of Object.entries(NAMES)) {
      const key = document.createElement("span");
      key.className = `${name}-key`;
      key.textContent = word;
      this.legend.append(key);
    }
    this.legend.append(this.output);
    this.append(this.svg, this.legend);
    this.svg.addEventListener("pointermove", (event) => {
      const box = this.svg.getBoundingClientRect();
      this.point(this.low + ((event.clientX - box.left - LEFT) / (this.width - LEFT - RIGHT)) * (this.high - this.low));
    });
    this.svg.addEventListener("pointerleave", () => this.point(null));
    this.svg.addEventListener("keydown", (event) => {
      const steps = this.points.train;
      if (!["ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key) || !steps.length) return;
      event.preventDefault();
      const at = steps.findIndex(([step]) => step === this.at);
      const to = { ArrowLeft: at < 0 ? steps.length - 1 : at - 1, ArrowRight: at + 1, Home: 0, End: steps.length - 1 }[event.key];
      this.point(steps[Math.min(Math.max(to, 0), steps.length - 1)][0]);
    });
    new ResizeObserver(() => this.draw()).observe(this);
    this.draw();
  }

  add(name, points) {
    this.points[name].push(...points);
    if (!this.drawing) this.drawing = requestAnimationFrame(() => { this.drawing = 0; this.draw(); });
  }

  // The cursor snaps to steps that were measured.
  point(step) {
    const nearest = (points) => points.reduce((best, point) => (!best || Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best), null);
    const found = step === null ? null : nearest(this.points.train);
    this.at = found?.[0];
    if (!found) this.output.textContent = "";
    else {
      const valid = this.points.valid.find(([at]) => at === found[0]);
      this.output.textContent = `step ${found[0]}: training ${found[1].toFixed(3)}${valid ? `, validation ${valid[1].toFixed(3)}` : ""}`;
    }
    this.draw();
  }

  draw() {
    const all = [...this.points.train, ...this.points.valid];
    const labels = [];
    this.width = Math.max(this.clientWidth, 200);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${HEIGHT}`);
    this.svg.replaceChildren();
    if (!all.length) {
      this.svg.setAttribute("aria-label", "No step has been measured yet.");
      this.svg.append(element("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
      return;
    }
    const range = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
    [this.low, this.high] = range(all.map(([step]) => step));
    if (this.low === this.high) this.high += 1;
    const [bottom, top] = range(all.map(([, value]) => value));
    const span = top - bottom || 1;
    const x = (step) => LEFT + ((step - this.low) / (this.high - this.low)) * (this.width - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - ((value - bottom) / span) * (HEIGHT - BOTTOM - TOP);
    for (const part of [0, 0.5, 1]) {
      const value = bottom + part * span;
      this.svg.append(element("line", { class: "grid", x1: LEFT, x2: this.width - RIGHT, y1: y(value), y2: y(value) }));
      const label = element("text", { x: 0, y: Math.max(12, y(value) + 4) });
      label.textContent = value.toFixed(2);
      labels.push(label);
    }
    for (const step of [this.low, this.high]) {
      const label = element("text", { x: x(step), y: HEIGHT - 8, "text-anchor": step === this.low ? "start" : "end" });
      label.textContent = `step ${step}`;
      labels.push(label);
    }
    for (const [name, points] of Object.entries(this.points)) {
      const drawn = thinned(points, Math.round(this.width / 2), this.low, this.high);
      if (drawn.length) this.svg.append(element("path", { class: name, d: `M${drawn.map(([step, value]) => `${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("L")}` }));
    }
    if (this.at !== undefined) this.svg.append(element("line", { class: "cursor", x1: x(this.at), x2: x(this.at), y1: TOP, y2: HEIGHT - BOTTOM }));
    this.svg.append(...labels);
    const told = Object.entries(this.points).filter(([, points]) => points.length).map(([name, points]) => `${NAMES[name]} loss from ${points[0][1].toFixed(2)} to ${points.at(-1)[1].toFixed(2)} over ${points.length} points`);
    this.svg.setAttribute("aria-label", told.join("; "));
  }
}

customElements.define("line-chart", LineChart);
