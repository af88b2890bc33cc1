// Elements: made by name, never from markup, and patched in place where a page is drawn again.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element.
 * @param {string} tag A name; with a class after a dot, such as "td.number".
 * @param {object} props `onclick` and the like are handlers, `style` an object of CSS properties,
 *     `data` an object; true is an attribute without a value, and null and false are left out.
 * @param {...(Node|string|number|null|Array)} children Strings become text.
 */
export function h(tag, props = {}, ...children) {
  return build(document.createElement(tag.split(".")[0]), tag, props, children);
}

/** The same for SVG. */
export function s(tag, props = {}, ...children) {
  return build(document.createElementNS(SVG, tag.split(".")[0]), tag, props, children);
}

function build(element, tag, props, children) {
  const classes = tag.split(".").slice(1).concat(props.class ? [props.class] : []).join(" ");
  if (classes) element.setAttribute("class", classes);
  for (const [name, value] of Object.entries(props)) {
    if (name === "class" || value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element[name] = value;
    else if (name === "style") for (const [key, v] of Object.entries(value)) element.style.setProperty(key, v);
    else if (name === "data") for (const [key, v] of Object.entries(value)) element.dataset[key] = v;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) add(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

const HANDLERS = ["onclick", "oninput", "onchange", "onsubmit", "onkeydown", "ontoggle"];
const KEPT = new Set(["open", "tabindex"]); // what a reader has set

/**
 * Make the children of `old` like those of `next`, keeping each node that is alike, so that focus,
 * scroll positions, selections and what is unfolded stay. Nodes are matched by `data-key`, others
 * by their place.
 */
export function patch(old, next) {
  const keyed = new Map();
  for (const child of old.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  let at = old.firstChild;
  for (const wanted of [...next.childNodes]) {
    const key = wanted.dataset?.key;
    let node = key ? keyed.get(key) : at?.dataset?.key ? null : at;
    if (node && node !== at) old.insertBefore(node, at);
    else if (node) at = at.nextSibling;
    if (!node || !alike(node, wanted)) {
      if (node) node.replaceWith(wanted);
      else old.insertBefore(wanted, at);
    } else if (node.nodeType === Node.TEXT_NODE) {
      if (node.data !== wanted.data) node.data = wanted.data;
    } else {
      attributes(node, wanted);
      patch(node, wanted);
    }
  }
  while (at) {
    const rest = at.nextSibling;
    at.remove();
    at = rest;
  }
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;
}

function attributes(node, wanted) {
  for (const { name } of [...node.attributes])
    if (!wanted.hasAttribute(name) && !KEPT.has(name)) node.removeAttribute(name);
  for (const { name, value } of wanted.attributes)
    if (name !== "style" && !KEPT.has(name) && node.getAttribute(name) !== value) node.setAttribute(name, value);
  if (node.style.cssText !== wanted.style.cssText) node.style.cssText = wanted.style.cssText;
  for (const name of HANDLERS) node[name] = wanted[name];
  const isField = node.localName === "input" || node.localName === "select";
  if (isField && node !== document.activeElement && node.value !== wanted.value) {
    if (node.localName === "select") node.replaceChildren(...wanted.cloneNode(true).children);
    node.value = wanted.value;
  }
}
