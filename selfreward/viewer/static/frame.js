// What stands around every page: the way to it, the tabs of a run, errors, waiting.

import { pathOf, query } from "./api.js";
import { h, patch } from "./dom.js";
import { shown } from "./text.js";

/** The address of a page of a run. */
export function at(name, ...parts) {
  return pathOf("run", name, ...parts);
}

/** The address of a list of a run. */
export function listAt(name, params) {
  return at(name, "list") + query(params);
}

/** The top of the page. */
export function head({ name, run, url }, tab) {
  const crumbs = document.getElementById("crumbs");
  const fresh = h("nav");
  if (name) {
    const last = run?.iterations?.at(-1)?.iteration ?? 1;
    const link = (label, href, id) => h("a", { href, "aria-current": id === tab ? "page" : null }, label);
    fresh.append(
      h("a.run", { href: at(name) }, shown(name)),
      h("span.tabs", {},
        link("Overview", at(name), "run"),
        link("Lists", listAt(name, { kind: "prompts" }), "list"),
        link("Training", at(name, "training", last), "training"),
        run?.settings?.evaluation?.questions ? link("Questions", at(name, "questions"), "questions") : "",
        link("Label", at(name, "label"), "label"),
        link("Compare", `/compare${query({ a: name })}`, "compare")),
      tab === "list" ? "" : finder(name));
  } else if (url.pathname === "/compare") {
    fresh.append(h("span.tabs", {}, h("a", { href: "/" }, "Runs"),
      h("a", { href: "/compare", "aria-current": "page" }, "Compare")));
  }
  patch(crumbs, fresh);
}

/** A switch of a page, which is in its address; a key presses it, see keys.js. */
export function toggle(url, key, label) {
  const next = new URL(url), isOn = url.searchParams.get(key) === "1";
  if (isOn) next.searchParams.delete(key);
  else next.searchParams.set(key, "1");
  return h("a", { class: "button toggle", role: "button", "aria-pressed": String(isOn), href: next.pathname + next.search,
    data: { does: key, key: `toggle-${key}` } }, label);
}

/** The way to what comes before (rel is "prev") or after ("next"). */
export function stepTo(href, rel, what) {
  return h("a.button.quiet", { href, rel, "aria-label": `${rel === "prev" ? "Previous" : "Next"} ${what}` },
    rel === "prev" ? "‹" : "›");
}

/** Links that belong together; null where there is none. */
export function group(...links) {
  return links.some(Boolean) ? h("span.group", {}, links) : null;
}

/** The field that searches all texts of a run. */
function finder(name) {
  const onkeydown = (event) => {
    const q = event.currentTarget.value.trim();
    if (event.key === "Enter" && q) document.dispatchEvent(new CustomEvent("goto",
      { detail: listAt(name, { kind: "responses", q }) }));
  };
  return h("input.find",
    { type: "search", placeholder: "Search texts", "aria-label": `Search the texts of run ${name}`, onkeydown,
      data: { key: `find-${name}` } });
}

/** What went wrong, and what to do. */
export function problem(error, again) {
  const isOurs = Boolean(error.kind);
  return h("div.problem", { role: "alert" },
    h("h1", {}, error.isLost ? "Connection lost" : error.status === 404 || error.kind === "NotFound" ? "Not found" : error.status === 501 ? "Not in this version" : "This did not work"),
    h("p", {}, shown(isOurs ? error.message : `The page failed: ${error.message}`)),
    error.hint ? h("p.hint", {}, shown(error.hint)) : null,
    h("p", {}, h("button", { type: "button", onclick: again }, "Try again"), " ",
      h("a.button.quiet", { href: "/" }, "All runs")));
}

export function waiting() {
  return h("div.page.wait", {}, h("p", {}, "Loading…"), h("div.bone.tall"), h("div.bone"), h("div.bone"),
    h("div.bone.short"));
}

/** What is shown where there is nothing yet. */
export function empty(title, ...words) {
  return h("div.empty", {}, h("p.title", {}, title), words.length ? h("p", {}, words) : null);
}

/** A colored word. */
export function badge(kind, ...words) {
  return h("span", { class: `badge ${kind}` }, words);
}

/** What must stand beside each score that a model gave itself. */
export function ownOpinion() {
  return h("span.badge.opinion",
    { title: "Scores are the judge's own opinion of the answers, never an external evaluation." },
    "judge’s own opinion");
}

/** A box that scrolls sideways by itself. */
export function scroller(label, ...children) {
  return h("div.scroller", { role: "region", "aria-label": label, tabindex: "0", data: { key: `scroller-${label}` } },
    children);
}
