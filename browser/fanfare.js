// The client of a Fanfare server, for browsers and Node.js: many channels over one connection in the conversation
// fanfare.v1. The README beside this file says how to use it, fanfare.d.ts has the types.
//
// How nothing is lost or doubled. Each message carries a position. A subscription remembers that of the last message
// it handed over, in sessionStorage too, and every new connection, after a cut or a refresh, subscribes from there.
// Each publish has an id, and is kept (in sessionStorage too) and repeated with the same id and the same ?client= until
// it is answered; the server takes an id once.

const HANDSHAKE = 10_000   // ms until the server has said welcome
const PROBE = 2_000        // ms for an answer when something suggests that the connection is dead
const ASLEEP = 5_000       // ms between two ticks, which are one second apart: then this program did not run
const PAUSE = 250          // ms: the first pause before we try again is random below it; the bound doubles …
const LONGEST = 20_000     // … up to this
const ASKED = 600_000      // ms: no server can ask for a longer one; a timer for more than 24 days would fire at once
const STABLE = 5_000       // ms after which a connection was a good one
const REPEAT = 270_000     // ms for which an unanswered publish is repeated, unless the server tells
const MANY = 1_000         // publishes that wait for an answer, and messages that wait for an iterator
const LARGE = 4 << 20      // characters of either
const KEPT = 1 << 20       // characters of publishes that survive a refresh

const passing = ['timeout', 'shutting_down', 'internal', 'auth_unavailable', 'rate_limited']   // errors after which a command is repeated
const personal = ['unauthenticated', 'bad_token', 'token_expired', 'token_not_yet', 'token_revoked', 'revoked', 'forbidden']   // byes after which another token may do

export class FanfareError extends Error {
  name = 'FanfareError'
  constructor(code, message, retry) {
    super(message)
    this.code = code
    if (retry) this.retry = retry
  }
}

export const connect = (url, options) => new Fanfare(url, options)

// random returns 24 characters that nobody can guess. (randomUUID is for secure contexts only.)
const random = () => Array.from(crypto.getRandomValues(new Uint8Array(24)), byte => (byte % 36).toString(36)).join('')

// encode returns the fields that carry data: bytes as base64, everything else as JSON.
function encode(data) {
  if (!(data instanceof ArrayBuffer || ArrayBuffer.isView(data))) return { data }
  const bytes = data instanceof ArrayBuffer ? new Uint8Array(data) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  let text = ''
  for (let i = 0; i < bytes.length; i += 8192) text += String.fromCharCode(...bytes.subarray(i, i + 8192))
  return { encoding: 'base64', data: btoa(text) }
}

// decode turns a message's base64 back into bytes.
function decode(message) {
  if (message.encoding === 'base64') {
    message.data = Uint8Array.from(atob(message.data), letter => letter.charCodeAt())
    delete message.encoding
  }
  return message
}

// kept is how many bytes a publish has as the server keeps it.
function kept({ data, encoding }) {
  if (encoding) return data.replace(/=+$/, '').length * 3 >> 2
  return new TextEncoder().encode(typeof data === 'string' ? data : JSON.stringify(data)).length
}

// home is where a server is to be found: at a URL, or where this module was loaded from.
function home(url) {
  const from = globalThis.location?.href
  if (url?.constructor === Object) throw new FanfareError('bad_url', 'connect takes a URL and then the options; without a URL that is connect(undefined, options)')
  if (!url && import.meta.url.endsWith('/-/fanfare.js')) return new URL('connect', import.meta.url)
  if (!url && !from) throw new FanfareError('bad_url', 'connect needs the URL of a server: this module was not loaded from one')
  const at = new URL(url || '/', from)
  at.pathname = at.pathname.replace(/\/*(-\/connect)?$/, '/-/connect')
  return at
}

// later throws an error where nobody catches it: in the console, as an 'error' event of the window.
const later = error => { setTimeout(() => { throw error }) }

// A Store is a part of a Storage. It may be forbidden, or full; then the page forgets, and works.
class Store {
  #storage
  #prefix
  constructor(storage, prefix) {
    this.#prefix = prefix
    try { this.#storage = storage === undefined ? globalThis.sessionStorage : storage } catch { }
  }
  get(key) { try { return this.#storage?.getItem(this.#prefix + key) ?? undefined } catch { } }
  set(key, value) { try { this.#storage?.setItem(this.#prefix + key, value); return !!this.#storage } catch { return false } }
  remove(key) { try { this.#storage?.removeItem(this.#prefix + key) } catch { } }
  keys(start) {
    try {
      const all = Array.from({ length: this.#storage?.length ?? 0 }, (_, i) => this.#storage.key(i))
      return all.filter(key => key.startsWith(this.#prefix + start)).map(key => key.slice(this.#prefix.length)).sort()
    } catch { return [] }
  }
}

// A Line is one WebSocket, until it ends, of which it tells once. It is judged by when we last heard something, not by
// counting ticks: timers of a page in the background come once a minute, those of a sleeping device not at all.
class Line {
  #ws
  #onend
  #heard = Date.now()
  #patience = HANDSHAKE
  #heartbeat
  constructor(ws, onmessage, onend) {
    this.#ws = ws
    this.#onend = onend
    ws.onmessage = event => {
      this.#heard = Date.now()
      if (this.#heartbeat) this.#patience = this.#heartbeat * 1.5
      onmessage(JSON.parse(event.data), event.data.length)
    }
    ws.onclose = ({ code, reason }) => {
      const who = { 4401: 'unauthenticated', 4403: 'forbidden' }[code]
      this.end(new FanfareError(who ?? 'disconnected', reason || (this.#heartbeat ? `the connection was lost (${code})`
        : `no connection came about (${code}): the server is away, or it refuses us, as it does pages of an origin that it was not told to let in`)), undefined, who)
    }
    ws.onerror = () => { }   // a close follows
  }
  welcome(heartbeat) {
    this.#heartbeat = heartbeat
    this.#patience = heartbeat * 1.5
  }
  say(text) { if (this.#ws.readyState === 1) this.#ws.send(text) }
  look() {
    const silent = Date.now() - this.#heard
    if (silent < 0) this.#heard = Date.now()   // the clock was put back
    if (silent > this.#patience) this.end(new FanfareError('silent', `nothing was heard from the server for ${Math.round(silent / 1000)} seconds`))
  }
  probe() {
    this.look()
    const silent = Date.now() - this.#heard
    if (!this.#heartbeat || silent < PROBE) return
    this.#patience = Math.min(this.#patience, silent + PROBE)
    this.say('{"type":"ping"}')
    setTimeout(() => this.look(), PROBE + 1)
  }
  // denied: because of who we are.
  end(error, retry, denied) {
    const tell = this.#onend
    if (!tell) return
    this.#onend = this.#ws.onmessage = this.#ws.onclose = null
    this.#ws.close(1000)
    tell(error, retry, denied)
  }
}

// A Fanfare is what outlives connections: subscriptions, and commands without an answer.
class Fanfare extends EventTarget {
  state = 'connecting'   // connected, waiting (for retryAt), closed
  error                  // why it is not connected
  retryAt                // ms since 1970
  session                // this connection's name in join and leave
  subject                // who the token says we are
  onstate                // called with each change of state
  restored               // what this tab published before a refresh, and had no answer to

  #url
  #options
  #store
  #client
  #line
  #token                       // that was said last
  #silent                      // it went with the handshake, and nobody has said welcome
  #denial                      // why the last one was refused
  #renewing                    // the line over which we say another
  #subscriptions = new Map()   // by channel or pattern
  #calls = new Map()           // by id: {text, resolve, reject, again, sent, first, stored, forget}
  #waiting = 0                 // publishes among them,
  #size = 0                    // their characters,
  #kept = 0                    // and of these those that survive a refresh
  #serial = 0
  #limit = Infinity            // bytes of a message
  #repeat = REPEAT             // ms for which an unanswered publish is repeated
  #failures = 0
  #openedAt = 0
  #notBefore = 0
  #retrying
  #ticking
  #ticked = Date.now()
  #unlisten = new AbortController()

  constructor(url, options = {}) {
    super()
    this.#url = home(url)
    this.#url.protocol = this.#url.protocol.replace('http', 'ws')
    this.#url.hash = ''
    this.name = options.name
    this.#options = { token: this.#url.searchParams.get('token'), ...options }
    this.#url.searchParams.delete('token')   // which stands in many a log
    this.#store = new Store(options.storage, `fanfare:${this.#url.origin}${this.#url.pathname} `)
    this.#client = this.#store.get('client') ?? random()
    this.#store.set('client', this.#client)
    this.#restore()
    this.#listen()
    this.#dial()
  }

  // ---- What a program calls -------------------------------------------------

  subscribe(channel, options = {}) {
    if (typeof options === 'function') options = { onMessage: options }
    if (this.state === 'closed') throw this.#ended()
    if (this.#subscriptions.has(channel)) throw new FanfareError('already_subscribed', `there is a subscription to ${channel} already`)
    const subscription = new Subscription(channel, options, options.since ?? this.position(channel), {
      join: () => this.#join(subscription),
      leave: () => this.#leave(subscription),
      forget: () => this.#subscriptions.delete(channel),
      save: position => this.#store.set('at ' + channel, position),
      presence: () => this.presence(channel),
    })
    this.#subscriptions.set(channel, subscription)
    if (this.state === 'connected') this.#join(subscription)
    return subscription
  }

  async publish(channel, data, { key, signal } = {}) {
    if (this.#waiting >= MANY || this.#size > LARGE) throw new FanfareError('queue_full', `${this.#waiting} messages with ${this.#size} characters wait for an answer already`)
    const fields = encode(data)
    if (JSON.stringify(fields.data) === undefined || globalThis.Blob && data instanceof Blob) throw new FanfareError('bad_data', 'data must be bytes or what JSON can say; those of a Blob or File are await file.arrayBuffer()')
    const { position } = await this.#ask({ type: 'publish', channel, key, ...fields }, { again: true, signal, publish: true })
    return position
  }

  async history(channel, { since, limit, signal } = {}) {
    const { messages, position, gap = false, more = false } = await this.#ask({ type: 'history', channel, since, limit }, { again: true, signal })
    return { channel, messages: messages.map(decode), position, gap, more }
  }

  async presence(channel, { limit, signal } = {}) {
    const { count, members = [] } = await this.#ask({ type: 'presence', channel, limit }, { again: true, signal })
    return { channel, count, members }
  }

  async request(method, data, { signal } = {}) {
    return (await this.#ask({ type: 'request', method, data }, { signal })).data
  }

  // position is after which message a subscription of this tab to the channel goes on.
  position(channel) { return this.#store.get('at ' + channel) }

  // reconnect leaves the connection, if there is one, for a new one, now.
  reconnect() {
    if (this.state === 'closed') return
    this.#line?.end(new FanfareError('disconnected', 'a new connection was asked for'))
    this.#failures = 0
    this.#dial()
  }

  close() { this.#finish() }

  // ---- The connection -------------------------------------------------------

  #set(state, error, retryAt) {
    Object.assign(this, { state, error, retryAt })
    const event = Object.assign(new Event('state'), { state, error, retryAt })
    try { this.onstate?.(event) } catch (thrown) { later(thrown) }
    this.dispatchEvent(event)
  }

  #dial() {
    clearTimeout(this.#retrying)
    const { token, WebSocket: Socket = globalThis.WebSocket } = this.#options
    if (!Socket) throw new FanfareError('no_websocket', 'there is no WebSocket here: pass one as the option WebSocket')
    if (typeof token === 'function') {
      const line = this.#follow({ close() { } })   // no socket yet, but it can be left as one, and waits as long
      Promise.resolve().then(token).then(secret => { if (line === this.#line) this.#open(Socket, secret) }, error => line.end(error))
    } else this.#open(Socket, token)
    this.#set('connecting', this.error)
  }

  // open makes a connection. The token goes with the handshake, in the only header that a browser can set; where it does
  // not fit there (RFC 9110, section 5.6.2), it is the first message. So it is after a handshake that came to nothing,
  // because a browser does not tell a page why, and the answer to a message does.
  #open(Socket, token) {
    if (this.#denial && token === this.#token) return this.#finish(this.#denial)
    this.#token = token
    this.#silent = !this.#silent && /^[\w!#$%&'*+.^`|~-]+$/.test(token ?? '')
    const url = new URL(this.#url)
    url.searchParams.set('client', this.#client)
    if (this.name) url.searchParams.set('name', this.name)
    this.#follow(new Socket(url.href, this.#silent ? ['fanfare.v1', 'bearer.' + token] : 'fanfare.v1'))
  }

  // follow makes a socket our connection.
  #follow(socket) {
    const line = new Line(socket, (message, size) => this.#hear(message, size), (error, retry, denied) => {
      if (line !== this.#line) return
      if (this.#openedAt && (error.code === 'token_expired' || Date.now() - this.#openedAt > STABLE)) this.#denial = undefined   // until now the token would do
      if (denied) {   // another token may do, and is tried once; the same one will not
        const last = this.#denial || typeof this.#options.token !== 'function'
        this.#denial = error
        if (last) return this.#finish(error)
      }
      this.#lost(error, retry)
    })
    return this.#line = line
  }

  // lost says what becomes of us without a connection. retry: ms, from the server; null: somebody wakes us.
  #lost(error, retry) {
    this.#line = this.session = this.subject = undefined
    if (this.#openedAt && Date.now() - this.#openedAt > STABLE) this.#failures = 0
    this.#openedAt = 0
    for (const subscription of this.#subscriptions.values()) subscription.at = 'away'
    for (const [id, call] of this.#calls) {
      if (call.sent && !call.again) this.#settle(id, 'reject', error)
      call.sent = false
    }
    this.#notBefore = Date.now() + (retry ?? 0)
    clearTimeout(this.#retrying)
    if (retry === null) return this.#set('waiting', error)
    // Full jitter: a thousand pages that lost one server do not come back in one instant.
    const own = Math.max(PAUSE / 10, Math.random() * Math.min(LONGEST, PAUSE * 2 ** this.#failures++))
    const wait = retry === undefined ? own : Math.max(own, retry * (1 + Math.random()))   // a server that asks for 1 ms gets no storm
    this.#retrying = setTimeout(() => this.#dial(), wait)
    this.#set('waiting', error, Date.now() + wait)
  }

  #hear(message, size) {
    switch (message.type) {
      case 'welcome':
        this.session = message.session
        this.#limit = message.limits?.message ?? Infinity
        this.#repeat = message.limits?.repeat * 0.9 || REPEAT
        this.#line.welcome(message.heartbeat)
        this.#introduce(this.#line, message)
        break
      case 'renew':
        this.#renew(this.#line)
        break
      case 'ok': case 'response':
        this.#settle(message.id, 'resolve', message)
        break
      case 'error':
        this.#refused(message)
        break
      case 'message': case 'gap': case 'join': case 'leave':
        this.#subscriptions.get(message.pattern ?? message.channel)?.hear(message, size)
        break
      case 'unsubscribed': {
        const subscription = this.#subscriptions.get(message.channel)
        if (subscription?.at === 'there') this.#refuse(subscription, new FanfareError(message.code, message.message))
        break
      }
      case 'bye': {
        const { code, retry } = message
        const error = new FanfareError(code, message.message, retry)
        if (retry > 0) this.#line.end(error, Math.min(retry, ASKED))
        else if (personal.includes(code)) this.#line.end(error, undefined, true)
        else this.#finish(error)
      }
    }
  }

  // introduce says who we are, unless the handshake did, and then everything that waits.
  async #introduce(line, { auth, subject }) {
    const token = this.#token, said = this.#silent && !auth
    this.#silent = false
    try {
      if (auth && !token) throw new FanfareError('unauthenticated', 'the server wants to know who this is: connect with the option token')
      if (token && !said) ({ subject } = await this.#ask({ type: 'auth', token }, {}, true))
    } catch (error) {
      if (error.code !== 'no_authentication') return line.end(error, error.retry, !passing.includes(error.code))
    }
    if (line !== this.#line) return
    this.subject = subject
    this.#openedAt = Date.now()
    for (const subscription of this.#subscriptions.values()) this.#join(subscription)
    for (const [id, call] of this.#calls) if (!call.sent) this.#say(id, call)
    this.#set('connected')   // now, so that what is published in answer to this comes behind what waited
  }

  // renew says a new token, until the server has taken one or the connection ends, with the old one at the latest.
  async #renew(line) {
    const { token } = this.#options
    if (typeof token !== 'function' || this.#renewing === line) return
    this.#renewing = line
    for (let pause = PAUSE, done; line === this.#line && !done; pause = Math.min(2 * pause, LONGEST)) {
      try {
        const secret = await token()
        if (line === this.#line && secret && secret !== this.#token) {
          await this.#ask({ type: 'auth', token: secret }, {}, true)
          this.#token = secret
          done = true
        }
      } catch { }
      await new Promise(go => { setTimeout(go, pause) })   // also when it is done: a server that wants more gets no storm
    }
    if (this.#renewing === line) this.#renewing = undefined
  }

  // finish is the end: asked for, or (with an error) because coming back would end the same way.
  #finish(error) {
    if (this.state === 'closed') return
    const line = this.#line
    this.#line = undefined
    clearTimeout(this.#retrying)
    clearInterval(this.#ticking)
    this.#unlisten.abort()
    this.#set('closed', error)
    line?.end()
    for (const id of this.#calls.keys()) this.#settle(id, 'reject', this.#ended())
    for (const subscription of this.#subscriptions.values()) error ? subscription.fail(error) : subscription.close()
  }

  #ended() { return this.error ?? new FanfareError('closed', 'the connection was closed by this program') }

  // listen to what tells that the connection may be dead, or may be had again.
  #listen() {
    const wake = () => {
      if (this.#line) this.#line.probe()
      else if (Date.now() >= this.#notBefore) this.#dial()
    }
    // A page that is put away leaves politely: browsers keep no page with an open connection, and a frozen one reads nothing.
    const rest = () => {
      clearTimeout(this.#retrying)
      this.#line?.end(new FanfareError('disconnected', 'the page was put away'), null)
    }
    const listening = { signal: this.#unlisten.signal }
    const on = (target, type, what) => target?.addEventListener?.(type, what, listening)
    const { document } = globalThis
    on(globalThis, 'online', () => { this.#failures = 0; wake() })
    on(globalThis, 'offline', () => this.#line?.end(new FanfareError('offline', 'this device is offline')))
    on(globalThis, 'focus', wake)
    on(globalThis, 'pageshow', wake)
    on(globalThis, 'pagehide', rest)
    on(document, 'freeze', rest)
    on(document, 'resume', wake)
    on(document, 'visibilitychange', () => { if (!document.hidden) wake() })
    this.#ticking = setInterval(() => {
      const slept = Date.now() - this.#ticked > ASLEEP
      this.#ticked = Date.now()
      slept ? wake() : this.#line?.look()
    }, 1000)
  }

  // ---- Subscriptions and commands ---------------------------------------------

  #join(subscription) {
    if (subscription.paused) return
    const { channel, received: since, options: { presence, slow } } = subscription
    const line = this.#line
    subscription.at = 'asking'
    this.#call({ type: 'subscribe', channel, since, presence, slow }, {
      resolve: answer => subscription.joined(answer),
      reject: error => {
        if (line !== this.#line) return   // the next connection asks again
        if (!passing.includes(error.code)) return this.#refuse(subscription, error)
        subscription.at = 'away'
        setTimeout(() => { if (line === this.#line && this.#subscriptions.get(channel) === subscription) this.#join(subscription) }, error.retry ?? 1000)
      },
    }, true)
  }

  #refuse(subscription, error) {
    subscription.at = 'away'
    subscription.fail(error) || later(error)
  }

  #leave(subscription) {
    if (subscription.at !== 'away') this.#line?.say(JSON.stringify({ type: 'unsubscribe', channel: subscription.channel }))
    subscription.at = 'away'
  }

  #ask(message, how, now) { return new Promise((resolve, reject) => this.#call(message, { ...how, resolve, reject }, now)) }

  // call sends a command when there is a connection. With again it is repeated over the next ones until it is
  // answered, otherwise the end of the connection is its end. Its answer comes by resolve or reject, at once and not in
  // a microtask: the message behind it may be delivered before that.
  #call(message, { resolve, reject, again, signal, publish }, now = this.state === 'connected') {
    if (this.state === 'closed') return reject(this.#ended())
    if (signal?.aborted) return reject(signal.reason)
    const id = Date.now().toString(36) + (this.#serial++).toString(36).padStart(6, '0') + this.#client.slice(0, 4) + random().slice(0, 4)
    const call = { text: JSON.stringify({ ...message, id }), resolve, reject, again, publish }
    if (signal) {
      const abort = () => this.#settle(id, 'reject', signal.reason)
      signal.addEventListener('abort', abort)
      call.forget = () => signal.removeEventListener('abort', abort)
    }
    this.#calls.set(id, call)
    this.#count(call, 1)
    if (now) this.#say(id, call)
    else this.#keep(id, call)
  }

  #say(id, call) {
    if (call.publish) {
      const { text } = call
      if (text.length * 3 > this.#limit && kept(JSON.parse(text)) > this.#limit) {
        return this.#settle(id, 'reject', new FanfareError('too_big', `the message has more than ${this.#limit} bytes, which is what a message may have`))
      }
      if (call.first && Date.now() - call.first > (this.#options.repeatFor ?? this.#repeat)) {
        return this.#settle(id, 'reject', new FanfareError('uncertain', 'the message was sent minutes ago, and no answer came: it may have been published'))
      }
      if (!call.first) {
        call.first = Date.now()
        this.#keep(id, call)
      }
    }
    call.sent = true
    this.#line.say(call.text)
  }

  #settle(id, how, value) {
    const call = this.#calls.get(id)
    if (!call) return
    this.#calls.delete(id)
    call.forget?.()
    this.#count(call, -1)
    if (call.kept) this.#store.remove('out ' + id)
    call[how](value)
  }

  #count({ publish, text, kept }, sign) {
    if (!publish) return
    this.#waiting += sign
    this.#size += sign * text.length
    if (kept) this.#kept += sign * text.length
  }

  #refused({ id, code, message, retry }) {
    const call = this.#calls.get(id)
    const error = new FanfareError(code, message, retry)
    if (!call) return console.error(error)   // nobody waits for it
    if (!call.again || !passing.includes(code)) return this.#settle(id, 'reject', error)
    setTimeout(() => { if (this.state === 'connected' && this.#calls.get(id) === call) this.#say(id, call) }, Math.min(retry ?? 1000, ASKED) * (1 + Math.random()))
  }

  // keep has a publish survive a refresh.
  #keep(id, call) {
    const { first = 0, text } = call
    if (!call.publish || !call.kept && this.#kept + text.length > KEPT) return
    if (!this.#store.set('out ' + id, JSON.stringify([first, text])) || call.kept) return
    call.kept = true
    this.#kept += text.length
  }

  // restore takes over what a page before this one, in the same tab, published and had no answer to.
  #restore() {
    this.restored = this.#store.keys('out ').flatMap(key => {
      try {
        const [first, text] = JSON.parse(this.#store.get(key))
        const { id, channel, key: of, ...data } = JSON.parse(text)
        const call = { text, first, again: true, publish: true, kept: true }
        const position = new Promise((resolve, reject) => Object.assign(call, { reject, resolve: answer => resolve(answer.position) }))
        this.#calls.set(id, call)
        this.#count(call, 1)
        const discard = () => this.#settle(id, 'reject', new FanfareError('closed', 'the message was discarded'))
        return [{ channel, key: of, data: decode(data).data, position, discard }]
      } catch {
        this.#store.remove(key)
        return []
      }
    })
  }
}

// A Subscription is one channel, or pattern, that is read by callbacks or by an iterator.
class Subscription {
  position   // after the last message that was handed over
  count      // how many are here, if presence was asked for
  received   // after the last message that arrived
  at = 'away'      // over this connection: away, asking, or there
  paused = false   // until the iterator has taken what waits
  options
  #server
  #queue = []      // what waits for the iterator: [message, characters]
  #size = 0        // of all
  #over = false
  #error
  #wake

  constructor(channel, options, since, server) {
    this.channel = channel
    this.options = options
    this.position = this.received = since
    this.#server = server
  }

  close() {
    if (this.#over) return
    this.#queue = []
    this.#server.leave()
    this.#end()
  }

  // The position moves on when the program comes for the next message, or leaves the loop.
  async *[Symbol.asyncIterator]() {
    try {
      for (;;) {
        const [item, size] = this.#queue.shift() ?? []
        if (item) this.#size -= size
        if (!item) {
          if (this.#error) throw this.#error
          if (this.#over) return
          if (this.paused) {
            this.paused = false
            this.#server.join()
          }
          await new Promise(wake => { this.#wake = wake })
        } else if (item.type === 'gap') {
          this.#hand('onGap', item)
        } else {
          try { yield item } finally { this.#handed(item) }
        }
      }
    } finally {
      this.close()
    }
  }

  // ---- What the connection calls ----------------------------------------------

  joined({ position, count, members }) {
    if (this.at !== 'asking') return
    this.at = 'there'
    if (this.received === undefined) {
      this.received = position
      this.#handed({ position })
    }
    if (this.options.presence) this.#present({ channel: this.channel, count, members })
  }

  hear(message, size) {
    if (this.at !== 'there') return   // a subscription of before
    if (message.type === 'join' || message.type === 'leave') {
      this.count = message.count
      return this.#call(message.type === 'join' ? 'onJoin' : 'onLeave', message)
    }
    if (message.reason === 'presence') {
      this.#server.presence().then(present => this.#present(present), () => { })
      return
    }
    this.received = message.position
    decode(message)
    if (this.options.onMessage) return this.#hand(message.type === 'gap' ? 'onGap' : 'onMessage', message)
    this.#size += size
    if (this.#queue.push([message, size]) >= MANY || this.#size > LARGE) {
      this.#server.leave()
      this.paused = true
    }
    this.#wake?.()
  }

  // fail ends it with an error, and reports whether somebody is told.
  fail(error) {
    this.#error = error
    this.#end()
    this.#call('onError', error)
    return this.options.onError || !this.options.onMessage
  }

  #end() {
    this.#over = true
    this.#server.forget()
    this.#wake?.()
  }

  #call(callback, value) {
    try { this.options[callback]?.(value, this) } catch (error) { later(error) }
  }

  #hand(callback, message) {
    this.#call(callback, message)
    this.#handed(message)
  }

  // handed comes after the program had the message, in the same task: a page that is killed in between gets it again.
  #handed({ position }) {
    this.position = position
    this.#server.save(position)
  }

  #present(present) {
    this.count = present.count
    this.#call('onPresence', present)
  }
}
