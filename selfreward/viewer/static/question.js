// One held-out question: what each model answers, M1 first, and who compared them how.

import { get, pathOf } from "./api.js";
import { marked, wordDiff } from "./diff.js";
import { h } from "./dom.js";
import { at, badge, group, stepTo, toggle } from "./frame.js";
import { many, percent } from "./numbers.js";
import { longer, outcome, questionAt, turns } from "./questions.js";
import { blockOf, brief, line } from "./text.js";

export const tab = "questions";
export const asks = ["full", "model", "judge", "kind", "result", "sort"];

export function load({ name, args, url, signal }) {
  const given = Object.fromEntries(asks.map((key) => [key, url.searchParams.get(key)]));
  return get(pathOf("api", "run", name, "question", args[1]), given, signal);
}

export function title(data, { name }) {
  return `Question ${data.number} – ${name}`;
}

export function draw(data, context) {
  const { url } = context;
  const found = url.searchParams.get("diff") === "1" ? differences(data) : {};
  return [
    heading(data, context),
    h("section.request", { "aria-label": "Question" }, blockOf(data, "prompt", `question-${data.number}`, url),
      data.kind ? h("p.meta", {}, h("span", {}, brief(data.kind))) : null),
    Object.keys(found).length ? legend(data, found) : null,
    h("h2.answers-head", {}, data.answers.length ? many(data.answers.length, "model") : "No model has answered yet"),
    h("div.answers", {}, data.answers.map((one) => answer(one, data, found[one.model], url)), reference(data, url)),
  ];
}

function heading(data, { name, url }) {
  const list = new URL(questionAt(name, data.number, url), url).search;
  const step = (to, rel) => to === null ? null : stepTo(questionAt(name, to, url), rel, "question");
  return h("div.title", {},
    h("h1", {}, h("a.up", { href: at(name, "questions") + list }, "Questions"), ` question ${data.number}`),
    h("div.actions", {},
      data.answers.length > 1 ? toggle(url, "diff", "Word diff") : null,
      turns(data, url),
      group(step(data.previous, "prev"), step(data.next, "next"))));
}

/** By model, the parts of its answer; those of M1 are held against the model that is looked at. */
function differences({ answers, model }) {
  const [first, ...others] = answers;
  const found = {};
  for (const other of others) {
    const parts = wordDiff(first.text, other.text);
    found[other.model] = parts ? [parts.b, "ins"] : "long";
    if (other.model === model && parts) found[first.model] = [parts.a, "del"];
  }
  return found;
}

function legend({ answers, model }, found) {
  const first = answers[0].model;
  return h("p.legend", {}, h("ins", {}, `not in the answer of ${first}`), " ",
    found[first] ? h("del", {}, `not in the answer of ${model}`) : null,
    Object.values(found).includes("long") ? h("span.hint", {}, " Some are too long to compare by words.") : null);
}

function answer(one, data, parts, url) {
  const key = `question-${data.number}-${one.model}`;
  const isFirst = one.base === null;
  const facts = [
    [many(one.num_tokens, "token")],
    [many(one.length, "character"), isFirst ? null : h("strong", {}, ` ${longer(one.longer)}`)],
    isFirst ? null : [`${percent(one.changed, 0)} changed`],
  ].filter(Boolean);
  return h("article", { class: `card answer${one.model === data.model && !isFirst ? " chosen" : ""}`, tabindex: "-1",
    "aria-label": `Answer of ${one.model}`, data: { row: "", key } },
    h("header", {}, h("h2", {}, one.model, one.base ? [" ", h("span.sub", {}, `from ${one.base}`)] : null)),
    one.contests.length ? h("ul.results", {}, one.contests.map((each, n) => h("li", {}, outcome(each.result),
      h("span.sub", {}, " v ", line(each.opponent, `${key}-opponent-${n}`), ", by ",
        line(each.judge, `${key}-judge-${n}`))))) : null,
    h("p.meta", {}, facts.map((fact) => h("span", {}, fact)), one.truncated ? badge("bad", "cut off") : null),
    one.dropped ? h("p.why", {}, "Not compared: ", line(one.dropped, `${key}-dropped`)) : null,
    parts && parts !== "long" ? h("div.model.diff", { data: { key: `${key}-diff` }, dir: "auto" }, marked(...parts))
      : blockOf(one, "text", `${key}-text`, url));
}

function reference(data, url) {
  if (data.reference === null) return null;
  const key = `question-${data.number}-reference`;
  return h("article.card.answer", { tabindex: "-1", "aria-label": "Reference", data: { row: "", key } },
    h("header", {}, h("h2", {}, "Reference ", h("span.sub", {}, "from the data"))),
    h("p.meta", {}, h("span", {}, many(data.cut?.reference ?? data.reference.length, "character"))),
    blockOf(data, "reference", `${key}-text`, url));
}
