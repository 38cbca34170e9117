import { describe, expect, it } from "vitest";

import { Refused, Unreachable } from "./api";
import codes from "./codes.json";
import { about, deaf, duration, ended, failed, refused } from "./words";

const problem = (status: number, code: string, retryAfter?: number) =>
  refused(new Refused({ status, code, requestId: "r-1", ...(retryAfter ? { retryAfter } : {}) }));

describe("what the user reads", () => {
  it.each([
    ["stopped", "The service has ended the call."],
    ["stopped_by_operator", "The service has ended the call."],
    ["stopped_by_caller", "in another tab"],
    ["agent_hung_up", "The agent said goodbye"],
    ["max_duration", "its longest length, 30 minutes."],
    ["node_stopping", "restarts"],
    ["user_gone", "connection"],
    ["user_lost", "connection"],
    ["user_never_joined", "never arrived"],
    ["of_tomorrow", "The call is over."],
    ["other", "The call is over."],
    ["constructor", "The call is over."],
    [undefined, "The call is over."],
  ])("of an end: %s", (reasonCode, words) => {
    expect(ended({ ...(reasonCode ? { reasonCode } : {}), reasonParams: { seconds: 1800 } }).text).toContain(words);
  });

  it.each([
    ["boot_error", "Agents do not start"],
    ["boot_timeout", "No agent came up"],
    ["queue_timeout", "Nobody was free"],
    ["not_found", "The call is gone"],
    ["constructor", "No agent came"],
  ])("of a failure: %s", (reasonCode, title) => expect(failed({ reasonCode }).title).toBe(title));

  it("of a failure that it does not know, with the table's words for one", () => {
    expect(failed({ reasonCode: "of_tomorrow" }).text).toBe(codes.problems.internal_error.page);
  });

  it("of an agent that is lost in a call", () => {
    expect(failed({}, true).title).toBe("The agent was lost");
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

  it.each(Object.keys(codes.problems))("of the code %s", (code) => {
    const { title, text } = problem(418, code);
    expect([title, text]).not.toContain("");
    expect(`${title} ${text}`).not.toContain("{");
  });

  it.each(Object.entries(codes.reasons))("of the reason %s", (reasonCode, row) => {
    if (!("title" in row)) return expect(row.kind).toBe("leave"); // of an agent alone: no session ends with it
    const told = row.kind === "failure" ? failed({ reasonCode }) : ended({ reasonCode, reasonParams: { seconds: 4 } });
    expect(told.title).toBe(row.title);
    expect(told.text).not.toMatch(/[{?]|^$/);
  });

  it("of what it does not know: the request’s id, and nothing that the server says", () => {
    expect(problem(418, "of_tomorrow").requestId).toBe("r-1");
    expect(problem(503, "store_unavailable").requestId).toBe("r-1");
    expect(problem(429, "at_capacity").requestId).toBeUndefined();
    const said = { status: 500, code: "toString", detail: "redis://10.0.0.1" };
    expect(JSON.stringify(refused(new Refused(said)))).not.toContain("redis");
    expect(JSON.stringify(refused(new TypeError("at 10.0.0.1")))).not.toContain("10.0.0.1");
    const over = { reasonCode: "agent_lost", reasonParams: { detail: "at 10.0.0.1" }, reason: "at 10.0.0.1" };
    for (const why of [over, { ...over, reasonCode: "at 10.0.0.1" }]) {
      expect(JSON.stringify([ended(why), failed(why), failed(why, true)])).not.toContain("10.0.0.1");
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
    expect([2.5, 48, 180, null, undefined].map(about)).toEqual(["a few seconds", "48 seconds", "3 minutes", "", ""]);
  });

  it("of a length", () => expect([duration(9.4), duration(61)]).toEqual(["9 s", "1 min 1 s"]));
});
