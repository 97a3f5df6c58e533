// Drives a headless Chromium over its debugging protocol against a server of its own.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";

const [binary, screenshots] = process.argv.slice(2);
const PATIENCE_MS = 60_000;
const scratch = mkdtempSync(join(tmpdir(), "postsort-dashboard-"));
const children = [];
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

/** Starts a program; resolves with what `pattern` finds in its standard error. */
function start(command, args, pattern) {
  const child = spawn(command, args, { stdio: ["ignore", "ignore", "pipe"], env: { ...process.env, POSTSORT_STORE: `sqlite:${join(scratch, "store.db")}` } });
  children.push(child);
  return new Promise((found, failed) => {
    let said = "";
    const late = setTimeout(() => failed(new Error(`${command} never said ${pattern}: ${said}`)), PATIENCE_MS);
    child.stderr.on("data", (chunk) => {
      said += chunk;
      const match = said.match(pattern);
      if (match) clearTimeout(late), found(match[1]);
    });
    child.on("exit", (code) => failed(new Error(`${command} ended with ${code}: ${said}`)));
  });
}

/** One page, over the debugging protocol. */
class Page {
  static async open(debugger_url) {
    const page = new Page();
    page.socket = new WebSocket(debugger_url);
    page.waiting = new Map();
    page.errors = [];
    page.number = 0;
    await new Promise((done, failed) => Object.assign(page.socket, { onopen: done, onerror: failed }));
    page.socket.onmessage = ({ data }) => {
      const { id, result, error, method, params } = JSON.parse(data);
      if (id) page.waiting.get(id)?.(error ? Promise.reject(new Error(error.message)) : result);
      if (method === "Runtime.exceptionThrown") page.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
      if (method === "Log.entryAdded" && params.entry.level === "error") page.errors.push(`${params.entry.text} ${params.entry.url ?? ""}`);
    };
    for (const domain of ["Page", "Runtime", "Log"]) await page.send(`${domain}.enable`);
    return page;
  }

  send(method, params = {}) {
    const id = ++this.number;
    this.socket.send(JSON.stringify({ id, method, params }));
    return new Promise((done) => this.waiting.set(id, done));
  }

  async run(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  }

  async until(what, expression) {
    const end = Date.now() + PATIENCE_MS;
    while (!(await this.run(expression))) {
      if (Date.now() > end) throw new Error(`never happened: ${what}\n${await this.run("document.body.innerText")}`);
      await wait(50);
    }
  }

  async click(selector) {
    const { x, y } = await this.run(`(() => { const e = document.querySelector(${JSON.stringify(selector)}); e.scrollIntoView({ block: "center", inline: "center" }); const r = e.getBoundingClientRect(); return { x: r.x + r.width / 2, y: r.y + r.height / 2 }; })()`);
    for (const type of ["mousePressed", "mouseReleased"]) await this.send("Input.dispatchMouseEvent", { type, x, y, button: "left", clickCount: 1 });
  }

  async key(key, code, modifiers = 0) {
    const windowsVirtualKeyCode = { Enter: 13, Tab: 9 }[key];
    const text = key === "Enter" && !modifiers ? "\r" : undefined;
    for (const type of ["keyDown", "keyUp"]) await this.send("Input.dispatchKeyEvent", { type, key, code, modifiers, windowsVirtualKeyCode, text });
  }

  async size(width, height) {
    await this.send("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: width < 500 });
    await wait(300);
  }

  async shoot(name) {
    await this.run("scrollTo(0, 0)");
    const height = await this.run("document.documentElement.scrollHeight");
    const width = await this.run("innerWidth");
    await this.size(width, height);
    const { data } = await this.send("Page.captureScreenshot", { format: "png" });
    writeFileSync(join(screenshots, `${name}.png`), Buffer.from(data, "base64"));
  }

  async scheme(value) {
    await this.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value }] });
  }
}

async function main() {
  mkdirSync(screenshots, { recursive: true });
  const models = join(scratch, "models");
  for (const name of ["electra", "roberta-multi-label", "distilbert"]) cpSync(join("models/tests/fixtures", name), join(models, name), { recursive: true });
  cpSync("bundled/spam", join(models, "spam"), { recursive: true });
  writeFileSync(join(models, "distilbert/tokenizer.json"), "{}");
  const url = await start(binary, ["serve", "--listen", "127.0.0.1:0", "--models-dir", models, "--memory-bytes-max", "200MiB"], /(http:\/\/127[0-9.:]+)/);
  const debugging = await start("chromium", ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-port=0", `--user-data-dir=${resolve(scratch, "profile")}`, "about:blank"], /DevTools listening on (ws:\S+)/);
  const port = new URL(debugging).port;
  const targets = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json();
  const page = await Page.open(targets.find(({ type }) => type === "page").webSocketDebuggerUrl);
  await page.size(1280, 900);
  await page.scheme("light");

  await page.send("Page.navigate", { url });
  await page.until("the first figures", "document.body?.dataset.shown === 'true'");
  assert.equal(await page.run("document.querySelectorAll('#objectives > li').length"), 4);
  assert.equal(await page.run("document.querySelectorAll('#models > tr').length"), 4);
  const state = (model) => `document.querySelector('[data-model="${model}"] .mark').textContent`;
  const button = (model, at) => `[data-model="${model}"] .actions button:nth-child(${at})`;
  assert.equal(await page.run(state("spam")), "unloaded");

  // A mail, by keyboard, asked of every model; the broken one says so.
  await page.click("#mail");
  await page.send("Input.insertText", { text: "Subject: You won!!!\n\nClick here to claim your prize of 1,000,000 dollars now." });
  await page.key("Enter", "Enter", 2);
  await page.until("every model's verdict", "document.querySelectorAll('#verdicts > li').length === 4 && !document.querySelector('#verdicts [aria-busy]')");
  assert.match(await page.run(`document.querySelector('[data-verdict="spam"]').innerText`), /spam[\s\S]*%[\s\S]*total/);
  assert.match(await page.run(`document.querySelector('[data-verdict="distilbert"]').innerText`), /tokenizer/);
  await page.until("the model is shown as loaded", `${state("spam")} === 'ready'`);
  await page.until("the failure is an alert", "document.querySelector('#alerts').innerText.includes('PostsortModelLoadFailed')");
  await page.click("#try [type=submit]");
  await page.until("known answers", "document.querySelector('#verdicts').innerText.includes('known already')");

  // Unload by mouse, load by keyboard, pin; the focus stays where it was.
  await page.click(button("spam", 1));
  await page.until("unloaded", `${state("spam")} === 'unloaded'`);
  await page.until("free again", `!document.querySelector('${button("spam", 1)}').disabled`);
  await page.run(`document.querySelector('${button("spam", 1)}').focus()`);
  await page.key("Enter", "Enter");
  await page.until("loaded again", `${state("spam")} === 'ready'`);
  await page.until("the focus stays", `document.activeElement === document.querySelector('${button("spam", 1)}')`);
  await page.key("Tab", "Tab");
  assert.equal(await page.run("document.activeElement.dataset.action"), "pin");
  await page.key("Enter", "Enter");
  await page.until("pinned", `${state("spam")} === 'ready · pinned'`);

  // A revision on trial, and one that cannot be used.
  const why = (model) => `document.querySelector('[data-model="${model}"] .why').textContent`;
  const manifest = join(models, "electra/postsort.toml");
  const ask = (path, body) => fetch(`${url}${path}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  writeFileSync(manifest, "temperature = 2.0\n");
  await ask("/v1/models/electra/reload", { shadow: 1 });
  await ask("/v1/classify", { model: "electra", inputs: ["one", "two"] });
  await page.until("a trial", `/on trial: agrees on 100.*2 mails/.test(${why("electra")})`);
  await ask("/v1/models/electra/promote", {});
  writeFileSync(manifest, "temperature = 0\n");
  await ask("/v1/models", {});
  await page.until("a refusal", `/refused.*temperature/.test(${why("electra")})`);

  // Some traffic, so that the charts have lines; two figures make a rate.
  const traffic = async (rounds) => {
    for (let n = 0; n < rounds; n++) {
      for (const model of ["spam", "spam", "electra", "roberta-multi-label"]) {
        await fetch(`${url}/v1/classify`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ model, inputs: [`mail ${n % 7}`, "the same"] }) });
      }
      await wait(60);
    }
  };
  await page.run("document.querySelector('#scope').value = 'model:spam', document.querySelector('#scope').dispatchEvent(new Event('change'))");
  await Promise.all([traffic(120), wait(12_000)]);
  await page.until("a line", "document.querySelectorAll('#latency .series').length >= 3 && document.querySelectorAll('#throughput .series').length >= 1");

  // What was said, and a word of somebody on it.
  const journal = (part) => `document.querySelector('#journal [data-part="${part}"]')`;
  await page.run(`${journal("model")}.value = 'spam', ${journal("model")}.dispatchEvent(new Event('change'))`);
  await page.until("the last mails", `${journal("verdicts")}.querySelectorAll('[data-by="spam"]').length === 20`);
  assert.ok(await page.run(`${journal("hours")}.querySelectorAll('rect').length`), "a bar for this hour");
  assert.ok(await page.run(`/ham/.test(${journal("labels")}.textContent) && /%/.test(${journal("labels")}.textContent)`));
  assert.match(await page.run(`${journal("note")}.textContent`), /mails, \d+ % known/);
  await page.run(`(() => { const pick = ${journal("verdicts")}.querySelector('select'); pick.value = 'spam'; pick.dispatchEvent(new Event('change')); })()`);
  await page.until("it is noted", `/^Noted: spam/.test(${journal("said")}.textContent)`);
  await page.until("it counts", `/told by people1/.test(${journal("figures")}.textContent)`);
  // Each row of that mail has it.
  assert.ok(await page.run(`[...${journal("verdicts")}.children].filter((row) => row.querySelector('select').value === 'spam').every((row, _, rows) => row.children[1].textContent === rows[0].children[1].textContent)`));
  assert.ok(await page.run(`[...${journal("verdicts")}.querySelectorAll('select')].some((pick) => pick.value === 'spam')`));

  const wide = await page.run("document.documentElement.scrollWidth <= innerWidth");
  assert.ok(wide, "nothing is wider than the screen");
  await page.shoot("light");
  await page.scheme("dark");
  await page.shoot("dark");
  await page.size(390, 844);
  assert.ok(await page.run("document.documentElement.scrollWidth <= innerWidth"), "a narrow screen needs no sideways scrolling");
  await page.shoot("narrow");
  const unnamed = await page.run("[...document.querySelectorAll('button, select, textarea, input')].filter((e) => !(e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length)).length");
  assert.equal(unnamed, 0, "every control has a name");

  // The broken model answers 503, which the browser logs; nothing else may go wrong.
  const errors = page.errors.filter((error) => !/503/.test(error));
  assert.deepEqual(errors, []);

  // A server that goes away is told, and the page lives on.
  children[0].removeAllListeners("exit");
  children[0].kill("SIGTERM");
  await page.until("the loss is told", "!document.querySelector('#offline').hidden");
  console.log(`dashboard: 27 checks passed; screenshots in ${screenshots}`);
}

try {
  await main();
} finally {
  for (const child of children) child.removeAllListeners("exit"), child.kill("SIGTERM");
  await wait(500);
  rmSync(scratch, { recursive: true, force: true, maxRetries: 5 });
}
process.exit();
