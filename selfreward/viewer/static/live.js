// Whether a run goes on: its change counter is asked again and again, and a change draws the page
// anew. What the top of the page says is what the last answer said.

import { get, pathOf } from "./api.js";
import { h } from "./dom.js";

const SOON = 2000, LATER = 15000, RUNS = 5000;
const WORDS = { running: "running", finished: "finished", failed: "failed", stopped: "stopped", lost: "connection lost" };

export class Live {
  #refresh;
  #name = null;
  #page = undefined;
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
    if (this.#about?.name === name && this.#name === name && !this.isLost) return this.#about;
    this.#about = await get(pathOf("api", "run", name), {}, signal);
    return this.#about;
  }

  /** Watch a run (null: all of them) for a page. */
  follow(name, page) {
    this.#name = name;
    this.#page = page;
    if (name && this.#about?.name === name) this.#say(this.#about.status.state);
    else this.#say(null);
    this.#soon(name ? (this.#about?.status.state === "running" ? SOON : LATER) : RUNS);
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
      if (asking === this.#asking && this.isLost) this.#say(this.#about?.status.state ?? null);
    } catch (error) {
      if (error.name !== "AbortError" && !error.kind) console.error(error);
      if (error.isLost) this.#say("lost");
    }
    if (asking === this.#asking) this.#soon(after);
  }

  async #askRun(name) {
    const { change, owned } = await get(pathOf("api", "run", name, "change"));
    if (name !== this.#name) return SOON;
    const was = this.isLost;
    if (change !== this.#about?.change || owned !== (this.#about?.status.state === "running") || was) {
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

  get isLost() {
    return document.getElementById("live").dataset.state === "lost";
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
