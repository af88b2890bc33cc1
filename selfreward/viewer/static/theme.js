// Light or dark: as the system says, unless the reader said otherwise.

const KEY = "selfreward-theme";
const SVG = "http://www.w3.org/2000/svg";
const SHAPES = {
  light: "M12 4V2m0 20v-2m8-8h2M2 12h2m13.7-5.7 1.4-1.4M4.9 19.1l1.4-1.4m11.4 0 1.4 1.4M4.9 4.9l1.4 1.4M16 12a4 4 0 1 1-8 0 4 4 0 0 1 8 0Z",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5Z",
};

/** Which theme is in force: "light" or "dark". */
export function themeNow() {
  const said = document.documentElement.dataset.theme;
  return said ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
}

/** Make a button switch the theme. */
export function theme(button) {
  const kept = read();
  if (kept) document.documentElement.dataset.theme = kept;
  label(button);
  button.addEventListener("click", () => {
    const next = themeNow() === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    keep(next);
    label(button);
    document.dispatchEvent(new Event("themechange"));
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    label(button);
    document.dispatchEvent(new Event("themechange"));
  });
}

function label(button) {
  const other = themeNow() === "dark" ? "light" : "dark";
  const svg = document.createElementNS(SVG, "svg");
  const path = document.createElementNS(SVG, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", SHAPES[other]);
  svg.append(path);
  button.replaceChildren(svg);
  button.setAttribute("aria-label", `Switch to the ${other} theme`);
  button.title = `Switch to the ${other} theme (t)`;
}

function read() {
  try {
    const kept = localStorage.getItem(KEY);
    return kept === "light" || kept === "dark" ? kept : null;
  } catch {
    return null; // storage is switched off: the system's theme it is
  }
}

function keep(value) {
  try {
    localStorage.setItem(KEY, value);
  } catch {
    // it lasts until the page is left
  }
}
