// A run: what was found, in words; its iterations; the one that is looked at; charts; lineage.

import { h } from "./dom.js";
import { figure } from "./chart.js";
import { at, badge, empty, listAt, ownOpinion, scroller } from "./frame.js";
import { detail } from "./iteration.js";
import { histogram, shareBar } from "./marks.js";
import { count, duration, fixed, interval, isNumber, moment, percent } from "./numbers.js";
import { brief, line, shown } from "./text.js";

export const tab = "run";
export const asks = [];

export function load() {
  return null; // the run itself comes with the context
}

export function title(_, { name }) {
  return name;
}

export function json(_, { run }) {
  return run;
}

export function draw(_, context) {
  const { run, url } = context;
  const chosen = Number(url.searchParams.get("iteration") ?? run.iterations.at(-1)?.iteration);
  const looked = run.iterations.find((one) => one.iteration === chosen);
  return [
    heading(run),
    working(run.status),
    found(run),
    run.pending?.length ? h("p.note", { role: "status" },
      `Figures of iteration ${run.pending.join(", ")} are being computed.`) : null,
    run.iterations.length ? table(run, chosen) : run.pending?.length ? null : empty("Nothing is finished yet.",
      "The first figures come with the first answers."),
    looked ? detail(run, looked, context) : null,
    benchmarks(run),
    warnings(run),
    charts(run, context),
    lineage(run),
    settings(run.settings),
  ];
}

function heading({ name, status }) {
  const last = (status.ended ? status.iteration : status.iterations) + 1;
  return h("div.title", {},
    h("h1", {}, shown(name), " ", badge(status.state, status.state)),
    h("p.meta", {},
      h("span", {}, shown(status.model)),
      h("span", {}, `M0 → M${last}`),
      h("span", {}, `${duration(status.seconds)} of work`),
      h("span", {}, `updated ${moment(status.updated)}`),
      status.branch ? h("span", {}, "branch of ", shown(status.branch.run),
        ` from iteration ${status.branch.iteration}`) : null));
}

/** How far a run is that is not finished. */
function working(status) {
  if (status.state === "finished") return null;
  const rest = isNumber(status.run_eta_s) ? `, about ${duration(status.run_eta_s)} left` : "";
  return h("section.card.working", { "aria-label": "Progress" },
    h("h2", {}, `Iteration ${status.iteration} of ${status.iterations}`, h("span.sub", {}, rest)),
    h("ol.stages", {}, status.stages.map((stage) => {
      const share = stage.state === "finished" ? 1 : stage.total ? stage.done / stage.total : 0;
      const far = stage.state === "waiting" ? "waiting" : stage.total ? `${count(stage.done)} of ${count(stage.total)}` : count(stage.done);
      return h("li", { class: stage.state, data: { key: `stage-${stage.stage}` } },
        h("span.name", {}, stage.stage), shareBar(share), h("span.far", {}, far),
        stage.note ? h("span.note", {}, brief(stage.note)) : null);
    })),
    status.error ? h("p.bad", {}, "Last error: ", line(status.error, `${status.run}-error`)) : null,
    status.waits ? h("p.hint", {}, line(status.waits, `${status.run}-waits`)) : null,
    ["stopped", "failed"].includes(status.state)
      ? h("p.hint", {}, "Continue with ", h("code", {}, "selfreward resume ", shown(status.run))) : null);
}

function found({ findings }) {
  if (!findings.length) return null;
  return h("section.found", { "aria-labelledby": "found" },
    h("h2", { id: "found" }, "What was found"),
    h("ul", {}, findings.map((sentence) => h("li", {}, withIntervals(sentence)))),
    h("p.note.wide", {}, ownOpinion(), " Scores come from the run’s own judge. What people say stands beside them."));
}

/** A sentence whose [intervals] are set apart. */
function withIntervals(sentence) {
  return sentence.split(/(\[[^\]]*\])/).map((part, n) => (n % 2 ? h("span.interval", {}, part.replace(/-/g, "−")) : shown(part)));
}

function table(run, chosen) {
  return h("section", { "aria-labelledby": "iterations" },
    h("h2", { id: "iterations" }, "Iterations"),
    scroller("Iterations", h("table.rows.iterations", {},
      h("thead", {},
        h("tr.groups", {},
          h("td"), h("th", { colspan: 2, scope: "colgroup" }, "Written"),
          h("th", { colspan: 3, scope: "colgroup" }, "Scored ", ownOpinion()),
          h("th", { colspan: 4, scope: "colgroup" }, "Paired"),
          h("th", { colspan: 2, scope: "colgroup" }, "New judge against people"),
          h("th", { colspan: 1, scope: "colgroup" }, "Health")),
        h("tr", {}, ["Iteration", ".Prompts", ".Answers", ".No verdict", "Scores", ".Mean", ".Ties", ".Pairs",
          ".Margin",
          ".Length ch. / rej.", ".Agrees", ".Longer wins", ".Gates"].map((name) =>
          h(name[0] === "." ? "th.number" : "th", { scope: "col" }, name.replace(".", name[0] === "." ? "" : "."))))),
      h("tbody", {}, run.iterations.map((one) => row(run, one, one.iteration === chosen))))));
}

function row(run, one, isChosen) {
  const { name } = run;
  const t = one.iteration;
  const list = (params) => listAt(name, { iteration: t, ...params });
  const none = () => h("td.number.none", {}, "–");
  const link = (value, params, rest) => h("td.number", {},
    value ? h("a", { href: list(params) }, count(value)) : h("span.none", {}, count(value)),
    rest ? h("span.sub", {}, rest) : null);
  const { prompts, responses, judgments, scores, pairs, judge } = one;
  const failed = judgments.n - judgments.parsed;
  const sampled = Boolean(prompts.attempts || responses.n);
  const isPaired = one.stages.includes("pairs");
  return h("tr", { class: isChosen ? "chosen" : null, "aria-current": isChosen ? "true" : null,
    data: { row: "", key: `iteration-${t}` } },
    h("th", { scope: "row" },
      h("a", { href: `${at(name)}?iteration=${t}#iteration`, data: { open: "" } }, h("span.big", {}, String(t))),
      h("span.sub", {}, t ? `M${one.start} → M${t + 1}` : "seed, M0 → M1")),
    sampled ? link(prompts.accepted, { kind: "prompts" },
      prompts.attempts ? `of ${count(prompts.attempts)} tried` : null) : none(),
    sampled ? link(responses.n, { kind: "responses" },
      responses.truncated ? `${percent(responses.truncated / responses.n, 0)} cut off` : null) : none(),
    judgments.n ? link(failed, { kind: "judgments", failed: 1 }, `of ${count(judgments.n)} votes`) : none(),
    h("td", {}, scores.bins ? histogram(scores.bins,
      (low, high) => list({ kind: "responses", sort: "score", min_score: low, max_score: high })) : h("span.none", {},
      "–")),
    isNumber(scores.mean) ? h("td.number", {},
      h("a", { href: list({ kind: "responses", sort: "score", order: "desc" }) }, fixed(scores.mean)),
      h("span.sub", {}, isNumber(scores.se) ? `± ${fixed(scores.se, 3)}` : "one prompt")) : none(),
    isPaired ? link(pairs.ties ?? 0, { kind: "drops", stage: "pairs", reason: "tie" },
      percent(pairs.tie_rate, 0)) : none(),
    isPaired ? link(pairs.n, { kind: "prompts", sort: "margin", order: "desc" },
      `of ${count(pairs.prompts)} prompts`) : none(),
    isNumber(pairs.margin) ? h("td.number", {}, fixed(pairs.margin),
      h("span.sub", {}, isNumber(pairs.margin_se) ? `± ${fixed(pairs.margin_se, 3)}` : "")) : none(),
    pairs.n ? h("td.number.lengths", {}, h("a", { href: list({ kind: "responses", sort: "length", order: "desc" }) },
      `${count(Math.round(pairs.chosen_length))} / ${count(Math.round(pairs.rejected_length))}`),
      lengths(pairs)) : none(),
    judge ? h("td.number", {}, percent(judge.accuracy.value),
      h("span.sub", {}, interval(judge.accuracy, 100, 1))) : none(),
    judge ? h("td.number", {}, percent(judge.longest.value),
      h("span.sub", {}, interval(judge.longest, 100, 1))) : none(),
    gates(name, one));
}

/** Two bars: how long chosen answers are, and rejected ones. */
function lengths({ chosen_length: chosen, rejected_length: rejected }) {
  const top = Math.max(chosen, rejected, 1);
  const bar = (kind, value) => h("span", { class: `bar ${kind}`, style: { width: `${(100 * value) / top}%` } });
  return h("span.pairbars", { "aria-hidden": "true" }, bar("first", chosen), bar("second", rejected));
}

function gates(name, { iteration, health }) {
  const failed = health.filter((gate) => gate.passed === false).length;
  const passed = health.filter((gate) => gate.passed).length;
  if (!health.length) return h("td.number.none", {}, "–");
  return h("td.number", {}, h("a", { href: `${at(name)}?iteration=${iteration}#health` },
    failed ? badge("bad", `${failed} failed`) : badge("good", "all passed")), h("span.sub", {}, `${passed} passed`));
}

function warnings({ warnings: lines }) {
  if (!lines.length) return null;
  return h("section", { "aria-labelledby": "warnings" },
    h("h2", { id: "warnings" }, "What is not healthy"),
    h("ul.warnings.card", {}, lines.map((line) => {
      const [, where, said, remedy] = /^(iterations? [^:;]*)(?:; in the last)?: (.*?\([\w.]+: [^)]*\))\. (.*)$/s.exec(line) ?? [null, "", line, ""];
      return h("li", {}, h("p", {}, where ? [badge("bad", where), " "] : null, withIntervals(said), "."),
        remedy ? h("p.remedy", {}, shown(remedy)) : null);
    })));
}

function charts(run, context) {
  const whole = run.charts.filter((chart) => chart.iteration === null || chart.iteration === undefined);
  if (!whole.length) return null;
  return h("section", { "aria-labelledby": "charts" }, h("h2", { id: "charts" }, "Charts"),
    h("div.charts", {}, whole.map((chart) => figure(chart, context))));
}

/** What the models know: a benchmark in a row, then its figures by model. */
function benchmarks({ benchmarks: found }) {
  if (!found?.length) return null;
  const [[, ...models], ...rows] = found;
  return h("section", { "aria-labelledby": "benchmarks" },
    h("h2", { id: "benchmarks" }, "Benchmarks"),
    scroller("Benchmarks", h("table.rows", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Benchmark"),
        models.map((model) => h("th.number", { scope: "col" }, shown(model))))),
      h("tbody", {}, rows.map(([label, ...values]) => h("tr", {}, h("th", { scope: "row" }, shown(label.trim())),
        models.map((_, n) => h("td.number", {}, values[n] ? withIntervals(values[n]) : ""))))))),
    h("p.note", {}, "Questions with one right answer, which no model is trained on; brackets are 95% intervals."));
}

function lineage({ name, lineage: models }) {
  if (!models.length) return null;
  return h("section", { "aria-labelledby": "lineage" },
    h("h2", { id: "lineage" }, "Lineage"),
    h("ol.lineage", {}, models.map((model) => h("li.card", {},
      h("p.name", {}, isNumber(model.iteration) ? h("a", { href: at(name, "training", model.iteration) },
        shown(model.model)) : shown(model.model),
        model.base ? h("span.sub", {}, "from ", shown(model.base)) : null),
      h("p.digest", { title: model.digest ?? "" }, model.digest ? shown(model.digest.slice(0, 12)) : "no digest"),
      h("p.sub", {}, model.finished ? `${moment(model.finished)}, ${duration(model.seconds)}` : "the base model")))));
}

function settings(values) {
  const rows = Object.entries(flat(values));
  if (!rows.length) return null;
  return h("details.card.settings", { data: { key: "settings" } },
    h("summary", {}, `Settings (${rows.length})`),
    scroller("Settings", h("table.plain", {}, h("tbody", {}, rows.map(([key, value]) =>
      h("tr", {}, h("th", { scope: "row" }, h("code", {}, shown(key))),
        h("td", {}, h("code", {}, brief(JSON.stringify(value), 2000)))))))));
}

function flat(value, prefix = "", into = {}) {
  for (const [key, inner] of Object.entries(value ?? {})) {
    const name = prefix ? `${prefix}.${key}` : key;
    if (inner && typeof inner === "object" && !Array.isArray(inner) && Object.keys(inner).length) flat(inner, name,
      into);
    else into[name] = inner;
  }
  return into;
}
