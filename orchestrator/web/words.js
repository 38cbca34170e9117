// What happened, in plain sentences.

import { measured, short } from "./format.js";

const KINDS = {
  boot_error: "the agent that was started for it did not boot",
  boot_timeout: "no agent was warm in time",
  unclaimed: "no node took on the start of an agent",
  queue_timeout: "it waited in line too long",
  join_timeout: "its agent did not come into the room",
  join_failed: "its agent could not join the room",
  room_lost: "its agent lost the room",
  agent_lost: "its agent was lost",
  agent_error: "its agent's own code failed",
  join_refused: "LiveKit refused its agent, as it would any",
  job_lost: "LiveKit asked for it, and then did not give us the job",
  pipeline_failed: "its agent could not hear, think or speak any more",
  node_draining: "the node was stopping",
  spawn_not_queued: "the start of an agent could not be queued",
};

const SIGNALS = { 6: "SIGABRT", 7: "SIGBUS", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM" };

/** A reason, whose kind stands in front (`kind: words`), for people. */
export function reasonWords(reason) {
  const [, kind, rest] = /^(\w+)(?:: (.*))?$/s.exec(reason) ?? [];
  return causeWords(KINDS[kind] ? KINDS[kind] + (rest ? ` (${rest})` : "") : reason);
}

/** A cause with the name of its signal. */
export function causeWords(cause) {
  return String(cause).replace(/signal (\d+)/, (all, number) => (SIGNALS[number] ? `${all}, ${SIGNALS[number]}` : all));
}

/** An event of a session's history as a sentence. */
export function eventWords(event, agents) {
  const agent = agents.get(event.agentId);
  const who = event.agentId ? `${short(event.agentId)}${agent?.pid ? ` (pid ${agent.pid} on ${agent.node})` : ""}` : "an agent";
  const cause = event.cause ? `: ${causeWords(event.cause)}` : "";
  switch (event.state) {
    case "queued":
      return `All places were taken: in line${event.position ? `, number ${event.position}` : ""}`;
    case "starting":
      return "Waits for an agent";
    case "boot":
      return { claimed: "A node starts an agent", process: "The agent's process runs", warm: "The agent is warm" }[event.phase] ?? "The agent boots";
    case "boot_retried":
      return `The agent did not boot${cause}; another one is tried`;
    case "ready":
      return `Got ${who}`;
    case "agent_joined":
      return "The agent is in the room";
    case "active":
      return "User and agent are in the room: the call goes on";
    case "first_audio":
      return `The agent was heard, ${measured(event.at)} after the start`;
    case "user_left":
      return "The user left the room";
    case "user_lost":
      return "The user's connection was lost";
    case "user_back":
      return "The user is back";
    case "takeover":
      return `The agent was lost${cause}. Another one takes over`;
    case "replacement":
      return `The agent was lost before the call began${cause}. Another one comes`;
    case "agent_exited":
      return `The process of ${who} ended${cause}`;
    case "goodbye":
      return "The node stops: the agent says goodbye";
    case "goodbye_off":
      return "The node is in service again: the call is not ended for it";
    case "registered":
      return "Redis had lost this session; its agent registered it again";
    case "ended":
      return `Ended: ${reasonWords(event.reason ?? "nobody said why")}`;
    case "error":
      return `Failed: ${reasonWords(event.reason ?? "nobody said why")}`;
    default:
      return event.state.replaceAll("_", " ");
  }
}
