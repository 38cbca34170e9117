// What is known of a session or an agent, as a list of names and values.

import { attribute, el, rows, text } from "./dom.js";

/** A list of facts; `draw` takes [name, value, note] of each. */
export function facts() {
  const node = el("dl", { class: "facts" });
  const update = rows(node, () => fact());
  return { node, draw: (known) => update(known.filter(Boolean), ([name]) => name) };
}

function fact() {
  const [name, value, note] = [el("dt"), el("span"), el("span", { class: "muted" })];
  const node = el("div", {}, name, el("dd", {}, value, " ", note));
  return {
    node,
    update([label, known, more]) {
      attribute(node, "class", known.length > 24 ? "long" : null);
      text(name, label);
      text(value, known);
      text(note, more ?? "");
    },
  };
}

/** Where a process runs or ran. */
export const processWords = ({ pid, node }) => (pid ? `pid ${pid}${node ? ` on ${node}` : ""}` : "no process");
