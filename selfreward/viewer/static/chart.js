// Charts that the server drew: taken over element by element, nothing but shapes, text and links.

import { pathOf, text } from "./api.js";
import { h, s } from "./dom.js";
import { plain } from "./text.js";
import { themeNow } from "./theme.js";

const ELEMENTS = new Set([
  "svg", "g", "a", "path", "rect", "line", "polyline", "polygon", "circle", "ellipse", "text",
  "tspan", "title", "desc", "defs", "clipPath", "use",
]);
const ATTRIBUTES = new Set([
  "viewBox", "width", "height", "x", "y", "x1", "x2", "y1", "y2", "dx", "dy", "cx", "cy", "r", "rx",
  "ry", "d", "points", "transform", "fill", "fill-opacity", "fill-rule", "stroke", "stroke-width",
  "stroke-opacity", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity", "font-size",
  "font-weight", "font-family", "font-style", "text-anchor", "dominant-baseline", "clip-path",
  "role", "aria-label", "aria-hidden", "preserveAspectRatio", "xml:space",
]);
const VALUE = /^(?!.*(?:url\((?!#)|expression|javascript:))[^<>{}\\]*$/i;
let made = 0;
const drawn = new Map(); // by run, chart and theme: {change, svg, error}, the last one that came

const queue = []; // charts that are waited for
const MOST = 2; // at a time: a browser has few connections, and other requests come first
let asking = 0;

/**
 * A figure with a chart of a run. It is fetched once per state of the run, and the one before
 * stays until it is there.
 * @param {{name: string, title: string, iteration: number|null}} chart
 */
export function figure(chart, context) {
  const theme = themeNow();
  const key = JSON.stringify([context.name, chart.name, chart.iteration, theme]);
  const { change } = context.run;
  if (drawn.get(key)?.change !== change) {
    drawn.set(key, { ...drawn.get(key), change, error: null });
    queue.push({ key, chart, theme, change, context });
    work();
  }
  const inside = drawn.get(key);
  return h("figure.card", { data: { key: `chart-${chart.name}-${chart.iteration}` } },
    h("figcaption", {}, chart.title),
    inside.svg ?? h("p.none", {}, inside.error ?? "Drawing…"));
}

async function work() {
  if (asking >= MOST || !queue.length) return;
  asking += 1;
  let isLost = false;
  const { key, chart, theme, change, context } = queue.shift();
  try {
    if (context.signal.aborted) throw new DOMException("The page was left.", "AbortError");
    const path = pathOf("api", "run", context.name, "chart", `${chart.name}.svg`);
    const found = await text(path, { iteration: chart.iteration, theme }, context.signal);
    drawn.set(key, { change, svg: adopted(found, context.url.pathname), error: null });
  } catch (error) {
    isLost = Boolean(error.isLost);
    const isToCome = isLost || error.name === "AbortError"; // asked for again when it is next drawn
    drawn.set(key, { ...drawn.get(key), change: isToCome ? null : change,
      error: isToCome && !isLost ? null : plain(error.message) });
  } finally {
    asking -= 1;
  }
  work();
  if (!isLost) context.redraw();
}

/**
 * Make elements of this page from the text of an SVG file.
 * @param {string} text
 * @param {string} base The path of the page that relative links start from.
 * @throws {Error} It is no SVG.
 */
export function adopted(text, base) {
  const read = new DOMParser().parseFromString(text, "image/svg+xml").documentElement;
  if (read.localName !== "svg") throw new Error("The chart is no SVG.");
  const prefix = `chart${++made}-`;
  const svg = copied(read, prefix, base);
  const width = parseFloat(read.getAttribute("width")), height = parseFloat(read.getAttribute("height"));
  if (!svg.hasAttribute("viewBox") && width && height) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.removeAttribute("width");
  svg.removeAttribute("height");
  svg.setAttribute("class", "chart");
  if (!svg.querySelector("a") && !svg.hasAttribute("role")) svg.setAttribute("role", "img");
  return svg;
}

function copied(element, prefix, base) {
  const copy = s(element.localName);
  for (const { name, value } of element.attributes) attribute(copy, name, value, prefix, base);
  if (copy.hasAttribute("href") && copy.localName === "a") named(copy, element);
  for (const child of element.childNodes) {
    if (child.nodeType === Node.TEXT_NODE || child.nodeType === Node.CDATA_SECTION_NODE)
      copy.append(plain(child.data));
    else if (child.nodeType === Node.ELEMENT_NODE && ELEMENTS.has(child.localName))
      copy.append(copied(child, prefix, base));
  }
  return copy;
}

function attribute(copy, name, value, prefix, base) {
  const local = name.replace(/^xlink:/, "");
  if (local === "id") copy.setAttribute("id", prefix + value);
  else if (local === "href" && copy.localName === "a") link(copy, value, base);
  else if (local === "href" && copy.localName === "use") {
    if (/^#[\w-]+$/.test(value)) copy.setAttribute("href", "#" + prefix + value.slice(1));
  } else if (name === "style") {
    for (const [, key, set] of value.matchAll(/([\w-]+)\s*:\s*([^;]+)/g))
      if (ATTRIBUTES.has(key)) attribute(copy, key, set.trim(), prefix, base);
  } else if (ATTRIBUTES.has(name) && VALUE.test(value))
    copy.setAttribute(name, value.replace(/url\(#/g, `url(#${prefix}`));
}

/** What a link is called that holds no text: as the mark that it belongs to. */
function named(copy, element) {
  const title = [element,
    element.parentElement].flatMap((at) => [...(at?.children ?? [])]).find((child) => child.localName === "title");
  copy.setAttribute("aria-label", plain(title?.textContent || "the records behind this mark"));
}

/** Links stay within the viewer. */
function link(copy, value, base) {
  const url = new URL(value, new URL(base, location.origin));
  if (url.origin === location.origin && /^https?:$/.test(url.protocol))
    copy.setAttribute("href", url.pathname + url.search + url.hash);
}
