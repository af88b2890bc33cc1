// Keys. Each but j, k and c presses something that is on the page, and so can be pressed by hand.

export const KEYS = [
  ["j", "k", "next, previous row or answer; Enter opens it"],
  ["n", "p", "next, previous prompt or question"],
  ["[", "]", "previous, next iteration or model"],
  ["/", null, "search"],
  ["e", null, "unfold what the judge wrote"],
  ["d", null, "mark the words that differ: chosen and rejected, or from M1"],
  ["c", null, "copy the page's data as JSON"],
  ["t", null, "light or dark"],
  ["?", null, "this help"],
];
const PRESSED = {
  n: "a[rel~=next]", p: "a[rel~=prev]", "[": "a[data-turn='-1']", "]": "a[data-turn='1']",
  e: "[data-does=unfold]", d: "[data-does=diff]", t: "#theme",
};

/** What a key does, if it does anything. */
export function press(event, { help, data, isLabel }) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  const field = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (field) {
    if (event.key === "Escape") field.blur();
    return;
  }
  if (event.key === "?") help();
  else if (isLabel) return; // the label page has keys of its own
  else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  else if (event.key === "/") search();
  else if (event.key === "c") copy(data());
  else if (PRESSED[event.key]) document.querySelector(PRESSED[event.key])?.click();
  else return;
  event.preventDefault();
}

/** Focus the next row; the first one before there is one. */
function step(by) {
  const rows = [...document.querySelectorAll("main [data-row]")];
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement?.closest("[data-row]"));
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))];
  const target = next.querySelector("a[data-open]") ?? next;
  target.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}

function search() {
  const field = document.querySelector("main input[type=search]") ?? document.querySelector("input[type=search]");
  field?.focus();
  field?.select();
}

async function copy(value) {
  if (value === null || value === undefined) return say("There is nothing to copy.");
  const text = JSON.stringify(value, null, 1);
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    if (!copiedByHand(text)) return say("The browser does not let this page copy.");
  }
  return say(`Copied ${text.length.toLocaleString("en")} characters of JSON.`);
}

/** For addresses that are not of this machine, where there is no clipboard API. */
function copiedByHand(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "away";
  document.body.append(area);
  const before = document.activeElement;
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus?.({ preventScroll: true });
  return done;
}

let quiet;
/** Say something for a few seconds. */
export function say(text) {
  const box = document.getElementById("said");
  box.textContent = text;
  box.classList.add("on");
  clearTimeout(quiet);
  quiet = setTimeout(() => box.classList.remove("on"), 2500);
}
