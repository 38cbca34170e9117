import { describe, expect, it } from "vitest";

import { Refused, Unreachable } from "./api";
import codes from "./codes.json";
import { about, deaf, duration, ended, failed, knows, REFUSALS, refused } from "./words";

const problem = (status: number, code: string, retryAfter?: number) =>
  refused(new Refused({ status, code, requestId: "r-1", ...(retryAfter ? { retryAfter } : {}) }));

describe("what the user reads", () => {
  it.each([
    ["stopped by request", "The service has ended the call."],
    ["stopped by request of an operator", "The service has ended the call."],
    ["stopped by request of the caller", "in another tab"],
    ["the agent hung up", "The agent said goodbye"],
    ["maximum length of 1800 s", "30 minutes"],
    ["the node is stopping", "restarts"],
    ["user was gone for 20 s", "connection"],
    ["the connection of the user was lost for 5 s", "connection"],
    ["user did not join within 60 s", "never arrived"],
    ["something of tomorrow", "The call is over."],
    ["other: The call is over, for a reason of its agent's own.", "The call is over."],
    ["", "The call is over."],
  ])("of an end: %s", (reason, words) => expect(ended(reason).text).toContain(words));

  it.each([
    ["boot_error: ImportError: no module", "Agents do not start"],
    ["boot_timeout: no agent within 30 s", "No agent came up"],
    ["queue_timeout: no room within 300 s", "Nobody was free"],
    ["not_found", "The call is gone"],
    ["constructor", "No agent came"],
  ])("of a failure: %s", (reason, title) => expect(failed(reason).title).toBe(title));

  it("of an agent that is lost in a call", () => {
    expect(failed("killed by signal 9", true).title).toBe("The agent was lost");
  });

  it.each([
    [401, "unauthorized", "Calls start elsewhere", true],
    [429, "at_capacity", "All lines are busy", undefined],
    [429, "rate_limited", "Too many calls", undefined],
    [503, "agents_do_not_boot", "Agents do not start", undefined],
    [503, "livekit_unavailable", "The media server is down", undefined],
    [503, "draining", "The service restarts", undefined],
    [503, "of_tomorrow", "Not available just now", undefined],
    [500, "of_tomorrow", "Something went wrong", undefined],
    [403, "invalid_host", "This address is not served", true],
    [422, "malformed_request", "The call was refused", undefined],
  ])("of an answer: %i %s", (status, code, title, final) => {
    expect(problem(status, code, 7)).toMatchObject({ title, ...(final ? { final } : { retryAfter: 7 }) });
  });

  it.each(codes.problems)("of the code %s", (code) => expect(Object.hasOwn(REFUSALS, code)).toBe(true));

  it.each(codes.reasons)("of the reason %s", (reason) => expect(knows(reason)).toBe(true));

  it("of what it does not know: the request’s id, and nothing that the server says", () => {
    expect(problem(418, "of_tomorrow").requestId).toBe("r-1");
    expect(problem(503, "store_unavailable").requestId).toBe("r-1");
    expect(problem(429, "at_capacity").requestId).toBeUndefined();
    const said = { status: 500, code: "toString", detail: "redis://10.0.0.1" };
    expect(JSON.stringify(refused(new Refused(said)))).not.toContain("redis");
    expect(JSON.stringify(refused(new TypeError("at 10.0.0.1")))).not.toContain("10.0.0.1");
    for (const reason of ["boot_error: at 10.0.0.1", "at 10.0.0.1", "stopped by request at 10.0.0.1"]) {
      expect(JSON.stringify([ended(reason), failed(reason), failed(reason, true)])).not.toContain("10.0.0.1");
    }
  });

  it("of no answer", () => expect(refused(new Unreachable("x")).title).toBe("The service cannot be reached"));

  it("of a page that is not secure, which has no microphone to ask for", () => {
    expect(deaf(new TypeError("undefined"))).toMatchObject({ title: "This address is not secure", final: true });
  });

  it.each([
    ["NotAllowedError", "Your microphone is blocked"],
    ["NotFoundError", "No microphone found"],
    ["NotReadableError", "Your microphone is in use"],
    ["OddError", "Your microphone does not work"],
  ])("of a microphone: %s", (name, title) => {
    Object.defineProperty(globalThis, "isSecureContext", { value: true, configurable: true });
    expect(deaf(Object.assign(new Error("x"), { name })).title).toBe(title);
    Reflect.deleteProperty(globalThis, "isSecureContext");
  });

  it("of an estimate", () => {
    expect(["2.5s", "48s", "180s", undefined].map(about)).toEqual(["a few seconds", "48 seconds", "3 minutes", ""]);
  });

  it("of a length", () => expect([duration(9.4), duration(61)]).toEqual(["9 s", "1 min 1 s"]));
});
