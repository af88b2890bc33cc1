// The router: an address makes a page, a key or a link another address. Nothing else is state.
//
// A page is a module with
//   load(context) -> data            asked again when the run has changed
//   draw(data, context) -> nodes     patched into what is there
//   title(data, context) -> string
//   asks: the parameters that load goes by, the others being for draw alone; without it, all
// or, as label.js, with page(root, url, api), which does all by itself.

import { api } from "./api.js";
import { patch } from "./dom.js";
import { help } from "./help.js";
import { Live } from "./live.js";
import { press } from "./keys.js";
import { head, problem, waiting } from "./frame.js";
import { theme } from "./theme.js";
import * as compare from "./compare.js";
import * as list from "./list.js";
import * as prompt from "./prompt.js";
import * as question from "./question.js";
import * as questions from "./questions.js";
import * as run from "./run.js";
import * as runs from "./runs.js";
import * as training from "./training.js";

const ROUTES = [
  [/^\/$/, runs],
  [/^\/compare$/, compare],
  [/^\/run\/([^/]+)$/, run],
  [/^\/run\/([^/]+)\/list$/, list],
  [/^\/run\/([^/]+)\/prompt\/(\d+)\/(\d+)$/, prompt],
  [/^\/run\/([^/]+)\/training\/(\d+)$/, training],
  [/^\/run\/([^/]+)\/questions$/, questions],
  [/^\/run\/([^/]+)\/question\/(\d+)$/, question],
  [/^\/run\/([^/]+)\/label$/, null],
];
const PATIENCE = 150; // milliseconds before a page says that it waits

const main = document.getElementById("main");
const live = new Live(refresh);
let now = null; // {page, context, data, root, drop}
let arrivals = 0;

/** Go to an address of the viewer. */
export function go(href, { replace = false } = {}) {
  const url = new URL(href, location.href);
  if (url.href === location.href && !replace) return;
  history.replaceState({ ...history.state, top: scrollY }, "");
  history[replace ? "replaceState" : "pushState"](replace ? history.state : {}, "", url);
  arrive();
}

/** Show what the address says. */
async function arrive() {
  const url = new URL(location.href);
  const { page, args } = match(url.pathname);
  const before = now;
  const isSame = before?.page === page && page && before.context.url.pathname === url.pathname;
  const number = ++arrivals;
  before?.drop.abort();
  const drop = new AbortController();
  const name = url.pathname.startsWith("/run/") ? args[0] : null;
  const context = { url, args, name, signal: drop.signal, api, go, redraw, refresh, run: null };
  const wait = setTimeout(() => isSame || main.replaceChildren(waiting()), PATIENCE);
  document.body.setAttribute("aria-busy", "true");
  now = { page, context, data: isSame ? before.data : null, root: isSame ? before.root : document.createElement("div"),
    drop, isLoaded: false };
  try {
    if (page === undefined) throw notFound(url);
    const [about, data] = await Promise.all([
      name ? live.run(name, drop.signal) : null,
      isSame && before.isLoaded && asksTheSame(page, before.context.url, url) ? before.data : page?.load(context),
    ]);
    if (number !== arrivals) return;
    clearTimeout(wait); // a page that puts itself there is not to be put away again
    context.run = about;
    Object.assign(now, { data, isLoaded: true });
    await put(isSame);
    live.follow(name);
  } catch (error) {
    if (error.name === "AbortError" || number !== arrivals) return;
    fail(error);
    live.follow(name, error);
  } finally {
    clearTimeout(wait);
    if (number === arrivals) document.body.removeAttribute("aria-busy");
  }
}

function asksTheSame(page, before, url) {
  return page.asks?.every((key) => before.searchParams.get(key) === url.searchParams.get(key)) ?? false;
}

async function put(isSame) {
  const { page, context, root } = now;
  if (page === null) {
    main.replaceChildren(root);
    head(context, "label");
    document.title = `Label – ${context.name} – selfreward`;
    const { page: label } = await import("./label.js");
    return label(root, context.url, api);
  }
  redraw();
  if (isSame && root.isConnected) return;
  main.replaceChildren(root);
  const kept = history.state ?? {};
  const row = kept.row && root.querySelector(`[data-key="${CSS.escape(kept.row)}"]`);
  const target = context.url.hash.length > 1 && document.getElementById(context.url.hash.slice(1));
  if (target) target.scrollIntoView();
  else scrollTo(0, kept.top ?? 0);
  (row ? (row.querySelector("a[href]") ?? row) : main).focus({ preventScroll: true });
}

/** Draw the page again from its data. */
function redraw() {
  if (!now?.page || !now.isLoaded) return;
  const { page, context, data, root } = now;
  const fresh = document.createElement("div");
  fresh.append(...[page.draw(data, context)].flat(9).filter(Boolean));
  root.className = "page";
  patch(root, fresh);
  document.title = `${page.title(data, context)} – selfreward`;
  head(context, page.tab);
}

/** The run has changed, or answers again: ask again, and draw over what is there. */
async function refresh(about) {
  const at = now;
  if (!at?.page || !at.root.isConnected || at.context.signal.aborted) return;
  if (!at.isLoaded) return void arrive(); // it failed, and may do now
  const data = await (at.page.again ?? at.page.load)(at.context, at.data);
  if (at !== now) return;
  at.data = data;
  if (about) at.context.run = about;
  redraw();
}

function fail(error) {
  const { root, context } = now;
  root.className = "page";
  root.replaceChildren(problem(error, () => arrive()));
  main.replaceChildren(root);
  document.title = "selfreward";
  head(context, null);
  if (!error.kind) console.error(error);
}

function match(pathname) {
  for (const [pattern, page] of ROUTES) {
    const found = pattern.exec(pathname);
    if (found) return { page, args: found.slice(1).map(decoded) };
  }
  return { page: undefined, args: [] };
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function notFound(url) {
  const error = new Error(`There is no page ${url.pathname}.`);
  return Object.assign(error, { kind: "NotFound", hint: "The list of runs is at /." });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  const href = link.getAttribute("href");
  const url = new URL(href, location.href);
  if (link.hasAttribute("download") || url.origin !== location.origin || /^\/(api|static)\//.test(url.pathname)) return;
  if (href.startsWith("#")) return;
  event.preventDefault();
  go(url.href);
});
document.addEventListener("focusin", (event) => {
  const row = event.target.closest?.("[data-row]");
  if (row?.dataset.key) history.replaceState({ ...history.state, row: row.dataset.key }, "");
});
document.addEventListener("keydown",
  (event) => press(event, { help, data: () => copied(), isLabel: now?.page === null }));
document.getElementById("keys").addEventListener("click", help);
addEventListener("popstate", arrive);
addEventListener("beforeunload", () => history.replaceState({ ...history.state, top: scrollY }, ""));
document.addEventListener("themechange", redraw);
document.addEventListener("goto", (event) => go(event.detail));
history.scrollRestoration = "manual";
theme(document.getElementById("theme"));
arrive();

function copied() {
  return now?.page ? (now.page.json?.(now.data, now.context) ?? now.data) : null;
}
