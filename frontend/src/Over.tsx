import { useEffect, useState } from "react";

import { MicrophoneIcon } from "./icons";
import type { Call } from "./types";
import { duration, GOES_ON } from "./words";

/** Before the first call; `live`: this browser is in one already. */
export function TalkStage({ onPress, live = false }: { onPress: () => void; live?: boolean | undefined }) {
  if (live) {
    return (
      <section className="stage">
        <TalkButton label="Return" onPress={onPress} />
        <h1 tabIndex={-1}>{GOES_ON.title}</h1>
        <p>{GOES_ON.text}</p>
      </section>
    );
  }
  return (
    <section className="stage">
      <TalkButton label="Talk" onPress={onPress} />
      <h1 tabIndex={-1}>Talk with an agent</h1>
      <p>It is already running and answers at once.</p>
      <p className="aside">Your browser will ask for the microphone.</p>
    </section>
  );
}

/** After a call, or when there was none: why, what to do, and the button again. */
export function Over({ call, seconds, onPress }: {
  call: Extract<Call, { step: "over" | "failed" }>;
  seconds: number;
  onPress: () => void;
}) {
  const failure = call.step === "failed" ? call.failure : undefined;
  const { title, text } = failure ?? (call as Extract<Call, { step: "over" }>).ending;
  const left = useCountdown(failure?.retryAfter ?? 0);
  return (
    <section className="stage">
      {!failure?.final && (
        <TalkButton label={left ? `${left} s` : "Talk again"} onPress={onPress} waiting={left > 0} />
      )}
      <div {...(failure ? { role: "alert", className: "failure" } : {})}>
        <h1 tabIndex={-1}>{title}</h1>
        <p>{text}</p>
      </div>
      {failure?.requestId && <p className="aside">Request {failure.requestId}</p>}
      {left > 0 && <p className="aside">You can try again in {left} s.</p>}
      {seconds > 0 && <p className="aside">The call lasted {duration(seconds)}.</p>}
    </section>
  );
}

function TalkButton({ label, onPress, waiting = false }: { label: string; onPress: () => void; waiting?: boolean }) {
  return (
    <button
      type="button"
      className="orb talk"
      onClick={waiting ? undefined : onPress}
      aria-disabled={waiting}
      aria-label={waiting ? `Talk again, in ${label}` : label}
    >
      <MicrophoneIcon />
      <span>{label}</span>
    </button>
  );
}

/** The seconds that are left, whole ones, down to 0. */
function useCountdown(seconds: number): number {
  const [left, setLeft] = useState(seconds);
  useEffect(() => {
    const over = Date.now() + seconds * 1000;
    setLeft(seconds);
    if (seconds <= 0) return;
    const timer = setInterval(() => {
      const rest = Math.max(0, Math.ceil((over - Date.now()) / 1000));
      setLeft(rest);
      if (rest === 0) clearInterval(timer);
    }, 250);
    return () => clearInterval(timer);
  }, [seconds]);
  return left;
}
