// The types that several modules share. It imports types of others' packages alone.

import type { Room } from "livekit-client";

export interface Ending {
  title: string;
  text: string;
}

export interface Failure extends Ending {
  /** Seconds after which trying again may help. */
  retryAfter?: number;
  /** Trying again as it is cannot help. */
  final?: boolean;
  /** The id to give to the operator. */
  requestId?: string;
}

/** A place in the waiting line. */
export interface Line {
  position: number;
  /** Null or missing where nothing was measured yet. */
  estimatedWaitSeconds?: number | null | undefined;
}

/** Something that the user is told while the call goes on. */
export type Notice = "takeover" | "replaced" | "reconnecting" | "goodbye" | "microphone";

/** How far the start of an agent has come. */
export type Phase = "asked" | "claimed" | "process" | "warm";

export type Call =
  | { step: "idle"; live?: boolean }
  | { step: "microphone" }
  | { step: "queued"; line: Line | undefined }
  | { step: "starting"; phase: Phase }
  | { step: "joining"; room?: Room }
  | { step: "talking"; room: Room; notices: Notice[] }
  | { step: "over"; ending: Ending }
  | { step: "failed"; failure: Failure };
