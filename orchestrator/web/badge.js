// A state, as a word beside a mark whose shape differs too: colour alone is not enough.

import { attribute, el, text } from "./dom.js";

const WORDS = {
  queued: "in line",
  starting: "starting",
  ready: "joining",
  active: "in call",
  ended: "ended",
  error: "error",
  assigned: "assigned",
  running: "in room",
  stopping: "leaving",
  exited: "exited",
};
const AGENT_WORDS = { ready: "warm", starting: "booting" };

export function badge(kind = "session") {
  const word = el("span");
  const node = el("span", { class: "badge" }, el("span", { class: "mark", "aria-hidden": "true" }), word);
  return {
    node,
    set(state) {
      attribute(node, "data-state", kind === "agent" && state === "ready" ? "warm" : state);
      text(word, (kind === "agent" && AGENT_WORDS[state]) || WORDS[state] || state);
    },
  };
}
