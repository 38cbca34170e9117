// The pool: how many warm agents to keep, whether agents boot, new agent code.

import { act, ask, say } from "./ask.js";
import { get, post } from "./api.js";
import { byId, el, text } from "./dom.js";
import { measured, plural } from "./format.js";

const RELOAD_LOOK = 700;
const RELOAD_PATIENCE = 120_000;

export function pool(model, open) {
  const [size, sizing, hits, boots] = [sizeForm(model), el("p", { class: "hint" }), el("span"), el("span")];
  const breaker = breakerBox(open);
  const reload = el("button", { type: "button", on: { click: () => act(reload, () => reloadCode(model)) } }, "Load new agent code");
  byId("pool").append(
    size.node,
    sizing,
    el("ul", { class: "parts" }, el("li", {}, el("span", {}, "Starts that found a warm agent"), hits), el("li", {}, el("span", {}, "Mean boot of an agent"), boots)),
    breaker.node,
    reload,
  );
  return {
    draw() {
      if (!model.health) return;
      const { stats, sizing: why } = model.health;
      size.draw(model.health.sessions.target);
      text(sizing, why ? `POOL_AUTO chose it: ${why}. It will choose again.` : "");
      sizing.hidden = !why;
      const [hit, miss] = [stats.total_hits ?? 0, stats.total_misses ?? 0];
      text(hits, hit + miss ? `${Math.floor((100 * hit) / (hit + miss))} % of ${hit + miss}` : "–");
      text(boots, stats.boot_ms_mean ? measured(stats.boot_ms_mean / 1000) : "–");
      breaker.draw(model.health.breaker);
    },
  };
}

function sizeForm(model) {
  const input = el("input", { id: "size", type: "number", min: 0, max: 500, step: 1, inputmode: "numeric", required: true });
  const button = el("button", { type: "submit" }, "Resize");
  let target = null;
  const submit = async (event) => {
    event.preventDefault();
    const wanted = input.valueAsNumber;
    const busy = model.health.sessions.active;
    if (wanted === 0 && !(await ask("Keep no warm agent?", `Every caller will wait for a boot. ${plural(busy, "call")} in progress are not touched.`, "Resize to 0"))) return;
    const reply = await act(button, () => post("api/pool/resize", { size: wanted }));
    if (reply) say(reply.message);
  };
  const node = el("form", { class: "resize", on: { submit } }, el("label", { for: "size" }, "Warm agents to keep"), input, button);
  return {
    node,
    draw(now) {
      // A typed value stays until the target really changes.
      if (now !== target && document.activeElement !== input) input.value = now;
      target = now;
    },
  };
}

function breakerBox(open) {
  const words = el("p");
  const button = el("button", { type: "button", on: { click: close } }, "Try to boot at once");
  let failed = null;
  const log = el("button", { type: "button", hidden: true, on: { click: () => open(failed, "agent") } }, "Read its log");
  const node = el("div", { class: "breaker", hidden: true }, words, log, button);
  async function close() {
    if (await act(button, () => post("api/breaker/close"))) say("Agents are being booted again.");
  }
  return {
    node,
    draw({ state, failures, cause, agentId, retryIn }) {
      failed = agentId;
      log.hidden = !agentId;
      node.hidden = state === "closed" && !failures;
      const head = state === "closed" ? `${plural(failures, "boot")} failed in a row` : `The breaker is ${state}: ${plural(failures, "boot")} failed in a row`;
      text(words, `${head}${cause ? ` (${cause})` : ""}. The next attempt ${retryIn > 0.5 ? `is in ${Math.round(retryIn)} s` : "is due"}.`);
    },
  };
}

async function reloadCode() {
  if (!(await ask("Load new agent code?", "Every node loads it, and its warm agents are replaced one by one. Calls go on as they began.", "Load"))) return;
  let state = await post("api/agents/reload");
  const deadline = Date.now() + RELOAD_PATIENCE;
  while (!state.done && !state.failed.length && Date.now() < deadline) {
    say(`${state.message}${state.stale ? ` ${plural(state.stale, "warm agent")} still to be replaced.` : ""}`);
    await new Promise((resolve) => setTimeout(resolve, RELOAD_LOOK));
    state = await get(`api/agents/reload/${state.reloadId}`);
  }
  say(state.message, state.done ? "fine" : "bad");
}
