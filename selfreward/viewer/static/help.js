// The dialog behind "?".

import { h } from "./dom.js";
import { KEYS } from "./keys.js";

/** Open it. */
export function help() {
  const close = h("button.quiet", { type: "button", autofocus: true }, "Close");
  const dialog = h("dialog.help", { "aria-labelledby": "help-title" },
    h("h2", { id: "help-title" }, "Keys"),
    h("dl", {}, KEYS.map(([key, other, does]) => h("div", {},
      h("dt", {}, h("kbd", {}, key), other ? [" ", h("kbd", {}, other)] : null), h("dd", {}, does)))),
    h("h2", {}, "How to read it"),
    h("p", {}, "Scores are the judge’s own opinion of the answers, never an external evaluation. ",
      "How far the judge agrees with people stands beside them, with what “the longer answer wins” would reach."),
    h("p", {}, "± is the standard error of a mean, clustered by prompt; [ ] is a 95% interval over prompts."),
    h("p", {}, "Characters that are not seen, such as ", h("span.control", {}, "\\x1b"), " or ",
      h("span.control", {}, "U+202E"), ", are shown as boxes and do nothing."),
    close);
  close.onclick = () => dialog.close();
  dialog.onclick = (event) => event.target === dialog && dialog.close();
  const before = document.activeElement;
  dialog.onclose = () => {
    dialog.remove();
    before?.focus?.({ preventScroll: true });
  };
  document.body.append(dialog);
  dialog.showModal();
}
