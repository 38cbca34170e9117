// One session: its facts, what happened and when, its agents, its logs as they are written, and stop.

import { act, ask, say } from "./ask.js";
import { get, post } from "./api.js";
import { badge } from "./badge.js";
import { attribute, byId, el, rows, text } from "./dom.js";
import { bytes, duration, full, measured, short } from "./format.js";
import { logs } from "./logs.js";
import { LIVE } from "./model.js";
import { timeline } from "./timeline.js";
import { causeWords, reasonWords } from "./words.js";

export function detail(model) {
  const panel = byId("detail");
  let view = null;
  let back = null;
  let changed = () => {};

  function open(id) {
    if (view?.id === id) return view.focus();
    view?.close();
    back ??= document.activeElement;
    view = session(model, id, close);
    panel.replaceChildren(...view.nodes);
    panel.hidden = false;
    history.replaceState(null, "", `#${id}`);
    changed(id);
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
    // Where one came from, even when that row was drawn anew meanwhile.
    const row = document.querySelector(`[data-session="${CSS.escape(id)}"] button`);
    (back?.isConnected && back !== document.body ? back : row)?.focus();
    back = null;
  }

  document.addEventListener("keydown", (event) => {
    // A question, or what is typed, has Escape for itself.
    if (event.key === "Escape" && !event.target.closest("dialog, input")) close();
  });
  const linked = /^#((?:prewarm|session)_[0-9a-f]{32})$/.exec(location.hash);
  if (linked) queueMicrotask(() => open(linked[1]));

  return {
    open,
    close,
    draw: () => view?.draw(),
    tick: () => view?.tick(),
    onChange: (listener) => (changed = listener),
  };
}

function session(model, id, close) {
  const state = badge();
  const title = el("h2", { id: "detail-title", tabindex: "-1" }, short(id));
  const trouble = el("p", { class: "trouble", role: "alert" });
  const why = el("p", { class: "why-box", hidden: true });
  const facts = el("dl", { class: "facts" });
  const drawn = timeline(model);
  const agentList = el("ul", { class: "agent-list" });
  const stop = el("button", { type: "button", class: "danger", on: { click: halt } }, "Stop session");
  const shut = el("button", { type: "button", class: "quiet", on: { click: close }, "aria-label": "Close the session" }, "Close");
  const lines = logs(id);
  const factRows = rows(facts, () => factRow());
  const agentRows = rows(agentList, () => agentRow(model));

  let record = null;
  let before = "";
  let asking = null;
  let again = false;

  async function halt() {
    const user = (model.sessions.get(id) ?? record)?.userId ?? short(id);
    if (!(await ask(`Stop the session of ${user}?`, "Its agent leaves and its room is deleted. Whoever is in the call hears nothing more.", "Stop session"))) return;
    const reply = await act(stop, () => post("api/session/stop", { sessionId: id }));
    if (reply) say(reply.message);
  }

  /** Read the session anew; when it is asked for meanwhile, once more after that. */
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
    const reason = brief.reason ?? record?.reason;
    why.hidden = !reason;
    text(why, reason ? `${brief.status === "error" ? "Failed" : "Ended"}: ${reasonWords(reason)}` : "");
    attribute(why, "data-level", brief.status === "error" ? "bad" : "fine");
    factRows(factsOf(model, record ?? brief, brief), ([name]) => name);
    if (!record) return;
    drawn.draw(record, brief);
    agentRows(record.agents ?? [], (agent) => agent.agentId);
  }

  show();
  read();
  return {
    id,
    nodes: [
      el("header", { class: "detail-head" }, title, state.node, el("span", { class: "buttons" }, stop, shut)),
      el(
        "div",
        { class: "detail-body" },
        trouble,
        why,
        facts,
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
    ["Takeovers", String(brief.takeovers ?? 0), brief.cause && brief.takeovers ? causeWords(brief.cause) : ""],
    record.position && ["Place", `${record.position}`, record.estimatedWait ? `about ${record.estimatedWait}` : ""],
    ["Memory", bytes(model.agents.get(agent)?.memory)],
    ["Process", brief.agentPid ? `${brief.agentPid}` : "–", brief.node ? `on ${brief.node}` : ""],
    (record.client || record.via) && ["Asked from", record.client ?? "", record.via === "dispatch" ? "by LiveKit's dispatch" : ""],
    ["Agent", agent ?? "–"],
    ["Session", record.sessionId],
    ["Room", record.roomName],
  ].filter(Boolean);
}

function factRow() {
  const [name, value, note] = [el("dt"), el("span"), el("span", { class: "muted" })];
  const node = el("div", {}, name, el("dd", {}, value, " ", note));
  return {
    node,
    update([label, fact, more]) {
      attribute(node, "class", fact.length > 24 ? "long" : null);
      text(name, label);
      text(value, fact);
      text(note, more ?? "");
    },
  };
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
      const process = agent.pid ? `pid ${agent.pid}${agent.node ? ` on ${agent.node}` : ""}` : "no process";
      text(how, [process, !living && ending(agent), agent.peakMemory && `at most ${bytes(agent.peakMemory)} of memory`].filter(Boolean).join("; "));
    },
  };
}

function ending({ cause, signal, exitCode }) {
  const seen = signal ? `killed by signal ${signal}` : exitCode === undefined ? "" : `exited with code ${exitCode}`;
  return causeWords(!cause || cause === seen ? seen : seen ? `${cause} (${seen})` : cause);
}
