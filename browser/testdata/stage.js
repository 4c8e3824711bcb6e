// A stage for the client: time, a page, and the server's end of its connections, all in the hands of a test.
import { webcrypto } from 'node:crypto'
import * as fanfare from '../fanfare.js'

globalThis.crypto ??= webcrypto   // before Node.js 19

const real = { setImmediate, setTimeout, clearTimeout, setInterval, clearInterval, now: Date.now, random: Math.random }

// settled waits until nothing is left to do at this moment.
export const settled = () => new Promise(resolve => real.setImmediate(() => real.setImmediate(resolve)))

// Clock replaces the timers and Date.now.
class Clock {
  now = 1_763_800_000_000
  skew = 0   // of Date.now
  #due = new Map()
  #serial = 0
  constructor() {
    Date.now = () => this.now + this.skew
    globalThis.setTimeout = (what, after = 0) => this.#set(what, after)
    globalThis.setInterval = (what, every) => this.#set(what, every, every)
    globalThis.clearTimeout = globalThis.clearInterval = id => { this.#due.delete(id) }
  }
  #set(what, after, every) {
    this.#due.set(++this.#serial, { what, at: this.now + after, every })
    return this.#serial
  }
  // pass lets time pass, and does what falls due.
  async pass(ms) {
    const end = this.now + ms
    for (;;) {
      await settled()
      const next = [...this.#due].sort(([, a], [, b]) => a.at - b.at)[0]
      if (!next || next[1].at > end) break
      const [id, timer] = next
      this.now = Math.max(this.now, timer.at)
      if (timer.every) timer.at += timer.every
      else this.#due.delete(id)
      timer.what()
    }
    this.now = end
    await settled()
  }
  // sleep lets time pass in which no timer fires: those that fell due meanwhile fire after it, an interval once.
  async sleep(ms) {
    this.now += ms
    for (const timer of this.#due.values()) timer.at = Math.max(timer.at, this.now)
    await this.pass(0)
  }
  get timers() { return this.#due.size }
}

// Socket is the WebSocket of the client under test.
class Socket {
  readyState = 0
  heard = []     // what the client said, parsed
  constructor(stage, url, protocol) {
    this.stage = stage
    this.url = new URL(url)
    this.protocol = protocol
    stage.sockets.push(this)
  }
  send(text) {
    if (this.readyState !== 1) throw new Error('sent on a socket that is not open')
    this.heard.push(JSON.parse(text))
  }
  close(code) {
    this.closed = code
    this.readyState = 2
  }
  // say has the server say something.
  say(message) {
    this.onmessage?.({ data: typeof message === 'string' ? message : JSON.stringify(message) })
  }
  welcome(more) {
    this.readyState = 1
    this.say({ type: 'welcome', protocol: 'fanfare.v1', session: 's' + this.stage.sockets.length, heartbeat: 25_000, limits: { message: 1_048_576, subscriptions: 1000 }, ...more })
    return settled()
  }
  // cut ends the connection without a word.
  cut(code = 1006, reason = '') {
    this.readyState = 3
    this.onclose?.({ code, reason })
    return settled()
  }
  // ok answers the newest command of a type.
  ok(type, fields) { return this.answer(type, { type: 'ok', ...fields }) }
  answer(type, message) {
    this.say({ ...message, id: this.last(type).id })
    return settled()
  }
  last(type) { return this.heard.findLast(message => message.type === type) }
  all(type) { return this.heard.filter(message => message.type === type) }
  message(channel, offset, data, more) {
    this.say({ type: 'message', channel, position: '1-' + offset, time: '2026-11-22T16:00:00.000Z', data, ...more })
  }
}

// Shelf is a Storage that holds no more than room characters.
class Shelf {
  #items = new Map()
  room = 5_000_000
  get length() { return this.#items.size }
  key(i) { return [...this.#items.keys()][i] ?? null }
  getItem(key) { return this.#items.get(key) ?? null }
  setItem(key, value) {
    let size = key.length + value.length
    for (const [k, v] of this.#items) if (k !== key) size += k.length + v.length
    if (size > this.room) throw new Error('the quota has been exceeded')
    this.#items.set(key, String(value))
  }
  removeItem(key) { this.#items.delete(key) }
  get keys() { return [...this.#items.keys()] }
}

// Stage is where one test plays.
export class Stage {
  clock = new Clock()
  sockets = []
  storage = new Shelf()
  page = new EventTarget()
  document = Object.assign(new EventTarget(), { hidden: false })
  chance = 0.5           // what Math.random says
  uncaught = []          // what was thrown where nobody catches it
  #clients = []

  constructor() {
    Math.random = () => this.chance
    globalThis.addEventListener = this.page.addEventListener.bind(this.page)
    globalThis.document = this.document
    this.catch = error => { this.uncaught.push(error) }
    const stage = this
    this.WebSocket = function (url, protocol) { return new Socket(stage, url, protocol) }
  }
  connect(options, url = 'https://fan.example/live') {
    const client = fanfare.connect(url, { WebSocket: this.WebSocket, storage: this.storage, ...options })
    client.states = []
    client.addEventListener('state', event => client.states.push(event.state))
    this.#clients.push(client)
    return client
  }
  // connected returns a client and its open socket.
  async connected(options) {
    const client = this.connect(options)
    await this.socket.welcome()
    return client
  }
  // refresh loses the page and all it held, and leaves what is stored.
  refresh() {
    this.page.dispatchEvent(new Event('pagehide'))
    for (const socket of this.sockets) socket.onmessage = socket.onclose = null
    this.page = new EventTarget()
    globalThis.addEventListener = this.page.addEventListener.bind(this.page)
    this.clock = new Clock()
    this.#clients = []
  }
  happens(type, target = this.page) { target.dispatchEvent(new Event(type)) }
  get socket() { return this.sockets.at(-1) }
  end() {
    for (const client of this.#clients) client.close()
    Object.assign(globalThis, { setTimeout: real.setTimeout, clearTimeout: real.clearTimeout, setInterval: real.setInterval, clearInterval: real.clearInterval })
    Date.now = real.now
    Math.random = real.random
    delete globalThis.addEventListener
    delete globalThis.document
  }
}
