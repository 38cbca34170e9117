// The table of sessions: newest first, filtered and searched here, 25 at a time.

import { badge } from "./badge.js";
import { attribute, byId, el, rows, text } from "./dom.js";
import { bytes, duration, plural, short } from "./format.js";
import { LIVE } from "./model.js";
import { reasonWords } from "./words.js";

const PAGE = 25;
const ID = /^(prewarm|session)_[0-9a-f]{32}$/;
const FILTERS = [
  ["all", "All", () => true],
  ["live", "Live", (session) => LIVE.has(session.status)],
  ["calls", "In calls", (session) => session.status === "active"],
  ["waiting", "Waiting", (session) => session.status === "queued" || session.status === "starting"],
  ["ended", "Ended", (session) => session.status === "ended"],
  ["errors", "Errors", (session) => session.status === "error"],
];

export function sessions(model, open) {
  let filter = "all";
  let words = "";
  let page = 0;
  let selected = "";
  let shown = [];

  const buttons = FILTERS.map(([id, name]) => {
    const count = el("span", { class: "count" });
    const choose = () => {
      [filter, page] = [id, 0];
      draw();
    };
    return { id, count, node: el("button", { type: "button", on: { click: choose } }, name, " ", count) };
  });
  byId("filters").append(...buttons.map((button) => button.node));
  byId("search").addEventListener("input", (event) => {
    words = event.target.value.trim().toLowerCase();
    page = 0;
    draw();
  });
  byId("newer").addEventListener("click", () => turn(-1));
  byId("older").addEventListener("click", () => turn(1));
  const update = rows(byId("session-rows"), (session) => row(session, model, open));
  const beyond = el("button", { type: "button", class: "quiet", on: { click: () => open(words) } }, "Open this session");

  function turn(by) {
    page += by;
    draw();
  }

  function draw() {
    const found = model.newest.filter((session) => matches(session, words));
    for (const button of buttons) {
      const [, , fits] = FILTERS.find(([id]) => id === button.id);
      text(button.count, found.filter(fits).length);
      attribute(button.node, "aria-pressed", String(button.id === filter));
    }
    const [, , fits] = FILTERS.find(([id]) => id === filter);
    const all = found.filter(fits);
    page = Math.max(0, Math.min(page, Math.ceil(all.length / PAGE) - 1));
    shown = all.slice(page * PAGE, (page + 1) * PAGE).map((session) => ({ session, selected }));
    update(shown, ({ session }) => session.sessionId);
    empty(all.length);
    byId("pages").hidden = all.length <= PAGE;
    text(byId("range"), `${page * PAGE + 1} to ${page * PAGE + shown.length} of ${all.length}`);
    byId("newer").disabled = page === 0;
    byId("older").disabled = (page + 1) * PAGE >= all.length;
  }

  function empty(count) {
    const note = byId("no-sessions");
    note.hidden = count > 0;
    byId("session-rows").closest(".scroll").hidden = count === 0;
    if (count) return;
    const kept = model.sessions.size;
    // Only the newest are here; an older one is found by its id.
    if (ID.test(words)) note.replaceChildren(el("span", {}, "It is not among the newest sessions. "), beyond);
    else text(note, kept ? `None of the ${plural(kept, "newest session")} fits.` : "No session yet. The first caller will show up here.");
  }

  return {
    draw,
    tick() {
      if (shown.some(({ session }) => LIVE.has(session.status))) update(shown, ({ session }) => session.sessionId);
    },
    select(id) {
      selected = id;
      draw();
    },
  };
}

function matches(session, words) {
  if (!words) return true;
  const { userId, sessionId, agentId, agentPid, node, status, reason, roomName, client } = session;
  const all = [userId, sessionId, agentId, agentPid, node, status, reason, roomName, client];
  return all.some((value) => value !== undefined && String(value).toLowerCase().includes(words));
}

function row({ session: { sessionId } }, model, open) {
  const state = badge();
  const user = el("button", { type: "button", class: "row-open", on: { click: () => open(sessionId) } });
  const why = el("span", { class: "why" });
  const cells = {
    age: el("td", { class: "number" }),
    agent: el("td", { class: "roomy" }),
    node: el("td", { class: "roomy" }),
    memory: el("td", { class: "number roomy" }),
    takeovers: el("td", { class: "number roomy" }),
  };
  const node = el(
    "tr",
    { "data-session": sessionId },
    el("td", {}, state.node),
    el("th", { scope: "row" }, user, why),
    ...Object.values(cells),
  );
  // For a mouse the whole row is a target; the keyboard has the button.
  node.addEventListener("click", (event) => {
    if (!event.target.closest("button") && !getSelection().toString()) open(sessionId);
  });
  return {
    node,
    update({ session, selected }) {
      state.set(session.status);
      text(user, session.userId);
      text(why, session.reason ? reasonWords(session) : "");
      text(cells.age, duration(model.age(session)));
      text(cells.agent, session.agentId ? `${short(session.agentId)}${session.agentPid ? ` · ${session.agentPid}` : ""}` : "–");
      text(cells.node, session.node || "–");
      text(cells.memory, bytes(model.memory(session)));
      text(cells.takeovers, session.takeovers || "–");
      attribute(node, "aria-current", selected === sessionId ? "true" : null);
    },
  };
}
