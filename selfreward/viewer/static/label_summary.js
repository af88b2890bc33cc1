// Who labeled how much, and how far the judge agrees with people: what `selfreward labels` says.

import { h } from "./dom.js";
import { shown } from "./text.js";

/** A part of the page that asks when it is unfolded, so that nobody sees it who does not want to. */
export function agreement(path, api) {
  const body = h("div");
  const ontoggle = async (event) => {
    if (!event.currentTarget.open) return;
    body.replaceChildren(h("p.none", {}, "Computing…"));
    try {
      body.replaceChildren(...told(await api.get(`${path}/summary`, { figures: "1" })));
    } catch (error) {
      body.replaceChildren(h("p.bad", { role: "alert" }, shown(error.message)));
    }
  };
  return h("details.card", { ontoggle }, h("summary", {}, "What the labels say so far"), body);
}

function told({ labelers, figures }) {
  if (!labelers.length) return [h("p.none", {}, "There are no labels yet.")];
  const rows = labelers.map((who) => h("tr", {}, h("th", { scope: "row" }, shown(who.name)),
    [who.ab, who.ranking, who.rating, who.skipped].map((count) => h("td.number", {}, count.toLocaleString("en")))));
  const names = ["Labeler", "Comparisons", "Rankings", "Ratings", "Skipped"];
  return [
    h("div.scroller", { role: "region", "aria-label": "Labelers", tabindex: "0" }, h("table.rows", {},
      h("thead", {}, h("tr", {}, names.map((name, i) => h(i ? "th.number" : "th", { scope: "col" }, name)))), h("tbody", {}, rows))),
    ...said(figures).map((line) => h("p", {}, line)),
    h("p.note", {}, "Every figure: ", h("code", {}, "selfreward labels RUN"), ". As ranked data for the judge: ",
      h("code", {}, "selfreward labels RUN --export FILE.jsonl"), "."),
  ];
}

function said(figures) {
  const lines = [];
  const judge = figures?.judge;
  if (judge?.counts.pairs)
    lines.push(`The judge orders ${percent(judge.judge.all.accuracy)} of ${judge.counts.pairs.toLocaleString("en")} pairs as people do; ` +
      `“the longer answer is better” orders ${percent(judge.longest.all.accuracy)}.`);
  const together = figures?.people?.together;
  if (together?.same.n)
    lines.push(`Two labelers order ${percent(together.same)} of ${together.same.n.toLocaleString("en")} pairs alike.`);
  return lines;
}

/** Such as 72.1% [68.0, 76.3]. */
function percent({ value, low, high }) {
  if (value === null) return "n/a";
  const number = (part) => (100 * part).toFixed(1);
  return low === null ? `${number(value)}%` : `${number(value)}% [${number(low)}, ${number(high)}]`;
}
