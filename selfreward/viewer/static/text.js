// Text that a model wrote: shown as it is, and never acted on.

import { h } from "./dom.js";
import { count } from "./numbers.js";

// C0 and C1 controls but tab and newline; marks, embeddings and isolates of direction; invisible
// and private characters; lone surrogates. Joiners pass where writing needs them.
const CONTROL = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e]" +
    "|[\\u2060-\\u206f\\ufdd0-\\ufdef\\ufeff\\ufff9-\\uffff\\ue000-\\uf8ff\\u{e0000}-\\u{10ffff}]|\\p{Cs}" +
    "|(?<![\\p{Script=Arabic}\\p{M}])\\u200c" +
    "|(?<![\\p{Extended_Pictographic}\\p{Emoji_Modifier}\\p{M}])\\u200d",
  "gu",
);
const FIRST = 6000, FIRST_OF_LINE = 400;
const MORE = 100_000;
/** How much of a long block a reader asked for, by its key. */
const asked = new Map();

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

/** The start of a text, for where there is room for a line or two. */
export function brief(text, most = 300) {
  const made = document.createDocumentFragment();
  made.append(shown(text.slice(0, whole(text, Math.min(most, text.length)))), text.length > most ? "…" : "");
  return made;
}

/**
 * A block of model text. Of a long one the start, and a button for more of it.
 * @param {string} text
 * @param {string} key Names the block among those of its page.
 * @param {function(string): Node} draw Makes nodes of text.
 */
export function block(text, key, draw = shown) {
  if (!text) return h("p.model.none", { data: { key } }, "(empty)");
  const box = h("div.model", { data: { key }, dir: "auto" });
  fill(box, text, key, draw, FIRST);
  return box;
}

/** The same within a line, such as a reason. */
export function line(text, key) {
  const box = h("span.model", { data: { key } });
  fill(box, text, key, shown, FIRST_OF_LINE);
  return box;
}

function fill(box, text, key, draw, first) {
  const end = whole(text, asked.get(key) ?? first);
  if (end >= text.length) return box.replaceChildren(draw(text));
  const left = text.length - end;
  const onclick = (event) => {
    asked.set(key, end + MORE);
    fill(event.currentTarget.closest(".model"), text, key, draw, first);
  };
  const label = left > MORE ? `Show ${count(MORE)} more of ${count(left)} characters` : `Show ${count(left)} more characters`;
  return box.replaceChildren(draw(text.slice(0, end)), "… ", h("button.more", { type: "button", onclick }, label));
}

/**
 * The same of a field of what the server sent, which cuts very long texts and says so in `cut`;
 * with a link to the address that asks for all.
 */
export function blockOf(record, field, key, url) {
  const box = block(record[field], key);
  const whole = record.cut?.[field];
  if (!whole) return box;
  const all = new URL(url);
  all.searchParams.set("full", "1");
  const said = `The first ${count(record[field].length)} of ${count(whole)} characters were sent. `;
  return h("div.cut", {}, box, h("p.note", {}, said, h("a", { href: all.pathname + all.search }, "Send all")));
}

/** The nearest place that does not cut a character in two. */
function whole(text, end) {
  const code = text.charCodeAt(end - 1); // NaN before the first
  return code >= 0xd800 && code < 0xdc00 ? end + 1 : end;
}
