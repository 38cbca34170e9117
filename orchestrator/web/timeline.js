// What happened to a session: drawn along an axis of time, and listed line by line.

import { attribute, el, rows, svg, text } from "./dom.js";
import { duration, full, measured } from "./format.js";
import { LIVE } from "./model.js";
import { eventWords } from "./words.js";

const [WIDTH, HEIGHT, BAR_TOP, BAR_HEIGHT] = [520, 54, 14, 14];
const STATES = new Set(["queued", "starting", "ready", "active", "ended", "error"]);
const MARKS = new Set(["takeover", "replacement", "user_left", "user_lost", "user_back", "first_audio", "agent_exited", "goodbye", "boot_retried"]);

export function timeline(model, open) {
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "timeline", role: "img" });
  const list = el("ol", { class: "events" });
  const update = rows(list, () => eventRow(open));

  return {
    nodes: [picture, list],
    draw(record, brief) {
      const events = (record.events ?? []).filter((event) => !event.toldNext);
      const end = LIVE.has(brief.status) ? model.age(brief) : Math.max(brief.timings.ended ?? 0, events.at(-1)?.at ?? 0);
      attribute(picture, "aria-label", `${duration(end)} in all; the list below says what happened`);
      picture.replaceChildren(...paint(events, Math.max(end, 0.001)));
      const agents = new Map((record.agents ?? []).map((agent) => [agent.agentId, agent]));
      const begun = Date.parse(record.createdAt);
      update(events.map((event, index) => ({ event, index, agents, begun })), ({ index, event }) => `${index} ${event.state}`);
    },
  };
}

function paint(events, end) {
  const x = (at) => (WIDTH * Math.min(at, end)) / end;
  const states = events.filter((event) => STATES.has(event.state));
  const bars = states.map((event, index) => {
    const until = states[index + 1]?.at ?? end;
    // What took milliseconds of a long call is still there to be seen.
    const width = Math.max(2, x(until) - x(event.at));
    return svg(
      "rect",
      { x: Math.min(x(event.at), WIDTH - 2).toFixed(1), y: BAR_TOP, width: width.toFixed(1), height: BAR_HEIGHT, class: "span", "data-state": event.state },
      svg("title", {}, `${event.state}: ${measured(until - event.at)}`),
    );
  });
  const marks = events
    .filter((event) => MARKS.has(event.state))
    .map((event) =>
      svg(
        "path",
        { d: `M${x(event.at).toFixed(1)} ${BAR_TOP - 1}l-4.5 -9h9z`, class: "mark-event", "data-event": event.state },
        svg("title", {}, `${event.state.replaceAll("_", " ")} at ${measured(event.at)}`),
      ),
    );
  const ticks = [0, 0.25, 0.5, 0.75, 1].flatMap((part) => {
    const anchor = part === 0 ? "tick-first" : part === 1 ? "tick-last" : "";
    const at = end * part;
    return [
      svg("line", { x1: WIDTH * part, x2: WIDTH * part, y1: BAR_TOP + BAR_HEIGHT, y2: BAR_TOP + BAR_HEIGHT + 5, class: "grid" }),
      svg("text", { x: WIDTH * part, y: HEIGHT - 6, class: `tick ${anchor}` }, part === 0 ? "0" : end < 20 ? `${at.toFixed(1)} s` : duration(at)),
    ];
  });
  return [svg("rect", { x: 0, y: BAR_TOP, width: WIDTH, height: BAR_HEIGHT, class: "track" }), ...bars, ...marks, ...ticks];
}

function eventRow(open) {
  const [at, words] = [el("time"), el("span")];
  // The agent whose boot failed is named where that is the reason: its log is not part of the session's.
  let failed = "";
  const log = el("button", { type: "button", class: "small", hidden: true, on: { click: () => open(failed, "agent") } }, "Its log");
  const node = el("li", {}, at, el("span", { class: "mark", "aria-hidden": "true" }), el("span", {}, words, " ", log));
  return {
    node,
    update({ event, agents, begun }) {
      text(at, `+${event.at.toFixed(3)} s`);
      attribute(at, "datetime", new Date(begun + event.at * 1000).toISOString());
      attribute(at, "title", full(begun + event.at * 1000));
      attribute(node, "data-state", event.state);
      text(words, eventWords(event, agents));
      failed = event.failedAgentId ?? "";
      log.hidden = !failed;
    },
  };
}
