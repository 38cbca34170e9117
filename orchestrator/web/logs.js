// The log of a session or of one agent, as it is written. The newest lines are kept here, and the end is followed until one scrolls.

import { attribute, el, text } from "./dom.js";
import { plural, short } from "./format.js";
import { follow } from "./stream.js";

const KEPT = 2000;
/** Pixels from the end within which the end is followed. */
const NEAR = 24;

/** `path`: of the stream; `ended`: what a log that is complete is over for. */
export function logs(path, ended) {
  const state = el("span", { class: "muted", role: "status" }, "Connecting …");
  const box = el("div", { class: "log", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Log lines" });
  const jump = el("button", { type: "button", class: "small", hidden: true, on: { click: toEnd } }, "Go to the end");
  let following = true;
  let last = "";
  let lines = 0;

  function toEnd() {
    following = true;
    jump.hidden = true;
    box.scrollTop = box.scrollHeight;
  }

  box.addEventListener("scroll", () => {
    following = box.scrollHeight - box.scrollTop - box.clientHeight < NEAR;
    jump.hidden = following;
  });

  function take({ agentId, lines: fresh, missed }) {
    const nodes = [];
    if (agentId !== last) nodes.push(el("p", { class: "log-agent" }, `agent ${short(agentId)}`));
    last = agentId;
    if (missed) nodes.push(el("p", { class: "log-missed" }, `${plural(missed, "line")} ${missed === 1 ? "is" : "are"} not kept any more`));
    for (const words of fresh) nodes.push(line(words));
    lines += fresh.length;
    box.append(...nodes);
    while (box.childElementCount > KEPT) box.firstElementChild.remove();
    if (following) toEnd();
  }

  const live = () => {
    text(state, lines ? "Live" : "Live; nothing printed yet");
    attribute(state, "data-link", "live");
  };
  const on = {
    open: live,
    message(event, data) {
      if (event === "end") {
        over = true;
        text(state, lines ? `All of it: ${ended}` : "Nothing was printed");
        attribute(state, "data-link", "over");
      } else {
        take(data);
        live();
      }
    },
    lost(failure) {
      text(state, `Reconnecting … ${failure?.message ?? ""}`);
      attribute(state, "data-link", "lost");
    },
    locked: (failure) => text(state, failure.message),
  };

  let over = false;
  let stream = null;
  let place = "";
  // A browser opens six connections to one api: a hidden tab leaves this one to others, and continues later.
  function resume() {
    if (document.hidden) {
      place = stream?.place ?? place;
      stream?.close();
      stream = null;
    } else if (!stream && !over) {
      stream = follow(path, on, { from: place });
    }
  }
  document.addEventListener("visibilitychange", resume);
  resume();

  function close() {
    document.removeEventListener("visibilitychange", resume);
    stream?.close();
  }

  return { nodes: [el("div", { class: "log-head" }, el("h3", {}, "Log"), state, jump), box], close };
}

function line(words) {
  const level = /\b(CRITICAL|ERROR|WARNING)\b/.exec(words)?.[1];
  return el("p", { "data-level": level ? (level === "WARNING" ? "odd" : "bad") : null }, words);
}
