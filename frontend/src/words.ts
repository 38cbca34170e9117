// What the user reads when something happens: what it is, why, and what to do next.

import { Refused, Unreachable } from "./api";
import type { Notice, Phase } from "./machine";

export interface Ending {
  title: string;
  text: string;
}

export interface Failure extends Ending {
  /** Seconds after which trying again may help. */
  retryAfter?: number;
  /** Trying again as it is cannot help. */
  final?: boolean;
  /** What to tell whoever runs the service. */
  requestId?: string;
}

export const PHASE_WORDS: Record<Phase, string> = {
  asked: "A place for you",
  claimed: "A machine for your agent",
  process: "The agent starts",
  warm: "Its voice is loaded",
};

export const NOTICES: Record<Notice, string> = {
  takeover: "Your agent was lost. Another one is taking over and knows what was said. Stay on the line.",
  replaced: "Another agent has taken over. Please go on.",
  reconnecting: "Your connection is unsteady. Reconnecting; stay on the line.",
  goodbye: "The service is about to restart. The agent says goodbye; please call again in a moment.",
  microphone: "Your microphone stopped. Choose another one below, or plug it in again.",
};

const AGAIN = "Please try again; if it stays so, tell whoever runs this service.";
const OVER = "The call is over.";

/** How calls end as they should. The server's words are not shown: who ended it, and why, is said in ours. */
const ENDINGS: readonly [RegExp, string, string][] = [
  // This page's own hanging up is told at once, and never by the server (HUNG_UP).
  [/^stopped by request of the caller$/, "Call ended", "You have ended it in another tab or window."],
  [/^stopped by request/, "Call ended", "The service has ended the call."],
  [/^the agent hung up$/, "Call ended", "The agent said goodbye."],
  [/^maximum length of (\S+)/, "Time is up", "The call has reached its longest length, {1}."],
  [/^the node is stopping$/, "Call ended", "The service restarts. Please call again in a moment."],
  [/^user did not join/, "Call ended", "The agent waited for you, but your connection never arrived."],
  [/^user was gone|^the connection of the user/, "Call ended", "Your connection was gone for too long."],
  [/^room_closed\b/, "Call ended", "The room was closed."],
  [/^call_withdrawn\b/, "Call ended", "Whoever asked for the call has withdrawn it."],
  [/^too_much_data\b/, "Call ended", "Your browser sent more data than a call may."],
  [/^other\b/, "Call ended", OVER],
];

/** Why a call is over. */
export function ended(reason = ""): Ending {
  for (const [pattern, title, text] of ENDINGS) {
    const found = pattern.exec(reason);
    if (found) return { title, text: text.replace("{1}", about(found[1])) };
  }
  return { title: "Call ended", text: OVER };
}

/** Whether the page has words of its own for a reason. */
export const knows = (reason: string): boolean =>
  Object.hasOwn(FAILURES, kind(reason)) || ENDINGS.some(([pattern]) => pattern.test(reason));

/** What the reasons of failed sessions mean to their users, by the code in front. */
const FAILURES: Record<string, Failure> = {
  queue_timeout: { title: "Nobody was free", text: "You have waited in line for too long. Please try again later." },
  boot_timeout: { title: "No agent came up", text: `No agent was ready in time. ${AGAIN}` },
  boot_error: { title: "Agents do not start", text: `The agent that was started for you failed. ${AGAIN}` },
  unclaimed: { title: "No agent came up", text: `No machine took on your agent. ${AGAIN}` },
  spawn_not_queued: { title: "No agent came up", text: `Your agent could not be asked for. ${AGAIN}` },
  join_timeout: { title: "No agent came", text: `Your agent did not come into the room. ${AGAIN}` },
  join_failed: { title: "No agent came", text: `Your agent could not join the room. ${AGAIN}` },
  join_refused: { title: "No agent came", text: `Your agent was not let into the room. ${AGAIN}` },
  room_lost: { title: "The agent was lost", text: `Your agent lost the room, and could not come back. ${AGAIN}` },
  agent_lost: { title: "The agent was lost", text: `Your call cannot go on. ${AGAIN}` },
  agent_error: { title: "The agent could not go on", text: `Your agent had a technical problem. ${AGAIN}` },
  pipeline_failed: { title: "The agent could not go on", text: `Your agent could not hear or speak any more. ${AGAIN}` },
  job_lost: { title: "No agent came", text: `The call was given to somebody else. ${AGAIN}` },
  node_draining: { title: "The service restarts", text: "Please try again in a moment.", retryAfter: 10 },
  not_found: { title: "The call is gone", text: "The service does not know this call any more. Please call again." },
};

/** What a session's error means to its user. */
export function failed(reason = "", talking = false): Failure {
  const known = Object.hasOwn(FAILURES, kind(reason)) ? FAILURES[kind(reason)] : undefined;
  if (known) return known;
  return talking ? FAILURES.agent_lost! : { title: "No agent came", text: `Something failed. ${AGAIN}` };
}

const ELSEWHERE_STARTED: Failure = {
  title: "Calls start elsewhere",
  text:
    "This service accepts starts only from a backend that holds an API key. Open the page of the product you " +
    "want to call from; if you run it, let its backend start the session and pass the answer on.",
  final: true,
};
const BROKEN: Failure = { title: "Something went wrong", text: `The service had a problem. ${AGAIN}` };
const NOT_NOW: Failure = { title: "Not available just now", text: "The service cannot take your call. Please try again in a moment." };
const REFUSED: Failure = { title: "The call was refused", text: `The service does not accept it. ${AGAIN}` };
const RESTARTS: Failure = { title: "The service restarts", text: "Please try again in a moment." };
const GONE: Failure = { title: "The call is over", text: "It ended before you could join it. Please call again." };
const OFTEN: Failure = { title: "Too many calls", text: "There were too many from your network. Please wait a moment, and try again." };

/** What the codes of the server's refusals mean to whoever pressed the button. */
export const REFUSALS: Record<string, Failure> = {
  unauthorized: ELSEWHERE_STARTED,
  forbidden: ELSEWHERE_STARTED,
  invalid_host: {
    title: "This address is not served",
    text: "The service does not know the name in this page’s address. If you run it, its log says how to allow that.",
    final: true,
  },
  at_capacity: { title: "All lines are busy", text: "Every agent is in a call, and the waiting line is full." },
  rate_limited: OFTEN,
  too_many_attempts: OFTEN,
  too_many_sessions: { title: "Too many calls", text: "As many as may go on from your network do. End one, or try again later." },
  too_many_listeners: { title: "Too many pages", text: "This call is open too often. Close some of its tabs, and try again." },
  agents_do_not_boot: { title: "Agents do not start", text: "No agent can be started just now. Please try again later." },
  livekit_unavailable: { title: "The media server is down", text: "No call can begin without it. Please try again in a moment." },
  host_unavailable: { title: "Agents do not start", text: "No agent can be started just now. Please try again in a moment." },
  store_unavailable: NOT_NOW,
  not_set_up: NOT_NOW,
  not_warm: NOT_NOW,
  schema_mismatch: NOT_NOW,
  draining: RESTARTS,
  session_over: GONE,
  not_found: GONE,
  user_has_session: { title: "You are in a call already", text: "It was begun elsewhere. End it there, or wait until it is over." },
  room_taken: { title: "You are in a call already", text: "Another call goes on in this room." },
  idempotency_key_reused: REFUSED,
  invalid_request: REFUSED,
  malformed_request: REFUSED,
  webhook_refused: REFUSED,
  illegal_move: BROKEN,
  internal_error: BROKEN,
  not_the_agent: BROKEN,
  spawn_failed: BROKEN,
  given_up: BROKEN,
  boot_elsewhere: BROKEN,
  not_delivered: BROKEN,
  preflight: BROKEN,
};

/** What to say when a request was refused or not answered. */
export function refused(failure: unknown): Failure {
  if (failure instanceof Unreachable) {
    return {
      title: "The service cannot be reached",
      text: "Check your network. If others have the same trouble, the service is down: try again later.",
    };
  }
  if (!(failure instanceof Refused)) {
    return { title: "Something went wrong", text: "This page had a problem. Reload it and try again." };
  }
  const { status, code, retryAfter, requestId } = failure.problem;
  const known = Object.hasOwn(REFUSALS, code) ? REFUSALS[code] : undefined;
  const told: Failure = { ...(known ?? unknown(status)) };
  if (retryAfter !== undefined && !told.final) told.retryAfter = retryAfter;
  // By it whoever runs the service finds out what it was.
  if (requestId !== undefined && (!known || status >= 500)) told.requestId = requestId;
  return told;
}

function unknown(status: number): Failure {
  if (status === 401 || status === 403) return ELSEWHERE_STARTED;
  if (status === 503) return NOT_NOW;
  return status >= 500 ? BROKEN : REFUSED;
}

/** What to say when the microphone cannot be used. */
export function deaf(failure: unknown): Failure {
  const name = failure instanceof Error ? failure.name : "";
  if (!globalThis.isSecureContext) {
    return {
      title: "This address is not secure",
      text: "Browsers give the microphone to pages on https or on localhost only. Open this page there.",
      final: true,
    };
  }
  if (name === "NotAllowedError" || name === "SecurityError") {
    return {
      title: "Your microphone is blocked",
      text:
        "The agent could not hear you. Open the settings beside this page’s address, allow the microphone, " +
        "and press Talk again.",
    };
  }
  if (name === "NotFoundError" || name === "OverconstrainedError") {
    return { title: "No microphone found", text: "Plug one in or switch it on, and press Talk again." };
  }
  if (name === "NotReadableError" || name === "AbortError") {
    return {
      title: "Your microphone is in use",
      text: "Another program holds it, or it failed. Close that program and press Talk again.",
    };
  }
  return { title: "Your microphone does not work", text: "Check it in your system’s settings, and press Talk to try again." };
}

export const NO_MEDIA: Failure = {
  title: "The call could not connect",
  text: "The media server did not answer. A firewall or VPN may block it: try another network, or try again.",
};

export const NETWORK_LOST: Failure = {
  title: "Connection lost",
  text: "Your network was away for too long. When it is back, press Talk: if the call still goes on, you are in it again.",
};

export const ELSEWHERE: Ending = {
  title: "Opened elsewhere",
  text: "This call goes on in another tab or window.",
};

export const HUNG_UP: Ending = { title: "Call ended", text: "You hung up." };
/** A call of this browser's that goes on: in another tab, or since before the page was reloaded. */
export const GOES_ON: Ending = { title: "Your call goes on", text: "You can come back to it. If it is open in another tab, it moves here." };
export const CANCELLED: Ending = { title: "Cancelled", text: "You left before the call began." };

/** A length of time as people say it. */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** An estimate as the server writes it (`48s`), as people say it; nothing when there is none. */
export function about(estimate: string | undefined): string {
  const seconds = Number.parseFloat(estimate ?? "");
  if (Number.isNaN(seconds)) return "";
  if (seconds < 10) return "a few seconds";
  return seconds < 90 ? `${Math.round(seconds)} seconds` : `${Math.round(seconds / 60)} minutes`;
}

function kind(reason: string): string {
  return reason.split(": ", 1)[0] ?? "";
}
