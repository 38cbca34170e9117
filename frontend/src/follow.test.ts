import { afterEach, describe, expect, it, vi } from "vitest";

import { type Api, Refused, type SessionEvent, type Snapshot } from "./api";
import { follow, PATIENCE } from "./follow";
import type { Line } from "./types";

const session = { sessionId: "session_1", clientSecret: "cs" };
const message = (id: string, data: object, event = "state") => `id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`;

function sse(...chunks: string[]): Response {
  const body = new ReadableStream({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(new TextEncoder().encode(chunk));
      controller.close();
    },
  });
  return new Response(body, { headers: { "Content-Type": "text/event-stream" } });
}

interface Server {
  events?: (after: string | undefined) => Response | Promise<Response>;
  look?: () => Snapshot;
}

async function told(server: Server): Promise<{ events: string[]; lines: Line[]; after: (string | undefined)[] }> {
  vi.useFakeTimers();
  const found = { events: [] as string[], lines: [] as Line[], after: [] as (string | undefined)[] };
  const api = {
    events: async (_session: unknown, after: string | undefined) => {
      found.after.push(after);
      return (server.events ?? (() => new Response(null, { status: 404 })))(after);
    },
    look: async () => server.look!(),
  } as unknown as Api;
  const to = {
    onEvent: (event: SessionEvent) => found.events.push(event.state),
    onLine: (line: Line) => found.lines.push(line),
  };
  const following = follow(api, session, to, new AbortController().signal);
  let over = false;
  void following.then(() => (over = true));
  while (!over) await vi.advanceTimersByTimeAsync(100);
  return found;
}

afterEach(() => vi.useRealTimers());

describe("following a session", () => {
  it("tells events that arrive in pieces, and ends with the session", async () => {
    const text = message("1-0", { at: 0, state: "ready" }) + message("2-0", { at: 3, state: "ended", reasonCode: "stopped" });
    const found = await told({ events: () => sse(text.slice(0, 30), text.slice(30, 70), text.slice(70)) });
    expect(found.events).toEqual(["ready", "ended"]);
  });

  it("tells the place in line", async () => {
    const line = `event: position\ndata: {"position": 2, "estimatedWaitSeconds": 9}\n\n`;
    const found = await told({ events: () => sse(line, message("2-0", { at: 3, state: "ended" })) });
    expect(found.lines).toEqual([{ position: 2, estimatedWaitSeconds: 9 }]);
  });

  it("resumes after what it has heard, and tells nothing twice", async () => {
    const first = message("1-0", { at: 0, state: "queued" }) + message("2-0", { at: 1, state: "starting" });
    const found = await told({
      events: (after) =>
        after ? sse(message("2-0", { at: 1, state: "starting" }), message("3-0", { at: 2, state: "ended" })) : sse(first),
    });
    expect(found.after).toEqual([undefined, "2-0"]);
    expect(found.events).toEqual(["queued", "starting", "ended"]);
  });

  it("ends when there is nothing more to come", async () => {
    const found = await told({ events: () => new Response(null, { status: 204 }) });
    expect(found.after).toHaveLength(1);
  });

  it("polls when there are no events, and tells the same", async () => {
    const looks: Snapshot[] = [
      { status: "queued", position: 2, estimatedWaitSeconds: 5, events: [{ at: 0, state: "queued", position: 2 }] },
      { status: "ready", events: [{ at: 0, state: "queued", position: 2 }, { at: 4, state: "ready" }] },
      { status: "ended", reasonCode: "stopped", events: [] },
    ];
    const found = await told({ look: () => looks.shift()! });
    expect(found.events).toEqual(["queued", "ready", "ended"]);
    expect(found.lines).toEqual([{ position: 2, estimatedWaitSeconds: 5 }]);
    expect(found.after).toHaveLength(2);
  });

  it("polls when the stream is held up on its way", async () => {
    const found = await told({
      events: () => new Promise<Response>((_, no) => setTimeout(() => no(new Error("aborted")), PATIENCE.first)),
      look: () => ({ status: "error", reasonCode: "boot_error", events: [] }),
    });
    expect(found.events).toEqual(["error"]);
  });

  it("ends when the session is unknown", async () => {
    const gone = new Refused({ status: 404, code: "not_found" });
    const found = await told({
      look: () => {
        throw gone;
      },
    });
    expect(found.events).toEqual(["error"]);
  });
});
