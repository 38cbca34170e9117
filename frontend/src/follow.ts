// Tells what happens to a session, as it happens: by server-sent events, and by polling where those do not get through.

import { follow as followStream } from "@orchestrator/sse";

import { type Api, Refused, type Session, type SessionEvent } from "./api";
import type { Line } from "./types";

interface Following {
  onEvent(event: SessionEvent): void;
  onLine(line: Line): void;
}

/** Milliseconds. The server sends what has happened at once, and a ping every 15 s. */
export const PATIENCE = { first: 4_000, next: 40_000, poll: 1_000, pollCalm: 3_000 };
/** Streams that may fail in a row before it polls. */
const FAILURES = 2;

const OVER = new Set(["ended", "error"]);

/** Returns when the session is over or the signal is given; never throws. */
export async function follow(api: Api, session: Session, to: Following, signal: AbortSignal): Promise<void> {
  const told = new Told(to);
  if ((await stream(api, session, told, signal)) !== "given_up") return;
  while (!signal.aborted && !told.over) {
    await look(api, session, told, signal);
    if (!told.over) await pause(told.served ? PATIENCE.pollCalm : PATIENCE.poll, signal);
  }
}

/** Tells each event once, from whichever source it comes, and in order. */
class Told {
  over = false;
  /** Whether it has an agent: nobody waits for the next event then. */
  served = false;
  private readonly seen = new Set<string>();
  private readonly to: Following;

  constructor(to: Following) {
    this.to = to;
  }

  event(event: SessionEvent): void {
    const key = `${event.at} ${event.state} ${event.phase ?? ""}`;
    if (this.over || this.seen.has(key)) return;
    this.seen.add(key);
    this.over = OVER.has(event.state);
    if (event.state === "ready") this.served = true;
    if (event.state === "starting" || event.state === "takeover") this.served = false;
    this.to.onEvent(event);
  }

  line(line: Line): void {
    if (!this.over) this.to.onLine(line);
  }
}

/** Follows the session's events, until it is over or streams do not get through. */
async function stream(api: Api, session: Session, told: Told, signal: AbortSignal): Promise<string> {
  const stream = followStream(
    async (aborted, lastId) => {
      const answer = await api.events(session, lastId || undefined, aborted);
      if (!answer.ok || (!answer.body && answer.status !== 204)) throw new Error(`events: ${answer.status}`);
      return answer;
    },
    {
      message(event, data) {
        if (event === "position") told.line(data as Line);
        else if (event === "state") told.event(data as SessionEvent);
        if (told.over) stream.close();
      },
    },
    { first: PATIENCE.first, silence: PATIENCE.next, attempts: FAILURES },
  );
  signal.addEventListener("abort", stream.close);
  if (signal.aborted) stream.close();
  return stream.done.finally(() => signal.removeEventListener("abort", stream.close));
}

async function look(api: Api, session: Session, told: Told, signal: AbortSignal): Promise<void> {
  try {
    const { status, events, position, estimatedWaitSeconds, ...why } = await api.look(session, signal);
    for (const event of events) told.event(event);
    if (position !== undefined) told.line({ position, estimatedWaitSeconds });
    if (OVER.has(status)) told.event({ at: Number.POSITIVE_INFINITY, state: status, ...why });
  } catch (failure) {
    const gone = failure instanceof Refused && failure.problem.status === 404;
    if (gone) told.event({ at: Number.POSITIVE_INFINITY, state: "error", reasonCode: "not_found" });
    // Anything else may pass: the next poll shows it.
  }
}

/** Resolves after some milliseconds, or at once when the signal is given. */
export function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", done);
  });
}
