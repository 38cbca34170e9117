// The types of orchestrator/web/sse.js, which both pages use: the operator's is served without a build.
declare module "@orchestrator/sse" {
  export interface Stream {
    /** The id of the last message. */
    readonly place: string;
    readonly done: Promise<"over" | "refused" | "given_up" | "closed">;
    close(): void;
  }
  export interface Listener {
    message(event: string, data: unknown): void;
    open?(): void;
    lost?(failure: unknown): void;
  }
  export interface Options {
    silence?: number;
    first?: number;
    last?: string;
    from?: string;
    attempts?: number;
  }
  export function follow(
    connect: (signal: AbortSignal, lastId: string) => Promise<Response>, on: Listener, options?: Options,
  ): Stream;
}
