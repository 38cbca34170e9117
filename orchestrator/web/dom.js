// The little that is needed to build and update a page. Data becomes text, never markup: nothing here parses HTML, and
// all text of the page, attributes too, is written here, with what a browser would obey in it written out.

import { oneLine } from "./text.js";

const SVG = "http://www.w3.org/2000/svg";

/** Create an element. `props`: attributes; `on`: listeners by event. Children are nodes or text. */
export function el(name, { on = {}, ...props } = {}, ...children) {
  return fill(document.createElement(name), props, on, children);
}

/** Create an SVG element. */
export function svg(name, { on = {}, ...props } = {}, ...children) {
  return fill(document.createElementNS(SVG, name), props, on, children);
}

function fill(node, props, on, children) {
  for (const [name, value] of Object.entries(props)) attribute(node, name, value);
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  const there = children.filter((child) => child !== null && child !== undefined);
  node.append(...there.map((child) => (child instanceof Node ? child : oneLine(String(child)))));
  return node;
}

/** Set an attribute; true is an empty one, false and null take it away. Writes only what differs. */
export function attribute(node, name, value) {
  if (value === false || value === null || value === undefined) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : oneLine(String(value));
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/** Set a node's text; writes only what differs, so that nothing is announced or laid out again for no reason. */
export function text(node, value) {
  // guard: page-text
  const wanted = oneLine(String(value ?? ""));
  if (node.textContent !== wanted) node.textContent = wanted;
}

export const byId = (id) => document.getElementById(id);

/**
 * Make a list of rows follow a list of items. `create(item)` returns `{node, update(item)}`; a row whose key stays is
 * kept, and with it its focus and selection.
 */
export function rows(parent, create) {
  let known = new Map();
  return (items, key) => {
    const now = new Map();
    for (const item of items) {
      const name = key(item);
      const row = known.get(name) ?? create(item);
      row.update(item);
      now.set(name, row);
    }
    for (const [name, row] of known) if (!now.has(name)) row.node.remove();
    let next = parent.firstElementChild;
    for (const { node } of now.values()) {
      if (node === next) next = next.nextElementSibling;
      else parent.insertBefore(node, next);
    }
    known = now;
  };
}
