import { PHASES } from "./machine";
import type { Call } from "./types";
import { about, PHASE_WORDS } from "./words";

/** Everything between the press of the button and the room. Nothing before or after it. */
export function Waiting({ call, onCancel }: { call: Call; onCancel: () => void }) {
  switch (call.step) {
    case "microphone":
      return (
        <section className="stage">
          <div className="orb ring" />
          <h1 tabIndex={-1}>One moment</h1>
          <p className="late">Your browser asks for the microphone: please allow it.</p>
          <Cancel onCancel={onCancel}>Cancel</Cancel>
        </section>
      );
    case "queued":
      return <Queued line={call.line} onCancel={onCancel} />;
    case "starting":
      return (
        <section className="stage">
          <div className="orb ring" />
          <h1 tabIndex={-1}>Your agent is on its way</h1>
          <ol className="phases late" aria-label="Progress">
            {PHASES.map((phase, index) => {
              const done = index <= PHASES.indexOf(call.phase);
              return (
                <li key={phase} data-done={done}>
                  {PHASE_WORDS[phase]}
                  <span className="unseen">{done ? ": done" : ": not yet"}</span>
                </li>
              );
            })}
          </ol>
          <Cancel onCancel={onCancel}>Cancel</Cancel>
        </section>
      );
    case "joining":
      return (
        <section className="stage">
          <div className="orb ring" />
          <h1 tabIndex={-1}>Connecting</h1>
          <Cancel onCancel={onCancel}>Cancel</Cancel>
        </section>
      );
    default:
      return null;
  }
}

function Queued({ line, onCancel }: { line: Extract<Call, { step: "queued" }>["line"]; onCancel: () => void }) {
  const wait = about(line?.estimatedWaitSeconds);
  return (
    <section className="stage">
      <div className="orb ring" aria-hidden="true">
        <span className="number">{line?.position}</span>
      </div>
      <h1 tabIndex={-1}>{line ? (line.position === 1 ? "You are next" : `Number ${line.position} in line`) : "In line"}</h1>
      <p>
        {wait ? `About ${wait} until an agent is free.` : "All agents are in calls. It is your turn when one is free."}
      </p>
      <p className="aside">Your microphone is off while you wait. Keep this page open.</p>
      <Cancel onCancel={onCancel}>Leave the line</Cancel>
    </section>
  );
}

function Cancel({ onCancel, children }: { onCancel: () => void; children: string }) {
  return (
    <button type="button" className="plain" onClick={onCancel}>
      {children}
    </button>
  );
}
