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

/** Why a call is over. Reasons are the server's, in its words. */
export function ended(reason = ""): Ending {
  const rules: [RegExp, string, string][] = [
    [/^stopped by request/, "Call ended", "You hung up."],
    [/agent hung up/, "Call ended", "The agent said goodbye."],
    [/^maximum length of (\S+)/, "Time is up", "The call has reached its longest length, {1}."],
    [/stopping|drain/, "Call ended", "The service restarts. Please call again in a moment."],
    [/^user did not join/, "Call ended", "The agent waited for you, but your connection never arrived."],
    [/^user was gone|connection of the user/, "Call ended", "Your connection was gone for too long."],
    [/^room closed/, "Call ended", "The room was closed."],
  ];
  for (const [pattern, title, text] of rules) {
    const found = pattern.exec(reason);
    if (found) return { title, text: text.replace("{1}", about(found[1])) };
  }
  return { title: "Call ended", text: sentence(reason) || "The call is over." };
}

/** What a session's error means to its user. */
export function failed(reason = "", talking = false): Failure {
  const [kind = "", rest = ""] = split(reason);
  const again = "Please try again; if it stays so, tell whoever runs this service.";
  const known: Record<string, Failure> = {
    queue_timeout: { title: "Nobody was free", text: "You have waited in line for too long. Please try again later." },
    boot_timeout: { title: "No agent came up", text: `No agent was ready in time. ${again}` },
    boot_error: { title: "Agents do not start", text: `The agent that was started for you failed. ${again}` },
    unclaimed: { title: "No agent came up", text: `No machine took on your agent. ${again}` },
    spawn_not_queued: { title: "No agent came up", text: `Your agent could not be asked for. ${again}` },
    join_timeout: { title: "No agent came", text: `Your agent did not come into the room. ${again}` },
    join_failed: { title: "No agent came", text: `Your agent could not join the room. ${again}` },
    pipeline_failed: { title: "The agent could not go on", text: `Your agent had a technical problem. ${again}` },
    node_draining: { title: "The service restarts", text: "Please try again in a moment.", retryAfter: 10 },
    not_found: { title: "The call is gone", text: "The service does not know this call any more. Please call again." },
  };
  const lost = { title: "The agent was lost", text: `Your call cannot go on. ${again}` };
  const other = { title: "No agent came", text: `${sentence(rest || reason) || "Something failed."} ${again}` };
  return (Object.hasOwn(known, kind) ? known[kind] : undefined) ?? (talking ? lost : other);
}

/** What to say when a request was refused or not answered. */
export function refused(failure: unknown): Failure {
  if (failure instanceof Unreachable) {
    return {
      title: "The service cannot be reached",
      text: "Check your network. If others have the same trouble, the service is down: try again later.",
    };
  }
  if (!(failure instanceof Refused)) {
    return { title: "Something went wrong", text: `${sentence(String(failure))} Reload the page and try again.` };
  }
  const { status, code, detail, retryAfter } = failure.problem;
  if (status === 401 || status === 403) {
    return {
      title: "Calls start elsewhere",
      text:
        "This service accepts starts only from a backend that holds an API key. Open the page of the product you " +
        "want to call from; if you run it, let its backend start the session and pass the answer on.",
      final: true,
    };
  }
  if (code === "at_capacity") {
    return { title: "All lines are busy", text: "Every agent is in a call, and the waiting line is full.", retryAfter };
  }
  if (code === "rate_limited") return { title: "Too many calls", text: sentence(detail), retryAfter };
  if (code === "agents_do_not_boot") return { title: "Agents do not start", text: sentence(detail), retryAfter };
  if (code === "livekit_unavailable") return { title: "The media server is down", text: sentence(detail), retryAfter };
  if (status === 503) return { title: "Not available just now", text: sentence(detail), retryAfter };
  return { title: "The call was refused", text: sentence(detail), retryAfter };
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
  return { title: "Your microphone does not work", text: `${sentence(String(failure))} Press Talk to try again.` };
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

function split(reason: string): [string, string] {
  const at = reason.indexOf(": ");
  return at < 0 ? [reason, ""] : [reason.slice(0, at), reason.slice(at + 2)];
}

function sentence(text: string): string {
  const trimmed = text.trim();
  if (!trimmed) return "";
  const begun = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(begun) ? begun : `${begun}.`;
}
