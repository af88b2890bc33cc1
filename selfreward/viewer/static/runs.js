// All runs.

import { get } from "./api.js";
import { h } from "./dom.js";
import { at, badge, empty, listAt, ownOpinion, scroller } from "./frame.js";
import { count, fixed, isNumber, moment } from "./numbers.js";
import { brief, shown } from "./text.js";

export const tab = "runs";
export const asks = [];

export function load({ signal }) {
  return get("/api/runs", {}, signal);
}

export function again() {
  return get("/api/runs");
}

export function title() {
  return "Runs";
}

export function draw({ runs, root }, { url, go }) {
  const q = url.searchParams.get("q") ?? "";
  const found = runs.filter((run) => `${run.run} ${run.model ?? ""} ${run.state}`.toLowerCase().includes(q.toLowerCase()));
  const oninput = (event) => {
    const value = event.currentTarget.value;
    go(value ? `/?${new URLSearchParams({ q: value })}` : "/", { replace: true });
  };
  return [
    h("div.title", {},
      h("h1", {}, "Runs"),
      h("p.meta", {}, h("span", {}, `${count(runs.length)} in `, h("code", {}, shown(root)))),
      runs.length > 1 ? h("div.actions", {},
        h("input", { type: "search", value: q, placeholder: "Filter", "aria-label": "Filter runs", oninput,
          data: { key: "filter" } }),
        h("a.button", { href: "/compare" }, "Compare two")) : null),
    !runs.length ? empty("No runs yet.", "Make one: ", h("code", {}, "selfreward run quickstart"))
      : !found.length ? empty("No run fits.", "The filter goes by name, model and state.")
      : scroller("Runs", h("table.rows.runs", {}, h("thead", {}, columns()), h("tbody", {}, found.map(row)))),
  ];
}

function columns() {
  return h("tr", {},
    h("th", { scope: "col" }, "Run"), h("th", { scope: "col" }, "State"), h("th", { scope: "col" }, "Model"),
    h("th.number", { scope: "col" }, "Iteration"), h("th", { scope: "col" }, "Stage"),
    h("th.number", { scope: "col" }, "Pairs"),
    h("th.number", { scope: "col" }, "Last mean score ", ownOpinion()),
    h("th", { scope: "col" }, "Updated"));
}

function row(run) {
  const name = h("th", { scope: "row" }, h("a", { href: at(run.run), data: { open: "" } }, shown(run.run)));
  const props = { data: { row: "", key: `run-${run.run}` } };
  if (run.state === "damaged")
    return h("tr", props, name, h("td", {}, badge("bad", "damaged")),
      h("td.words", { colspan: 6 }, h("span.clip", {}, brief(run.error ?? ""))));
  if (run.branch) name.append(h("span.sub", {}, "branch of ", shown(run.branch.run)));
  if (run.error) name.append(h("span.sub.bad", {}, brief(run.error)));
  const mean = isNumber(run.mean)
    ? h("a", { href: listAt(run.run,
      { kind: "responses", iteration: run.scores_iteration, sort: "score", order: "desc" }) },
        fixed(run.mean), h("span.error", {}, isNumber(run.se) ? ` ± ${fixed(run.se)}` : ""))
    : h("span.none", {}, "no scores");
  return h("tr", props, name,
    h("td", {}, badge(run.state, run.state)),
    h("td.words", {}, h("span.clip", {}, shown(run.model))),
    h("td.number", {}, h("a", { href: `${at(run.run)}?iteration=${run.iteration}` },
      `${run.iteration} of ${run.iterations}`)),
    h("td", {}, run.stage ?? "–"),
    h("td.number", {}, run.pairs ? h("a", { href: listAt(run.run, { kind: "prompts", sort: "margin", order: "desc" }) },
      count(run.pairs)) : "0"),
    h("td.number", {}, mean),
    h("td.time", {}, moment(run.updated)));
}
