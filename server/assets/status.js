// Objectives, alerts, endpoints: what is, in words and numbers.

import { h, keyed, text } from "./dom.js";
import * as format from "./format.js";

const TITLES = {
  latency_p95: "Latency, p95",
  errors: "Errors",
  memory: "Memory of the process",
  availability: "Availability",
};

function shown(verdict, value) {
  if (value == null) return "–";
  return verdict.unit === "seconds" ? format.ms(value * 1000) : format.share(value, verdict.slo === "availability" ? 2 : 1);
}

/** How much of what the objective allows is used, 0–1. */
function used({ slo, value, objective }) {
  if (value == null) return 0;
  const spent = slo === "availability" ? (1 - value) / Math.max(1 - objective, 1e-9) : value / Math.max(objective, 1e-9);
  return Math.min(1, spent);
}

const windows = { 0: "now", 300: "last 5 minutes", 3600: "last hour" };

export function objectives(list, verdicts) {
  keyed(list, verdicts, ({ slo }) => slo, (verdict) =>
    h("li", { "data-slo": verdict.slo },
      h("div", { class: "head" }, h("span", {}, TITLES[verdict.slo] ?? verdict.slo), h("span", { class: "mark" })),
      h("span", { class: "value" }),
      h("span", { class: "meter", "aria-hidden": "true" }, h("i")),
      h("span", { class: "quiet" }),
    ), (card, verdict) => {
    card.className = verdict.met ? "good" : "bad";
    text(card.querySelector(".mark"), verdict.value == null ? "no data" : verdict.met ? "✓ met" : "✕ missed");
    text(card.querySelector(".value"), shown(verdict, verdict.value));
    card.querySelector(".meter i").style.width = `${used(verdict) * 100}%`;
    const window = windows[verdict.window_seconds] ?? `last ${verdict.window_seconds} s`;
    text(card.querySelector(".quiet"), `objective ${verdict.well} ${shown(verdict, verdict.objective)}, ${window}`);
  });
}

export function alerts(list, found) {
  const items = found.length ? found : [{ alert: "Nothing needs attention", severity: "", message: "" }];
  keyed(list, items, ({ alert, model }) => `${alert}/${model}`, () =>
    h("li", {}, h("span", { class: "mark" }), h("b"), h("span", { class: "quiet" })),
  (item, { alert, severity, model, message }) => {
    item.className = severity === "critical" ? "bad" : severity === "warning" ? "warn" : "good";
    text(item.children[0], severity ? (severity === "critical" ? "▲ critical" : "△ warning") : "✓");
    text(item.children[1], model ? `${alert} · ${model}` : alert);
    text(item.children[2], message);
  });
}

export function endpoints(body, found, rates) {
  const items = [...found].sort((a, b) => b.requests_total - a.requests_total);
  keyed(body, items, ({ endpoint }) => endpoint, ({ endpoint }) =>
    h("tr", {}, h("th", { scope: "row" }, endpoint), ...Array.from({ length: 7 }, () => h("td", { class: "n" }))),
  (row, item) => {
    const { recent } = item;
    const seen = (value) => format.ms(recent.requests ? value : null);
    const cells = [
      format.rate(rates.get(`endpoint:${item.endpoint}`)), format.count(item.in_flight),
      seen(recent.p50_ms), seen(recent.p95_ms), seen(recent.p99_ms),
      recent.requests ? format.share(recent.error_rate) : "–", format.count(item.requests_total),
    ];
    cells.forEach((value, at) => text(row.children[at + 1], value));
  });
}

export function verdict(pill, metrics) {
  const critical = metrics.alerts.filter(({ severity }) => severity === "critical").length;
  const missed = metrics.slo.filter(({ met }) => !met).length;
  pill.className = `pill ${!metrics.ready || critical ? "bad" : metrics.alerts.length ? "warn" : "good"}`;
  const words = !metrics.ready ? "not ready"
    : missed ? `${missed} of ${metrics.slo.length} objectives missed`
    : metrics.alerts.length ? "objectives met, see alerts" : "all objectives met";
  text(pill.lastElementChild, words);
}
