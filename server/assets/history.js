// What the charts show: the last ten minutes of every model and endpoint, kept in the page.

const POINTS_MAX = 300;

/** Where the charts look: `model:spam`, `endpoint:/v1/classify`. */
export class History {
  constructor() {
    this.scopes = new Map();
    this.last = null;
  }

  /** Takes one answer of `/api/metrics`; returns the rates since the one before. */
  take(now, metrics) {
    const rates = new Map();
    const seconds = this.last ? (now - this.last.now) / 1000 : 0;
    const counts = new Map();
    for (const model of metrics.models) counts.set(`model:${model.name}`, [model, metrics.queue.jobs]);
    for (const endpoint of metrics.endpoints) counts.set(`endpoint:${endpoint.endpoint}`, [endpoint, metrics.queue.jobs]);
    // A server that was started anew counts from zero.
    const restarted = this.last && metrics.uptime_seconds < this.last.uptime;
    for (const [scope, [item, queue]] of counts) {
      const before = restarted ? null : this.last?.counts.get(scope)?.[0];
      const since = (name) => (before && seconds > 0 ? Math.max(0, item[name] - before[name]) : NaN);
      const [hits, misses] = [since("cache_hits_total"), since("cache_misses_total")];
      const rate = since("requests_total") / seconds;
      rates.set(scope, rate);
      const { requests, p50_ms, p95_ms, p99_ms } = item.recent;
      const seen = (value) => (requests ? value : NaN);
      const points = this.scopes.get(scope) ?? [];
      points.push({
        now, rate, p50: seen(p50_ms), p95: seen(p95_ms), p99: seen(p99_ms),
        queue: item.queue_tokens ?? queue,
        hits: hits + misses > 0 ? hits / (hits + misses) : NaN,
      });
      if (points.length > POINTS_MAX) points.shift();
      this.scopes.set(scope, points);
    }
    this.last = { now, counts, uptime: metrics.uptime_seconds };
    return rates;
  }

  of(scope) {
    return this.scopes.get(scope) ?? [];
  }
}
