// The models: their share of the memory, their state, and the operator's hand on them.

import { act } from "./api.js";
import { h, keyed, text } from "./dom.js";
import * as format from "./format.js";

const STATES = { ready: "good", loading: "warn", failed: "bad", unloaded: "", draining: "warn" };

/** The bar of the CPU's budget: each model's share, in the order of the table. */
export function memory(bar, legend, note, metrics) {
  const budget = Math.max(metrics.memory.models_budget_bytes, 1);
  const resident = metrics.models
    .map((model, at) => ({ ...model, at }))
    .filter((model) => model.resident_bytes > 0 && model.device === "cpu");
  keyed(bar, resident, ({ name }) => name, () => h("i"), (part, { resident_bytes, at, name }) => {
    part.style.width = `${(resident_bytes / budget) * 100}%`;
    part.style.minWidth = "3px";
    part.style.background = format.colour(at);
    part.title = `${name}: ${format.bytes(resident_bytes)}`;
  });
  keyed(legend, resident, ({ name }) => name, ({ name }) =>
    h("li", {}, h("span", { class: "swatch", "aria-hidden": "true" }), h("span", {}, name), h("span")),
  (item, { resident_bytes, at }) => {
    item.firstChild.style.background = format.colour(at);
    text(item.lastChild, format.bytes(resident_bytes));
  });
  const used = metrics.memory.models_bytes;
  text(note, `${format.bytes(used)} of ${format.bytes(budget)} for models · process ${format.bytes(metrics.memory.process_bytes)} of ${format.bytes(metrics.memory.total_bytes)}`);
  bar.setAttribute("aria-label", `Models take ${format.share(used / budget)} of their memory budget`);
}

export function table(body, metrics, rates, say) {
  keyed(body, metrics.models, ({ name }) => name, (model) => make(model, say), (row, model) => {
    const { recent, state } = model;
    const seen = (value) => format.ms(recent.requests ? value : null);
    const asked = model.cache_hits_total + model.cache_misses_total;
    const badge = row.querySelector(".mark");
    // `failed` lasts as long as the back-off; the error stays until a load succeeds.
    const error = state === "ready" ? null : model.last_error;
    badge.className = `mark ${error ? "bad" : STATES[state]}`;
    const elsewhere = model.device && model.device !== "cpu" && `on ${model.device}`;
    text(badge, [state, elsewhere, error && state !== "failed" && "last load failed", model.pinned && "pinned"].filter(Boolean).join(" · "));
    text(row.querySelector(".why"), error ?? change(model.revisions));
    const cells = [
      format.rate(rates.get(`model:${model.name}`)), seen(recent.p50_ms), seen(recent.p95_ms), seen(recent.p99_ms),
      recent.requests ? format.share(recent.error_rate) : "–",
      asked ? format.share(model.cache_hits_total / asked, 0) : "–", format.bytes(model.resident_bytes),
    ];
    cells.forEach((value, at) => text(row.children[at + 2], value));
    const [load, pin] = row.querySelectorAll("button");
    const loaded = state === "ready";
    action(load, loaded ? "unload" : "load", model.name);
    action(pin, model.pinned ? "unpin" : "pin", model.name);
    load.disabled = load.busy || state === "loading";
    pin.disabled = Boolean(pin.busy);
  });
}

/** What is going on with the model's revision, if anything is. */
function change({ last_change_error: refused, shadow }) {
  if (refused) return `new revision refused: ${refused}`;
  if (!shadow) return "";
  const name = shadow.label ?? shadow.revision;
  const agreed = shadow.mails ? `agrees on ${format.share(shadow.agreement)} of ${shadow.mails} mails` : "no mail yet";
  return `${name} on trial: ${agreed}`;
}

function action(button, name, model) {
  button.dataset.action = name;
  text(button, name[0].toUpperCase() + name.slice(1));
  button.setAttribute("aria-label", `${name} ${model}`);
}

function make(model, say) {
  const button = () => h("button", { type: "button", onclick: (event) => run(event.currentTarget, model.name, say) });
  return h("tr", { "data-model": model.name },
    h("th", { scope: "row" }, model.name + (model.default ? " (default)" : "")),
    h("td", {}, h("span", { class: "mark" }), h("span", { class: "why quiet" })),
    ...Array.from({ length: 7 }, () => h("td", { class: "n" })),
    h("td", {}, h("span", { class: "actions" }, button(), button())),
  );
}

async function run(button, model, say) {
  const name = button.dataset.action;
  button.busy = button.disabled = true;
  say(`${name} ${model}…`);
  try {
    const { state, pinned } = await act(model, name);
    say(`${model} is ${state}${pinned ? ", pinned" : ""}`, true);
  } catch (error) {
    say(`${name} ${model}: ${error.message}`, true);
  } finally {
    button.busy = button.disabled = false;
    // Disabling took the focus away.
    button.focus();
  }
}
