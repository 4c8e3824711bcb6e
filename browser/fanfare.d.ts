// Types of fanfare.js. Positions are opaque strings; "0" means before the oldest message kept.

/** Opens a connection that keeps itself up. Without a URL: to the server that served this module. */
export function connect(url?: string | URL, options?: ConnectOptions): Fanfare

export interface ConnectOptions {
  /** Who speaks: at most 64 characters. Default: nobody in particular. */
  name?: string
  /**
   * For servers with authentication: a token, or what returns one, asked anew for each connection, and when the one there is
   * expires soon. After one was refused it is asked once more; if that is the same, or is refused too, the state is closed.
   */
  token?: string | (() => string | Promise<string>)
  /**
   * Where positions and unanswered publishes survive a refresh. Default: sessionStorage, where there is one; null: nowhere.
   * Two connections of one page to one server must not share it: give the second null.
   */
  storage?: Storage | null
  /**
   * How long after it was first sent a publish without an answer is repeated, in ms. Default: 270,000, for servers that
   * remember ids for five minutes, as they do by default. Where they remember them for less, this must be less, too.
   */
  repeatFor?: number
  /** The WebSocket to use. Default: the global one, which Node.js has from version 22 on. */
  WebSocket?: unknown
}

export type State = 'connecting' | 'connected' | 'waiting' | 'closed'

export interface StateEvent extends Event {
  readonly state: State
  readonly error?: FanfareError
  /** When the next attempt begins, in ms since 1970. */
  readonly retryAt?: number
}

export interface Fanfare extends EventTarget {
  /** What the connection is now. closed is the end: close() was called, or error says why coming back is of no use. */
  readonly state: State
  /** Why it is not connected. */
  readonly error?: FanfareError
  /** When the next attempt begins, in ms since 1970, while waiting. */
  readonly retryAt?: number
  /** This connection's name in join and leave. */
  readonly session?: string
  /** Who the token says we are. */
  readonly subject?: string
  /** Who speaks, where the server asks for no token. A change counts from the next connection on: see reconnect. */
  name?: string
  /** What this tab published before a refresh and had no answer to: it is published now. */
  readonly restored: { channel: string, key?: string, data: any, position: Promise<string>, discard(): void }[]
  onstate?: ((event: StateEvent) => void) | null
  addEventListener(type: 'state', listener: (event: StateEvent) => void, options?: boolean | AddEventListenerOptions): void
  addEventListener(...any: Parameters<EventTarget['addEventListener']>): void
  removeEventListener(type: 'state', listener: (event: StateEvent) => void, options?: boolean | EventListenerOptions): void
  removeEventListener(...any: Parameters<EventTarget['removeEventListener']>): void

  /**
   * Reads a channel, or a pattern ("chat/**"), until the subscription's close: by callbacks if there is onMessage (a
   * function alone is that), otherwise by iterating over the subscription.
   */
  subscribe<T = any>(channel: string, options?: SubscribeOptions<T> | SubscribeOptions<T>['onMessage']): Subscription<T>
  /**
   * Publishes bytes (an ArrayBuffer or a view of one) or what JSON can say. Returns the position once the server has
   * the message; while there is no connection it waits, among at most 1,000.
   */
  publish(channel: string, data: unknown, options?: { key?: string, signal?: AbortSignal }): Promise<string>
  /** A page of what is kept, oldest first: the newest limit messages, or the oldest limit after since. */
  history<T = any>(channel: string, options?: { since?: string, limit?: number, signal?: AbortSignal }): Promise<HistoryPage<T>>
  /** Who is here. */
  presence(channel: string, options?: { limit?: number, signal?: AbortSignal }): Promise<Presence>
  /** Asks the server's program. Fails with disconnected if the connection ends before the answer: it may have been done. */
  request<T = any>(method: string, data?: unknown, options?: { signal?: AbortSignal }): Promise<T>
  /** Where a subscription of this tab to the channel goes on after a refresh. */
  position(channel: string): string | undefined
  /** Leaves the connection, if there is one, for a new one, at once. */
  reconnect(): void
  /** Ends everything. What was published and not answered fails with closed. */
  close(): void
}

export interface SubscribeOptions<T = any> {
  /** Where to begin. Default: where this tab was, else with what is published from now on. */
  since?: string
  /** Also who is here, who comes and who goes. Not for patterns. */
  presence?: boolean
  /** What becomes of this reader when it lags. Default: what the server's settings say. */
  slow?: 'catch-up' | 'skip' | 'latest' | 'close'
  onMessage?: (message: Message<T>, subscription: Subscription<T>) => void
  /** Messages are missing here. */
  onGap?: (gap: Gap, subscription: Subscription<T>) => void
  /** Who is here, after each connection: takes the place of what was known. */
  onPresence?: (presence: Presence, subscription: Subscription<T>) => void
  onJoin?: (change: PresenceChange, subscription: Subscription<T>) => void
  onLeave?: (change: PresenceChange, subscription: Subscription<T>) => void
  /** The subscription was refused, or the right to it was taken away, and has ended. */
  onError?: (error: FanfareError, subscription: Subscription<T>) => void
}

export interface Subscription<T = any> extends AsyncIterable<Message<T>> {
  readonly channel: string
  /** After the last message that was handed over. */
  readonly position?: string
  /** How many are here, with presence. */
  readonly count?: number
  /** Ends it; an iteration ends too. */
  close(): void
}

export interface Message<T = any> {
  type: 'message'
  channel: string
  /** The subscription that brings it, if that is a pattern. */
  pattern?: string
  /** Of this message: what to resume from after it. */
  position: string
  /** Of the message before it in its channel. */
  predecessor?: string
  /** UTC, RFC 3339. */
  time: string
  sender?: string
  key?: string
  /** A Uint8Array, where bytes were published. */
  data: T
}

export interface Gap {
  type: 'gap'
  channel?: string
  pattern?: string
  reason: 'expired' | 'lost' | 'outrun' | 'skipped' | 'superseded' | 'forbidden' | (string & {})
  /** How many, where that is known. */
  missed?: number
  position: string
}

export interface HistoryPage<T = any> {
  channel: string
  messages: Message<T>[]
  /** A good since for subscribe. */
  position: string
  /** Messages after since are no longer kept. */
  gap: boolean
  /** The limit left newer messages out. */
  more: boolean
}

export interface Member { session: string, name?: string, since: string }

export interface Presence {
  channel: string
  /** All who are here. */
  count: number
  /** Some of them, or all. */
  members: Member[]
}

export interface PresenceChange {
  type: 'join' | 'leave'
  channel: string
  /** How many are here after it. */
  count: number
  /** Those who came or went. */
  members: Member[]
  /** How many more did. */
  omitted?: number
}

/** code is for programs: one of docs/protocol.md, or bad_url, no_websocket, queue_full, disconnected, offline, silent, uncertain, closed. */
export class FanfareError extends Error {
  readonly code: string
  /** After how many ms the server may do what it refused. */
  readonly retry?: number
  constructor(code: string, message: string, retry?: number)
}
