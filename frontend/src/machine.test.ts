import type { Room } from "livekit-client";
import { describe, expect, it } from "vitest";

import { type Action, busy, IDLE, next } from "./machine";
import type { Call } from "./types";
import { HUNG_UP, NETWORK_LOST } from "./words";

const room = {} as Room;
const event = (state: string, facts = {}): Action => ({ type: "event", event: { at: 0, state, ...facts } });
const run = (...actions: Action[]): Call => actions.reduce(next, IDLE);
const talking = run({ type: "pressed" }, { type: "joined", room });

describe("the way to the room", () => {
  it("goes from the button over the line and the boot to the room", () => {
    let call = run({ type: "pressed" });
    expect(call.step).toBe("microphone");
    call = next(call, { type: "allowed" });
    call = next(call, event("queued", { position: 3 }));
    expect(call).toEqual({ step: "queued", line: { position: 3 } });
    call = next(call, { type: "line", line: { position: 2, estimatedWaitSeconds: 9 } });
    expect(call).toEqual({ step: "queued", line: { position: 2, estimatedWaitSeconds: 9 } });
    call = next(call, event("starting"));
    call = next(call, event("boot", { phase: "process" }));
    expect(call).toEqual({ step: "starting", phase: "process" });
    call = next(call, event("ready"));
    call = next(call, { type: "room", room });
    expect(call).toEqual({ step: "joining", room });
    call = next(call, { type: "joined", room });
    expect(call).toEqual({ step: "talking", room, notices: [] });
  });

  it("never leads back when a second agent is started", () => {
    const call = run({ type: "pressed" }, event("starting"), event("boot", { phase: "warm" }));
    expect(next(call, event("boot", { phase: "claimed" }))).toEqual({ step: "starting", phase: "warm" });
    expect(next(call, event("boot", { phase: "of tomorrow" }))).toEqual({ step: "starting", phase: "warm" });
  });

  it("is not taken twice", () => {
    const call = run({ type: "pressed" }, { type: "allowed" });
    expect(next(call, { type: "pressed" })).toBe(call);
  });
});

describe("a takeover", () => {
  it("keeps the call, and says what happens", () => {
    let call = next(talking, event("takeover", { causeCode: "agent_lost" }));
    expect(call).toMatchObject({ step: "talking", notices: ["takeover"] });
    call = next(call, event("starting"));
    call = next(call, event("ready"));
    expect(call).toMatchObject({ step: "talking", notices: ["takeover"] });
    call = next(call, event("active"));
    expect(call).toMatchObject({ step: "talking", notices: ["replaced"] });
    expect(next(call, { type: "notice", notice: "replaced", on: false })).toMatchObject({ notices: [] });
  });

  it("is said again when it happens again", () => {
    const twice = [event("takeover"), event("active"), event("takeover")].reduce(next, talking);
    expect(twice).toMatchObject({ notices: ["takeover"] });
  });

  it("is none when the first agent comes", () => {
    expect(next(talking, event("active"))).toBe(talking);
  });
});

describe("the end", () => {
  it("is told with its reason", () => {
    expect(next(talking, event("ended", { reasonCode: "agent_hung_up" }))).toMatchObject({ step: "over" });
    expect(next(talking, event("error", { reasonCode: "agent_lost" }))).toMatchObject({ step: "failed" });
  });

  it("is the end: what comes late changes nothing", () => {
    for (const over of [
      next(talking, { type: "over", ending: HUNG_UP }),
      next(talking, { type: "failed", failure: NETWORK_LOST }),
    ]) {
      expect(busy(over)).toBe(false);
      const late: Action[] = [event("active"), event("ended"), { type: "joined", room }, { type: "room", room }];
      expect(late.reduce(next, over)).toBe(over);
      expect(next(over, { type: "pressed" })).toEqual({ step: "microphone" });
    }
  });
});
