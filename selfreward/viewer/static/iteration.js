// One iteration of a run in detail.

import { query } from "./api.js";
import { h } from "./dom.js";
import { figure } from "./chart.js";
import { at, badge, listAt, ownOpinion, scroller } from "./frame.js";
import { histogram, shareBar, whisker } from "./marks.js";
import { count, duration, fixed, interval, isNumber, many, percent, signed } from "./numbers.js";
import { brief, plain, shown } from "./text.js";

/** By the name of a gate: what it is about, how it is written, and whether its limit is the least. */
const GATES = {
  parse_rate: ["votes with a verdict", percent, true],
  mass: ["probability on scores", (v) => fixed(v, 3), true],
  truncated: ["responses cut off", percent, false],
  ceiling: ["scores of 4.5 and more", percent, false],
  spread: ["spread of scores within a prompt", (v) => fixed(v, 3), true],
  ties: ["prompts with equal scores", percent, false],
  length_ratio: ["length of chosen to rejected", fixed, false],
  length_correlation: ["length with score, Spearman", signed, false],
  accuracy: ["agrees with people, lower end", percent, true],
  over_longest: ["lead over longer wins, lower end", percent, true],
  drift: ["drift from M1, points", signed, false],
  canary: ["points won by asking for them", signed, false],
};

const MOST_REASONS = 20;
/** Charts that stand on the page of the training, or whose figures are drawn here. */
const ELSEWHERE = new Set(["scores", "loss", "accuracy", "rewards", "logprobs"]);

/** The section on one iteration. */
export function detail(run, one, context) {
  const t = one.iteration;
  const known = run.iterations.map((other) => other.iteration);
  const turn = (by, label) => {
    const to = known[known.indexOf(t) + by];
    const props = { data: { turn: String(by) }, "aria-label": `Iteration ${to}` };
    return to === undefined ? null : h("a.button.quiet", { href: `${at(run.name)}?iteration=${to}`, ...props }, label);
  };
  const charts = run.charts.filter((chart) => chart.iteration === t && !ELSEWHERE.has(chart.name));
  return h("section.detail", { "aria-labelledby": "iteration" },
    h("div.bar", {},
      h("h2", { id: "iteration" }, `Iteration ${t}`, h("span.sub", {}, t ? `M${one.start} → M${t + 1}` : "seed SFT, M0 → M1")),
      h("div.actions", {}, turn(-1, "‹"), turn(1, "›"))),
    h("div.cards", {}, scores(run.name, one), left(run.name, one), contests(run.name, one), people(one),
      training(run.name, one), health(one),
      jury(one), time(one)),
    charts.length ? h("div.charts", {}, charts.map((chart) => figure(chart, context))) : null);
}

function card(title, id, ...children) {
  return h("div.card", { id }, h("h3", {}, title), children);
}

function facts(rows) {
  return h("dl.facts", {}, rows.filter(Boolean).map(([name, value, rest]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value, rest ? h("span.sub", {}, rest) : null))));
}

function scores(name, { iteration, scores: found, judgments }) {
  if (!found.n) return null;
  const link = (low, high) => listAt(name,
    { kind: "responses", iteration, sort: "score", min_score: low, max_score: high });
  return card(["Scores ", ownOpinion()], null,
    found.bins ? histogram(found.bins, link, true) : null,
    facts([
      ["mean", fixed(found.mean, 3), isNumber(found.se) ? `± ${fixed(found.se, 3)}` : ""],
      ["answers, prompts", `${count(found.n)}, ${count(found.prompts)}`],
      ["spread within a prompt", fixed(found.prompt_std, 3)],
      isNumber(found.vote_spread) ? ["spread of votes", fixed(found.vote_spread, 3)] : null,
      ["scores of 4.5 and more", percent(found.fives)],
      ["length with score, Spearman", signed(found.spearman_length)],
      isNumber(judgments.mass) ? ["probability on scores", fixed(judgments.mass, 3)] : null,
      ["judged by", judgments.form ?? "–"],
    ]));
}

/** What was left out on the way, by reason; each a link to the list. */
function left(name, { iteration, prompts, responses, judgments, pairs }) {
  const group = (label, counts, total, params) => {
    const reasons = Object.entries(counts).slice(0, MOST_REASONS);
    if (!reasons.length) return null;
    return h("div.reasons", {}, h("h4", {}, label), h("ul", {}, reasons.map(([reason, n]) =>
      h("li", {}, h("a", { href: listAt(name, { iteration, ...params(reason.slice(0, 1000)) }) }, brief(reason, 60)),
        shareBar(n / total), h("span.n", {}, count(n))))));
  };
  const dropped = (stage) => (reason) => ({ kind: "drops", stage, reason });
  const groups = [
    group("Prompts not accepted", prompts.dropped, prompts.attempts, (reason) => dropped("prompts")(reason.replace(/^keyword .*/s, "keyword"))),
    group("Answers not judged", responses.dropped, responses.n, (reason) => ({ kind: "responses", reason })),
    group("Votes without a verdict", judgments.unparsed, judgments.n,
      (reason) => ({ kind: "judgments", failed: 1, reason })),
    group("Prompts without a pair", pairs.dropped, pairs.prompts, dropped("pairs")),
    group("Answers never paired", pairs.responses_dropped, responses.n, dropped("pairs")),
  ].filter(Boolean);
  if (!prompts.attempts && !responses.n) return null;
  return card("Left out", null, groups.length ? groups : h("p.none", {}, "Nothing was left out."));
}

/** A figure with its interval on an axis. */
function estimate(label, found, write, from, to, against, scale = 1) {
  const within = interval(found, scale, scale === 1 ? 2 : 1);
  return h("div.estimate", {}, h("span.label", {}, shown(label)),
    whisker(found, from, to, against, `${plain(label)}: ${write(found.value)} ${within}`),
    h("span.value", {}, write(found.value), h("span.sub", {}, within)));
}

/** The same of a share from 0 to 1. */
function share(label, found, against) {
  return estimate(label, found, percent, 0, 1, against, 100);
}

/** The answers of the new model to the held-out questions, against those of others. */
function contests(name, { iteration, contests: found }) {
  if (!found?.length) return null;
  const model = `M${iteration + 1}`;
  return card(`${model} against others, on held-out questions`, null,
    found.map((one) => [
      share(`wins v ${one.opponent}, by ${one.judge}`, one.win_rate, 0.5),
      one.length_controlled.value === null ? null : share("at equal length", one.length_controlled, 0.5),
      h("p.sub", {}, `${count(one.wins)} won, ${count(one.ties)} tied, ${count(one.losses)} lost`,
        one.without_verdict ? `, ${count(one.without_verdict)} without a verdict` : "",
        one.ties && !(one.wins + one.losses) ? "; ties alone tell nothing" : ""),
    ]),
    h("p.note", {}, h("a", { href: at(name, "questions") + query({ model }) }, "Question by question")));
}

function people({ iteration, judge, drift, canaries, positions }) {
  if (!judge) return null;
  return card(`M${iteration + 1} as a judge, against people`, null,
    h("p.sub", {}, `${many(judge.pairs, "held-out pair")} of ${many(judge.prompts, "prompt")}`),
    share("agrees with people", judge.accuracy, 0.5),
    share("longer wins", judge.longest, 0.5),
    estimate("lead over longer wins", judge.gain, (v) => signed(100 * v, 1), -0.5, 0.5, 0, 100),
    judge.matched ? share("agrees, equal length", judge.accuracy_matched, 0.5) : null,
    share("votes with a verdict", judge.parse_rate, null),
    drift ? estimate("drift from M1, points", drift, signed, -1, 1, 0) : null,
    canaries ? estimate("won by asking, points", canaries.uplift, signed, -2, 2, 0) : null,
    positions ? share("same in both orders", positions.consistent, null) : null);
}

function training(name, { iteration, training: found }) {
  if (!found.steps) return null;
  const curve = (label, values, digits = 3) => values
    ? [label, fixed(values.mean, digits),
      isNumber(values.first) ? `${fixed(values.first, digits)} → ${fixed(values.last, digits)}` : ""] : null;
  const online = found.online;
  const kind = online ? "Training on rewards" : "Training";
  return card(iteration ? kind : "Seed SFT", null,
    facts([
      ["steps", count(found.steps)], curve("loss", found.loss), curve("accuracy", found.accuracy),
      curve("reward margin", found.reward_margin), curve("reward chosen", found.chosen_reward),
      curve("reward rejected", found.rejected_reward), curve("log-prob chosen", found.chosen_logp, 1),
      curve("log-prob rejected", found.rejected_logp, 1),
      ...(online ? [
        ["responses", count(online.sampled)],
        ["without a verdict", count(Object.values(online.no_verdict).reduce((sum, n) => sum + n, 0))],
        curve("mean points", online.reward, 2), curve("KL to the reference", online.kl, 4),
        curve("tokens", online.length, 0),
      ] : []),
    ]),
    h("p.note", {}, "Means over all steps; first → last quarter. ",
      h("a", { href: at(name, "training", iteration) }, "All steps")));
}

function health({ health: gates }) {
  if (!gates.length) return null;
  return card("Health", "health",
    scroller("Health gates", h("table.plain.gates", {}, h("tbody", {}, gates.map((gate) => {
    const [label, write, isLeast] = GATES[gate.name] ?? [gate.name, fixed, null];
    const state = gate.passed === null ? badge("", "not known") : gate.passed ? badge("good", "passed") : badge("bad",
      gate.stops ? "failed, stops" : "failed");
    const sign = isLeast === null ? "" : isLeast ? "≥ " : "≤ ";
    return h("tr", {}, h("th", { scope: "row" }, label), h("td.number", {}, write(gate.value)),
      h("td.number.sub", {}, sign + write(gate.limit)), h("td", {}, state));
  })))));
}

function jury({ jury: found }) {
  if (!found) return null;
  return card("Jury", null, facts([
    ...found.judges.map((one) => [shown(one.judge), fixed(one.mean, 3),
      one.n ? `${percent(one.parsed / one.n)} parsed` : ""]),
    ...found.agreement.map((two) => [`${two.judges[0]}, ${two.judges[1]}`, percent(two.same),
      `same order, ${fixed(two.difference)} apart`]),
  ]));
}

function time({ seconds }) {
  const stages = Object.entries(seconds);
  const total = stages.reduce((sum, [, s]) => sum + s, 0);
  if (!total) return null;
  return card(["Time", h("span.sub", {}, ` ${duration(total)}`)], null,
    h("ul.reasons", {}, stages.map(([stage, s]) => h("li", {}, h("span", {}, stage), shareBar(s / total),
      h("span.n", {}, duration(s))))));
}
