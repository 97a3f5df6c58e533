// Numbers for people.

const three = (value) => (value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2));

/** Milliseconds; an em dash where there is nothing to tell. */
export function ms(value) {
  if (value == null || Number.isNaN(value)) return "–";
  if (value >= 10_000) return `${three(value / 1000)} s`;
  if (value < 1) return value === 0 ? "0" : `${three(value * 1000)} µs`;
  return `${three(value)} ms`;
}

export function bytes(value) {
  if (!value) return "0";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const at = Math.min(Math.floor(Math.log2(value) / 10), units.length - 1);
  return `${at ? three(value / 2 ** (10 * at)) : value} ${units[at]}`;
}

export function rate(value) {
  if (value == null || Number.isNaN(value)) return "–";
  return value >= 1000 ? `${three(value / 1000)} k` : value === 0 ? "0" : three(value);
}

export function share(value, digits = 1) {
  return value == null || Number.isNaN(value) ? "–" : `${(value * 100).toFixed(digits)} %`;
}

export function count(value) {
  return value == null ? "–" : Math.round(value).toLocaleString("en");
}

export function time(seconds) {
  const [d, hours, m] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24, Math.floor(seconds / 60) % 60];
  return d ? `${d} d ${hours} h` : hours ? `${hours} h ${m} min` : m ? `${m} min` : `${Math.floor(seconds)} s`;
}

/** The colour of the so-manieth thing. */
export const colour = (at) => `var(--c${at % 6})`;
