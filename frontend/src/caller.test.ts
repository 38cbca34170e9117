import { beforeEach, describe, expect, it, type Mock, vi } from "vitest";

import { type Api, Refused, type Snapshot, type Started, Unreachable } from "./api";
import { Caller } from "./caller";
import type { RoomEvents } from "./room";
import { renew } from "./user";

vi.hoisted(() => vi.stubGlobal("document", { baseURI: "https://calls.example/voice/?a=b#c" }));

const READY: Started = { sessionId: "prewarm_1", clientSecret: "cs", status: "ready" };

class Stage {
  permission: PermissionState = "granted";
  microphone = { stop: vi.fn() };
  room = { disconnect: vi.fn(async () => undefined) };
  events!: RoomEvents;
  snapshot: Snapshot = { status: "active", events: [] };
  api = {
    start: vi.fn(async (): Promise<Started> => READY),
    token: vi.fn(async () => ({ server_url: "ws://x", participant_token: "t" })),
    stop: vi.fn(async () => undefined),
    look: vi.fn(async () => this.snapshot),
    events: vi.fn(async () => new Response(null, { status: 404 })),
  };
  media = {
    openMicrophone: vi.fn(async () => this.microphone),
    makeRoom: vi.fn((events: RoomEvents) => {
      this.events = events;
      return this.room;
    }),
    join: vi.fn(async () => undefined),
  };
  caller = new Caller(this.api as unknown as Api, async () => this.media as never);

  constructor() {
    const permissions = { query: async () => ({ state: this.permission }) };
    vi.stubGlobal("navigator", { permissions });
    vi.stubGlobal("localStorage", undefined);
    vi.stubGlobal("isSecureContext", true);
  }

  async until(step: string): Promise<void> {
    await vi.waitFor(() => expect(this.caller.current().step).toBe(step));
  }
}

let stage: Stage;
beforeEach(() => {
  renew();
  stage = new Stage();
});

const named = (name: string) => Object.assign(new Error(name), { name });

describe("a call", () => {
  it("is made, heard and hung up, and nothing of it is left", async () => {
    stage.caller.press();
    await stage.until("talking");
    stage.caller.hangUp();
    expect(stage.caller.current()).toMatchObject({ step: "over", ending: { text: "You hung up." } });
    expect(stage.room.disconnect).toHaveBeenCalledOnce();
    expect(stage.microphone.stop).toHaveBeenCalledOnce();
    expect(stage.api.stop).toHaveBeenCalledWith(READY);
  });

  it("takes no agent before the user has allowed the microphone", async () => {
    stage.permission = "prompt";
    stage.media.openMicrophone.mockRejectedValue(named("NotAllowedError"));
    stage.caller.press();
    await stage.until("failed");
    expect(stage.api.start).not.toHaveBeenCalled();
  });

  it("gives the agent back when the microphone fails though it was allowed", async () => {
    stage.media.openMicrophone.mockRejectedValue(named("NotFoundError"));
    stage.caller.press();
    await stage.until("failed");
    await vi.waitFor(() => expect(stage.api.stop).toHaveBeenCalledWith(READY));
  });

  it("that is cancelled while it is asked for leaves no session behind", async () => {
    let answer!: (started: Started) => void;
    stage.api.start.mockReturnValue(new Promise((resolve) => (answer = resolve)));
    stage.caller.press();
    await vi.waitFor(() => expect(stage.api.start).toHaveBeenCalled());
    stage.caller.hangUp();
    expect(stage.api.stop).not.toHaveBeenCalled();
    answer(READY);
    await vi.waitFor(() => expect(stage.api.stop).toHaveBeenCalledWith(READY));
    expect(stage.media.makeRoom).not.toHaveBeenCalled();
  });

  it("is asked for again with the same key when there was no answer", async () => {
    stage.api.start.mockRejectedValueOnce(new Unreachable("reset"));
    stage.caller.press();
    await stage.until("talking");
    const keys = (stage.api.start.mock.calls as unknown as [string, string][]).map(([, key]) => key);
    expect(keys).toHaveLength(2);
    expect(new Set(keys).size).toBe(1);
    expect(keys[0]).toMatch(/^[0-9a-f]{32}$/);
  });

  it("that is refused is told with its reason, and the microphone is off", async () => {
    const full = new Refused({ status: 429, code: "at_capacity", retryAfter: 9 });
    stage.api.start.mockRejectedValue(full);
    stage.caller.press();
    await stage.until("failed");
    expect(stage.caller.current()).toMatchObject({ failure: { retryAfter: 9 } });
    await vi.waitFor(() => expect(stage.microphone.stop).toHaveBeenCalled());
  });

  it("waits in line with the microphone off, and opens it when it is served", async () => {
    stage.api.start.mockResolvedValue({ ...READY, status: "queued", position: 2, estimatedWaitSeconds: 9 });
    stage.snapshot = { status: "queued", position: 2, events: [] };
    stage.caller.press();
    await stage.until("queued");
    expect(stage.microphone.stop).toHaveBeenCalledOnce();
    stage.snapshot = { status: "ready", events: [{ at: 1, state: "ready" }] };
    await vi.waitFor(() => expect(stage.caller.current().step).toBe("talking"), 5_000);
    expect(stage.media.openMicrophone).toHaveBeenCalledTimes(2);
    stage.caller.hangUp();
  });

  it("shows how far the start has come, however early that is told", async () => {
    stage.api.start.mockResolvedValue({ ...READY, status: "starting" });
    stage.snapshot = { status: "starting", events: [{ at: 0, state: "starting" }, { at: 1, state: "boot", phase: "process" }] };
    let opened!: (microphone: { stop: Mock<() => undefined> }) => void;
    stage.media.openMicrophone.mockReturnValue(new Promise((resolve) => (opened = resolve)));
    stage.caller.press();
    await vi.waitFor(() => expect(stage.caller.current()).toEqual({ step: "starting", phase: "process" }), 5_000);
    opened(stage.microphone);
    await new Promise((resolve) => setTimeout(resolve));
    expect(stage.caller.current()).toEqual({ step: "starting", phase: "process" });
    stage.caller.hangUp();
  });

  it("gives its place in line up when the page is closed, and goes on when it is reloaded in a call", async () => {
    stage.caller.press();
    await stage.until("talking");
    stage.caller.leave();
    expect(stage.api.stop).not.toHaveBeenCalled();
    stage.caller.hangUp();
    stage.api.start.mockResolvedValue({ ...READY, status: "queued" });
    stage.snapshot = { status: "queued", events: [] };
    stage.caller.press();
    await stage.until("queued");
    stage.api.stop.mockClear();
    stage.caller.leave();
    expect(stage.api.stop).toHaveBeenCalledOnce();
  });

  it.each([
    ["stopped_by_operator", "The service has ended the call."],
    ["stopped_by_backend", "The service has ended the call."],
    ["stopped_by_caller", "You have ended it in another tab or window."],
  ])("that is %s is not said to be hung up here", async (reasonCode, text) => {
    stage.caller.press();
    await stage.until("talking");
    stage.snapshot = { status: "ended", reasonCode, events: [] };
    stage.events.onLeft("closed");
    await vi.waitFor(() => expect(stage.caller.current()).toMatchObject({ step: "over", ending: { text } }), 5_000);
    expect(stage.api.stop).not.toHaveBeenCalled();
  });

  it("whose agent failed for good says that", async () => {
    stage.caller.press();
    await stage.until("talking");
    stage.snapshot = { status: "error", reasonCode: "pipeline_failed", reasonParams: { detail: "secret" }, events: [] };
    stage.events.onLeft("closed");
    await stage.until("failed");
    expect(JSON.stringify(stage.caller.current())).not.toContain("secret");
  });

  it("that is opened in another tab is not ended for it", async () => {
    stage.caller.press();
    await stage.until("talking");
    stage.events.onLeft("elsewhere");
    await stage.until("over");
    expect(stage.api.stop).not.toHaveBeenCalled();
  });

  it("whose network is gone says so, and goes on for whoever comes back", async () => {
    stage.caller.press();
    await stage.until("talking");
    stage.api.look.mockRejectedValue(new Unreachable("offline"));
    stage.events.onLeft("lost");
    await stage.until("failed");
    expect(stage.caller.current()).toMatchObject({ failure: { title: "Connection lost" } });
    expect(stage.api.stop).not.toHaveBeenCalled();
  });

  it("whose media server does not answer frees its agent", async () => {
    stage.media.join.mockRejectedValue(new Error("could not connect"));
    stage.snapshot = { status: "ready", events: [] };
    stage.caller.press();
    await stage.until("failed");
    await vi.waitFor(() => expect(stage.api.stop).toHaveBeenCalledOnce());
    expect(stage.microphone.stop).toHaveBeenCalled();
  });

  describe("of a browser that has one already", () => {
    const store = new Map<string, string>();
    beforeEach(() => {
      store.clear();
      vi.stubGlobal("localStorage", {
        getItem: (key: string) => store.get(key) ?? null,
        setItem: (key: string, value: string) => store.set(key, value),
        removeItem: (key: string) => store.delete(key),
      });
    });

    const second = async (step: string): Promise<Stage> => {
      stage.caller.press();
      await stage.until("talking");
      const local = globalThis.localStorage;
      const tab = new Stage();
      vi.stubGlobal("localStorage", local);
      tab.media.join.mockRejectedValue(new Error("could not connect"));
      if (step === "talking") tab.media.join.mockResolvedValue(undefined);
      tab.caller.press();
      await tab.until(step);
      return tab;
    };

    it("shows the secret of the first tab's session, and goes on with it", async () => {
      const tab = await second("talking");
      const [user, , mine] = tab.api.start.mock.calls[0] as unknown as [string, string, unknown];
      expect(mine).toEqual({ sessionId: "prewarm_1", clientSecret: "cs" });
      expect((stage.api.start.mock.calls[0] as unknown as [string])[0]).toBe(user);
      tab.caller.hangUp();
      expect(tab.api.stop).toHaveBeenCalledOnce();
    });

    it("keeps what it knows under names of its own, where others are below paths of the same origin", async () => {
      await second("talking");
      expect(store.size).toBe(2);
      for (const name of store.keys()) expect(name).toMatch(/^talk\.\w+\/voice\/$/);
    });

    it("ends nobody's call when the second tab cannot connect", async () => {
      const tab = await second("failed");
      expect(tab.api.stop).not.toHaveBeenCalled();
      stage.caller.hangUp();
      expect(stage.api.stop).toHaveBeenCalledOnce();
    });

    it("ends nobody's call that was live before, whoever began it", async () => {
      // As a backend answers that knows its user: on another machine, nothing is kept of the first one's session.
      stage.api.start.mockResolvedValue({ ...READY, existing: true });
      stage.media.join.mockRejectedValue(new Error("could not connect"));
      stage.caller.press();
      await stage.until("failed");
      stage.media.openMicrophone.mockRejectedValue(named("NotFoundError"));
      stage.caller.press();
      await stage.until("failed");
      stage.api.start.mockResolvedValue({ ...READY, existing: true, status: "queued" });
      stage.media.openMicrophone.mockResolvedValue(stage.microphone);
      stage.snapshot = { status: "queued", events: [] };
      stage.caller.press();
      await stage.until("queued");
      stage.caller.leave();
      expect(stage.api.stop).not.toHaveBeenCalled();
    });

    it("ends no call of its own that another tab is in by now", async () => {
      stage.snapshot = { status: "starting", events: [{ at: 1, state: "active" }, { at: 9, state: "takeover" }] };
      stage.media.join.mockRejectedValue(new Error("could not connect"));
      stage.caller.press();
      await stage.until("failed");
      await vi.waitFor(() => expect(stage.api.look).toHaveBeenCalled());
      await new Promise((resolve) => setTimeout(resolve));
      expect(stage.api.stop).not.toHaveBeenCalled();
    });

    it.each([
      ["active", { step: "idle", live: true }],
      ["ended", { step: "idle" }],
    ])("says so before the button is pressed, when it is %s", async (status, shown) => {
      store.set("talk.session/voice/", JSON.stringify({ sessionId: "prewarm_1", clientSecret: "cs" }));
      stage.snapshot = { status, events: [] };
      await stage.caller.recall();
      expect(stage.caller.current()).toEqual(shown);
    });

    it("becomes somebody else where it cannot show that the live session is its own", async () => {
      const taken = new Refused({ status: 409, code: "user_has_session" });
      stage.api.start.mockRejectedValueOnce(taken);
      stage.caller.press();
      await stage.until("talking");
      const [before, after] = (stage.api.start.mock.calls as unknown as [string][]).map(([user]) => user);
      expect(after).toMatch(/^web-[0-9a-f]{32}$/);
      expect(after).not.toBe(before);
      stage.caller.hangUp();
    });
  });

  it("keeps what is said in the order in which it began", async () => {
    stage.caller.press();
    await stage.until("talking");
    stage.events.onSaid({ id: "1", who: "Agent", text: "Hel", final: false });
    stage.events.onSaid({ id: "2", who: "You", text: "Hi", final: true });
    stage.events.onSaid({ id: "1", who: "Agent", text: "Hello", final: true });
    stage.caller.hangUp();
    expect(stage.caller.said().map(({ text }) => text)).toEqual(["Hello", "Hi"]);
  });
});
