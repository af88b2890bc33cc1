// The words that two texts do not share.

import { h } from "./dom.js";
import { shown } from "./text.js";

const MOST = 4_000_000; // cells of the table of the longest common subsequence

/**
 * Which words of two texts are in the other one, in order, too.
 * @returns {{a: Array, b: Array} | null} For each, parts as [text, isShared]; null: too long.
 */
export function wordDiff(a, b) {
  const left = words(a), right = words(b);
  let start = 0;
  while (start < left.length && start < right.length && left[start] === right[start]) start++;
  let end = 0;
  const most = Math.min(left.length, right.length) - start;
  while (end < most && left[left.length - 1 - end] === right[right.length - 1 - end]) end++;
  const l = left.slice(start, left.length - end), r = right.slice(start, right.length - end);
  if (l.length * r.length > MOST) return null;
  const [inLeft, inRight] = common(l, r);
  const parts = (all, middle) =>
    joined(all.map((word, at) => [word, at < start || at >= all.length - end || middle[at - start]]));
  return { a: parts(left, inLeft), b: parts(right, inRight) };
}

/** Draws text whose parts are known: what the other text lacks is in a `tag` element. */
export function marked(parts, tag) {
  const made = document.createDocumentFragment();
  for (const [text, isShared] of parts) made.append(isShared ? shown(text) : h(tag, {}, shown(text)));
  return made;
}

function words(text) {
  return text.match(/[\p{L}\p{N}_'’]+|\s+|[^\p{L}\p{N}_'’\s]/gu) ?? [];
}

/** For each word of both whether it is in a longest common subsequence. */
function common(l, r) {
  const width = r.length + 1;
  const longest = new Uint32Array((l.length + 1) * width);
  for (let i = l.length - 1; i >= 0; i--)
    for (let j = r.length - 1; j >= 0; j--)
      longest[i * width + j] = l[i] === r[j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
  const inLeft = l.map(() => false), inRight = r.map(() => false);
  let i = 0, j = 0;
  while (i < l.length && j < r.length) {
    if (l[i] === r[j]) inLeft[i++] = inRight[j++] = true;
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i++;
    else j++;
  }
  return [inLeft, inRight];
}

/** Neighbors of a kind as one part; space alone between two unshared words is unshared, too. */
function joined(parts) {
  const made = [];
  parts.forEach(([text, isShared], at) => {
    const isGap = isShared && /^\s+$/.test(text) && parts[at - 1]?.[1] === false && parts[at + 1]?.[1] === false;
    const kind = isShared && !isGap;
    if (made.length && made.at(-1)[1] === kind) made.at(-1)[0] += text;
    else made.push([text, kind]);
  });
  return made;
}
