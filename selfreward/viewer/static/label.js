// Labels by people: an item is asked for, shown blind, labeled by a key, and the next one is there.
//
// The next item is fetched while one is looked at, and labels are sent one after another behind the
// page, so that nobody waits. What is shown holds no score, model or place: only handles.

import { query } from "./api.js";
import { h } from "./dom.js";
import { problem } from "./frame.js";
import { say } from "./keys.js";
import { form } from "./label_forms.js";
import { agreement } from "./label_summary.js";
import { shown } from "./text.js";

const MODES = { ab: "Which is better", ranking: "Rank", rating: "Rate" };
const UNITS = { ab: "comparison", ranking: "ranking", rating: "rating" };
const ORDERS = {
  random: "at random",
  disputed: "most disputed first",
  pairs: "pairs of the run",
};
const PASSED_ON = ["answers", "overlap", "iteration"];
const NAME = "selfreward-labeler";

/** Draw the page and answer its keys until it is left. */
export async function page(root, url, api) {
  await style();
  const asked = questions(url);
  root.className = "page label";
  if (!asked.labeler) return root.replaceChildren(...who(url));
  const flow = new Flow(root, url, asked, api);
  const press = (event) => {
    if (!root.isConnected) document.removeEventListener("keydown", press);
    else if (flow.press(event)) event.preventDefault();
  };
  document.addEventListener("keydown", press);
  return flow.advance();
}

/** What the address asks for; a name that was given once is remembered by the browser. */
function questions(url) {
  const given = url.searchParams;
  const asked = {
    mode: MODES[given.get("mode")] ? given.get("mode") : "ab",
    order: ORDERS[given.get("order")] ? given.get("order") : "random",
    labeler: given.get("labeler") ?? remembered(),
  };
  for (const name of PASSED_ON) asked[name] = given.get(name);
  if (given.get("labeler")) remember(given.get("labeler"));
  return asked;
}

class Flow {
  constructor(root, url, asked, api) {
    this.url = url;
    this.asked = asked;
    this.api = api;
    this.path = `/${["api", "run", ...url.pathname.split("/").slice(2, 3), "labels"].join("/")}`;
    this.current = null; // what the server said of the item that is shown
    this.ahead = null; // a promise of the same of the next item
    this.sending = Promise.resolve();
    this.unsent = new Set(); // handles of items whose label is under way
    this.labeled = null;
    this.stage = h("div.stage");
    this.progress = h("p.progress", { role: "status" });
    root.replaceChildren(head(url, asked, this.progress), this.stage, agreement(this.path, api));
  }

  /** Show the next item. */
  async advance() {
    const asking = this.ahead ?? this.ask();
    this.ahead = this.current = null;
    try {
      this.show(await asking);
    } catch (error) {
      this.fail(error, () => this.advance());
    }
  }

  ask() {
    const params = new URLSearchParams();
    for (const [name, value] of Object.entries(this.asked)) if (value) params.append(name, value);
    for (const handle of this.held()) params.append("held", handle);
    return this.api.get(`${this.path}/next`, params);
  }

  held() {
    return this.current?.item ? [this.current.item.handle, ...this.unsent] : [...this.unsent];
  }

  /** Show an item, or that there are no more. */
  show(found, before = null) {
    this.current = found;
    this.labeled ??= found.labeled;
    this.prompts = found.prompts ?? this.prompts;
    this.count();
    if (!found.item) {
      this.form = null;
      this.stage.replaceChildren(end(this.url, this.asked, () => this.undo()));
      return;
    }
    this.form = form(found.item, before, {
      label: (answer) => this.label(answer),
      skip: () => this.label({ kind: "skip" }),
      undo: () => this.undo(),
    });
    this.stage.replaceChildren(...this.form.nodes);
    this.since = performance.now();
    scrollTo(0, 0);
    if (!this.ahead) {
      this.ahead = this.ask();
      this.ahead.catch(() => {}); // told when it is its turn
    }
  }

  /** Keep a label, and go on at once. */
  label(answer) {
    const item = this.current?.item;
    if (!item || !this.form) return;
    const seconds = (performance.now() - this.since) / 1000;
    const note = this.form.note();
    const body = { handle: item.handle, labeler: this.asked.labeler, answer, note, seconds };
    if (answer.kind !== "skip") this.labeled += 1;
    this.form = null;
    this.unsent.add(item.handle);
    this.sending = this.sending.then(() => this.send(body));
    return this.advance();
  }

  async send(body) {
    try {
      await this.api.post(this.path, body);
      this.unsent.delete(body.handle);
    } catch (error) {
      if (body.answer.kind !== "skip") this.labeled -= 1;
      this.fail(error, () => this.again(error, body));
    }
  }

  /** After a label was not kept: send it once more where nobody answered, else go on without. */
  async again(error, body) {
    const shownBefore = this.current;
    if (error.isLost) {
      if (body.answer.kind !== "skip") this.labeled += 1;
      await this.send(body);
      if (this.unsent.has(body.handle)) return;
    } else {
      this.unsent.delete(body.handle);
      if (error.kind === "ForgottenError") this.ahead = this.current = null;
    }
    if (this.current === shownBefore && shownBefore) this.show(shownBefore);
    else await this.advance();
  }

  /** Take the last label back, and show its item again. */
  async undo() {
    if (this.isUndoing) return;
    this.isUndoing = true;
    try {
      await this.sending;
      const body = { labeler: this.asked.labeler, mode: this.asked.mode };
      const back = await this.api.post(`${this.path}/undo`, body);
      if (!back.item) return say("There is nothing to take back.");
      if (back.before.rating || back.before.ranks) this.labeled -= 1;
      this.ahead = this.current?.item ? Promise.resolve(this.current) : null;
      this.show({ item: back.item }, back.before);
      say("Taken back.");
    } catch (error) {
      this.fail(error, () => this.advance());
    } finally {
      this.isUndoing = false;
    }
  }

  fail(error, again) {
    this.form = null;
    this.stage.replaceChildren(problem(error, again));
    this.count();
  }

  count() {
    const prompts = this.prompts ? ` · ${this.prompts.toLocaleString("en")} prompts in the run` : "";
    const unit = `${UNITS[this.asked.mode]}${this.labeled === 1 ? "" : "s"}`;
    this.progress.textContent = `${(this.labeled ?? 0).toLocaleString("en")} ${unit}${prompts}`;
  }

  /** Do what a key says; whether it says anything. */
  press(event) {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return false;
    const field = event.target.closest?.("input, textarea, select");
    if (field) {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) return this.form?.enter() ?? false;
      if (event.key !== "Escape") return false;
      field.blur();
      return true;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return false;
    if (event.key === "u") return void this.undo() || true;
    if (!this.form) return false;
    if (event.key === "s") return void this.label({ kind: "skip" }) || true;
    if (event.key === "n") return this.form.focusNote();
    if (event.key === "Enter" && event.target.closest?.("button, a, summary")) return false;
    return this.form.press(event.key);
  }
}

function head(url, asked, progress) {
  const order = h("select", { onchange: (event) => go(url, { order: event.currentTarget.value }) },
    Object.entries(ORDERS).map(([value, words]) =>
      h("option", { value, selected: value === asked.order }, words)));
  order.value = asked.order;
  const forget = () => {
    remember(null);
    go(url, { labeler: null });
  };
  return h("header.labelhead", {},
    h("div.title", {}, h("h1", {}, "Label"), progress,
      h("p.meta", {}, h("span", {}, "You are ", h("strong", {}, shown(asked.labeler))),
        h("button.link", { type: "button", onclick: forget }, "not you?"))),
    h("div.labelbar", {},
      h("nav.kinds", { "aria-label": "What to label" }, Object.entries(MODES).map(([mode, words]) =>
        h("a", { href: address(url, { mode }), "aria-current": mode === asked.mode ? "page" : null }, words))),
      h("label.order", {}, "Prompts ", order)));
}

function end(url, asked, undo) {
  const other = Object.keys(MODES).filter((mode) => mode !== asked.mode);
  return h("div.empty", {}, h("p.title", {}, "All labeled"),
    h("p", {}, "There is nothing more of this kind for you here. ",
      other.map((mode, i) => [i ? " or " : "Go on with: ", h("a", { href: address(url, { mode }) }, MODES[mode])])),
    h("p", {}, h("button.quiet", { type: "button", onclick: undo }, h("kbd", {}, "u"), "Undo the last one")));
}

/** Asked once. */
function who(url) {
  const field = h("input", { id: "labeler", maxlength: "64", autocomplete: "name", spellcheck: "false" });
  const said = h("p.hint", {}, "It is kept with each label, so that people can be held against each other.");
  const start = () => {
    const labeler = field.value.trim();
    if (!labeler) return field.focus();
    remember(labeler);
    return go(url, { labeler });
  };
  field.onkeydown = (event) => {
    if (event.key === "Enter") start();
  };
  queueMicrotask(() => field.focus());
  return [h("h1", {}, "Label"),
    h("div.card.who", {}, h("label", { for: "labeler" }, "Your name, or any that you choose"),
      h("div.actions", {}, field, h("button", { type: "button", onclick: start }, "Begin")), said)];
}

function address(url, changes) {
  const params = new URLSearchParams(url.searchParams);
  for (const [name, value] of Object.entries(changes)) {
    if (value === null) params.delete(name);
    else params.set(name, value);
  }
  return url.pathname + query(params);
}

function go(url, changes) {
  document.dispatchEvent(new CustomEvent("goto", { detail: address(url, changes) }));
}

function remembered() {
  try {
    return localStorage.getItem(NAME);
  } catch {
    return null; // a browser that keeps nothing
  }
}

function remember(name) {
  try {
    if (name === null) localStorage.removeItem(NAME);
    else localStorage.setItem(NAME, name);
  } catch {
    // then it is asked for again
  }
}

/** Let the page's own styles be there before it is. */
function style() {
  const href = "/static/label.css";
  if (document.querySelector(`link[href="${href}"]`)) return null;
  return new Promise((done) => {
    document.head.append(h("link", { rel: "stylesheet", href, onload: done, onerror: done }));
  });
}
