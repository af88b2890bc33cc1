// One item to label: its prompt, its answers, and what can be said of them by keys and by hand.

import { h } from "./dom.js";
import { block } from "./text.js";

const LETTERS = {
  fails: "f", inappropriate: "i", hallucination: "h", satisfies: "c", violates: "v", hedges: "g", harmful: "a",
  encourages: "e", denigrates: "d", sexual: "x", violent: "w", opinion: "o", moral: "m",
};
const MOST = 7;

/**
 * The form of an item.
 * @param {object} item As the server tells it.
 * @param {object|null} before What was said of it and is taken back.
 * @param {object} does `label(answer)`, `skip()`, `undo()`.
 * @returns {object} `nodes`; `press(key)`, whether the key says anything; `enter()`; `note()`;
 *     `focusNote()`.
 */
export function form(item, before, does) {
  const note = h("textarea", { id: "label-note", rows: "2", maxlength: "10000" });
  note.value = before?.note ?? "";
  const made = { ab, ranking, rating }[item.mode](item, before, does);
  const request = h("section.request", { "aria-label": "Prompt" }, block(item.prompt, `${item.handle}-prompt`));
  const rest = h("div.actions.rest", {},
    button("s", "Skip", does.skip, "quiet"),
    button("u", "Undo", does.undo, "quiet"),
    h("label.notefield", { for: "label-note" }, h("span", {}, h("kbd", {}, "n"), " Note"), note));
  return {
    nodes: [request, made.answers, h("div.choices", { role: "group", "aria-label": "Your label" }, made.choices, rest)],
    press: made.press,
    enter: made.enter,
    note: () => note.value,
    focusNote: () => {
      note.focus();
      return true;
    },
  };
}

function ab(item, before, does) {
  const [first, second] = item.answers;
  const better = (answer) => {
    does.label({ kind: "ab", better: answer?.handle ?? null });
    return true;
  };
  const keys = { ArrowLeft: first, 1: first, ArrowRight: second, 2: second, t: null };
  const was = before?.ranks ? Math.sign(before.ranks[second.handle] - before.ranks[first.handle]) : null;
  return {
    answers: h("div.answers.two", {}, item.answers.map((answer, i) => card(answer, `Answer ${i + 1}`))),
    choices: h("div.actions.main", {},
      button("←", "1 is better", () => better(first), "", was === 1),
      button("t", "Tie", () => better(null), "", was === 0),
      button("→", "2 is better", () => better(second), "", was === -1)),
    press: (key) => key in keys && better(keys[key]),
    enter: () => false,
  };
}

function ranking(item, before, does) {
  const { answers } = item;
  const ranks = answers.map((answer) => before?.ranks?.[answer.handle] ?? null);
  let at = 0;
  const cards = answers.map((answer, i) => {
    const places = answers.map((_, place) =>
      h("button", { type: "button", "aria-label": `Answer ${i + 1}: rank ${place + 1}`, onclick: () => give(i, place + 1) }, place + 1));
    const made = card(answer, `Answer ${i + 1}`, h("div.ranks", {}, places));
    made.tabIndex = -1;
    return { node: made, places };
  });
  const submit = button("Enter", "Done", () => enter());
  const left = h("p.sub");

  function give(i, rank) {
    ranks[i] = rank;
    const open = [...answers.keys()].map((step) => (i + 1 + step) % answers.length).find((j) => ranks[j] === null);
    at = open ?? i;
    draw();
  }
  function draw() {
    cards.forEach(({ node, places }, i) => {
      node.classList.toggle("at", i === at);
      places.forEach((place, j) => place.setAttribute("aria-pressed", String(ranks[i] === j + 1)));
    });
    const open = ranks.filter((rank) => rank === null).length;
    submit.disabled = open > 0;
    left.textContent = open ? `Digits rank the marked answer, 1 is best, the same digit is a tie. ${open} to go.` : "Enter keeps the ranking.";
    if (cards[at].node.isConnected) cards[at].node.scrollIntoView({ block: "nearest" });
  }
  function enter() {
    if (ranks.includes(null)) return true;
    does.label({ kind: "ranking", ranks: Object.fromEntries(answers.map((answer, i) => [answer.handle, ranks[i]])) });
    return true;
  }
  function press(key) {
    if (key === "Enter") return enter();
    const rank = Number(key);
    if (rank >= 1 && rank <= answers.length) give(at, rank);
    else if (key === "Backspace") ranks[at] = null;
    else if (key === "ArrowDown" || key === "ArrowRight" || key === "j") at = Math.min(at + 1, answers.length - 1);
    else if (key === "ArrowUp" || key === "ArrowLeft" || key === "k") at = Math.max(at - 1, 0);
    else return false;
    draw();
    return true;
  }
  draw();
  return { answers: h("div.answers", {}, cards.map(({ node }) => node)), choices: h("div.actions.main", {}, submit, left), press, enter };
}

function rating(item, before, does) {
  let given = before?.rating ?? null;
  const flags = new Set(before?.flags ?? []);
  const numbers = [...Array(MOST).keys()].map((i) =>
    h("button.points", { type: "button", onclick: () => give(i + 1) }, i + 1));
  const boxes = Object.entries(item.boxes).map(([flag, words]) => ({
    flag, key: LETTERS[flag], node: h("button.box", { type: "button", onclick: () => tick(flag) }, h("kbd", {}, LETTERS[flag]), words),
  }));
  const submit = button("Enter", "Done", () => enter());

  function give(points) {
    given = points;
    draw();
    return true;
  }
  function tick(flag) {
    const other = { satisfies: "violates", violates: "satisfies" }[flag];
    if (flags.has(flag)) flags.delete(flag);
    else flags.add(flag);
    if (other) flags.delete(other);
    draw();
    return true;
  }
  function draw() {
    numbers.forEach((node, i) => node.setAttribute("aria-pressed", String(given === i + 1)));
    boxes.forEach(({ flag, node }) => node.setAttribute("aria-pressed", String(flags.has(flag))));
    submit.disabled = given === null;
  }
  function enter() {
    if (given !== null) does.label({ kind: "rating", rating: given, flags: [...flags] });
    return true;
  }
  function press(key) {
    if (key === "Enter") return enter();
    if (Number(key) >= 1 && Number(key) <= MOST) return give(Number(key));
    const box = boxes.find((each) => each.key === key);
    return box ? tick(box.flag) : false;
  }
  draw();
  return {
    answers: h("div.answers.one", {}, card(item.answers[0], "Answer")),
    choices: [
      h("div.actions.main", {},
        h("div.group.scale", { role: "group", "aria-label": "Overall quality, 1 to 7" },
          h("span.sub", {}, "worst"), numbers, h("span.sub", {}, "best")), submit),
      h("div.boxes", { role: "group", "aria-label": "What is true of it" }, boxes.map(({ node }) => node)),
    ],
    press,
    enter,
  };
}

function card(answer, name, ...rest) {
  return h("section.card.answer", { "aria-label": name }, h("header", {}, h("h2", {}, name), rest), block(answer.text, answer.handle));
}

function button(key, words, onclick, kind = "", pressed = null) {
  const props = { type: "button", class: kind, onclick, "aria-pressed": pressed === null ? null : String(pressed) };
  return h("button", props, h("kbd", {}, key), words);
}
