// The page: asks every two seconds while it is seen, and shows what it is told.

import * as api from "./api.js";
import { Chart } from "./chart.js";
import { h, keyed, text } from "./dom.js";
import * as format from "./format.js";
import { History } from "./history.js";
import * as journal from "./journal.js";
import * as models from "./models.js";
import * as status from "./status.js";
import * as tryit from "./tryit.js";

const PERIOD_MS = 2000;
const $ = (id) => document.getElementById(id);
const history = new History();
const showJournal = journal.setUp($("journal"));
let latest = null;
let chosen = false;

const charts = {
  latency: new Chart($("latency"), "Latency", [
    { key: "p50", name: "p50", colour: format.colour(0) },
    { key: "p95", name: "p95", colour: format.colour(1) },
    { key: "p99", name: "p99", colour: format.colour(2) },
  ], format.ms, 1),
  throughput: new Chart($("throughput"), "Requests per second", [{ key: "rate", name: "now", colour: format.colour(3) }], format.rate, 1),
  queue: new Chart($("queue"), "Queue", [{ key: "queue", name: "waiting", colour: format.colour(4) }], format.count, 4),
  hits: new Chart($("hits"), "From the result cache", [{ key: "hits", name: "share", colour: format.colour(5) }], (value) => format.share(value, 0), 1),
};

function say(words, refreshNow) {
  text($("said"), words);
  if (refreshNow) refresh();
}

/** The charts' choice: models first, then endpoints, the page's own left out. */
function scopes(metrics) {
  const found = metrics.models.map(({ name }) => [`model:${name}`, `model ${name}`]);
  for (const { endpoint } of metrics.endpoints) {
    if (!endpoint.startsWith("/assets") && endpoint !== "/") found.push([`endpoint:${endpoint}`, endpoint]);
  }
  keyed($("scope"), found, ([value]) => value, ([value, name]) => h("option", { value }, name), () => {});
  if (chosen) return;
  chosen = true;
  const model = metrics.models.find((model) => model.default) ?? metrics.models[0];
  if (model) $("scope").value = `model:${model.name}`;
}

function drawCharts() {
  const scope = $("scope").value;
  const points = history.of(scope);
  for (const chart of Object.values(charts)) chart.show(points);
  $("hits").hidden = !scope.startsWith("model:");
  text($("queue").querySelector("b"), scope.startsWith("model:") ? "Tokens that wait for the engine" : "Mails that wait or run, all models");
}

function show(metrics) {
  latest = metrics;
  const rates = history.take(Date.now(), metrics);
  text($("version"), `${metrics.version} · up ${format.time(metrics.uptime_seconds)}`);
  status.verdict($("verdict"), metrics);
  status.objectives($("objectives"), metrics.slo);
  status.alerts($("alerts"), metrics.alerts);
  status.endpoints($("endpoints"), metrics.endpoints, rates);
  models.memory($("memory"), $("memory-legend"), $("memory-text"), metrics);
  models.table($("models"), metrics, rates, say);
  scopes(metrics);
  showJournal(metrics.store !== null);
  drawCharts();
}

let asking = null;
async function refresh() {
  asking?.abort();
  const own = (asking = new AbortController());
  try {
    show(await api.metrics(own.signal));
    $("offline").hidden = true;
    document.body.dataset.shown = "true";
  } catch (error) {
    if (own.signal.aborted) return;
    $("offline").hidden = false;
    text($("offline"), `The server does not answer (${error.message}). What is shown is old.`);
    $("verdict").className = "pill bad";
    text($("verdict").lastElementChild, "no answer");
  }
}

$("scope").addEventListener("change", drawCharts);
const theme = () => document.documentElement.dataset.theme;
const stored = localStorage.getItem("theme");
if (stored) document.documentElement.dataset.theme = stored;
$("theme").addEventListener("click", () => {
  const dark = theme() ? theme() === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", theme());
});
tryit.setUp($("try"), $("verdicts"), () => (latest?.models ?? []).map(({ name }) => name));
refresh();
setInterval(() => document.hidden || refresh(), PERIOD_MS);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
