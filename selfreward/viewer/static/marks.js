// Small pictures of numbers: histograms, votes on a line, probabilities, intervals.

import { h, s } from "./dom.js";
import { fixed, isNumber, many, percent } from "./numbers.js";

const TOP = 5; // points on the rubric

/**
 * A histogram. Each bar is a link to what it counts.
 * @param {{low: number, width: number, counts: number[]}} bins `low` is the middle of the first.
 * @param {function(number, number): string} link From the lower and upper end of a bar.
 * @param {boolean} isLarge With counts above the bars and each score below.
 */
export function histogram(bins, link, isLarge = false) {
  const top = Math.max(...bins.counts, 1);
  const digits = bins.width < 0.1 ? 2 : bins.width < 1 ? 1 : 0;
  const middle = (at) => fixed(bins.low + at * bins.width, digits);
  const end = (at) => Number((bins.low + (at - 0.5) * bins.width).toFixed(6)); // no noise of binary fractions
  const bars = bins.counts.map((n, at) => {
    const label = `${many(n, "answer")} with a score of about ${middle(at)}`;
    const bar = h("span.bar", { style: { height: n ? `${Math.max(4, (100 * n) / top)}%` : "1px" } });
    const parts = isLarge ? [h("span.n", {}, n ? String(n) : ""), bar] : [bar];
    return h("a.bin", { href: link(end(at), end(at + 1)), title: label, "aria-label": label }, parts);
  });
  const ticks = bins.counts.map((_, at) => h("span", {}, middle(at)));
  const axis = isLarge || ticks.length < 2 ? ticks : [ticks[0], ticks.at(-1)];
  return h("div", { class: isLarge ? "histogram large" : "histogram" },
    h("div.bins", {}, bars), h("div.ticks", { "aria-hidden": "true" }, axis));
}

/** Votes as dots on a line of 0 to 5, and their mean as a tick. */
export function dots(votes, mean) {
  const x = (score) => 8 + (score / TOP) * 184;
  const given = votes.filter((vote) => isNumber(vote.score));
  const at = new Map();
  const circles = given.map((vote) => {
    const place = Math.round(x(vote.score) / 7);
    const level = at.get(place) ?? 0;
    at.set(place, level + 1);
    return s("circle.vote", { cx: x(vote.score).toFixed(1), cy: 17 - Math.min(level, 2) * 6, r: 3.6 });
  });
  const label = given.length
    ? `${many(given.length, "vote")}: ${given.map((v) => fixed(v.score)).join(", ")} of 5 points`
    : "no vote with a verdict";
  const ticks = [0, 1, 2, 3, 4, 5].map((n) => [
    s("line.tick", { x1: x(n), x2: x(n), y1: 20, y2: 24 }),
    s("text.tick", { x: x(n), y: 34, "text-anchor": "middle" }, String(n)),
  ]);
  const middle = isNumber(mean) && given.length > 1
    ? s("line.mean", { x1: x(mean), x2: x(mean), y1: 3, y2: 24 }) : null;
  return s("svg.dots", { viewBox: "0 0 200 36", role: "img", "aria-label": label },
    s("line.axis", { x1: x(0), x2: x(TOP), y1: 20, y2: 20 }), ticks, middle, circles);
}

/** The probabilities of the scores 0 to 5 as small bars. */
export function probabilities(values) {
  const top = Math.max(...values, 0.01);
  const label = "Probability of each score: " + values.map((p, n) => `${n}: ${fixed(p, 3)}`).join(", ");
  return h("div.probabilities", { role: "img", "aria-label": label, title: label },
    values.map((p, score) => h("span.p", {},
      h("span.column", {}, h("span.bar", { style: { height: `${Math.max(3, (100 * p) / top)}%` } })),
      h("span.n", {}, String(score)), h("span.v", {}, fixed(p, 2).replace(/^0/, "")))));
}

/**
 * A value with its interval on an axis from `from` to `to`, and a line at what it is held against.
 * @param {{value, low, high}} estimate
 */
export function whisker(estimate, from, to, against, label) {
  const x = (value) => Math.min(200, Math.max(0, ((value - from) / (to - from)) * 200));
  const { value, low, high } = estimate;
  const parts = [s("line.axis", { x1: 0, x2: 200, y1: 9, y2: 9 })];
  if (isNumber(against)) parts.push(s("line.against", { x1: x(against), x2: x(against), y1: 1, y2: 17 }));
  if (isNumber(low) && isNumber(high)) parts.push(s("line.range", { x1: x(low), x2: x(high), y1: 9, y2: 9 }));
  if (isNumber(value)) parts.push(s("circle.value", { cx: x(value), cy: 9, r: 4.5 }));
  return s("svg.whisker", { viewBox: "-6 0 212 18", role: "img", "aria-label": label }, parts);
}

/** A curve without axes: how something went, step by step. */
export function spark(values, label) {
  const known = values.filter(isNumber);
  if (known.length < 2) return null;
  const low = Math.min(...known), span = Math.max(...known) - low || 1;
  const x = (at) => (2 + (96 * at) / (values.length - 1)).toFixed(1);
  const y = (value) => (22 - (20 * (value - low)) / span).toFixed(1);
  const points = values.flatMap((value, at) => (isNumber(value) ? [`${x(at)},${y(value)}`] : []));
  return s("svg.spark", { viewBox: "0 0 100 24", role: "img", "aria-label": label },
    s("polyline", { points: points.join(" ") }));
}

/** A bar of a share from 0 to 1. */
export function shareBar(share) {
  return h("span.share", { "aria-hidden": "true" },
    h("span.bar", { style: { width: `${Math.max(0.5, 100 * Math.min(1, share || 0))}%` } }));
}

/** Such as "3 (20.3%)". */
export function ofAll(n, all) {
  return all ? `${n} (${percent(n / all)})` : String(n);
}
