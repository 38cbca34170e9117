// The call itself: what the agent does, what is said, and the controls. Loaded with LiveKit's code.

import {
  RoomAudioRenderer, RoomContext, useAudioPlayback, useLocalParticipant, useMediaDeviceSelect, useMultibandTrackVolume,
  useRoomContext, useTrackVolume,
} from "@livekit/components-react";
import { type LocalAudioTrack, type Room, supportsAudioOutputSelection, Track } from "livekit-client";
import { useEffect, useId, useState } from "react";

import { useAgent } from "./agent";
import { DevicesIcon, HangUpIcon, MicrophoneIcon, MutedIcon } from "./icons";
import type { Call } from "./types";
import type { Said } from "./room";
import { Transcript } from "./Transcript";
import { NOTICES } from "./words";

interface Props {
  call: Call;
  room: Room;
  said: readonly Said[];
  onHangUp: () => void;
}

export default function InCall(props: Props) {
  return (
    <RoomContext value={props.room}>
      <RoomAudioRenderer />
      <Conversation {...props} />
    </RoomContext>
  );
}

function Conversation({ call, said, onHangUp }: Props) {
  const { canPlayAudio, startAudio } = useAudioPlayback();
  const notices = call.step === "talking" ? call.notices : [];
  return (
    <>
      <Agent
        connected={call.step === "talking"}
        held={notices.includes("takeover") || notices.includes("reconnecting")}
      />
      {notices.map((notice) => (
        <p key={notice} className="notice" data-notice={notice}>
          {NOTICES[notice]}
        </p>
      ))}
      {!canPlayAudio && (
        <p className="notice">
          Your browser keeps the sound off.{" "}
          <button type="button" className="plain" onClick={() => void startAudio()}>
            Turn the sound on
          </button>
        </p>
      )}
      <Transcript said={said} />
      <Controls onHangUp={onHangUp} />
    </>
  );
}

const STATES: Partial<Record<string, string>> = {
  listening: "Listening",
  thinking: "Thinking",
  speaking: "Speaking",
  initializing: "The agent comes",
  connecting: "Connecting",
};

/** Which band each bar shows: the deepest, which is the loudest of a voice, in the middle. */
const BARS = [2, 1, 0, 1, 2];
/** 100 Hz to 2.4 kHz, where voices are. */
const VOICE = { bands: 3, loPass: 4, hiPass: 103 };
/** What LiveKit calls silence, and a loud voice. */
const [SILENT, LOUD] = [0.45, 0.8];

const loudness = (band: number) => Math.min(1, Math.max(0, (band - SILENT) / (LOUD - SILENT)));

function Agent({ connected, held }: { connected: boolean; held: boolean }) {
  const { state, voice } = useAgent(useRoomContext());
  const bands = useMultibandTrackVolume(voice, VOICE);
  return (
    <section className="stage">
      <div className="orb agent" data-agent={held ? "connecting" : state} aria-hidden="true">
        {BARS.map((band, index) => {
          const level = state === "speaking" ? loudness(bands[band] ?? 0) : 0;
          return <span key={index} style={{ height: `${(6 + level * 48).toFixed(1)}%` }} />;
        })}
      </div>
      <h1 tabIndex={-1}>{held ? "One moment" : connected ? (STATES[state] ?? "Connecting") : "Connecting"}</h1>
      <Elapsed running={connected} />
    </section>
  );
}

function Elapsed({ running }: { running: boolean }) {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    if (!running) return;
    const began = Date.now();
    const timer = setInterval(() => setSeconds(Math.floor((Date.now() - began) / 1000)), 500);
    return () => clearInterval(timer);
  }, [running]);
  const shown = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  return (
    <p className="aside" role="timer" aria-label="Length of the call">
      {running ? shown : "\u00a0"}
    </p>
  );
}

function Controls({ onHangUp }: { onHangUp: () => void }) {
  const { isMicrophoneEnabled, localParticipant, microphoneTrack } = useLocalParticipant();
  const [choosing, setChoosing] = useState(false);
  const panel = useId();
  // Before it is published it is on already.
  const muted = Boolean(microphoneTrack) && !isMicrophoneEnabled;
  return (
    <footer className="controls">
      <div id={panel} className="devices" hidden={!choosing}>
        {choosing && <Devices />}
      </div>
      <div className="bar">
        <button
          type="button"
          className="control"
          aria-pressed={muted}
          onClick={() => void localParticipant.setMicrophoneEnabled(muted)}
        >
          {muted ? <MutedIcon /> : <MicrophoneIcon />}
          <span>{muted ? "Unmute" : "Mute"}</span>
          <Level muted={muted} track={microphoneTrack?.track as LocalAudioTrack | undefined} />
        </button>
        <button
          type="button"
          className="control"
          aria-expanded={choosing}
          aria-controls={panel}
          onClick={() => setChoosing(!choosing)}
        >
          <DevicesIcon />
          <span>Devices</span>
        </button>
        <button type="button" className="control hang-up" onClick={onHangUp}>
          <HangUpIcon />
          <span>Hang up</span>
        </button>
      </div>
    </footer>
  );
}

/** How loud the microphone is. */
function Level({ track, muted }: { track: LocalAudioTrack | undefined; muted: boolean }) {
  const level = useTrackVolume(track);
  const shown = muted ? 0 : Math.min(1, level * 1.6);
  return (
    <span className="level" aria-hidden="true">
      <span style={{ transform: `scaleX(${shown.toFixed(2)})` }} data-level={shown.toFixed(2)} />
    </span>
  );
}

function Devices() {
  return (
    <>
      <Device kind="audioinput" label="Microphone" />
      {supportsAudioOutputSelection() && <Device kind="audiooutput" label="Speaker" />}
    </>
  );
}

function Device({ kind, label }: { kind: MediaDeviceKind; label: string }) {
  const { devices, activeDeviceId, setActiveMediaDevice } = useMediaDeviceSelect({ kind });
  const { microphoneTrack } = useLocalParticipant();
  const [failed, setFailed] = useState(false);
  const id = useId();
  // LiveKit knows the microphone that it opened itself; this one was opened before the room was there.
  const opened =
    kind === "audioinput" && microphoneTrack?.source === Track.Source.Microphone
      ? microphoneTrack.track?.mediaStreamTrack.getSettings().deviceId
      : undefined;
  const active = [activeDeviceId, opened, "default"].find((each) => devices.some(({ deviceId }) => deviceId === each));
  const choose = async (deviceId: string) => {
    setFailed(false);
    await setActiveMediaDevice(deviceId).catch(() => setFailed(true));
  };
  return (
    <div className="device">
      <label htmlFor={id}>{label}</label>
      <select
        id={id}
        value={active ?? ""}
        disabled={devices.length === 0}
        onChange={({ target }) => void choose(target.value)}
      >
        {devices.length === 0 && <option value="">The browser’s own</option>}
        {devices.map(({ deviceId, label: name }, index) => (
          <option key={deviceId} value={deviceId}>
            {name || `${label} ${index + 1}`}
          </option>
        ))}
      </select>
      {failed && <span role="alert">That one does not work. Choose another.</span>}
    </div>
  );
}
