// Who the agent is and what it does, read from the room itself at every event that may change it. LiveKit's own hook
// stays at "connecting" for a whole call when the agent comes just as its chain of observers is set up.

import { type RemoteAudioTrack, type RemoteParticipant, type Room, ParticipantKind, RoomEvent, Track } from "livekit-client";
import { useCallback, useSyncExternalStore } from "react";

const CHANGES = [
  RoomEvent.ConnectionStateChanged, RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected,
  RoomEvent.ParticipantAttributesChanged, RoomEvent.TrackSubscribed, RoomEvent.TrackUnsubscribed,
  RoomEvent.ActiveSpeakersChanged,
] as const;

export interface Agent {
  /** As the agent publishes it, or `connecting` before it does. */
  state: string;
  voice: RemoteAudioTrack | undefined;
}

export function useAgent(room: Room): Agent {
  const subscribe = useCallback(
    (changed: () => void) => {
      for (const event of CHANGES) room.on(event, changed);
      return () => {
        for (const event of CHANGES) room.off(event, changed);
      };
    },
    [room],
  );
  const state = useSyncExternalStore(subscribe, () => agentIn(room)?.attributes["lk.agent.state"] ?? "connecting");
  const voice = useSyncExternalStore(subscribe, () => {
    const track = agentIn(room)?.getTrackPublication(Track.Source.Microphone)?.track;
    return track?.kind === Track.Kind.Audio ? (track as RemoteAudioTrack) : undefined;
  });
  return { state, voice };
}

function agentIn(room: Room): RemoteParticipant | undefined {
  return [...room.remoteParticipants.values()].find(({ kind }) => kind === ParticipantKind.AGENT);
}
