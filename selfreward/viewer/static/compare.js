// Two iterations, or two runs, side by side.

import { get } from "./api.js";
import { h } from "./dom.js";
import { at, empty, ownOpinion, problem, scroller } from "./frame.js";
import { whisker } from "./marks.js";
import { count, duration, fixed, isNumber, percent, signed } from "./numbers.js";
import { shown } from "./text.js";

export const tab = "compare";

/** While a comparison is read it does not change. */
export async function again(_, data) {
  await get("/api/runs");
  return data;
}

export async function load({ url, signal }) {
  const a = url.searchParams.get("a"), b = url.searchParams.get("b");
  const { runs } = await get("/api/runs", {}, signal);
  const names = runs.filter((run) => run.state !== "damaged");
  if (!a || !b) return { runs: names, diff: null };
  try {
    return { runs: names, diff: await get("/api/compare", { a, b }, signal) };
  } catch (error) {
    if (error.name === "AbortError" || error.isLost) throw error;
    return { runs: names, diff: null, error }; // the choice stays, so that another can be made
  }
}

export function title() {
  return "Compare";
}

export function json({ diff }) {
  return diff;
}

export function draw({ runs, diff, error }, context) {
  const { url } = context;
  return [
    h("div.title", {}, h("h1", {}, "Compare"), h("p.meta", {}, "two runs, or two iterations of one")),
    chooser(runs, context),
    error ? problem(error, () => context.go(url.href, { replace: true }))
      : diff ? [figures(diff, url), settings(diff), prompts(diff)] : empty("Choose two to compare.",
        "Each is a run, or one iteration of it."),
  ];
}

const METHODS = {
  errors: "from standard errors clustered by prompt, the two samples apart",
  bootstrap: "from the bootstrap intervals over prompts of both figures",
  paired: "taken prompt by prompt",
};

/** RUN or RUN:T in its parts. */
function parts(value) {
  const [, name, iteration] = /^(.*?)(?::M?(\d+))?$/s.exec(value ?? "") ?? [];
  return { name: name ?? "", iteration: iteration ?? "" };
}

function chooser(runs, { url, go }) {
  const side = (key) => {
    const { name, iteration } = parts(url.searchParams.get(key));
    const last = runs.find((run) => run.run === name)?.iterations ?? 0;
    const set = (run, t) => {
      const next = new URL(location.href); // which may be ahead of what is drawn
      if (run) next.searchParams.set(key, t ? `${run}:${t}` : run);
      else next.searchParams.delete(key);
      go(next.href);
    };
    return h("fieldset", {}, h("legend", {}, key.toUpperCase()),
      h("label", {}, h("span", {}, "Run"),
        h("select", { value: name, data: { key: `${key}-run` },
          onchange: (event) => set(event.currentTarget.value, "") },
        h("option", { value: "" }, "choose"),
        runs.map((run) => h("option", { value: run.run, selected: run.run === name }, run.run)))),
      h("label", {}, h("span", {}, "Iteration"),
        h("select", { value: iteration, disabled: !name, data: { key: `${key}-iteration` },
          onchange: (event) => set(name, event.currentTarget.value) },
        h("option", { value: "" }, "the last"),
        Array.from({ length: last },
          (_, n) => String(n + 1)).map((t) => h("option", { value: t, selected: t === iteration }, t)))));
  };
  const [a, b] = [url.searchParams.get("a"), url.searchParams.get("b")];
  const swapped = new URL(url);
  if (a && b) for (const [key, value] of [["a", b], ["b", a]]) swapped.searchParams.set(key, value);
  return h("form.chooser", { onsubmit: (event) => event.preventDefault() }, side("a"),
    h("a.button.quiet", { href: swapped.pathname + swapped.search, "aria-label": "Swap A and B", title: "Swap A and B" },
      "⇄"), side("b"));
}

function nameOf(side, url, key) {
  return side ? `${side.run}:${side.iteration}` : (url.searchParams.get(key) ?? "");
}

function figures(diff, url) {
  const rows = diff.figures;
  if (!rows?.length) return empty("There are no figures in common.");
  return h("section", { "aria-labelledby": "figures" }, h("h2", { id: "figures" }, "Figures ", ownOpinion()),
    scroller("Figures", h("table.rows", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Figure"),
        ["a", "b"].map((key) => h("th.number", { scope: "col" }, key.toUpperCase(),
          h("span.sub", {}, " ", shown(nameOf(diff[key], url, key))))),
        h("th.number", { scope: "col" }, "B − A"), h("th", { scope: "col" }, "95% interval"),
        h("th", { scope: "col" }, "Told apart"))),
      h("tbody", {}, rows.map(figureRow)))));
}

const UNITS = {
  share: percent, s: duration, points: (v) => fixed(v, 3), "": (v) => fixed(v, 3),
  characters: (v) => fixed(v, 0), tokens: count, prompts: count, pairs: count,
};
const SAID = new Set(["share", "s", ""]); // units that the number itself shows

function figureRow(one) {
  const write = UNITS[one.unit] ?? fixed;
  const plus = (value) => (isNumber(value) ? (value < 0 ? "−" : "+") + write(Math.abs(value)) : "–");
  const has = isNumber(one.low) && isNumber(one.high);
  const reach = has ? 1.2 * Math.max(Math.abs(one.low), Math.abs(one.high), 1e-9) : 1;
  const isTold = has && (one.low > 0 || one.high < 0);
  return h("tr", { data: { row: "", key: one.name }, tabindex: "-1" },
    h("th", { scope: "row" }, shown(one.name), SAID.has(one.unit) ? null : h("span.sub", {}, shown(one.unit))),
    h("td.number", {}, write(one.a)), h("td.number", {}, write(one.b)),
    h("td.number", {}, h("strong", {}, plus(one.difference))),
    h("td.number.interval", { title: METHODS[one.method] ?? null },
      has ? [whisker({ value: one.difference, low: one.low, high: one.high }, -reach, reach, 0,
        `${one.name}: ${signed(one.difference)}`), `[${plus(one.low)}, ${plus(one.high)}]`] : "–"),
    h("td", {}, has ? (isTold ? (one.difference > 0 ? "B is higher" : "B is lower") : h("span.none", {},
      "not told")) : h("span.none", {}, "no interval")));
}

function settings({ settings: rows }) {
  return h("section", { "aria-labelledby": "settings" }, h("h2", { id: "settings" }, "Settings that differ"),
    rows?.length ? scroller("Settings", h("table.rows", {},
      h("thead", {}, h("tr", {}, ["Key", "A", "B"].map((label) => h("th", { scope: "col" }, label)))),
      h("tbody", {}, rows.map((one) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, shown(one.key))),
        [one.a, one.b].map((value) => h("td", {},
          h("code", {}, shown(typeof value === "string" ? value : JSON.stringify(value) ?? "–")))))))))
      : h("p.none", {}, "None: the same settings made both."));
}

/** Prompts that both answered, those furthest apart first. */
function prompts({ a, b, prompts: rows, num_prompts: n }) {
  if (!rows?.length) return h("p.note", {}, "No prompt was answered by both, word by word the same.");
  const place = (side, attempt, score) => h("td.number", {},
    h("a", { href: at(side.run, "prompt", side.iteration, attempt), data: side === a ? { open: "" } : {} },
      isNumber(score) ? fixed(score) : "open"));
  return h("section", { "aria-labelledby": "prompts" },
    h("h2", { id: "prompts" }, "The same prompts ",
      h("span.sub", {}, rows.length < n ? `${count(rows.length)} of ${count(n)}, furthest apart` : count(n))),
    scroller("The same prompts", h("table.rows.list", {},
      h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Prompt"),
        ["Score in A", "Score in B", "B − A"].map((label) => h("th.number", { scope: "col" }, label)))),
      h("tbody", {}, rows.map((one) => h("tr", { data: { row: "", key: `prompt-${one.attempt_a}-${one.attempt_b}` } },
        h("td.text", {}, h("p.clip", { dir: "auto" }, shown(one.text))),
        place(a, one.attempt_a, one.a), place(b, one.attempt_b, one.b),
        h("td.number", {}, signed(one.difference))))))));
}
