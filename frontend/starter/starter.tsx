// A call with nothing but LiveKit's own client and hooks, used as its React starter uses them: a token source that is
// an endpoint, `useSession` (which fetches a token when the page mounts), `useAgent` (which gives an agent up after 20 s).
// For the tests: any client that speaks LiveKit's token-endpoint contract gets an agent of ours.
import {
  RoomAudioRenderer,
  SessionProvider,
  useAgent,
  useSession,
  useSessionContext,
  useSessionMessages,
} from "@livekit/components-react";
import { TokenSource } from "livekit-client";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

const asked = new URLSearchParams(location.search);
const tokens = TokenSource.endpoint(`${asked.get("api")}/api/token`);
const options = asked.has("agent") ? { agentName: asked.get("agent")! } : {};

function Call() {
  const session = useSessionContext();
  const agent = useAgent();
  const { messages } = useSessionMessages();
  return (
    <main>
      <button onClick={() => void session.start()}>Start call</button>
      <button onClick={() => void session.end()}>End call</button>
      <p>connection: {session.connectionState}</p>
      <p>agent: {agent.state}</p>
      <p>failure: {agent.failureReasons?.join("; ") ?? "none"}</p>
      <ol>
        {messages.map((message) => (
          <li key={message.id}>{message.message}</li>
        ))}
      </ol>
      <RoomAudioRenderer />
    </main>
  );
}

function Page() {
  const session = useSession(tokens, options);
  return (
    <SessionProvider session={session}>
      <Call />
    </SessionProvider>
  );
}

createRoot(document.getElementById("root")!).render(
  <StrictMode>
    <Page />
  </StrictMode>,
);
