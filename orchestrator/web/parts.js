// The parts that everything depends on: Redis, LiveKit, Celery, beat, the nodes.

import { act, ask, say } from "./ask.js";
import { post } from "./api.js";
import { attribute, byId, el, rows, text } from "./dom.js";
import { duration, plural } from "./format.js";

/** Seconds after which a Celery worker's canary is late (as /api/health sees it), and Celery tasks that are many. */
const LATE_CANARY = 30;
const MANY_TASKS = 20;

export function parts(model) {
  const update = rows(byId("parts"), () => line());
  const ticks = rows(byId("beat"), () => line());
  const updateNodes = rows(byId("nodes"), (node) => nodeLine(node));

  function draw() {
    if (!model.health) return;
    update(services(model), ({ id, name }) => id ?? name);
    ticks(Object.entries(model.beat.tasks).map((entry) => tick(entry, model)), ({ name }) => name);
    const agents = [...model.agents.values()];
    const nodes = Object.entries(model.health.nodes).map(([name, fields]) => {
      const own = agents.filter(({ node }) => node === name);
      const warm = own.filter(({ status }) => status === "ready").length;
      return { name, warm, serving: own.filter(({ sessionId }) => sessionId).length, ...fields };
    });
    updateNodes(nodes, ({ name }) => name);
  }
  return { draw, tick: draw };
}

function services({ health, beat }) {
  const { redis, livekit, celery } = health;
  return [
    { name: "Redis", value: `answers in ${redis.latencyMs} ms`, level: redis.latencyMs > 50 ? "odd" : "fine" },
    { name: "LiveKit", value: livekit.ok ? "answers" : livekit.trouble, level: livekit.ok ? "fine" : "bad" },
    ...Object.entries(health.doors ?? {}).map(([id, door]) => doorPart(id, door)),
    { name: "Celery queue", value: celery.queue ? `${plural(celery.queue, "task")} waiting` : "empty", level: celery.queue > MANY_TASKS ? "odd" : "fine" },
    { name: "Beat", value: beat.lives ? "ticks" : "is silent", level: beat.lives ? "fine" : "bad" },
  ];
}

/** An api's registration with LiveKit, by which LiveKit's own clients reach the pool. */
function doorPart(id, { node, agentName, registered, error }) {
  return {
    id,
    name: `Dispatch to ${node}`,
    value: registered ? `LiveKit knows it as ${agentName}` : error || "not registered with LiveKit yet",
    level: registered ? "fine" : "odd",
  };
}

function tick([name, { every, last }], model) {
  const ago = last ? model.now / 1000 - last : null;
  const late = ago === null || (every && ago > 2 * every + 5);
  const value = `${ago === null ? "not yet" : `${duration(ago)} ago`}${every ? `, every ${duration(every)}` : ""}`;
  return { name: name.replaceAll("-", " "), value, level: late ? "odd" : "fine" };
}

function line() {
  const [name, value, level] = [el("span"), el("span", { class: "value" }), el("span", { class: "hidden" })];
  const node = el("li", {}, el("span", { class: "part-name" }, el("span", { class: "lamp", "aria-hidden": "true" }), name, level), value);
  return {
    node,
    update(part) {
      text(name, part.name);
      text(value, part.value);
      text(level, { odd: " (to look at)", bad: " (broken)" }[part.level] ?? "");
      attribute(node, "data-level", part.level);
    },
  };
}

function nodeLine({ name }) {
  const shown = line();
  let draining = false;
  const move = () => (draining ? undrain : drain)(name, button);
  const button = el("button", { type: "button", class: "small", on: { click: move } });
  shown.node.append(button);
  return {
    node: shown.node,
    update(node) {
      const { canaryAge: age, host } = node;
      const worker = age > LATE_CANARY ? `Celery worker silent for ${age} s` : `Celery worker took a task ${age} s ago`;
      const load = `${node.warm} warm, ${node.serving} serving`;
      draining = node.draining;
      const level = host ? (age > LATE_CANARY || draining ? "odd" : "fine") : "bad";
      shown.update({ name, value: [draining && "drains", !host && "no agent host", load, worker].filter(Boolean).join(", "), level });
      text(button, draining ? "Undrain" : "Drain");
      attribute(button, "aria-label", `${draining ? "Undrain" : "Drain"} node ${name}`);
    },
  };
}

async function drain(name, button) {
  const words =
    "Its warm agents leave at once. Calls that are not over after DRAIN_SECONDS go on with agents of another node; where there is none, they end.";
  if (!(await ask(`Drain node ${name}?`, words, "Drain"))) return;
  const left = await act(button, () => post(`api/nodes/${encodeURIComponent(name)}/drain`));
  if (left) say(`${name} drains: ${plural(left.sessions, "session")} and ${plural(left.agents, "agent")} are left on it.`);
}

async function undrain(name, button) {
  if (await act(button, () => post(`api/nodes/${encodeURIComponent(name)}/undrain`))) say(`${name} takes sessions again.`);
}
