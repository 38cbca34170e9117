// An agent in JavaScript: it joins the room by LiveKit's SDK and echoes its user.
//
//   npm ci --prefix examples/node && AGENT_COMMAND="node examples/node/agent.mjs" make up
//
// It speaks the lines of docs/agent-protocol.md by its standard streams: what it prints otherwise is its log.
import { createInterface } from 'node:readline';
import {
  AudioSource,
  AudioStream,
  DisconnectReason,
  LocalAudioTrack,
  ParticipantKind,
  Room,
  RoomEvent,
  TrackKind,
  TrackPublishOptions,
  TrackSource,
} from '@livekit/rtc-node';

const RATE = 48000;
const LOST = [DisconnectReason.CONNECTION_TIMEOUT, DisconnectReason.SIGNAL_CLOSE, DisconnectReason.STATE_MISMATCH];
const INTENDED = [DisconnectReason.ROOM_DELETED, DisconnectReason.ROOM_CLOSED, DisconnectReason.PARTICIPANT_REMOVED];

const say = (type, fields = {}) => process.stdout.write(`${JSON.stringify({ type, ...fields })}\n`);
const room = new Room();

// A phone that still rings is in the room, but not on the line.
const isUser = ({ kind, attributes }) =>
  kind === ParticipantKind.STANDARD ||
  (kind === ParticipantKind.SIP && ['', 'active'].includes(attributes['sip.callStatus'] ?? ''));

let present = false;
function look(gone) {
  const now = [...room.remoteParticipants.values()].some(isUser);
  if (now !== present) say('user', { present: now, lost: LOST.includes(gone?.disconnectReason) });
  present = now;
}

async function echo(track, source) {
  let heard = false;
  for await (const frame of new AudioStream(track, RATE, 1)) {
    await source.captureFrame(frame);
    if (!heard) say('audible');
    heard = true;
  }
}

async function serve({ url, token, userId, takeovers, conversation }) {
  console.log(`serves ${userId}, takeovers: ${takeovers}, turns until now: ${conversation.length}`);
  const source = new AudioSource(RATE, 1);
  room
    .on(RoomEvent.ParticipantConnected, () => look())
    .on(RoomEvent.ParticipantDisconnected, look)
    .on(RoomEvent.ParticipantAttributesChanged, () => look())
    .on(RoomEvent.TrackSubscribed, (track, _, who) => {
      if (track.kind === TrackKind.KIND_AUDIO && isUser(who)) echo(track, source);
    })
    .on(RoomEvent.Disconnected, (reason) => {
      if (INTENDED.includes(reason)) say('leave', { reason: 'the room is closed' });
      else say('failed', { cause: `lost the room: ${DisconnectReason[reason]}` });
    });
  await room.connect(url, token, { autoSubscribe: true, dynacast: false });
  const options = new TrackPublishOptions({ source: TrackSource.SOURCE_MICROPHONE });
  await room.localParticipant.publishTrack(LocalAudioTrack.createAudioTrack('echo', source), options);
  await room.localParticipant.setAttributes({ 'lk.agent.state': 'listening' });
  say('joined');
  look();
  say('turn', { role: 'agent', text: 'I repeat what you say.' });
}

async function stop() {
  room.removeAllListeners();
  await room.disconnect();
  process.exit(0);
}

say('ready');
for await (const line of createInterface({ input: process.stdin })) {
  const message = JSON.parse(line);
  if (message.type === 'ping') say('pong', { n: message.n });
  if (message.type === 'assign') serve(message).catch((error) => say('failed', { cause: String(error) }));
  if (message.type === 'goodbye') say('leave', { reason: 'the node is stopping' });
  if (message.type === 'stop') await stop();
}
process.exit(1); // its agent's process is gone
