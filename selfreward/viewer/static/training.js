// How a model was trained, step by step.

import { get, pathOf } from "./api.js";
import { figure } from "./chart.js";
import { h } from "./dom.js";
import { at, empty, scroller } from "./frame.js";
import { spark } from "./marks.js";
import { count, fixed, isNumber } from "./numbers.js";
import { shown } from "./text.js";

export const tab = "training";

const NAMES = {
  loss: "loss", "rewards/accuracies": "accuracy", "rewards/margins": "reward margin",
  "rewards/chosen": "reward chosen", "rewards/rejected": "reward rejected",
  "logps/chosen": "log-prob chosen", "logps/rejected": "log-prob rejected",
  reward: "mean points", kl: "KL to the reference", no_verdict: "without a verdict",
  sampled: "responses", "completions/mean_length": "tokens", learning_rate: "learning rate", grad_norm: "gradient norm", epoch: "epoch",
};

const CHARTS = new Set(["loss", "accuracy", "rewards", "logprobs", "points", "kl"]);

export function load({ name, args, signal }) {
  return get(pathOf("api", "run", name, "training", args[1]), {}, signal);
}

export function title(_, { name, args }) {
  return `Training ${args[1]} – ${name}`;
}

export function draw({ steps }, context) {
  const { name, args, run } = context;
  const t = Number(args[1]);
  const made = run.lineage.find((model) => model.iteration === t && model.model !== "SFT") ?? run.lineage.find((model) => model.iteration === t);
  const charts = run.charts.filter((chart) => chart.iteration === t && CHARTS.has(chart.name));
  return [
    h("div.title", {},
      h("h1", {}, `Training of M${t + 1}`),
      h("p.meta", {}, h("span", {}, howMade(made, t)),
        h("span", {}, `${count(steps.length)} steps logged`),
        made?.digest ? h("span", { title: made.digest }, "digest ",
          h("code", {}, shown(made.digest.slice(0, 12)))) : null),
      h("div.actions", {}, iterations(context, t))),
    charts.length ? h("div.charts", {}, charts.map((chart) => figure(chart, context))) : null,
    steps.length ? [curves(steps), log(steps)] : empty("Nothing was logged.",
      `Iteration ${t} has not been trained yet, or its first step is not done.`),
    steps.some((step) => "rewards/accuracies" in step) ? h("p.note", {}, "Accuracy is the share of pairs whose chosen answer has the higher reward; a reward is what the answer gained in log-probability on the reference, times beta.") : null,
  ];
}

/** The method and the model that it began with; of a training that is not finished the iteration says all. */
function howMade(made, t) {
  if (!made) return t ? `from M${t}` : "seed SFT of M0";
  if (made.method === "SFT") return `${t ? "" : "seed "}SFT of ${made.base}`;
  return `${made.method}, ${made.method === "no training" ? "the weights of" : "reference"} ${made.base}`;
}

function iterations({ name, run }, t) {
  const all = run.iterations.map((one) => one.iteration);
  const place = all.indexOf(t);
  return h("nav.kinds", { "aria-label": "Iteration" }, all.map((to, n) => h("a", {
    href: at(name, "training", to), "aria-current": to === t ? "page" : null,
    data: n === place - 1 ? { turn: "-1" } : n === place + 1 ? { turn: "1" } : {},
  }, `M${to + 1}`)));
}

function columnsOf(steps) {
  const all = new Set(steps.flatMap((step) => Object.keys(step)));
  all.delete("step");
  const known = Object.keys(NAMES).filter((name) => all.has(name));
  return [...known, ...[...all].filter((name) => !NAMES[name]).sort()];
}

/** Each logged figure in short. */
function curves(steps) {
  const names = columnsOf(steps).filter((name) => steps.some((step) => isNumber(step[name])));
  return h("section", { "aria-labelledby": "curves" }, h("h2", { id: "curves" }, "Curves"),
    scroller("Curves", h("table.rows", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Figure"), h("th", { scope: "col" }, "Course"),
        ["First", "Last", "Lowest", "Highest"].map((label) => h("th.number", { scope: "col" }, label)))),
      h("tbody", {}, names.map((name) => {
        const values = steps.map((step) => step[name]);
        const known = values.filter(isNumber);
        return h("tr", { data: { row: "", key: name }, tabindex: "-1" },
          h("th", { scope: "row" }, shown(NAMES[name] ?? name)),
          h("td", {}, spark(values, `${name} over ${known.length} steps`)),
          [known[0], known.at(-1), Math.min(...known),
            Math.max(...known)].map((value) => h("td.number", {}, written(value))));
      })))));
}

function log(steps) {
  const names = columnsOf(steps);
  return h("details.card", { data: { key: "steps" } },
    h("summary", { data: { does: "unfold" } }, `All steps (${count(steps.length)})`),
    scroller("All steps", h("table.plain", {},
      h("thead", {}, h("tr", {}, h("th.number", { scope: "col" }, "Step"),
        names.map((name) => h("th.number", { scope: "col" }, shown(NAMES[name] ?? name))))),
      h("tbody", {}, steps.map((step) => h("tr", {}, h("th.number", { scope: "row" }, count(step.step)),
        names.map((name) => h("td.number", {}, written(step[name])))))))));
}

function written(value) {
  if (!isNumber(value)) return value === null || value === undefined ? "–" : "not finite";
  const size = Math.abs(value);
  if (size && size < 0.001) return value.toExponential(1).replace(/-/g, "−");
  return size >= 100 ? fixed(value, 1) : fixed(value, 3);
}
