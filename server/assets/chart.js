// A small line chart: time to the right, zero at the bottom, values under the pointer in the key.

import { h, svg, text } from "./dom.js";

const [HEIGHT, LEFT, TOP, BOTTOM] = [150, 52, 8, 18];
/** The shortest of these that shows all there is. */
const SPANS_MINUTES = [1, 2, 5, 10];

export class Chart {
  /** `series`: `{key, name, colour}`; `format` says a value; `floor`: the least top of the scale. */
  constructor(figure, title, series, format, floor) {
    Object.assign(this, { series, format, floor, points: [], hover: null });
    this.keys = series.map(({ name, colour }) => {
      const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
      swatch.style.background = colour;
      const value = h("em");
      return { value, element: h("span", { class: "key" }, swatch, `${name} `, value) };
    });
    this.svg = svg("svg", { role: "img", "aria-label": title });
    this.title = title;
    figure.append(h("figcaption", {}, h("b", {}, title), ...this.keys.map((key) => key.element)), this.svg);
    this.svg.addEventListener("pointermove", (event) => this.point(event.clientX));
    this.svg.addEventListener("pointerleave", () => this.point(null));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  show(points) {
    this.points = points;
    this.draw();
  }

  point(clientX) {
    this.hover = clientX == null ? null : clientX - this.svg.getBoundingClientRect().left;
    this.draw();
  }

  draw() {
    const width = this.svg.clientWidth;
    const points = this.points;
    if (!width) return;
    const end = points.at(-1)?.now ?? Date.now();
    const minutes = SPANS_MINUTES.find((span) => span * 60_000 >= end - (points[0]?.now ?? end)) ?? SPANS_MINUTES.at(-1);
    const span = minutes * 60_000;
    const shown = points.filter((point) => point.now >= end - span);
    const values = shown.flatMap((point) => this.series.map(({ key }) => point[key])).filter(Number.isFinite);
    const top = scale(Math.max(this.floor, ...values), this.floor);
    const x = (now) => LEFT + (width - LEFT - 4) * (1 - (end - now) / span);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
    const parts = [];
    for (const part of [0, 0.5, 1]) {
      const at = y(top * part);
      parts.push(svg("line", { class: "grid", x1: LEFT, x2: width, y1: at, y2: at }));
      parts.push(svg("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, this.format(top * part)));
    }
    for (const [part, anchor] of [[1, "start"], [0.5, "middle"], [0, "end"]]) {
      const ago = minutes * part;
      const label = part ? (ago < 1 ? `−${ago * 60} s` : `−${ago} min`) : "now";
      parts.push(svg("text", { x: x(end - part * span), y: HEIGHT - 2, "text-anchor": anchor }, label));
    }
    for (const { key, colour } of [...this.series].reverse()) {
      for (const run of runs(shown, key)) {
        const line = run.map((point) => `${x(point.now).toFixed(1)} ${y(point[key]).toFixed(1)}`).join("L");
        if (this.series.length === 1) {
          const [first, last] = [x(run[0].now), x(run.at(-1).now)];
          parts.push(svg("path", { class: "area", d: `M${line}L${last} ${y(0)}L${first} ${y(0)}Z`, style: { fill: colour } }));
        }
        parts.push(svg("path", { class: "series", d: `M${line}${run.length === 1 ? "h1" : ""}`, style: { stroke: colour } }));
      }
    }
    let told = shown.at(-1);
    if (this.hover != null && shown.length) {
      told = shown.reduce((best, point) => (Math.abs(x(point.now) - this.hover) < Math.abs(x(best.now) - this.hover) ? point : best));
      parts.push(svg("line", { class: "cursor", x1: x(told.now), x2: x(told.now), y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    if (!values.length) {
      parts.push(svg("text", { x: (LEFT + width) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "nothing to show yet"));
    }
    this.svg.replaceChildren(...parts);
    this.series.forEach(({ key }, at) => text(this.keys[at].value, told ? this.format(told[key]) : "–"));
    const said = this.series.map(({ key, name }) => `${name} ${told ? this.format(told[key]) : "–"}`);
    this.svg.setAttribute("aria-label", `${this.title}, latest: ${said.join(", ")}`);
  }
}

/** A round number at or above `value`. */
function scale(value, floor) {
  if (value <= floor) return floor;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((step) => step * power).find((step) => step >= value);
}

/** The points that have a value, in runs without gaps. */
function runs(points, key) {
  const found = [];
  let run = null;
  for (const point of points) {
    if (!Number.isFinite(point[key])) run = null;
    else if (run) run.push(point);
    else found.push((run = [point]));
  }
  return found;
}
