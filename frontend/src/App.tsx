import { lazy, Suspense, useEffect, useRef, useSyncExternalStore } from "react";

import type { Caller } from "./caller";
import type { Call } from "./types";
import { Over, TalkStage } from "./Over";
import { Transcript } from "./Transcript";
import { Waiting } from "./Waiting";
import { GOES_ON, NOTICES, PHASE_WORDS } from "./words";

const InCall = lazy(() => import("./InCall"));

export function App({ caller }: { caller: Caller }) {
  const call = useSyncExternalStore(caller.subscribe, caller.current);
  const said = useSyncExternalStore(caller.subscribe, caller.said);
  const stage = useRef<HTMLElement>(null);

  const title = named(call);
  useEffect(() => void (document.title = title), [title]);

  useEffect(() => {
    // The pressed button is gone, and with it the keyboard focus.
    if (call.step !== "idle" && document.activeElement === document.body) {
      stage.current?.querySelector<HTMLElement>("h1")?.focus({ preventScroll: true });
    }
  }, [call.step]);

  const room = call.step === "joining" || call.step === "talking" ? call.room : undefined;
  return (
    <main ref={stage} className="page" data-step={call.step}>
      {call.step === "idle" && <TalkStage onPress={caller.press} live={call.live} />}
      {room ? (
        <Suspense>
          <InCall call={call} room={room} said={said} onHangUp={caller.hangUp} />
        </Suspense>
      ) : (
        <Waiting call={call} onCancel={caller.hangUp} />
      )}
      {(call.step === "over" || call.step === "failed") && (
        <>
          <Over call={call} seconds={caller.lasted} onPress={caller.press} />
          {said.length > 0 && <Transcript said={said} />}
        </>
      )}
      <p className="unseen" role="status">
        {aloud(call)}
      </p>
    </main>
  );
}

/** The page's name, for who waits in another tab. */
function named(call: Call): string {
  if (call.step === "queued" && call.line) return `Number ${call.line.position} in line`;
  return call.step === "talking" ? "In a call" : "Talk";
}

/** What a screen reader says of what happens by itself. What the agent does is heard. */
function aloud(call: Call): string {
  switch (call.step) {
    case "idle":
      return call.live ? `${GOES_ON.title}. ${GOES_ON.text}` : "";
    case "microphone":
      return "Allow your microphone.";
    case "queued":
      return call.line ? `You are number ${call.line.position} in line.` : "You are in line.";
    case "starting":
      return `Your agent is on its way. ${PHASE_WORDS[call.phase]}.`;
    case "joining":
      return "Connecting.";
    case "talking":
      return call.notices.map((notice) => NOTICES[notice]).join(" ") || "You are in the call.";
    case "over":
      return `${call.ending.title}. ${call.ending.text}`;
    default:
      return ""; // a failure is an alert of its own
  }
}
