// One agent process: how it is or how it ended, and its log. There is nothing else of one that did not boot.

import { get } from "./api.js";
import { badge } from "./badge.js";
import { attribute, el, text } from "./dom.js";
import { facts, processWords } from "./facts.js";
import { bytes, short } from "./format.js";
import { logs } from "./logs.js";
import { endWords } from "./words.js";

export function agentPanel(model, id, close) {
  const state = badge("agent");
  const title = el("h2", { id: "detail-title", tabindex: "-1" }, short(id));
  const trouble = el("p", { class: "trouble", role: "alert" });
  const why = el("p", { class: "why-box", hidden: true });
  const known = facts();
  const shut = el("button", { type: "button", class: "quiet", on: { click: close }, "aria-label": "Close the agent" }, "Close");
  const lines = logs(`api/agents/${id}/logs/events`, "the agent is gone");
  const asking = new AbortController();

  let record = null;
  let before = null;

  async function read() {
    try {
      record = (await get(`api/agents/${id}/logs?limit=1`, { signal: asking.signal })).agent ?? { status: "exited" };
      text(trouble, "");
    } catch (failure) {
      if (failure.name === "AbortError") return;
      if (!record) text(trouble, failure.message);
      before = null;
    }
    show();
  }

  function show() {
    const living = model.agents.get(id);
    const now = living ?? record;
    if (!now) return;
    state.set(now.status);
    const over = !living && record.status === "exited";
    why.hidden = !over;
    text(why, over ? endWords(record) || "It is gone, and its record with it." : "");
    attribute(why, "data-level", record?.exitCode === 0 ? "fine" : "bad");
    known.draw([
      ["Agent", id],
      ["Process", processWords(now)],
      living ? ["Memory", bytes(living.memory)] : ["Most memory", bytes(record.peakMemory)],
    ]);
  }

  draw();
  function draw() {
    const now = model.agents.get(id)?.status ?? "gone";
    if (now === before) return;
    before = now;
    read();
  }

  return {
    nodes: [
      el("header", { class: "detail-head" }, title, state.node, el("span", { class: "buttons" }, shut)),
      el("div", { class: "detail-body" }, trouble, why, known.node, ...lines.nodes),
    ],
    draw,
    tick: show,
    focus: () => title.focus(),
    close() {
      asking.abort();
      lines.close();
    },
  };
}
