// What went wrong last, with its cause.

import { byId, el, rows, text } from "./dom.js";
import { clock, full, short } from "./format.js";
import { causeWords, reasonWords } from "./words.js";

const SHOWN = 12;
const KINDS = {
  session: "Session failed",
  takeover: "Agent lost in a call",
  replacement: "Agent lost before the call",
  boot: "Agent did not boot",
  agent: "Agent died",
};

export function failures(model, open) {
  const update = rows(byId("failures"), (failure) => row(failure, model, open));
  return {
    draw() {
      update(model.failures.slice(0, SHOWN), ({ at, kind, sessionId, agentId }) => `${at} ${kind} ${sessionId} ${agentId}`);
      byId("no-failures").hidden = model.failures.length > 0;
    },
  };
}

function row(failure, model, open) {
  const { at, kind, sessionId, agentId } = failure;
  const when = el("time", { datetime: at, title: full(Date.parse(at)) });
  const who = sessionId
    ? el("button", { type: "button", class: "row-open", on: { click: () => open(sessionId) } })
    : el("button", { type: "button", class: "row-open", on: { click: () => open(agentId, "agent") } }, `Log of ${short(agentId)}`);
  const words = el("p");
  return {
    node: el("li", { "data-kind": kind }, el("p", { class: "failure-head" }, when, el("strong", {}, KINDS[kind] ?? kind), who), words),
    update() {
      text(when, clock(Date.parse(at)));
      text(words, kind === "session" ? reasonWords(failure, "cause") : causeWords(failure));
      if (sessionId) text(who, model.sessions.get(sessionId)?.userId ?? short(sessionId));
    },
  };
}
