// The panel beside the page: one agent, or one session: its facts, what happened and when, its agents, its logs as they
// are written, and stop.

import { agentPanel } from "./agent.js";
import { act, ask, say } from "./ask.js";
import { get, post } from "./api.js";
import { badge } from "./badge.js";
import { attribute, byId, el, rows, text } from "./dom.js";
import { facts, processWords } from "./facts.js";
import { bytes, duration, full, ID, measured, short } from "./format.js";
import { logs } from "./logs.js";
import { LIVE } from "./model.js";
import { timeline } from "./timeline.js";
import { causeWords, endWords, reasonWords } from "./words.js";

export function detail(model) {
  const panel = byId("detail");
  let view = null;
  let back = null;
  let changed = () => {};

  /** Open a session, or the agent of an id: a session has that of its first agent. */
  function open(id, kind = "session") {
    const name = kind === "agent" ? `agent/${id}` : id;
    if (view?.name === name) return view.focus();
    view?.close();
    back ??= document.activeElement;
    view = { name, id, ...(kind === "agent" ? agentPanel : session)(model, id, close, open) };
    panel.replaceChildren(...view.nodes);
    panel.hidden = false;
    history.replaceState(null, "", `#${name}`);
    changed(name);
    view.focus();
  }

  function close() {
    if (!view) return;
    view.close();
    const { id } = view;
    view = null;
    panel.hidden = true;
    panel.replaceChildren();
    history.replaceState(null, "", location.pathname + location.search);
    changed("");
    // The element that opened the panel, even if its row was redrawn meanwhile.
    const row = document.querySelector(`[data-session="${CSS.escape(id)}"] button`);
    (back?.isConnected && back !== document.body ? back : row)?.focus();
    back = null;
  }

  document.addEventListener("keydown", (event) => {
    // A question, or what is typed, has Escape for itself.
    if (event.key === "Escape" && !event.target.closest("dialog, input")) close();
  });
  const linked = new RegExp(`^#(?:(agent)/)?(${ID})$`).exec(location.hash);
  if (linked) queueMicrotask(() => open(linked[2], linked[1]));

  return {
    open,
    close,
    draw: () => view?.draw(),
    tick: () => view?.tick(),
    onChange: (listener) => (changed = listener),
  };
}

function session(model, id, close, open) {
  const state = badge();
  const title = el("h2", { id: "detail-title", tabindex: "-1" }, short(id));
  const trouble = el("p", { class: "trouble", role: "alert" });
  const why = el("p", { class: "why-box", hidden: true });
  const known = facts();
  const drawn = timeline(model, open);
  const agentList = el("ul", { class: "agent-list" });
  const stop = el("button", { type: "button", class: "danger", on: { click: halt } }, "Stop session");
  const shut = el("button", { type: "button", class: "quiet", on: { click: close }, "aria-label": "Close the session" }, "Close");
  const lines = logs(`api/session/${id}/logs/events`, "the session is over");
  const agentRows = rows(agentList, () => agentRow(model));

  let record = null;
  let before = "";
  let asking = null;
  let again = false;

  async function halt() {
    const user = (model.sessions.get(id) ?? record)?.userId ?? short(id);
    if (!(await ask(`Stop the session of ${user}?`, "Its agent leaves and its room is deleted. The user hears nothing more.", "Stop session"))) return;
    const reply = await act(stop, () => post("api/session/stop", { sessionId: id }));
    if (reply) say(reply.message);
  }

  /** Read the session again; if that is requested meanwhile, once more after that. */
  async function read() {
    if (asking) {
      again = true;
      return;
    }
    asking = new AbortController();
    try {
      record = await get(`api/session/${id}`, { signal: asking.signal });
      text(trouble, "");
    } catch (failure) {
      if (failure.name === "AbortError") return;
      if (!record) text(trouble, failure.message);
      before = "";
    } finally {
      asking = null;
    }
    show();
    if (again) {
      again = false;
      read();
    }
  }

  function show() {
    // What the status stream says is there at once, and newer than what was read.
    const brief = model.sessions.get(id) ?? record;
    if (!brief) return;
    text(title, brief.userId);
    state.set(brief.status);
    stop.hidden = !LIVE.has(brief.status);
    const over = brief.reason ? brief : record?.reason ? record : null;
    why.hidden = !over;
    text(why, over ? `${brief.status === "error" ? "Failed" : "Ended"}: ${reasonWords(over)}` : "");
    attribute(why, "data-level", brief.status === "error" ? "bad" : "fine");
    known.draw(factsOf(model, record ?? brief, brief));
    if (!record) return;
    drawn.draw(record, brief);
    agentRows(record.agents ?? [], (agent) => agent.agentId);
  }

  show();
  read();
  return {
    nodes: [
      el("header", { class: "detail-head" }, title, state.node, el("span", { class: "buttons" }, stop, shut)),
      el(
        "div",
        { class: "detail-body" },
        trouble,
        why,
        known.node,
        el("h3", {}, "What happened"),
        ...drawn.nodes,
        el("h3", {}, "Its agents"),
        agentList,
        ...lines.nodes,
      ),
    ],
    draw() {
      // Whatever concerns this session has changed: its own record, an agent that came or went, the line it waits in.
      const brief = model.sessions.get(id);
      const line = record?.position ? model.health?.sessions : null;
      const alive = (record?.agents ?? []).map((agent) => model.agents.get(agent.agentId)?.status ?? "");
      const now = JSON.stringify([brief, alive, line]);
      if (now !== before) {
        before = now;
        read();
      }
    },
    tick: () => show(),
    focus: () => title.focus(),
    close() {
      asking?.abort();
      lines.close();
    },
  };
}

function factsOf(model, record, brief) {
  const { timings } = brief;
  const agent = brief.agentId ?? record.agentId;
  return [
    [LIVE.has(brief.status) ? "Age" : "Lasted", duration(model.age(brief))],
    ["Started", full(Date.parse(record.createdAt))],
    ["Agent after", measured(brief.startupTime), brief.prewarmed ? "it was warm" : ""],
    ["In room after", measured(timings.agentJoined)],
    ["Heard after", measured(timings.firstAudio)],
    ["Takeovers", String(brief.takeovers ?? 0), brief.cause && brief.takeovers ? causeWords(brief) : ""],
    record.position && ["Place", `${record.position}`, record.estimatedWait ? `about ${record.estimatedWait}` : ""],
    ["Memory", bytes(model.agents.get(agent)?.memory)],
    ["Process", brief.agentPid ? `${brief.agentPid}` : "–", brief.node ? `on ${brief.node}` : ""],
    (record.client || record.via) && ["Asked from", record.client ?? "", record.via === "dispatch" ? "by LiveKit's dispatch" : ""],
    ["Agent", agent ?? "–"],
    ["Session", record.sessionId],
    ["Room", record.roomName],
  ];
}

function agentRow(model) {
  const [name, how] = [el("strong"), el("span")];
  const state = badge("agent");
  return {
    node: el("li", {}, el("p", {}, state.node, name), el("p", { class: "muted" }, how)),
    update(agent) {
      const living = model.agents.get(agent.agentId);
      state.set(living?.status ?? agent.status);
      text(name, short(agent.agentId));
      text(how, [processWords(agent), !living && endWords(agent), agent.peakMemory && `at most ${bytes(agent.peakMemory)} of memory`].filter(Boolean).join("; "));
    },
  };
}
