// A prompt: its answers side by side, every vote, which became a pair and why.

import { get, pathOf } from "./api.js";
import { marked, wordDiff } from "./diff.js";
import { h } from "./dom.js";
import { at, badge, group, listAt, ownOpinion, stepTo, toggle } from "./frame.js";
import { dots, probabilities } from "./marks.js";
import { count, fixed, isNumber, many } from "./numbers.js";
import { block, blockOf, line, shown } from "./text.js";

export const tab = "list";
export const asks = ["full"];

export function load({ name, args, url, signal }) {
  return get(pathOf("api", "run", name, "prompt", args[1], args[2]), { full: url.searchParams.get("full") }, signal);
}

export function title(data, { name }) {
  return `Prompt ${data.iteration}/${data.attempt} – ${name}`;
}

export function draw(data, context) {
  const on = (key) => context.url.searchParams.get(key) === "1";
  const found = on("diff") ? differences(data) : null;
  return [
    heading(data, context),
    request(data, context),
    outcome(data, context, found),
    data.criteria.length ? criteria(data.criteria) : null,
    data.responses.length ? h("h2.answers-head", {}, many(data.responses.length, "answer"), " ", ownOpinion()) : null,
    data.responses.length ? h("div.answers", {},
      data.responses.map((one) => answer(one, data, on("unfold"), found, context.url))) : null,
    comparisons(data, on("unfold"), context.url),
    demonstrations(data, context),
  ];
}

function heading(data, context) {
  const { name, url, run } = context;
  const t = data.iteration;
  const step = (to, rel) => to ? stepTo(at(name, "prompt", ...to) + url.search, rel, "prompt") : null;
  const iterations = run.iterations.filter((one) => one.prompts.attempts).map((one) => one.iteration);
  const other = (by) => {
    const to = iterations[iterations.indexOf(t) + by];
    const href = (by < 0 ? data.previous_iteration : data.next_iteration) ?? null;
    if (to === undefined) return null;
    return h("a.button.quiet", {
      href: href ? at(name, "prompt", ...href) + url.search : listAt(name, { kind: "prompts", iteration: to }),
      data: { turn: String(by) }, "aria-label": `Iteration ${to}`,
    }, `${by < 0 ? "‹ " : ""}M${to}${by > 0 ? " ›" : ""}`);
  };
  return h("div.title", {},
    h("h1", {}, h("a.up", { href: listAt(name, { kind: "prompts", iteration: t }) }, `Iteration ${t}`),
      ` prompt ${data.attempt}`),
    h("div.actions", {},
      data.pairs.length ? toggle(url, "diff", "Word diff") : null,
      data.responses.length ? toggle(url, "unfold", "Unfold") : null,
      group(other(-1), other(1)),
      group(step(data.previous, "prev"), step(data.next, "next"))));
}

/** The topic, or the prompt that was rewritten. */
function made(origin, place, url, name) {
  if (origin.topic !== null) return h("p.sub", {}, "Topic: ", line(origin.topic, `${place}-topic`));
  const parent = origin.seed !== null ? `seed prompt ${count(origin.seed)}`
    : h("a", { href: at(name, "prompt", origin.iteration, origin.attempt) },
      `iteration ${origin.iteration}, prompt ${count(origin.attempt)}`);
  return h("p.sub", {}, "Rewritten (", shown(origin.operation ?? ""), ") from ", parent,
    origin.parent ? [": ", line(origin.parent, `${place}-parent`)] : null);
}

function request({ prompt, branch, origin }, { url, name }) {
  const dropped = prompt.dropped !== null;
  const field = dropped ? "raw" : "text";
  const place = `${prompt.iteration}-${prompt.attempt}-prompt`;
  return h("section.request", { "aria-label": "Prompt" },
    dropped ? h("p", {}, badge("bad", "not accepted"), " ", h("strong", {}, line(prompt.dropped, `${place}-dropped`)),
      prompt.detail ? [": ", line(prompt.detail, `${place}-detail`)] : null) : null,
    blockOf(prompt, field, place, url),
    !dropped && prompt.detail ? h("p.sub", {}, "The worse answer answers instead: ",
      line(prompt.detail, `${place}-detail`)) : null,
    origin ? made(origin, place, url, name) : null,
    h("p.meta", {}, h("span", {}, many(prompt.num_tokens, "token")),
      h("span", {}, many(lengthOf(prompt, field), "character")),
      branch ? h("span", {}, "copied from run ", shown(branch.run)) : null));
}

/** The pairs and why, or why there is none. */
function outcome(data, context, found) {
  const pairs = data.pairs.map((pair) => h("p.pair", {},
    badge("chosen", `answer ${pair.chosen}`), h("span.number", {}, fixed(pair.chosen_score)),
    h("span.over", {}, "over"),
    badge("rejected", `answer ${pair.rejected}`), h("span.number", {}, fixed(pair.rejected_score)),
    h("span.margin", {}, "margin ", h("strong", {}, fixed(pair.margin)), " points")));
  const judged = judgePairs(data);
  const why = data.why ?? [];
  const place = `${data.iteration}-${data.attempt}-pair`;
  if (!pairs.length && data.no_pair === null && !why.length && !judged.length) return null;
  return h("section.card.outcome", { "aria-label": "Pair" },
    pairs, !pairs.length && data.no_pair !== null ? h("p", {}, badge("none", "no pair"), " ",
      line(data.no_pair, `${place}-no-pair`)) : null,
    why.filter((one) => one !== data.no_pair).map((one, n) => h("p.why", {}, line(one, `${place}-why-${n}`))),
    judged,
    found === "long" ? h("p.hint", {}, "These two answers are too long to compare by words.") : null,
    found && found !== "long" ? h("p.legend", {}, h("ins", {}, "only in the chosen answer"), " ",
      h("del", {}, "only in the rejected answer")) : null);
}

/** The pairs of judgments of one answer, by Elo, or why there is none. */
function judgePairs({ iteration, attempt, judge_pairs: pairs, no_judge_pair: none }) {
  if (none !== null) return [h("p", {}, badge("none", "no pair of judgments"), " ",
    line(none, `${iteration}-${attempt}-no-judge-pair`))];
  return pairs.map((pair) => h("p.pair", {}, `judgments of answer ${pair.sample}: `,
    badge("chosen", `vote ${pair.chosen}`), h("span.number", {}, fixed(pair.chosen_elo, 0)),
    h("span.over", {}, "over"),
    badge("rejected", `vote ${pair.rejected}`), h("span.number", {}, fixed(pair.rejected_elo, 0)),
    h("span.margin", {}, "Elo")));
}

/** What a vote is in the pair of judgments: chosen, rejected or nothing. */
function roleOf(vote, sample, pairs) {
  const own = vote.juror ? undefined : pairs.find((pair) => pair.sample === sample);
  return own && ["chosen", "rejected"].find((role) => own[role] === vote.vote);
}

function lengthOf(record, field) {
  return record.cut?.[field] ?? record[field].length;
}

/** For the first pair: the parts of both texts by sample; "long" where they are too long. */
function differences({ pairs, responses }) {
  const pair = pairs[0];
  if (!pair) return null;
  const text = (sample) => responses.find((one) => one.sample === sample)?.text ?? "";
  const found = wordDiff(text(pair.chosen), text(pair.rejected));
  return found ? { [pair.chosen]: [found.a, "ins"], [pair.rejected]: [found.b, "del"] } : "long";
}

function answer(one, data, isOpen, found, url) {
  const key = `answer-${data.iteration}-${data.attempt}-${one.sample}`;
  const parts = found?.[one.sample];
  const facts = [
    one.author === "policy" ? null : `by ${one.author}`,
    many(one.num_tokens, "token"), many(lengthOf(one, "text"), "character"),
    isNumber(one.logprob) ? `log-prob ${fixed(one.logprob, 1)}` : null,
  ].filter(Boolean);
  const scored = isNumber(one.score);
  return h("article", { class: `card answer ${one.roles.join(" ")}`, tabindex: "-1",
    "aria-label": `Answer ${one.sample}`, data: { row: "", key } },
    h("header", {},
      h("h2", {}, `Answer ${one.sample}`, one.roles.map((role) => [" ", badge(role, role)])),
      h("p.score", { title: "the judge's own opinion, of 5 points" }, scored ? fixed(one.score) : "–",
        h("span.sub", {}, scored ? " of 5" : " no score"))),
    one.votes.length ? dots(one.votes, one.score) : null,
    h("p.meta", {}, facts.map((fact) => h("span", {}, shown(fact))),
      one.finish_reason === "length" ? badge("bad", "cut off") : null),
    one.dropped ? h("p.why", {}, "Not judged: ", line(one.dropped, `${key}-dropped`)) : null,
    one.not_paired ? h("p.why", {}, "Not paired: ", line(one.not_paired, `${key}-not-paired`)) : null,
    one.thinking ? folded(`${key}-thinking`, isOpen, "Thinking",
      blockOf(one, "thinking", `${key}-thinking-text`, url)) : null,
    parts ? h("div.model.diff", { data: { key: `${key}-diff` }, dir: "auto" }, marked(...parts)) : blockOf(one, "text",
      `${key}-text`, url),
    one.votes.length ? h("div.votes", {}, one.votes.length > 1 ? h("h3", {}, `${one.votes.length} votes`) : null,
      one.votes.map((vote) => ballot(vote, data, key, isOpen, url, roleOf(vote, one.sample, data.judge_pairs)))) : null);
}

function ballot(vote, data, key, isOpen, url, role) {
  const id = `${key}-vote-${vote.juror}-${vote.vote}`;
  const who = vote.juror ? `jury ${vote.juror}, vote ${vote.vote}` : `vote ${vote.vote}`;
  const criterion = vote.form === "criteria" ? data.criteria.find((one) => one.juror === vote.juror && one.number === vote.vote) : null;
  const verdict = vote.score === null
    ? [badge("bad", "no verdict"), " ", line(vote.reason ?? "", `${id}-reason`)]
    : [h("strong.number", {}, fixed(vote.score)),
      vote.selection ? h("span.sub", {}, " ", shown(vote.selection)) : null];
  const top = [h("span.who", {}, who), " ", verdict, role ? [" ", badge(role, role)] : null,
    criterion ? h("span.sub", {}, ` weight ${fixed(vote.weight, 1)}: `, shown(criterion.text.slice(0, 120))) : null];
  const share = vote.probabilities ? h("p.sub", {},
    `probability on scores at all: ${fixed(vote.probabilities.reduce((sum, p) => sum + p, 0), 3)}`) : null;
  return h("div.ballot", { data: { key: id } },
    vote.raw ? folded(`${id}-raw`, isOpen, top, blockOf(vote, "raw", `${id}-text`, url)) : h("p.verdict", {}, top),
    vote.probabilities ? [probabilities(vote.probabilities), isOpen ? share : null] : null);
}

/** Unfolded by hand, or all at once by the address. */
function folded(key, isOpen, summary, ...children) {
  return h("details", { data: { key: `${key}-${isOpen ? "open" : "closed"}` }, open: isOpen }, h("summary", {}, summary),
    children);
}

function criteria(all) {
  return h("section.card", { "aria-label": "Criteria" }, h("h2", {}, "What a good answer needs, as the judge wrote it"),
    h("ol", {}, all.map((one) => h("li", {},
      line(one.text, `criterion-${one.iteration}-${one.attempt}-${one.juror}-${one.number}`),
      h("span.sub", {}, ` weight ${fixed(one.weight, 1)}${one.juror ? `, jury ${one.juror}` : ""}`)))));
}

function comparisons({ comparisons: all }, isOpen, url) {
  const keyOf = (one) => `compared-${one.iteration}-${one.attempt}-${one.first}-${one.second}`;
  if (!all.length) return null;
  return h("section.card", { "aria-label": "Comparisons" }, h("h2", {}, "Answers that tied, compared"),
    h("ul", {}, all.map((one) => h("li", { data: { key: `${keyOf(one)}-item` } },
      `Answer ${one.first} shown before ${one.second}: `,
      one.reason !== null ? [badge("bad", "no verdict"), " ",
        line(one.reason, `${keyOf(one)}-reason`)] : one.winner === null ? "a tie" : h("strong", {},
        `answer ${one.winner} is better`),
      one.raw ? folded(keyOf(one), isOpen, "What the judge wrote",
        blockOf(one, "raw", `${keyOf(one)}-text`, url)) : null))));
}

function demonstrations({ iteration, attempt, origin, demonstrations: shots }, { name, url }) {
  const isOpen = url.searchParams.get("unfold") === "1";
  if (shots === null || shots === undefined)
    return iteration && !origin?.operation ? h("p.note", {}, "From which examples this prompt was written is not known.") : null;
  if (!shots.length) return null;
  return h("div.card", {}, folded("demonstrations", isOpen, `Written from ${many(shots.length, "example")}`,
    h("ol.shots", {}, shots.map((shot, n) => h("li", {}, block(shot.text, `shot-${iteration}-${attempt}-${n}`),
      isNumber(shot.attempt) && isNumber(shot.iteration)
        ? h("a.sub", { href: at(name, "prompt", shot.iteration, shot.attempt) },
          `iteration ${shot.iteration}, prompt ${count(shot.attempt)}`)
        : h("span.sub", {}, shot.source === "human" ? "by people" : shown(shot.source ?? "")))))));
}
