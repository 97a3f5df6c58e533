// A mail, asked of every model, one after the other: side by side they would time each other.

import { classify } from "./api.js";
import { h, text } from "./dom.js";
import * as format from "./format.js";

export function setUp(form, list, models) {
  const [mail, fresh, button] = [form.querySelector("#mail"), form.querySelector("#fresh"), form.querySelector("[type=submit]")];
  mail.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    const cards = models().map((name) => {
      const card = h("li", { "data-verdict": name, "aria-busy": "true" }, h("h3", {}, h("span", {}, name), h("span", { class: "quiet" }, "waits…")));
      return { name, card };
    });
    list.replaceChildren(...cards.map(({ card }) => card));
    for (const { name, card } of cards) {
      text(card.querySelector("h3 .quiet"), "asked…");
      try {
        show(card, await classify(name, mail.value, fresh.checked));
      } catch (error) {
        text(card.querySelector("h3 .quiet"), "");
        card.append(h("p", { class: "bad why" }, error.message));
      }
      card.removeAttribute("aria-busy");
    }
    button.disabled = false;
  });
}

function show(card, { results: [result], timings_ms: timings }) {
  const kind = result.cached ? "known already" : `${result.tokens} tokens${result.truncated ? ", truncated" : ""}`;
  text(card.querySelector("h3 .quiet"), kind);
  for (const { label, score } of result.labels.slice(0, 6)) {
    const fill = h("i");
    fill.style.width = `${Math.max(0, Math.min(1, score)) * 100}%`;
    card.append(h("div", { class: "score" }, h("span", {}, label), h("span", { class: "meter", "aria-hidden": "true" }, fill), h("span", {}, format.share(score))));
  }
  if (result.labels.length > 6) card.append(h("p", { class: "quiet" }, `and ${result.labels.length - 6} more labels`));
  const stages = ["decode", "queue", "tokenize", "infer"].map((stage, at) => ({ stage, at, value: timings[stage] })).filter(({ value }) => value > 0);
  const sum = stages.reduce((total, { value }) => total + value, 0) || 1;
  const bar = h("div", { class: "stack", "aria-hidden": "true" });
  bar.style.height = "8px";
  for (const { at, value } of stages) {
    const part = h("i");
    part.style.width = `${(value / sum) * 100}%`;
    part.style.background = format.colour(at);
    bar.append(part);
  }
  const legend = h("ul", { class: "legend" }, ...stages.map(({ stage, at, value }) => {
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
    swatch.style.background = format.colour(at);
    return h("li", {}, swatch, `${stage} ${format.ms(value)}`);
  }), h("li", {}, `total ${format.ms(timings.total)}`));
  card.append(...(stages.length > 1 ? [bar] : []), legend);
}
