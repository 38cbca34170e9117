// The states of a call and what moves it from one to the next. Pure: no clock, no network, no browser.

import type { Room } from "livekit-client";

import type { SessionEvent } from "./api";
import type { Call, Ending, Failure, Line, Notice, Phase } from "./types";
import { ended, failed } from "./words";

export const PHASES: readonly Phase[] = ["asked", "claimed", "process", "warm"];

export type Action =
  | { type: "live" }
  | { type: "pressed" }
  | { type: "allowed" }
  | { type: "line"; line: Line }
  | { type: "event"; event: SessionEvent }
  | { type: "room"; room: Room }
  | { type: "joined"; room: Room }
  | { type: "notice"; notice: Notice; on: boolean }
  | { type: "over"; ending: Ending }
  | { type: "failed"; failure: Failure };

export const IDLE: Call = { step: "idle" };

/** Whether a call is under way: it has a session, or will have one. */
export function busy(call: Call): boolean {
  return call.step !== "idle" && call.step !== "over" && call.step !== "failed";
}

export function next(call: Call, action: Action): Call {
  if (action.type === "pressed") return busy(call) ? call : { step: "microphone" };
  if (action.type === "live") return call.step === "idle" ? { step: "idle", live: true } : call;
  // What comes late, after the end, changes nothing.
  if (!busy(call)) return call;
  switch (action.type) {
    case "allowed":
      return call.step === "microphone" ? { step: "starting", phase: "asked" } : call;
    case "line":
      return call.step === "queued" ? { step: "queued", line: action.line } : call;
    case "room":
      return call.step === "talking" ? call : { step: "joining", room: action.room };
    case "joined":
      return { step: "talking", room: action.room, notices: [] };
    case "notice":
      return notice(call, action.notice, action.on);
    case "over":
      return { step: "over", ending: action.ending };
    case "failed":
      return { step: "failed", failure: action.failure };
    case "event":
      return happened(call, action.event);
  }
}

function happened(call: Call, event: SessionEvent): Call {
  switch (event.state) {
    case "ended":
      return { step: "over", ending: ended(event) };
    case "error":
      return { step: "failed", failure: failed(event, call.step === "talking") };
    case "takeover":
      return notice(notice(call, "replaced", false), "takeover", true);
    // Of the second agent, when the first was lost: the one that is told of here is there and speaks.
    case "active":
      return call.step === "talking" && call.notices.includes("takeover")
        ? notice(notice(call, "takeover", false), "replaced", true)
        : call;
    case "goodbye":
      return notice(call, "goodbye", true);
    case "goodbye_off":
      return notice(call, "goodbye", false);
  }
  // The rest tells of the way to the room.
  if (call.step === "joining" || call.step === "talking") return call;
  switch (event.state) {
    case "queued":
      return { step: "queued", line: event.position ? { position: event.position } : undefined };
    case "starting":
      return { step: "starting", phase: "asked" };
    case "boot":
      return { step: "starting", phase: furthest(call, event.phase) };
    case "ready":
      return { step: "joining" };
  }
  return call;
}

/** Several agents may be started, and whichever is warm first serves: the way never leads back. */
function furthest(call: Call, phase: string | undefined): Phase {
  const come = call.step === "starting" ? PHASES.indexOf(call.phase) : 0;
  return PHASES[Math.max(come, PHASES.indexOf(phase as Phase))] ?? "asked";
}

function notice(call: Call, kind: Notice, on: boolean): Call {
  if (call.step !== "talking" || call.notices.includes(kind) === on) return call;
  const others = call.notices.filter((each) => each !== kind);
  return { ...call, notices: on ? [...others, kind] : others };
}
