// The held-out questions: how long each model's answers are, and which it won against M1.

import { get, pathOf, query } from "./api.js";
import { h } from "./dom.js";
import { at, badge, empty, group, scroller, stepTo } from "./frame.js";
import { count, many, percent, signed } from "./numbers.js";
import { plain, shown } from "./text.js";

export const tab = "questions";
export const asks = ["model", "judge", "kind", "result", "sort", "after"];

const PAGE = 200; // questions that the server sends at once
const KINDS = { won: "good", lost: "bad", tie: "", none: "none" };
const WORDS = { won: "won", lost: "lost", tie: "tie", none: "no verdict" };
const SORTS = [["changed", "most changed"], ["number", "number"]];

export function load({ name, url, signal }) {
  const given = Object.fromEntries(asks.map((key) => [key, url.searchParams.get(key)]));
  return get(pathOf("api", "run", name, "questions"), given, signal);
}

export function title(_, { name }) {
  return `Questions – ${name}`;
}

export function draw(data, context) {
  const { url, name } = context;
  return [
    h("div.title", {}, h("h1", {}, "Questions"),
      h("p.meta", {}, h("span", {}, many(data.total, "held-out question")),
        data.judges.length ? h("span", {}, "judged against the answers of M1 by ", shown(judgeName(data))) : null)),
    filters(data, context),
    data.models.length ? tally(data, url)
      : h("p.note", { role: "status" }, "No model has answered yet: each does at the end of its iteration, M1 first."),
    data.questions.length ? table(data, url, name) : empty("Nothing fits.", "Take a filter away."),
    pages(data, url),
  ];
}

/** A result as a colored word. */
export function outcome(result) {
  return badge(KINDS[result], WORDS[result]);
}

/** A judge by its name, and by its number where several have the same. */
export function judgeName({ judges }, number = null) {
  if (number === null) return judges.length === 1 ? judges[0] : `${judges.length} judges`;
  const isAlone = judges.filter((name) => name === judges[number]).length === 1;
  return isAlone ? judges[number] : `${judges[number]} (${number + 1})`;
}

/** How many characters longer an answer is than that of M1. */
export function longer(value) {
  return value === 0 ? "±0" : signed(value, 0);
}

/** The same list otherwise; from its beginning. */
function changed(url, changes) {
  const next = new URL(url);
  next.searchParams.delete("after");
  for (const [key, value] of Object.entries(changes))
    value ? next.searchParams.set(key, value) : next.searchParams.delete(key);
  return next.pathname + next.search;
}

/** The model before or after the one that is looked at: for the keys [ and ]. */
export function turns(data, url) {
  const turn = (by) => {
    const to = data.models[data.models.indexOf(data.model) + by];
    if (to === undefined) return null;
    return h("a.button.quiet", { href: changed(url, { model: to }), data: { turn: String(by) }, "aria-label": `Look at ${to}` },
      `${by < 0 ? "‹ " : ""}${to}${by > 0 ? " ›" : ""}`);
  };
  return group(turn(-1), turn(1));
}

function filters(data, { url, go }) {
  const choice = (label, key, options, value) => h("label", {}, h("span", {}, label),
    h("select", { value, onchange: (event) => go(changed(location.href, { [key]: event.currentTarget.value })),
      data: { key: `filter-${key}` } },
    options.map(([id, words]) => h("option", { value: id, selected: id === value }, words))));
  const now = (key) => url.searchParams.get(key) ?? "";
  const kinds = Object.entries(data.kinds).filter(([kind]) => kind);
  return h("form.filters", { role: "search", onsubmit: (event) => event.preventDefault() },
    data.models.length > 1 ? choice("Model", "model", data.models.map((name) => [name, name]), data.model) : null,
    data.judges.length > 1 ? choice("Judge", "judge",
      data.judges.map((_, n) => [String(n), plain(judgeName(data, n))]), String(data.judge)) : null,
    data.judges.length ? choice("Result against M1", "result",
      [["", "all"], ...Object.entries(WORDS)], now("result")) : null,
    kinds.length ? choice("Kind", "kind",
      [["", "all"], ...kinds.map(([kind, n]) => [kind, `${plain(kind.slice(0, 60))} (${n})`])], now("kind")) : null,
    choice("Sort by", "sort", SORTS, now("sort") || "changed"),
    turns(data, url));
}

function tally(data, url) {
  const { model, models, judges, count: n } = data;
  if (!judges.length || model === models[0])
    return h("p.count", { role: "status" }, `${many(n, "question")}, as answered by ${model}`);
  const parts = Object.entries(data.tally).filter(([, times]) => times).map(([result, times]) =>
    [" ", h("a", { href: changed(url, { result }) }, outcome(result), ` ${count(times)}`)]);
  return h("p.count", { role: "status" }, `${many(n, "question")}; ${model} against M1, by `,
    shown(judgeName(data, data.judge)), ":", parts);
}

function table(data, url, name) {
  const [first, ...others] = data.models;
  const head = (...words) => h("th.number", { scope: "col" }, words);
  return scroller("Questions", h("table.rows.list.questions", {},
    h("thead", {}, h("tr", {}, head("No."), h("th", { scope: "col" }, "Text"),
      first ? head(first, h("span.sub", {}, " characters")) : null,
      others.map((model) => head(model, h("span.sub", {}, " to M1"))),
      others.length && data.model !== first ? head(`${data.model} changed`) : null)),
    h("tbody", {}, data.questions.map((one) => row(one, data, url, name)))));
}

function row(one, { judge, model, models }, url, name) {
  const [first, ...others] = one.answers;
  const cell = ({ length, longer: by, dropped, truncated, results }) => h("td.number", {},
    results.length ? outcome(results[judge] ?? "none") : null,
    h("span.sub", { title: `${count(length)} characters` }, longer(by)), lacking(dropped, truncated));
  return h("tr", { data: { row: "", key: `question-${one.number}` } },
    h("td.number", {}, h("a", { href: questionAt(name, one.number, url), data: { open: "" } }, String(one.number))),
    h("td.text", {}, h("p.clip", { dir: "auto" }, shown(one.text)),
      one.kind ? h("p.clip.sub", { dir: "auto" }, shown(one.kind)) : null),
    first ? h("td.number", {}, count(first.length), lacking(first.dropped, first.truncated)) : null,
    others.map(cell),
    others.length && model !== models[0] ? h("td.number", {}, percent(one.changed, 0)) : null);
}

function lacking(dropped, truncated) {
  if (dropped) return h("span.sub", {}, shown(dropped.slice(0, 40)));
  return truncated ? h("span.sub", {}, "cut off") : null;
}

/** The address of a question, from the list that the reader goes through. */
export function questionAt(name, number, url) {
  const { searchParams: given } = url;
  const kept = Object.fromEntries(["model", "judge", "kind", "result", "sort", "diff"].map((key) => [key, given.get(key)]));
  return at(name, "question", number) + query(kept);
}

function pages({ first, next, count: n, questions }, url) {
  if (!questions.length || (!first && next === null)) return null;
  const to = (after) => {
    const other = new URL(url);
    other.searchParams.set("after", after);
    return other.pathname + other.search;
  };
  return h("p.end", {}, `${count(first + 1)} to ${count(first + questions.length)} of ${count(n)} `,
    group(first ? stepTo(to(Math.max(0, first - PAGE)), "prev", "page") : null,
      next !== null ? stepTo(to(next), "next", "page") : null));
}
