// Whether a run goes on: its change counter is asked again and again, and a change draws the page
// anew. What the top of the page says is what the last answer said.

import { get, pathOf } from "./api.js";
import { h } from "./dom.js";

const SOON = 2000, LATER = 15000, RUNS = 10000;
const WORDS = { lost: "connection lost", removed: "run removed", refused: "not let in", unreadable: "cannot be read" };

export class Live {
  #refresh;
  #name = null;
  #timer = null;
  #about = null; // of the run that was asked about last
  #asking = null;

  /** @param {function(object|null)} refresh Called with the run where it has changed. */
  constructor(refresh) {
    this.#refresh = refresh;
    document.addEventListener("visibilitychange", () => document.hidden || this.#soon(0));
  }

  /** A run as `/api/run/NAME` tells it; not asked again until its counter has changed. */
  async run(name, signal) {
    if (this.#about?.name === name && this.#name === name && !this.#isTrouble) return this.#about;
    this.#about = await get(pathOf("api", "run", name), {}, signal);
    return this.#about;
  }

  /** Watch a run (null: all of them), as its page failed to or not. */
  follow(name, error = null) {
    this.#name = name;
    const state = this.#about?.name === name ? this.#about?.status.state : null;
    this.#say((error && troubleOf(error)) ?? state);
    this.#soon(error?.isLost || state === "running" ? SOON : name ? LATER : RUNS);
  }

  #soon(after) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), after);
  }

  async #ask() {
    if (document.hidden) return;
    const asking = (this.#asking = {});
    let after = SOON;
    try {
      after = this.#name ? await this.#askRun(this.#name) : await this.#askRuns();
      if (asking === this.#asking && this.#isTrouble) this.#say(this.#name ? (this.#about?.status.state ?? null) : null);
    } catch (error) {
      if (error.name !== "AbortError" && !error.kind) console.error(error);
      if (asking === this.#asking && error.kind) this.#say(troubleOf(error));
    }
    if (asking === this.#asking) this.#soon(after);
  }

  async #askRun(name) {
    const { change, owned } = await get(pathOf("api", "run", name, "change"));
    if (name !== this.#name) return SOON;
    if (change !== this.#about?.change || owned !== (this.#about?.status.state === "running") || this.#isTrouble) {
      const about = await get(pathOf("api", "run", name));
      if (name !== this.#name) return SOON;
      this.#about = about;
      await this.#refresh(about);
      this.#say(about.status.state);
    }
    return owned ? SOON : LATER;
  }

  async #askRuns() {
    await this.#refresh(null);
    return RUNS;
  }

  get #isTrouble() {
    return document.getElementById("live").dataset.state in WORDS;
  }

  #say(state) {
    const box = document.getElementById("live");
    if (state === null) {
      delete box.dataset.state;
      box.replaceChildren();
    } else if (box.dataset.state !== state) {
      box.dataset.state = state;
      box.replaceChildren(h("span.dot", { "aria-hidden": "true" }), WORDS[state] ?? state);
    }
  }
}

/** Why a run is not followed; null: only this page of it is not there. */
function troubleOf({ isLost, status }) {
  if (isLost) return "lost";
  if (status === 401) return "refused";
  if (status === 410) return "removed";
  return status === 409 || status >= 500 ? "unreadable" : null;
}
