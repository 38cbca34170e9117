// The table of agent processes.

import { badge } from "./badge.js";
import { byId, el, rows, text } from "./dom.js";
import { bytes, duration, plural, short } from "./format.js";

const FEW = 12;
const ORDER = ["running", "assigned", "ready", "starting", "stopping"];

export function agents(model, open) {
  const update = rows(byId("agent-rows"), () => row(model, open));
  const more = byId("more-agents");
  let most = FEW;
  more.addEventListener("click", () => {
    most = most === FEW ? Infinity : FEW;
    draw();
  });

  function draw() {
    const all = [...model.agents.values()].sort(
      (a, b) => ORDER.indexOf(a.status) - ORDER.indexOf(b.status) || (a.createdAt < b.createdAt ? -1 : 1),
    );
    update(all.slice(0, most), (agent) => agent.agentId);
    more.parentElement.hidden = all.length <= FEW;
    text(more, most === FEW ? `Show all ${all.length}` : "Show fewer");
    byId("no-agents").hidden = all.length > 0;
    const memory = all.reduce((sum, agent) => sum + (agent.memory ?? 0), 0);
    text(byId("agents-sum"), all.length ? `${plural(all.length, "process", "processes")}${memory ? `, ${bytes(memory)} of their own` : ""}` : "");
  }
  return { draw, tick: draw };
}

function row(model, open) {
  const state = badge("agent");
  const [name, pid, node, memory, age, health] = [
    el("button", { type: "button", class: "row-open", on: { click: () => open(id, "agent") } }),
    el("td", { class: "number roomy" }),
    el("td", { class: "roomy" }),
    el("td", { class: "number" }),
    el("td", { class: "number" }),
    el("td", { class: "roomy" }),
  ];
  let [id, serves] = ["", ""];
  const user = el("button", { type: "button", class: "row-open", on: { click: () => open(serves) } });
  const whom = el("td", { class: "roomy" }, user);
  return {
    node: el("tr", {}, el("td", {}, state.node), el("th", { scope: "row" }, name), pid, node, memory, age, health, whom),
    update(agent) {
      state.set(agent.status);
      id = agent.agentId;
      text(name, short(id));
      text(pid, agent.pid ?? "–");
      text(node, agent.node ?? "–");
      text(memory, bytes(agent.memory));
      text(age, duration((model.now - Date.parse(agent.createdAt)) / 1000));
      text(health, agent.health ?? "–");
      serves = agent.sessionId ?? "";
      user.hidden = !serves;
      text(user, serves ? (model.sessions.get(serves)?.userId ?? short(serves)) : "");
    },
  };
}
