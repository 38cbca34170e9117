// What the user reads when something happens: what it is, why, and what to do next.

import { Refused, type SessionEvent, Unreachable } from "./api";
import table from "./codes.json";
import type { Ending, Failure, Notice, Phase } from "./types";

/** What the server's table has for a code: `GET /api/reasons`, as this page was built with it. */
interface Row {
  kind?: string;
  title?: string;
  page?: string;
  retryable: boolean;
  retryAfter?: number;
}
const REASONS: Readonly<Record<string, Row>> = table.reasons;
const PROBLEMS: Readonly<Record<string, Row>> = table.problems;

/** Why a session is over, as an event or the session itself says it. */
type Over = Pick<SessionEvent, "reasonCode" | "reasonParams">;

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

/** Why a call is over that ended as it should. The server's words are not shown: the code has words of its own. */
export function ended({ reasonCode, reasonParams }: Over = {}): Ending {
  const row = found(REASONS, reasonCode);
  const { title = "Call ended", page = "The call is over." } = row?.kind === "end" ? row : {};
  return { title, text: page.replace("{seconds}", about(number(reasonParams?.seconds))) };
}

function number(param: string | number | undefined): number | undefined {
  return typeof param === "number" ? param : undefined;
}

/** What a session's error means to its user. */
export function failed({ reasonCode }: Over = {}, talking = false): Failure {
  const row = found(REASONS, reasonCode);
  if (row?.kind === "failure") return failure(row);
  return talking ? failure(REASONS.agent_lost!) : { ...failure(PROBLEMS.internal_error!), title: "No agent came" };
}

function found(rows: Readonly<Record<string, Row>>, code = ""): Row | undefined {
  return Object.hasOwn(rows, code) ? rows[code] : undefined;
}

function failure({ title = "", page = "", retryable, retryAfter }: Row): Failure {
  return { title, text: page, ...(retryable ? {} : { final: true }), ...(retryAfter ? { retryAfter } : {}) };
}

/** What to say when a request was refused or not answered. */
export function refused(failed: unknown): Failure {
  if (failed instanceof Unreachable) {
    return {
      title: "The service cannot be reached",
      text: "Check your network. If others have the same trouble, the service is down: try again later.",
    };
  }
  if (!(failed instanceof Refused)) {
    return { title: "Something went wrong", text: "This page had a problem. Reload it and try again." };
  }
  const { status, code, retryAfter, requestId } = failed.problem;
  const known = found(PROBLEMS, code);
  const told = failure(known ?? PROBLEMS[like(status)]!);
  if (retryAfter !== undefined && !told.final) told.retryAfter = retryAfter;
  // The operator finds the cause by it.
  if (requestId !== undefined && (!known || status >= 500)) told.requestId = requestId;
  return told;
}

/** The code that has the words for one that is not known here. */
function like(status: number): string {
  if (status === 401 || status === 403) return "unauthorized";
  if (status === 503) return "store_unavailable";
  return status >= 500 ? "internal_error" : "invalid_request";
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

/** A rough length of time in words; nothing where the length is unknown. */
export function about(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 10) return "a few seconds";
  return seconds < 90 ? `${Math.round(seconds)} seconds` : `${Math.round(seconds / 60)} minutes`;
}
