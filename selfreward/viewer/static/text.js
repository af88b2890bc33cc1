// Text that a model wrote: shown as it is, and never acted on.

import { h } from "./dom.js";

// C0 and C1 controls but tab and newline; marks, embeddings and isolates of direction; invisible
// and private characters; lone surrogates.
const CONTROL =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufdd0-\ufdef\ufeff\ufff9-\uffff\ue000-\uf8ff]|[\u{e0000}-\u{e0fff}]|[\u{f0000}-\u{10ffff}]|\p{Cs}/gu;
const LONG = 6000;

/** How a character is named that would not be seen: `\x1b`, `U+202E`. */
export function nameOf(character) {
  const code = character.codePointAt(0);
  const hex = code.toString(16);
  return code < 256 ? "\\x" + hex.padStart(2, "0") : "U+" + hex.toUpperCase().padStart(4, "0");
}

/** Text nodes, with a small box in place of each character that is not seen. */
export function shown(text) {
  const made = document.createDocumentFragment();
  let at = 0;
  for (const found of text.matchAll(CONTROL)) {
    if (found.index > at) made.append(text.slice(at, found.index));
    made.append(h("span.control", { title: "a character that is not seen" }, nameOf(found[0])));
    at = found.index + found[0].length;
  }
  if (at < text.length) made.append(text.slice(at));
  return made;
}

/** The same as one string, for titles and options. */
export function plain(text) {
  return String(text).replace(CONTROL, nameOf);
}

/**
 * A block of model text. Of a long one the start, and a button for all of it.
 * @param {string} text
 * @param {string} key Names the block among those of its page.
 * @param {function(string): Node} draw Makes nodes of text.
 */
export function block(text, key, draw = shown) {
  if (!text) return h("p.model.none", { data: { key } }, "(empty)");
  if (text.length <= LONG || opened.has(key)) return h("div.model", { data: { key } }, draw(text));
  const more = h("button.more", {
    type: "button",
    onclick: (event) => {
      opened.add(key);
      const box = event.currentTarget.closest(".model");
      box.replaceChildren(draw(text));
    },
  }, `Show all ${text.length.toLocaleString("en")} characters`);
  return h("div.model", { data: { key } }, draw(text.slice(0, LONG)), "… ", more);
}

const opened = new Set();
