// Tells what happens to a session, as it happens: by server-sent events, and by polling where those do not get through.

import { createParser } from "eventsource-parser";

import { type Api, Refused, type Session, type SessionEvent } from "./api";

export interface Line {
  position: number;
  estimatedWait?: string | undefined;
}

export interface Following {
  onEvent(event: SessionEvent): void;
  onLine(line: Line): void;
}

/** Milliseconds. The server sends what has happened at once, and a ping every 15 s. */
export const PATIENCE = { first: 4_000, next: 40_000, again: 500, poll: 1_000, pollCalm: 3_000 };
/** Streams that may fail in a row before it polls. */
const FAILURES = 2;

const OVER = new Set(["ended", "error"]);

/** Returns when the session is over or the signal is given; never throws. */
export async function follow(api: Api, session: Session, to: Following, signal: AbortSignal): Promise<void> {
  const told = new Told(to);
  let last: string | undefined;
  let failures = 0;
  while (!signal.aborted && !told.over && failures < FAILURES) {
    try {
      const before = told.count;
      const more = await stream(api, session, last, told, signal, (id) => (last = id));
      if (!more) return;
      failures = told.count > before ? 0 : failures + 1;
    } catch {
      failures += 1;
    }
    if (!told.over) await pause(PATIENCE.again, signal);
  }
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
  count = 0;
  private readonly seen = new Set<string>();
  private readonly to: Following;

  constructor(to: Following) {
    this.to = to;
  }

  event(event: SessionEvent): void {
    this.count += 1;
    const key = `${event.at} ${event.state} ${event.phase ?? ""}`;
    if (this.over || this.seen.has(key)) return;
    this.seen.add(key);
    this.over = OVER.has(event.state);
    if (event.state === "ready") this.served = true;
    if (event.state === "starting" || event.state === "takeover") this.served = false;
    this.to.onEvent(event);
  }

  line(line: Line): void {
    this.count += 1;
    if (!this.over) this.to.onLine(line);
  }
}

/** Reads one stream to its end; false: there is nothing more to come. Throws when it fails or falls silent. */
async function stream(
  api: Api, session: Session, after: string | undefined, told: Told, signal: AbortSignal, seen: (id: string) => void,
): Promise<boolean> {
  const silence = new AbortController();
  let watch = setTimeout(() => silence.abort(), PATIENCE.first);
  const either = AbortSignal.any([signal, silence.signal]);
  try {
    const answer = await api.events(session, after, either);
    if (answer.status === 204) return false;
    if (!answer.ok || !answer.body) throw new Error(`events: ${answer.status}`);
    const parser = createParser({
      onEvent: (message) => {
        if (message.id) seen(message.id);
        const data: unknown = JSON.parse(message.data);
        if (message.event === "position") told.line(data as Line);
        else if (message.event === "state") told.event(data as SessionEvent);
      },
    });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return true;
      clearTimeout(watch);
      watch = setTimeout(() => silence.abort(), PATIENCE.next);
      parser.feed(value);
    }
  } finally {
    clearTimeout(watch);
    silence.abort();
  }
}

async function look(api: Api, session: Session, told: Told, signal: AbortSignal): Promise<void> {
  try {
    const { status, events, position, estimatedWait, reason } = await api.look(session, signal);
    for (const event of events) told.event(event);
    if (position !== undefined) told.line({ position, estimatedWait });
    if (OVER.has(status)) told.event({ at: Number.POSITIVE_INFINITY, state: status, reason });
  } catch (failure) {
    const gone = failure instanceof Refused && failure.problem.status === 404;
    if (gone) told.event({ at: Number.POSITIVE_INFINITY, state: "error", reason: "not_found" });
    // Anything else may pass: the next look tells.
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
