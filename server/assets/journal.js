// What was said, as the store has it: sums by hour, labels, what people said of it, the last mails.

import * as api from "./api.js";
import { h, keyed, svg, text } from "./dom.js";
import * as format from "./format.js";

const PERIOD_MS = 15_000;
const HOUR_MS = 3_600_000;
const [WIDTH, HEIGHT] = [600, 96];

/**
 * Fills the panel when something is picked, and every quarter of a minute while it is seen. What it
 * returns is to be told whether there is a store: without one, nothing is asked.
 */
export function setUp(panel) {
  const part = (name) => panel.querySelector(`[data-part="${name}"]`);
  const [since, model, note] = [part("since"), part("model"), part("note")];
  let [asking, stored] = [null, false];

  async function refresh() {
    if (!stored) return;
    asking?.abort();
    const own = (asking = new AbortController());
    try {
      const stats = await api.stats(since.value, own.signal);
      const names = Object.keys(stats.models);
      keyed(model, names, (name) => name, (name) => h("option", { value: name }, name), () => {});
      if (names.length && !model.value) model.value = names[0];
      const sums = stats.models[model.value];
      part("all").hidden = !sums;
      text(note, sums ? `${format.count(sums.mails)} mails, ${format.share(sums.cached / sums.mails, 0)} known already` : "No mail was read in this time.");
      if (!sums) return;
      hours(part("hours"), sums.hours, Date.parse(stats.since), Date.parse(stats.until));
      labels(part("labels"), sums);
      figures(part("figures"), sums);
      const { verdicts } = await api.history(model.value, since.value, own.signal);
      list(part("verdicts"), verdicts, Object.keys(sums.labels), tell);
    } catch (error) {
      if (!own.signal.aborted) part("all").hidden = true, text(note, error.message);
    }
  }

  async function tell(verdict, label) {
    try {
      const { agrees } = await api.feedback(verdict, label);
      text(part("said"), `Noted: ${label}, ${agrees ? "as said" : "where another was said"}.`);
      refresh();
    } catch (error) {
      text(part("said"), error.message);
    }
  }

  for (const pick of [since, model]) pick.addEventListener("change", refresh);
  setInterval(() => document.hidden || refresh(), PERIOD_MS);
  return (there) => {
    if (!there) text(note, "Nothing is kept: the server has no store (--store).");
    if (there && !stored) stored = true, refresh();
  };
}

/** Mails by hour; hours without mail are gaps. */
function hours(figure, sums, begin, end) {
  const first = Math.floor(begin / HOUR_MS);
  const count = Math.floor(end / HOUR_MS) - first + 1;
  const most = Math.max(...sums.map(({ mails }) => mails));
  const width = WIDTH / count;
  const bars = sums.map(({ hour, mails, cached }) => {
    const [x, tall] = [(Date.parse(hour) / HOUR_MS - first) * width, (mails / most) * HEIGHT];
    const title = svg("title", {}, `${new Date(hour).toLocaleString()}: ${format.count(mails)} mails, ${format.count(cached)} known`);
    return svg("rect", { x: x + width * 0.1, y: HEIGHT - tall, width: width * 0.8, height: tall }, title);
  });
  const said = `Mails by hour, ${format.count(most)} at most`;
  figure.replaceChildren(
    h("figcaption", {}, said),
    svg("svg", { role: "img", "aria-label": said, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" }, ...bars),
  );
}

/** How often each label came first. */
function labels(parent, sums) {
  const found = Object.entries(sums.labels).sort(([, a], [, b]) => b - a);
  const make = () => h("li", {}, h("span"), h("i", {}, h("b")), h("em"));
  keyed(parent, found, ([label]) => label, make, (item, [label, mails]) => {
    text(item.firstChild, label);
    item.querySelector("b").style.width = `${(mails / sums.mails) * 100}%`;
    text(item.lastChild, format.share(mails / sums.mails));
  });
}

function figures(parent, { confidence_mean, tokens_mean, latency_mean_ms, feedback }) {
  const found = [
    ["mean score", format.share(confidence_mean)],
    ["mean tokens", format.count(tokens_mean)],
    ["mean time", format.ms(latency_mean_ms)],
    ["told by people", format.count(feedback.mails)],
    ["of these right", format.share(feedback.agreement)],
    ...feedback.confusion.filter(({ predicted, truth }) => predicted !== truth)
      .map(({ predicted, truth, mails }) => [`${predicted}, in truth ${truth}`, format.count(mails)]),
  ];
  keyed(parent, found, ([name]) => name, ([name]) => h("li", {}, h("span", { class: "quiet" }, name), h("b")), (item, [, value]) => text(item.lastChild, value));
}

function list(body, verdicts, known, tell) {
  const key = ({ request_id, item, model }) => `${request_id} ${item} ${model}`;
  const make = (verdict) => {
    const names = [...new Set([...verdict.labels.map(({ label }) => label), ...known])];
    const pick = h("select", { "aria-label": `What is true of mail ${verdict.mail.slice(0, 8)}`, onchange: () => pick.value && tell(verdict, pick.value) },
      h("option", { value: "" }, "–"), ...names.map((name) => h("option", { value: name }, name)));
    const cell = (kind, ...children) => h("td", kind ? { class: kind } : {}, ...children);
    return h("tr", { "data-by": verdict.model }, cell(), h("td", {}, h("code", { title: verdict.mail }, verdict.mail.slice(0, 8))), cell(), cell("n"), cell("n"), cell("n"), cell("", pick));
  };
  keyed(body, verdicts, key, make, (row, { at, labels, tokens, cached, timings_ms, truth }) => {
    const cells = [new Date(at).toLocaleTimeString(), null, labels[0].label, format.share(labels[0].score), format.count(tokens), cached ? "known" : format.ms(timings_ms.total)];
    cells.forEach((value, at) => value != null && text(row.children[at], value));
    row.querySelector("select").value = truth ?? "";
  });
}
