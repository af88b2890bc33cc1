// How numbers are written. What there is none of is a dash.

const DASH = "–";
const MINUS = "−";

export function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** Such as 12,345. */
export function count(value) {
  return isNumber(value) ? value.toLocaleString("en") : DASH;
}

/** Such as 2.76, with a real minus. */
export function fixed(value, digits = 2) {
  return isNumber(value) ? tidy(value.toFixed(digits)) : DASH;
}

/** Such as +0.03. */
export function signed(value, digits = 2) {
  return isNumber(value) ? (value < 0 ? "" : "+") + fixed(value, digits) : DASH;
}

/** A share from 0 to 1, such as 20.3%. */
export function percent(value, digits = 1) {
  return isNumber(value) ? `${fixed(100 * value, digits)}%` : DASH;
}

/** Such as [42.0, 65.3]; empty where there is none. */
export function interval(estimate, scale = 1, digits = 2, write = fixed) {
  if (!estimate || !isNumber(estimate.low) || !isNumber(estimate.high)) return "";
  return `[${write(scale * estimate.low, digits)}, ${write(scale * estimate.high, digits)}]`;
}

/** Seconds, such as 7 min 09 s. */
export function duration(seconds) {
  if (!isNumber(seconds)) return DASH;
  if (seconds < 10) return `${fixed(seconds, 1)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${String(s % 60).padStart(2, "0")} s`;
  return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} min`;
}

/** A UTC time in the reader's zone, such as 26 Nov 2026, 03:20. */
export function moment(iso) {
  if (!iso) return DASH;
  const at = new Date(iso);
  if (Number.isNaN(at.getTime())) return DASH;
  return at.toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}

/** "1 pair", "2 pairs". */
export function many(n, one, several = `${one}s`) {
  return `${count(n)} ${n === 1 ? one : several}`;
}

function tidy(text) {
  return /^-0(\.0+)?$/.test(text) ? text.slice(1) : text.replace("-", MINUS);
}
