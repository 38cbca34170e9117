// The part of a call that is LiveKit's. Loaded while the user still reads the page: it is most of the code.

import { createLocalAudioTrack, DisconnectReason, type LocalAudioTrack, Room, RoomEvent } from "livekit-client";

import type { Token } from "./api";

export type { LocalAudioTrack, Room };

/** Why a room was left, as far as it matters to its user. */
export type Left = "elsewhere" | "closed" | "lost";

/** Something that was said. It is told again as it grows. */
export interface Said {
  id: string;
  who: "You" | "Agent";
  text: string;
  /** Whether that is all of it. */
  final: boolean;
}

export interface RoomEvents {
  onSaid(said: Said): void;
  onLeft(why: Left): void;
  onReconnecting(now: boolean): void;
  onMicrophone(works: boolean): void;
}

const CLOSED = new Set([
  DisconnectReason.ROOM_DELETED,
  DisconnectReason.ROOM_CLOSED,
  DisconnectReason.PARTICIPANT_REMOVED,
]);

/** Asks for the microphone. Throws the browser's DOMException. */
export function openMicrophone(): Promise<LocalAudioTrack> {
  return createLocalAudioTrack({ echoCancellation: true, noiseSuppression: true, autoGainControl: true });
}

export function makeRoom(events: RoomEvents): Room {
  const room = new Room();
  room.on(RoomEvent.Disconnected, (reason) => {
    if (reason === DisconnectReason.CLIENT_INITIATED) return;
    if (reason === DisconnectReason.DUPLICATE_IDENTITY) events.onLeft("elsewhere");
    else events.onLeft(reason !== undefined && CLOSED.has(reason) ? "closed" : "lost");
  });
  room.on(RoomEvent.SignalReconnecting, () => events.onReconnecting(true));
  room.on(RoomEvent.Reconnecting, () => events.onReconnecting(true));
  room.on(RoomEvent.Reconnected, () => events.onReconnecting(false));
  room.on(RoomEvent.MediaDevicesError, () => events.onMicrophone(false));
  room.on(RoomEvent.ActiveDeviceChanged, (kind) => kind === "audioinput" && events.onMicrophone(true));
  // Before it connects: what is said first is not lost. LiveKit's own hook for this leaves an error uncaught when a call
  // ends in the middle of a sentence, and forgets with the room what was said.
  room.registerTextStreamHandler("lk.transcription", async (reader, { identity }) => {
    const { id, attributes = {} } = reader.info;
    const said = {
      id: attributes["lk.segment_id"] ?? id,
      who: identity === room.localParticipant.identity ? ("You" as const) : ("Agent" as const),
    };
    let text = "";
    try {
      for await (const chunk of reader) {
        text += chunk;
        if (text.trim()) events.onSaid({ ...said, text, final: attributes["lk.transcription_final"] !== "false" });
      }
    } catch {
      // The agent was lost, or the call is over: what was heard of the sentence stays.
    }
  });
  return room;
}

/** Connects and speaks. Throws when LiveKit does not answer. */
export async function join(room: Room, token: Token, microphone: LocalAudioTrack): Promise<void> {
  await room.connect(token.server_url, token.participant_token);
  await room.localParticipant.publishTrack(microphone);
}
