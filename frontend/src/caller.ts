// Makes a call: asks for the microphone and for a session, waits for the agent, joins the room, and cleans up.

import { type Api, Refused, type Session, type SessionEvent, type Started, type Token, Unreachable } from "./api";
import { follow, pause } from "./follow";
import { type Action, busy, IDLE, next } from "./machine";
import type { Left, LocalAudioTrack, Room, Said } from "./room";
import type { Call, Failure } from "./types";
import { caller as callerId, drop, keep, kept, randomId, renew } from "./user";
import {
  CANCELLED, deaf, ELSEWHERE, ended, failed, HUNG_UP, NETWORK_LOST, NO_MEDIA, refused,
} from "./words";

type Media = typeof import("./room");

/** Requests that got no answer, or one that says to wait, are sent so often. */
const ATTEMPTS = 3;
/** Longest wait between two of them, and for the reason of an end, in milliseconds. */
const PAUSE = 4_000;
/** For how long the user is told that another agent is there, in milliseconds. */
const REPLACED = 8_000;

/** What belongs to one press of the button. Everything of it ends with `stopping`. */
interface Attempt {
  readonly stopping: AbortController;
  readonly ready: PromiseWithResolvers<void>;
  session?: Session;
  /** It was live before, begun by another page, or by this one before it was reloaded: only who hangs up in the call ends it. */
  shared?: boolean;
  microphone?: LocalAudioTrack;
  room?: Room;
}

export class Caller {
  private call: Call = IDLE;
  private attempt: Attempt | undefined;
  private joined = 0;
  private words: readonly Said[] = [];
  private readonly listeners = new Set<() => void>();
  private readonly api: Api;
  private readonly media: () => Promise<Media>;

  /** Length of the last call in seconds, 0 when there was none. */
  lasted = 0;

  constructor(api: Api, media: () => Promise<Media>) {
    this.api = api;
    this.media = media;
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly current = (): Call => this.call;

  /** What was said in this call, or in the last one. */
  readonly said = (): readonly Said[] => this.words;

  /** Talk. */
  readonly press = (): void => {
    if (busy(this.call)) return;
    const attempt: Attempt = { stopping: new AbortController(), ready: withResolvers() };
    this.attempt = attempt;
    this.lasted = this.joined = 0;
    this.words = [];
    this.dispatch({ type: "pressed" });
    this.run(attempt).catch((failure: unknown) => {
      if (!attempt.stopping.signal.aborted) this.fail(attempt, refused(failure));
    });
  };

  /** Say it when this browser is in a call already: in another tab, or since before the page was reloaded. */
  readonly recall = async (): Promise<void> => {
    const mine = kept();
    const found = mine && (await this.api.look(mine, new AbortController().signal).catch(() => undefined));
    if (found?.status === "ready" || found?.status === "active") this.dispatch({ type: "live" });
  };

  /** Hang up, or leave the line. */
  readonly hangUp = (): void => {
    if (!this.attempt || !busy(this.call)) return;
    const talking = this.call.step === "talking";
    this.end(this.attempt, { type: "over", ending: talking ? HUNG_UP : CANCELLED }, talking || !this.attempt.shared);
  };

  /** The page is closed: a place in line is given up. A call is not, for a reloaded page finds it again. */
  readonly leave = (): void => {
    if (this.call.step === "queued" || this.call.step === "starting") this.hangUp();
  };

  private async run(attempt: Attempt): Promise<void> {
    const { signal } = attempt.stopping;
    const media = await this.media();
    // No agent is taken while the browser still asks for the microphone: another user may wait for it.
    const first = (await allowed()) ? undefined : await this.listen(attempt, media);
    if (first === false) return;
    this.dispatch({ type: "allowed" });
    const listening = first ? Promise.resolve(true) : this.listen(attempt, media);
    const [started, hears] = await Promise.all([this.start(attempt), listening]);
    if (!started || !hears) return;
    await this.wait(attempt, started);
    if (signal.aborted) return;
    const token = await again(() => this.api.token(started, signal), signal);
    if (signal.aborted) return;
    await this.join(attempt, media, token);
  }

  /** Opens the microphone; false when there is none, and the attempt is over. */
  private async listen(attempt: Attempt, media: Media): Promise<boolean> {
    try {
      const microphone = await media.openMicrophone();
      if (attempt.stopping.signal.aborted) microphone.stop();
      else attempt.microphone = microphone;
      return !attempt.stopping.signal.aborted;
    } catch (failure) {
      this.fail(attempt, deaf(failure));
      return false;
    }
  }

  private async start(attempt: Attempt): Promise<Started | undefined> {
    const { signal } = attempt.stopping;
    const mine = kept();
    // Not cancelled with the attempt: the server would keep a session that no page knows.
    const started = await this.begin(signal, mine);
    attempt.shared = started.existing === true || mine?.sessionId === started.sessionId;
    if (signal.aborted) return attempt.shared ? undefined : void this.forget(started);
    attempt.session = started;
    keep(started);
    const { status, position, estimatedWaitSeconds } = started;
    this.dispatch({ type: "event", event: { at: 0, state: status, position } });
    if (position) this.dispatch({ type: "line", line: { position, estimatedWaitSeconds } });
    void follow(this.api, started, {
      onEvent: (event) => this.happened(attempt, event),
      onLine: (line) => this.dispatch({ type: "line", line }),
    }, signal);
    return started;
  }

  private async begin(signal: AbortSignal, mine: Session | undefined): Promise<Started> {
    const send = (): Promise<Started> => {
      const key = randomId();
      return again(() => this.api.start(callerId(), key, mine), signal, (status) => status === undefined);
    };
    try {
      return await send();
    } catch (failure) {
      if (!(failure instanceof Refused) || failure.problem.code !== "user_has_session") throw failure;
      renew();
      return send();
    }
  }

  /** Waits until an agent is there. A long wait is one without an open microphone. */
  private async wait(attempt: Attempt, { status }: Started): Promise<void> {
    if (status === "ready" || status === "active") attempt.ready.resolve();
    if (status === "queued") {
      attempt.microphone?.stop();
      delete attempt.microphone;
    }
    const stopped = withResolvers<void>();
    attempt.stopping.signal.addEventListener("abort", () => stopped.resolve());
    await Promise.race([attempt.ready.promise, stopped.promise]);
  }

  private happened(attempt: Attempt, event: SessionEvent): void {
    if (attempt !== this.attempt) return;
    if (event.state === "ended") return this.end(attempt, { type: "over", ending: ended(event) }, false);
    if (event.state === "error") {
      const failure = failed(event, this.joined > 0);
      return this.end(attempt, { type: "failed", failure }, false);
    }
    const before = this.call;
    this.dispatch({ type: "event", event });
    if (event.state === "ready" || event.state === "active") attempt.ready.resolve();
    if (event.state === "active" && before !== this.call) {
      void pause(REPLACED, attempt.stopping.signal).then(() =>
        this.dispatch({ type: "notice", notice: "replaced", on: false }),
      );
    }
  }

  private async join(attempt: Attempt, media: Media, token: Token): Promise<void> {
    const { signal } = attempt.stopping;
    const room = media.makeRoom({
      onSaid: (said) => this.heard(said),
      onLeft: (why) => void this.left(attempt, why),
      onReconnecting: (on) => this.dispatch({ type: "notice", notice: "reconnecting", on }),
      onMicrophone: (works) => this.dispatch({ type: "notice", notice: "microphone", on: !works }),
    });
    attempt.room = room;
    this.dispatch({ type: "room", room });
    if (!attempt.microphone && !(await this.listen(attempt, media))) return;
    try {
      await media.join(room, token, attempt.microphone!);
    } catch {
      return this.fail(attempt, NO_MEDIA);
    }
    if (signal.aborted) return;
    this.joined = Date.now();
    this.dispatch({ type: "joined", room });
  }

  /** The room is left, and not by the user. The session knows why, unless it goes on without them. */
  private async left(attempt: Attempt, why: Left): Promise<void> {
    const { signal } = attempt.stopping;
    if (signal.aborted || this.joined === 0) return;
    if (why === "elsewhere") return this.end(attempt, { type: "over", ending: ELSEWHERE }, false);
    if (why === "closed") await pause(PAUSE, signal);
    if (signal.aborted || !attempt.session) return;
    const found = await this.api.look(attempt.session, signal).catch(() => undefined);
    if (signal.aborted) return;
    if (found && (why === "closed" || found.status === "ended" || found.status === "error")) {
      const failure = found.status === "error" && failed(found, true);
      return this.end(attempt, failure ? { type: "failed", failure } : { type: "over", ending: ended(found) }, false);
    }
    this.end(attempt, { type: "failed", failure: NETWORK_LOST }, false);
  }

  private fail(attempt: Attempt, failure: Failure): void {
    const { session, shared, stopping } = attempt;
    const first = attempt === this.attempt && !stopping.signal.aborted;
    this.end(attempt, { type: "failed", failure }, false);
    if (first && session && !shared) void this.release(session);
  }

  /** Frees the agent of a call that this page alone began, unless another tab has been in it since. */
  private async release(session: Session): Promise<void> {
    const found = await this.api.look(session, new AbortController().signal).catch(() => undefined);
    // A user in the room waits there for the media server to come back, or for another agent.
    if (found && !found.events.some(({ state }) => state === "active")) this.forget(session);
  }

  /** Ends everything of an attempt, and its session where that is nobody else's. */
  private end(attempt: Attempt, action: Action, stop: boolean): void {
    if (attempt !== this.attempt || attempt.stopping.signal.aborted) return;
    if (this.joined) this.lasted = (Date.now() - this.joined) / 1000;
    attempt.stopping.abort();
    attempt.microphone?.stop();
    void attempt.room?.disconnect();
    if (stop && attempt.session) this.forget(attempt.session);
    this.dispatch(action);
  }

  private forget(session: Session): void {
    drop(session);
    // When it fails the agent is free a little later: the server sees that nobody is in the room.
    void this.api.stop(session).catch(() => undefined);
  }

  private dispatch(action: Action): void {
    const call = next(this.call, action);
    if (call === this.call) return;
    this.call = call;
    this.tell();
  }

  private heard(said: Said): void {
    const known = this.words.findIndex(({ id }) => id === said.id);
    this.words = known < 0 ? [...this.words, said] : this.words.with(known, said);
    this.tell();
  }

  private tell(): void {
    for (const listener of this.listeners) listener();
  }
}

/** Whether the microphone may be used without asking. */
async function allowed(): Promise<boolean> {
  try {
    return (await navigator.permissions.query({ name: "microphone" })).state === "granted";
  } catch {
    return false; // a browser that does not say
  }
}

/** Sends a request again that got no answer, or, where `may` says so, one that was refused for a moment. */
async function again<T>(
  send: () => Promise<T>, signal: AbortSignal, may: (status: number | undefined) => boolean = (s) => s === undefined || s === 503,
): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await send();
    } catch (failure) {
      const status = failure instanceof Refused ? failure.problem.status : undefined;
      const passing = failure instanceof Unreachable || failure instanceof Refused;
      if (signal.aborted || !passing || !may(status) || attempt === ATTEMPTS) throw failure;
      const wait = failure instanceof Refused ? (failure.problem.retryAfter ?? 1) * 1000 : 400 * attempt;
      await pause(Math.min(wait, PAUSE), signal);
    }
  }
}

// Promise.withResolvers, for browsers from before 2024.
function withResolvers<T>(): PromiseWithResolvers<T> {
  let resolve!: (value: T | PromiseLike<T>) => void;
  let reject!: (reason?: unknown) => void;
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}

interface PromiseWithResolvers<T> {
  promise: Promise<T>;
  resolve: (value: T | PromiseLike<T>) => void;
  reject: (reason?: unknown) => void;
}
