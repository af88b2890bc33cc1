// What the server knows, as JSON. Every page asks through here.

/** A request that was answered with an error, or not at all (`kind` is then "Connection"). */
export class Problem extends Error {
  constructor(status, { kind, message, hint = null }) {
    super(message);
    Object.assign(this, { status, kind, hint });
  }

  get isLost() {
    return this.kind === "Connection";
  }
}

/**
 * GET.
 * @param {string} path Such as "/api/runs"; see `pathOf`.
 * @param {object|URLSearchParams} params Those that are null, undefined or "" are left out.
 * @param {AbortSignal} signal
 * @throws {Problem}
 */
export async function get(path, params = {}, signal = undefined) {
  return (await ask(path + query(params), { signal })).json();
}

/** The same, as text. */
export async function text(path, params = {}, signal = undefined) {
  return (await ask(path + query(params), { signal })).text();
}

/** POST a value as JSON, and read the answer as JSON (null where there is none). */
export async function post(path, body, method = "POST") {
  const headers = { "Content-Type": "application/json" };
  const answer = await ask(path, { method, headers, body: JSON.stringify(body) });
  const said = await answer.text();
  return said ? JSON.parse(said) : null;
}

/** A path from parts, each of which is encoded: pathOf("api", "run", name). */
export function pathOf(...parts) {
  return "/" + parts.map((part) => encodeURIComponent(part)).join("/");
}

/** "?a=1&b=2", or "" without any. */
export function query(params) {
  const pairs = params instanceof URLSearchParams ? [...params] : Object.entries(params);
  const kept = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return kept.length ? "?" + new URLSearchParams(kept) : "";
}

async function ask(url, options) {
  let answer;
  try {
    answer = await fetch(url, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    const hint = "Is `selfreward view` still running? This page tries again by itself.";
    throw new Problem(0, { kind: "Connection", message: "The viewer does not answer.", hint });
  }
  if (!answer.ok) throw new Problem(answer.status, await said(answer));
  return answer;
}

async function said(answer) {
  const plain = { kind: "HTTP", message: `The viewer answered ${answer.status} ${answer.statusText}.` };
  if (answer.status === 401)
    plain.hint = "Open the address that `selfreward view` printed, with its token.";
  try {
    return (await answer.json()).error ?? plain;
  } catch {
    return plain;
  }
}

export const api = { get, text, post, pathOf, query };
