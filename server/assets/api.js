// What the page asks of the server.

async function ask(path, options = {}) {
  const response = await fetch(path, options);
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? `status ${response.status}`);
  return body;
}

export const metrics = (signal) => ask("/api/metrics", { signal });

export const stats = (since, signal) => ask(`/v1/stats?since=${since}`, { signal });

export const history = (model, since, signal) =>
  ask(`/v1/history?limit=20&since=${since}&model=${encodeURIComponent(model)}`, { signal });

/** Says what is true of a mail. */
export const feedback = (verdict, label) => ask("/v1/feedback", {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ request_id: verdict.request_id, item: verdict.item, model: verdict.model, label }),
});

export const act = (model, action) =>
  ask(`/v1/models/${encodeURIComponent(model)}/${action}`, { method: "POST" });

const HEADER = /^(?:from|to|subject|date|received|return-path|message-id|mime-version|content-type|delivered-to|reply-to)\s*:/i;

/** A text that begins as a message does is sent as one. */
export const isMessage = (mail) => HEADER.test(mail.trimStart());

export function classify(model, mail, fresh) {
  if (isMessage(mail)) {
    const headers = { "content-type": "message/rfc822" };
    if (fresh) headers["cache-control"] = "no-cache";
    const path = `/v1/classify?model=${encodeURIComponent(model)}`;
    return ask(path, { method: "POST", headers, body: mail.trimStart() });
  }
  const body = JSON.stringify({ model, inputs: mail, cache: !fresh });
  return ask("/v1/classify", { method: "POST", headers: { "content-type": "application/json" }, body });
}
