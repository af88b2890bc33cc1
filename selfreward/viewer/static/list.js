// Lists of prompts, answers, votes and what was left out; filtered, sorted, searched, page by page.

import { get, pathOf } from "./api.js";
import { h } from "./dom.js";
import { at, badge, empty, ownOpinion, scroller } from "./frame.js";
import { say } from "./keys.js";
import { count, fixed, isNumber } from "./numbers.js";
import { brief, shown } from "./text.js";

export const tab = "list";

const PAGE = 50, MOST = 200;
const SOON = 700; // milliseconds until a list is read again that is being indexed
const KINDS = { prompts: "Prompts", responses: "Answers", judgments: "Votes", drops: "Left out" };
const SORTS = {
  prompts: ["attempt", "score", "spread", "length", "margin", "disagreement"],
  responses: ["attempt", "score", "spread", "length", "disagreement"],
  judgments: ["attempt", "score", "length"],
  drops: ["attempt"],
};
const WORDS = { attempt: "number", score: "score", spread: "spread of votes", length: "length", margin: "margin",
  disagreement: "disagreement of judges" };

function asked({ searchParams }, after, limit = PAGE) {
  const params = Object.fromEntries(searchParams);
  return { kind: "prompts", ...params, after, limit };
}

/** One page from where the one before ended; null: from the start. */
async function fetched({ name, url, signal }, after, limit) {
  return get(pathOf("api", "run", name, "list"), asked(url, after, limit), signal);
}

export async function load(context) {
  const kept = history.state?.loaded ?? PAGE;
  return { ...(await fetched(context, null, Math.min(MOST, kept))), isMore: false };
}

/** The run has changed: what is loaded is read again, if that is one page. */
export async function again(context, data) {
  if (data.items.length > MOST) return { ...data, isStale: true };
  return { ...(await fetched(context, null, Math.max(PAGE, data.items.length))), isMore: false };
}

export function json({ items, next, count: n }) {
  return { items, next, count: n };
}

export function title(_, { name, url }) {
  return `${KINDS[kindOf(url)] ?? "List"} – ${name}`;
}

export function draw(data, context) {
  const kind = kindOf(context.url);
  clearTimeout(later);
  if (isPart(data.index)) later = setTimeout(() => reread(context), SOON);
  const { items } = data;
  return [
    h("div.title", {}, h("h1", {}, "Lists"), indexed(data.index)),
    tabs(context, kind),
    filters(context, kind),
    h("p.count", { role: "status" }, said(data), isOpinion(kind) ? [" ", ownOpinion()] : null,
      data.isStale ? [" ", h("a", { href: context.url.href, onclick: (event) => reload(event, context) },
        "The run has written more: load again")] : null),
    items.length ? scroller(KINDS[kind],
      h("table.rows.list", {}, h("thead", {}, columns(kind)),
        h("tbody", {}, items.map((one) => row(one, kind, context)))))
      : isPart(data.index) ? empty("The records are being indexed.", "They are listed as soon as they are.")
      : data.next ? h("p.none", {}, "Nothing among those looked at so far.")
      : empty("Nothing fits.", "Take a filter away, or look into another iteration."),
    data.next ? more(data, context) : null,
  ];
}

function kindOf(url) {
  const kind = url.searchParams.get("kind");
  return KINDS[kind] ? kind : "prompts";
}

function isOpinion(kind) {
  return kind !== "drops";
}

function said({ items, next, count: n, index }) {
  if (isPart(index)) return `${count(items.length)} so far`;
  if (isNumber(n)) return `${count(n)} found, ${count(items.length)} shown`;
  return next ? `the first ${count(items.length)}` : `${count(items.length)} found`;
}

let later; // until a list that is not whole is read again

/** Whether not all records are in the index yet. */
function isPart(index) {
  return Boolean(index?.total) && index.done < index.total;
}

async function reread(context) {
  if (context.signal.aborted) return;
  try {
    await context.refresh();
  } catch (error) {
    if (!error.kind && error.name !== "AbortError") throw error; // else the top of the page says it
  }
}

/** How far the records are in the index. */
function indexed(index) {
  if (!isPart(index)) return null;
  return h("p.meta.index", { role: "status" }, "indexing ",
    h("progress", { max: index.total, value: index.done, "aria-label": "Index" }),
    ` ${count(index.done)} of ${count(index.total)} records`);
}

function tabs({ url, name }, kind) {
  return h("nav.kinds", { "aria-label": "Kind" }, Object.entries(KINDS).map(([id, label]) => {
    const params = new URLSearchParams({ kind: id });
    for (const key of ["iteration", "q"]) if (url.searchParams.get(key)) params.set(key, url.searchParams.get(key));
    return h("a", { href: `${at(name, "list")}?${params}`, "aria-current": id === kind ? "page" : null }, label);
  }));
}

function filters({ url, run, go }, kind) {
  const now = (key) => url.searchParams.get(key) ?? "";
  const set = (changes, replace = false) => {
    const next = new URL(location.href); // which may be ahead of what is drawn
    for (const [key, value] of Object.entries(changes)) value ? next.searchParams.set(key,
      value) : next.searchParams.delete(key);
    go(next.href, { replace });
  };
  const choice = (label, key, options, value = now(key)) => h("label", {}, h("span", {}, label),
    h("select", { value, onchange: (event) => set({ [key]: event.currentTarget.value }),
      data: { key: `filter-${key}` } },
      options.map(([id, words]) => h("option", { value: id, selected: id === value }, words))));
  const field = (label, key, props = {}) => h("label", {}, h("span", {}, label),
    h("input", { type: "text", value: now(key).slice(0, 1000),
      onchange: (event) => set({ [key]: event.currentTarget.value.trim() }), data: { key: `filter-${key}` },
      ...props }));
  const numeric = { type: "number", step: "any", min: 0, max: 5, class: "short" };
  const iterations = run.iterations.map((one) => one.iteration);
  return h("form.filters", { role: "search", onsubmit: (event) => event.preventDefault() },
    h("label.wide", {}, h("span", {}, "Search"),
      h("input", { type: "search", value: now("q"), placeholder: "words in prompts, answers, judge texts",
        onchange: (event) => set({ q: event.currentTarget.value.trim() }), data: { key: "filter-q" } })),
    choice("Iteration", "iteration", [["", "all"], ...iterations.map((t) => [String(t), String(t)])],
      now("iteration") === "all" ? "" : now("iteration")),
    SORTS[kind].length > 1 ? choice("Sort by", "sort", SORTS[kind].map((id) => [id, WORDS[id]]),
      now("sort") || "attempt") : null,
    SORTS[kind].length > 1 ? choice("Order", "order", [["asc", "lowest first"], ["desc", "highest first"]],
      now("order") || "asc") : null,
    kind !== "drops" ? field("From score", "min_score", numeric) : null,
    kind !== "drops" ? field("To", "max_score", numeric) : null,
    kind === "drops" ? choice("Left out by", "stage",
      [["", "all stages"], ...["prompts", "responses", "judgments", "selection", "sft", "pairs",
        "train"].map((id) => [id, id])]) : null,
    field("Reason", "reason"),
    kind === "judgments" ? choice("Verdict", "failed", [["", "all"], ["1", "failed only"]]) : null,
    now("juror") ? field("Judge", "juror", numeric) : null,
    turns(url, iterations));
}

/** For the keys [ and ]. */
function turns(url, iterations) {
  const t = Number(url.searchParams.get("iteration") || NaN);
  const all = [...iterations];
  const link = (by) => {
    const to = Number.isNaN(t) ? (by > 0 ? all[0] : all.at(-1)) : all[all.indexOf(t) + by];
    if (to === undefined) return null;
    const next = new URL(url);
    next.searchParams.set("iteration", to);
    return h("a.button.quiet",
      { href: next.pathname + next.search, data: { turn: String(by) }, "aria-label": `Iteration ${to}` },
      by < 0 ? "‹" : "›");
  };
  return h("span.group", {}, link(-1), link(1));
}

function columns(kind) {
  const head = (name, isNumeric) => h(isNumeric ? "th.number" : "th", { scope: "col" }, name);
  const first = head("Prompt", true);
  const by = {
    prompts: [head("Text"), head("Mean score", true), head("Margin", true), head("Length", true), head("Outcome")],
    responses: [head("Text"), head("Score", true), head("Spread", true), head("Length", true), head("Role")],
    judgments: [head("Judge text"), head("Score", true), head("Vote", true), head("Reason")],
    drops: [head("Left out by"), head("Reason"), head("Text")],
  };
  return h("tr", {}, first, by[kind]);
}

function row(one, kind, { name, url }) {
  const q = url.searchParams.get("q");
  const number = (value, write = fixed) => h("td.number", {}, write(value));
  const sample = isNumber(one.sample) ? h("span.sub", {}, ` answer ${one.sample}`) : null;
  const place = isNumber(one.attempt)
    ? h("a", { href: at(name, "prompt", one.iteration, one.attempt) + (kind === "judgments" ? "?unfold=1" : ""),
      data: { open: "" } }, h("span.none", {}, `${one.iteration} / `), String(one.attempt), sample) : h("span.none", {},
      `${one.iteration} / –`);
  const text = h("td.text", {},
    h("p.clip", { dir: "auto" }, one.text ? highlighted(one.text, q) : h("span.none", {}, "(empty)")),
    one.detail ? h("p.clip.sub", { dir: "auto" }, brief(one.detail)) : null);
  const reason = h("td.words", {}, one.reason ? badge("none", brief(one.reason, 80)) : null,
    one.role ? badge(one.role, one.role) : null);
  const cells = {
    prompts: () => [text, number(one.score), number(one.margin), number(one.length, count), reason],
    responses: () => [text, number(one.score), number(one.spread), number(one.length, count), reason],
    judgments: () => [text, number(one.score),
      h("td.number", {}, isNumber(one.juror) && one.juror ? `${one.juror}/${one.vote}` : String(one.vote ?? "–")),
      reason],
    drops: () => [h("td", {}, one.stage ?? "–"), reason, text],
  };
  return h("tr", { data: { row: "", key: keyOf(one) } }, h("td.number", {}, place), cells[kind]());
}

function keyOf(one) {
  return [one.kind, one.iteration, one.attempt, one.sample, one.juror, one.vote, one.reason?.slice(0, 40),
    one.stage].join("/");
}

/** Text in which the words that were looked for stand out. */
function highlighted(text, q) {
  const words = (q ?? "").match(/[\p{L}\p{N}]+/gu);
  if (!words) return shown(text);
  const parts = text.split(new RegExp(`(${words.join("|")})`, "giu"));
  return parts.map((part, n) => (n % 2 ? h("mark", {}, shown(part)) : shown(part)));
}

/** The next page: by a press, and once the button comes into view. */
function more(data, context) {
  const onclick = () => next(data, context);
  const button = h("button.more", { type: "button", onclick, disabled: data.isMore, data: { key: "more" } },
    data.isMore ? "Loading…" : "More");
  queueMicrotask(() => watched(document.querySelector("main button[data-key=more]")));
  return h("p.end", {}, button);
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) entry.target.click();
}, { rootMargin: "600px" });

function watched(button) {
  seen.disconnect();
  if (button) seen.observe(button);
}

async function next(data, context) {
  if (data.isMore || !data.next) return;
  data.isMore = true;
  try {
    const found = await fetched(context, data.next);
    data.items.push(...found.items);
    Object.assign(data, { next: found.next, count: found.count ?? data.count, index: found.index });
    history.replaceState({ ...history.state, loaded: data.items.length }, "");
  } catch (error) {
    if (error.name === "AbortError") return;
    say(error.message);
    data.next = null;
  } finally {
    data.isMore = false;
  }
  context.redraw();
}

function reload(event, context) {
  event.preventDefault();
  history.replaceState({ ...history.state, loaded: PAGE }, "");
  context.go(context.url.href, { replace: true });
}
