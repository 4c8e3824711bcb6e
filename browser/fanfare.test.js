// What the client does with what a server says, does and fails to do. Run by node --test; browser_test.go does that.
import assert from 'node:assert/strict'
import { getEventListeners } from 'node:events'
import { readFileSync, readdirSync } from 'node:fs'
import test from 'node:test'
import { FanfareError } from './fanfare.js'
import { Stage, settled } from './testdata/stage.js'

// play runs a test on a stage of its own.
function play(name, scene) {
  test(name, async () => {
    const stage = new Stage()
    try { await scene(stage) } finally { stage.end() }
  })
}

const code = wanted => error => error instanceof FanfareError && error.code === wanted && error.message.length > 10

// fate notes what becomes of a promise.
function fate(promise) {
  const noted = { state: 'pending' }
  promise.then(value => Object.assign(noted, { state: 'kept', value }), error => Object.assign(noted, { state: 'broken', error, code: error.code }))
  return noted
}

play('the way to the server', async stage => {
  stage.connect({ name: 'alice' }, 'https://fan.example/live/?token=x#here')
  const { url, protocol } = stage.socket
  assert.equal(url.origin + url.pathname, 'wss://fan.example/live/-/connect')
  assert.deepEqual(protocol, ['fanfare.v1', 'bearer.x'])
  assert.equal(url.searchParams.get('token'), null, 'it is in no URL')
  assert.equal(url.searchParams.get('name'), 'alice')
  assert.match(url.searchParams.get('client'), /^[a-z0-9]{16,64}$/)
  for (const [given, path] of [['http://a', 'ws://a/-/connect'], ['ws://a/-/connect', 'ws://a/-/connect'], ['wss://a/b/c//', 'wss://a/b/c/-/connect']]) {
    stage.connect({}, given)
    assert.equal(stage.socket.url.href.split('?')[0], path)
  }
  assert.throws(() => stage.connect({}, null), code('bad_url'))
  assert.throws(() => stage.connect({}, { name: 'alice' }), code('bad_url'))
  const refused = stage.connect()
  await stage.socket.cut()
  assert.match(refused.error.message, /it refuses us/)
})

play('subscribes, resumes, and tells its states', async stage => {
  const fan = stage.connect()
  const heard = []
  fan.subscribe('chat', m => heard.push(m.data))
  assert.equal(fan.state, 'connecting')
  await stage.socket.welcome()
  assert.equal(fan.state, 'connected')
  assert.equal(fan.session, 's1')
  assert.deepEqual({ ...stage.socket.last('subscribe'), id: 0 }, { type: 'subscribe', id: 0, channel: 'chat' })
  await stage.socket.ok('subscribe', { channel: 'chat', position: '1-7' })
  await stage.socket.cut()
  assert.equal(fan.state, 'waiting')
  assert.equal(fan.error.code, 'disconnected')
  await stage.clock.pass(300)
  await stage.socket.welcome()
  assert.equal(stage.socket.last('subscribe').since, '1-7', 'nothing came: from where reading began')
  await stage.socket.ok('subscribe', { channel: 'chat', position: '1-7' })
  stage.socket.message('chat', 8, 'one')
  stage.socket.message('other', 9, 'of no concern')
  stage.socket.message('chat', 10, { two: 2 })
  stage.socket.message('chat', 11, 'AAH/', { encoding: 'base64' })
  await stage.socket.cut()
  await stage.clock.pass(600)
  await stage.socket.welcome()
  assert.equal(stage.socket.last('subscribe').since, '1-11')
  assert.deepEqual(heard, ['one', { two: 2 }, new Uint8Array([0, 1, 255])])
  assert.deepEqual(fan.states, ['connected', 'waiting', 'connecting', 'connected', 'waiting', 'connecting', 'connected'])
  fan.close()
  assert.equal(fan.state, 'closed')
  assert.equal(stage.socket.closed, 1000)
  await stage.clock.pass(100_000)
  assert.equal(stage.sockets.length, 3)
  assert.equal(stage.clock.timers, 0)
})

play('what comes late over a connection that was left is not heard', async stage => {
  const fan = await stage.connected()
  const heard = []
  fan.subscribe('chat', m => heard.push(m.data))
  const { socket } = stage
  await socket.ok('subscribe', { position: '1-0' })
  fan.reconnect()
  socket.message('chat', 1, 'late')
  socket.say({ type: 'bye', code: 'silent', message: 'you said nothing' })
  socket.cut()
  assert.equal(fan.state, 'connecting')
  await stage.socket.welcome()
  await stage.socket.ok('subscribe', { position: '1-0' })
  stage.socket.message('chat', 1, 'late')
  assert.deepEqual(heard, ['late'])
})

play('a publish is sent until it is answered, with one id', async stage => {
  const fan = stage.connect()
  const first = fate(fan.publish('chat', { n: 1 }, { key: 'k' })), second = fate(fan.publish('chat', 'two'))
  await stage.socket.welcome()
  const said = stage.socket.all('publish')
  assert.deepEqual(said.map(({ channel, data, key }) => [channel, data, key]), [['chat', { n: 1 }, 'k'], ['chat', 'two', undefined]])
  stage.socket.say({ type: 'ok', id: said[0].id, position: '1-1' })
  await stage.socket.cut()
  assert.deepEqual(first, { state: 'kept', value: '1-1' })
  assert.equal(second.state, 'pending')
  const third = fate(fan.publish('chat', 'three'))
  await stage.clock.pass(300)
  await stage.socket.welcome()
  const again = stage.socket.all('publish')
  assert.deepEqual(again[0], said[1], 'the same, with the same id')
  assert.deepEqual(again.map(m => m.data), ['two', 'three'])
  stage.socket.say({ type: 'error', id: again[0].id, code: 'internal', message: 'the broker does not answer just now' })
  stage.socket.say({ type: 'error', id: again[1].id, code: 'forbidden', message: 'you may not publish here' })
  await stage.clock.pass(2500)
  assert.equal(third.code, 'forbidden')
  assert.deepEqual(stage.socket.all('publish')[2], said[1])
  await stage.socket.ok('publish', { position: '1-2' })
  assert.deepEqual(second, { state: 'kept', value: '1-2' })
})

play('what a publish refuses by itself', async stage => {
  const fan = stage.connect()
  await assert.rejects(fan.publish('chat', undefined), code('bad_data'))
  await assert.rejects(fan.publish('chat', () => { }), code('bad_data'))
  await assert.rejects(fan.publish('chat', new Blob(['x'])), code('bad_data'))
  await stage.socket.welcome({ limits: { message: 100 } })
  await assert.rejects(fan.publish('chat', 'x'.repeat(101)), code('too_big'))
  await assert.rejects(fan.publish('chat', '€'.repeat(34)), code('too_big'))
  await assert.rejects(fan.publish('chat', new Uint8Array(101)), code('too_big'))
  for (const fits of ['x'.repeat(100), '€'.repeat(33), '"'.repeat(100), new Uint8Array(100), { a: 'x'.repeat(92) }]) {
    fate(fan.publish('chat', fits))
    await settled()
  }
  assert.equal(stage.socket.all('publish').length, 5, 'what the server takes is sent')
  stage.socket.cut()
  const waiting = []
  for (let i = 0; i < 995; i++) waiting.push(fate(fan.publish('chat', i)))
  await assert.rejects(fan.publish('chat', 'one too many'), code('queue_full'))
  fan.close()
  await settled()
  assert(waiting.every(one => one.code === 'closed'))
  await assert.rejects(fan.publish('chat', 'too late'), code('closed'))
  assert.throws(() => fan.subscribe('chat'), code('closed'))
  const large = stage.connect()
  for (let i = 0; i < 5; i++) fate(large.publish('chat', 'x'.repeat(1_000_000)))
  await assert.rejects(large.publish('chat', 1), code('queue_full'))
  await stage.socket.welcome({ limits: { message: 1000 } })
  await settled()
  await assert.rejects(large.publish('chat', '€'.repeat(334)), code('too_big'), 'fewer characters than bytes')
})

play('what is changed after it was published is not changed', async stage => {
  const fan = stage.connect()
  const data = { n: 1 }, bytes = new Uint8Array([1])
  fan.publish('chat', data).catch(() => { })
  fan.publish('chat', bytes).catch(() => { })
  data.n = bytes[0] = 2
  await stage.socket.welcome()
  assert.deepEqual(stage.socket.all('publish').map(m => m.data), [{ n: 1 }, 'AQ=='])
})

play('after minutes without an answer nobody knows', async stage => {
  const fan = await stage.connected()
  const sent = fate(fan.publish('chat', 'sent'))
  await stage.socket.cut()
  const waits = fate(fan.publish('chat', 'never sent'))
  stage.happens('offline')
  await stage.clock.sleep(271_000)
  await stage.clock.pass(20_000)
  await stage.socket.welcome()
  await settled()
  assert.equal(sent.code, 'uncertain')
  assert.equal(waits.state, 'pending')
  assert.deepEqual(stage.socket.all('publish').map(m => m.data), ['never sent'])
  // Counted from the first time, however often.
  for (let i = 0; i < 3; i++) {
    assert.equal(waits.state, 'pending')
    await stage.clock.pass(35_000)
    stage.socket.say({ type: 'heartbeat' })
    await stage.clock.pass(35_000)
    fan.reconnect()
    await stage.socket.welcome()
  }
  await stage.clock.pass(35_000)
  stage.socket.say({ type: 'heartbeat' })
  await stage.clock.pass(35_000)
  fan.reconnect()
  await stage.socket.welcome()
  assert.equal(waits.code, 'uncertain')
  const hasty = await stage.connected({ repeatFor: 1000 }), soon = fate(hasty.publish('chat', 1))
  await stage.clock.pass(1_001)
  hasty.reconnect()
  await stage.socket.welcome()
  assert.equal(soon.code, 'uncertain')
})

play('questions', async stage => {
  const fan = stage.connect()
  const history = fan.history('chat', { since: '0', limit: 5 }), here = fan.presence('chat', { limit: 0 })
  const time = fan.request('time', { zone: 'UTC' }), refused = fate(fan.request('other'))
  await stage.socket.welcome()
  stage.socket.cut()   // asked again: all but what was requested, which may have been done
  await assert.rejects(time, code('disconnected'))
  assert.equal(refused.code, 'disconnected')
  await stage.clock.pass(300)
  await stage.socket.welcome()
  assert.equal(stage.socket.all('request').length, 0)
  const { id, ...asked } = stage.socket.last('history')
  assert.deepEqual(asked, { type: 'history', channel: 'chat', since: '0', limit: 5 })
  await stage.socket.ok('history', { channel: 'chat', position: '1-2', messages: [{ type: 'message', channel: 'chat', position: '1-2', data: 'AA==', encoding: 'base64' }] })
  assert.deepEqual(await history, { channel: 'chat', position: '1-2', gap: false, more: false, messages: [{ type: 'message', channel: 'chat', position: '1-2', data: new Uint8Array(1) }] })
  await stage.socket.ok('presence', { channel: 'chat', count: 3 })
  assert.equal((await here).count, 3)
  assert.equal(stage.socket.last('presence').limit, 0)
  const again = fan.request('time')
  await stage.socket.answer('request', { type: 'response', data: 'noon' })
  assert.equal(await again, 'noon')
  const unknown = fan.request('nothing')
  stage.socket.answer('request', { type: 'error', code: 'unknown_method', message: 'there is no method nothing' })
  await assert.rejects(unknown, code('unknown_method'))
  const impatient = new AbortController()
  const given = fan.history('chat', { signal: impatient.signal }), up = fan.publish('chat', 1, { signal: impatient.signal })
  impatient.abort(new Error('enough'))
  await assert.rejects(given, { message: 'enough' })
  await assert.rejects(up, { message: 'enough' })
  await assert.rejects(fan.history('chat', { signal: impatient.signal }), { message: 'enough' })
  // An answer lets go of the signal, and what was given up is not asked again.
  const later = new AbortController()
  const both = [fate(fan.presence('chat', later)), fate(fan.publish('chat', 'given up', later))]
  await settled()
  await stage.socket.ok('presence', { count: 1 })
  assert.equal(both[0].state, 'kept')
  assert.equal(getEventListeners(later.signal, 'abort').length, 1)
  stage.socket.answer('publish', { type: 'error', code: 'timeout', message: 'the broker does not answer' })
  later.abort()
  const said = stage.socket.heard.length
  await stage.clock.pass(3_000)
  assert.equal(both[1].state, 'broken')
  assert.deepEqual(stage.socket.heard.slice(said).filter(m => m.type === 'publish'), [])
})

play('full jitter, and the pause that the server asks for', async stage => {
  const fan = stage.connect()
  const waits = async () => {
    const waits = []
    for (let i = 0; i < 9; i++) {
      await stage.socket.cut()
      waits.push(fan.retryAt - stage.clock.now)
      await stage.clock.pass(waits[i])
    }
    return waits
  }
  stage.chance = 1
  assert.deepEqual(await waits(), [250, 500, 1000, 2000, 4000, 8000, 16000, 20000, 20000])
  stage.chance = 0
  assert.deepEqual(new Set(await waits()), new Set([25]), 'never a busy loop')
  stage.chance = 1
  fan.reconnect()
  await stage.socket.cut()
  assert.equal(fan.retryAt - stage.clock.now, 250, 'who was asked to begins anew')
  await stage.clock.pass(250)
  stage.chance = 0.25
  await stage.socket.welcome()
  await stage.clock.pass(6000)
  await stage.socket.cut()
  assert.equal(fan.retryAt - stage.clock.now, 62.5, 'after a good connection it begins anew')
  await stage.clock.pass(63)
  await stage.socket.welcome()
  stage.socket.say({ type: 'bye', code: 'shutting_down', message: 'come back in a moment', retry: 1000 })
  assert.equal(fan.state, 'waiting')
  assert.equal(fan.error.code, 'shutting_down')
  assert.equal(fan.retryAt - stage.clock.now, 1250)
  stage.happens('focus')
  assert.equal(fan.state, 'waiting', 'not before the server wants us')
  await stage.clock.pass(1001)
  stage.happens('focus')
  assert.equal(fan.state, 'connecting')
})

play('a server that wants us back at once, or never, gets no storm', async stage => {
  const fan = await stage.connected()
  for (const retry of [1e15, 2 ** 31]) {
    stage.socket.say({ type: 'bye', code: 'shutting_down', message: 'come back in a month', retry })
    assert.ok(fan.retryAt - stage.clock.now <= 1_200_000 && fan.retryAt - stage.clock.now >= 600_000, 'no longer than a timer can wait')
    await stage.clock.pass(1_200_000)
    await stage.socket.welcome()
  }
  const before = stage.sockets.length
  for (let i = 0; i < 20; i++) {
    stage.socket.say({ type: 'bye', code: 'shutting_down', message: 'come back', retry: 1 })
    await stage.clock.pass(20)
    if (fan.state === 'connecting') await stage.socket.welcome()
  }
  assert.ok(stage.sockets.length - before < 5, `${stage.sockets.length - before} connections in 400 ms`)
  await stage.clock.pass(60_000)
  if (fan.state === 'connecting') await stage.socket.welcome()
  stage.socket.say({ type: 'bye', code: 'shutting_down', message: 'come back', retry: 0 })
  assert.equal(fan.state, 'closed', 'no time to come back after is none')
})

play('a goodbye for good', async stage => {
  const fan = await stage.connected()
  const told = []
  fan.subscribe('chat', { onMessage() { }, onError: error => told.push(error.code) })
  const up = fate(fan.publish('chat', 1))
  stage.socket.say({ type: 'bye', code: 'protocol', message: 'a frame was broken' })
  await settled()
  assert.equal(fan.state, 'closed')
  assert.equal(fan.error.code, 'protocol')
  assert.equal(up.code, 'protocol')
  assert.deepEqual(told, ['protocol'])
  await assert.rejects(fan.history('chat'), code('protocol'))
  assert.equal(stage.clock.timers, 0)
})

play('silence is judged by time, not by ticks', async stage => {
  const fan = await stage.connected()
  await stage.clock.pass(37_000)
  assert.equal(fan.state, 'connected')
  stage.socket.say({ type: 'heartbeat' })
  await stage.clock.pass(37_000)
  assert.equal(fan.state, 'connected')
  await stage.clock.pass(2_000)
  assert.equal(fan.error.code, 'silent')
  await stage.clock.pass(1_000)
  await stage.socket.welcome()
  // The lid was closed for a second less than silence takes: no event, no ticks.
  await stage.clock.sleep(36_000)
  await stage.clock.pass(1_001)
  assert.equal(stage.socket.heard.length, 1)
  assert.deepEqual(stage.socket.heard[0], { type: 'ping' })
  await stage.clock.pass(2_000)
  assert.equal(fan.error.code, 'silent')
  await stage.clock.pass(1_000)
  await stage.socket.welcome()
  await stage.clock.pass(37_000)
  assert.equal(fan.state, 'connected')
  await stage.clock.pass(2_000)
  assert.equal(fan.error.code, 'silent', 'the welcome was the last that was heard')
  await stage.clock.pass(1_000)
  await stage.socket.welcome()
  // A clock that is put back hides no silence, and makes none.
  stage.clock.skew = -3_600_000
  await stage.clock.pass(37_000)
  assert.equal(fan.state, 'connected')
  await stage.clock.pass(2_500)
  assert.equal(fan.error.code, 'silent')
})

play('a server that never says welcome', async stage => {
  const fan = stage.connect()
  await stage.clock.pass(11_500)
  assert.equal(fan.error.code, 'silent')
  assert.equal(stage.sockets.length, 2)
  assert.equal(stage.sockets[0].closed, 1000)
})

play('a page that wakes asks, and believes only an answer', async stage => {
  const fan = await stage.connected()
  for (const [type, target] of [['visibilitychange', stage.document], ['pageshow'], ['focus'], ['online']]) {
    await stage.clock.pass(2_100)
    stage.happens(type, target)
    assert.deepEqual(stage.socket.heard.splice(0), [{ type: 'ping' }], type)
    stage.socket.say({ type: 'ok', time: '2026-11-22T16:00:00.000Z' })
    await stage.clock.pass(2_100)
    assert.equal(fan.state, 'connected')
    stage.happens(type, target)
    stage.socket.heard.splice(0)
    await stage.clock.pass(2_100)
    assert.equal(fan.error?.code, 'silent', type)
    await stage.clock.pass(1_000)
    await stage.socket.welcome()
  }
  stage.happens('focus')
  assert.deepEqual(stage.socket.heard, [], 'who spoke just now is not asked')
  await stage.clock.pass(3_000)
  stage.document.hidden = true
  stage.happens('visibilitychange', stage.document)
  assert.deepEqual(stage.socket.heard, [], 'nor does a page that goes to sleep')
})

play('offline is known at once, and online is tried at once', async stage => {
  const fan = await stage.connected()
  stage.happens('offline')
  assert.equal(fan.state, 'waiting')
  assert.equal(fan.error.code, 'offline')
  stage.chance = 1
  for (let i = 0; i < 9; i++) {
    await stage.clock.pass(fan.retryAt - stage.clock.now)
    await stage.socket.cut()
  }
  const attempts = stage.sockets.length
  stage.happens('online')
  assert.equal(stage.sockets.length, attempts + 1)
  await stage.socket.cut()
  assert.equal(fan.retryAt - stage.clock.now, 250)
  fan.close()
  stage.happens('online')
  assert.equal(stage.sockets.length, attempts + 1, 'the end is the end')
})

play('a page that is put away leaves, and comes back', async stage => {
  const fan = await stage.connected()
  const heard = []
  fan.subscribe('chat', m => heard.push(m.data))
  await stage.socket.ok('subscribe', { position: '1-0' })
  for (const [away, back, target] of [['pagehide', 'pageshow'], ['freeze', 'resume', stage.document]]) {
    const { socket } = stage
    stage.happens(away, target)
    assert.equal(socket.closed, 1000)
    assert.equal(fan.state, 'waiting')
    await stage.clock.pass(4_000)
    assert.equal(stage.socket, socket, 'it does not come back by itself')
    stage.happens(back, target)
    assert.equal(fan.state, 'connecting')
    await stage.socket.welcome()
    assert.equal(stage.socket.last('subscribe').since, heard.length ? '1-1' : '1-0')
    await stage.socket.ok('subscribe', { position: '1-1' })
    stage.socket.message('chat', 1, 'x')
  }
  stage.socket.cut()
  stage.happens('freeze', stage.document)
  const attempts = stage.sockets.length
  await stage.clock.pass(4_000)
  assert.equal(stage.sockets.length, attempts, 'it rests, though it was about to try')
})

play('a refresh continues where it was', async stage => {
  let fan = await stage.connected()
  const heard = []
  const listen = (_, options) => fan.subscribe('chat', { ...options, onMessage: m => heard.push(m.data) })
  listen()
  await stage.socket.ok('subscribe', { position: '1-4' })
  const { url } = stage.socket
  stage.refresh()
  fan = await stage.connected()
  assert.equal(stage.socket.url.searchParams.get('client'), url.searchParams.get('client'), 'the same sender')
  listen()
  assert.equal(stage.socket.last('subscribe').since, '1-4', 'nothing came before the refresh')
  await stage.socket.ok('subscribe', { position: '1-4' })
  stage.socket.message('chat', 5, 'a')
  stage.refresh()
  fan = await stage.connected()
  assert.equal(fan.position('chat'), '1-5')
  listen(0, { since: '0' })
  assert.equal(stage.socket.last('subscribe').since, '0', 'who asks for something gets that')
  stage.refresh()
  fan = stage.connect({}, 'https://fan.example/other')
  assert.equal(fan.position('chat'), undefined, 'another server')
  stage.refresh()
  fan = stage.connect({ storage: null })
  assert.equal(fan.position('chat'), undefined, 'without storage')
})

play('a refresh in the middle of publishing', async stage => {
  let fan = await stage.connected()
  fate(fan.publish('chat', 'answered'))
  await stage.socket.ok('publish', { position: '1-1' })
  fate(fan.publish('chat', 'on its way', { key: 'k' }))
  await settled()
  const sent = stage.socket.last('publish')
  await stage.socket.cut()
  fate(fan.publish('chat', new Uint8Array([7])))
  stage.refresh()
  fan = stage.connect()
  assert.deepEqual(fan.restored.map(({ channel, key, data }) => ({ channel, key, data })),
    [{ channel: 'chat', key: 'k', data: 'on its way' }, { channel: 'chat', key: undefined, data: new Uint8Array([7]) }])
  fate(fan.publish('chat', 'new'))
  await stage.socket.welcome()
  const said = stage.socket.all('publish')
  assert.deepEqual(said[0], sent)
  assert.deepEqual(said.map(m => m.data), ['on its way', 'Bw==', 'new'])
  assert.equal(new Set(said.map(m => m.id)).size, 3)
  stage.socket.say({ type: 'ok', id: said[0].id, position: '1-2' })
  assert.equal(await fan.restored[0].position, '1-2')
  const dropped = fate(fan.restored[1].position)
  fan.restored[1].discard()
  await settled()
  assert.equal(dropped.code, 'closed')
  stage.socket.say({ type: 'ok', id: said[2].id, position: '1-3' })
  stage.refresh()
  assert.deepEqual(stage.connect().restored, [])
  assert(stage.storage.keys.every(key => !key.includes('out')), 'nothing is left behind')
})

play('a storage that is full, broken or forbidden', async stage => {
  stage.storage.room = 200
  let fan = await stage.connected()
  const up = fate(fan.publish('chat', 'x'.repeat(300)))
  await stage.socket.ok('publish', { position: '1-1' })
  assert.equal(up.state, 'kept')
  const forbidden = new Proxy({}, { get() { throw new Error('forbidden') } })
  fan = await stage.connected({ storage: forbidden })
  fan.subscribe('chat', () => { })
  await stage.socket.ok('subscribe', { position: '1-4' })
  stage.storage.room = Infinity
  fan = await stage.connected()
  for (let i = 0; i < 12; i++) fate(fan.publish('chat', 'x'.repeat(100_000)))
  await settled()
  assert.equal(stage.storage.keys.filter(key => key.includes(' out ')).length, 10, 'a mebibyte at most')
  for (const { id } of stage.socket.all('publish')) stage.socket.say({ type: 'ok', id, position: '1-1' })
  for (let i = 0; i < 12; i++) fate(fan.publish('chat', 'x'.repeat(100_000)))
  await settled()
  assert.equal(stage.storage.keys.filter(key => key.includes(' out ')).length, 10, 'and again')
  for (const key of stage.storage.keys) if (key.includes(' out ')) stage.storage.setItem(key, '{broken')
  stage.refresh()
  assert.deepEqual(stage.connect().restored, [])
  assert.equal(stage.storage.keys.filter(key => key.includes(' out ')).length, 0)
  fan = stage.connect()
  for (let i = 0; i < 1000; i++) fate(fan.publish('chat', i))
  stage.refresh()
  fan = stage.connect()
  for (const { position } of fan.restored) fate(position)
  assert.equal(fan.restored.length, 1000)
  assert.deepEqual(fan.restored.map(one => one.data), Array.from({ length: 1000 }, (_, i) => i))
  await assert.rejects(fan.publish('chat', 1), code('queue_full'))
})

play('iteration', async stage => {
  const fan = await stage.connected()
  const gaps = []
  const chat = fan.subscribe('chat', { onGap: gap => gaps.push([gap.reason, chat.position]) })
  await stage.socket.ok('subscribe', { position: '1-0' })
  for (let i = 1; i <= 3; i++) stage.socket.message('chat', i, i)
  stage.socket.say({ type: 'gap', channel: 'chat', reason: 'skipped', missed: 2, position: '1-5' })
  stage.socket.message('chat', 6, 6)
  const read = []
  for await (const { data } of chat) {
    read.push([data, fan.position('chat')])
    if (data === 6) stage.socket.message('chat', 7, 7)
    if (data === 7) break
  }
  assert.deepEqual(read, [[1, '1-0'], [2, '1-1'], [3, '1-2'], [6, '1-5'], [7, '1-6']])
  assert.deepEqual(gaps, [['skipped', '1-3']])
  assert.equal(fan.position('chat'), '1-7')
  assert.deepEqual(stage.socket.last('unsubscribe'), { type: 'unsubscribe', channel: 'chat' })
  // The same channel again: what was under way for the one before is not for this one.
  const more = fan.subscribe('chat')
  stage.socket.message('chat', 8, 'of before')
  await stage.socket.ok('subscribe', { position: '1-7' })
  stage.socket.message('chat', 8, 8)
  assert.equal((await more[Symbol.asyncIterator]().next()).value.data, 8)
  assert.throws(() => fan.subscribe('chat'), code('already_subscribed'))
  // What waits for the iterator is not behind us, whatever becomes of the connection.
  stage.socket.message('chat', 9, 9)
  await stage.socket.cut()
  await stage.clock.pass(300)
  await stage.socket.welcome()
  assert.equal(stage.socket.last('subscribe').since, '1-9')
  await stage.socket.ok('subscribe', { position: '1-9' })
  assert.equal(fan.position('chat'), '1-7')
  // close ends an iteration, and so does the end of everything.
  const other = fan.subscribe('other'), waiting = other[Symbol.asyncIterator]().next()
  other.close()
  assert.deepEqual(await waiting, { value: undefined, done: true })
  const third = fan.subscribe('third'), last = third[Symbol.asyncIterator]().next()
  fan.close()
  assert.deepEqual(await last, { value: undefined, done: true })
})

play('an iterator that is slow pauses its subscription, and misses nothing', async stage => {
  const fan = await stage.connected()
  const chat = fan.subscribe('chat')
  await stage.socket.ok('subscribe', { position: '1-0' })
  for (let i = 1; i <= 1200; i++) stage.socket.message('chat', i, i)
  assert.equal(stage.socket.all('unsubscribe').length, 1)
  const reader = chat[Symbol.asyncIterator]()
  for (let i = 1; i <= 600; i++) assert.equal((await reader.next()).value.data, i)
  await stage.socket.cut()
  await stage.clock.pass(300)
  await stage.socket.welcome()
  assert.equal(stage.socket.all('subscribe').length, 0, 'still paused')
  for (let i = 601; i <= 1000; i++) assert.equal((await reader.next()).value.data, i)
  const next = reader.next()
  await settled()
  assert.equal(stage.socket.last('subscribe').since, '1-1000')
  await stage.socket.ok('subscribe', { position: '1-1000' })
  stage.socket.message('chat', 1001, 1001)
  assert.equal((await next).value.data, 1001)
  for (let i = 1; i <= 12; i++) {
    const one = reader.next()
    stage.socket.message('chat', 1001, 'x'.repeat(500_000))
    await one
  }
  assert.equal(stage.socket.all('unsubscribe').length, 0)
  for (let i = 1002; i <= 1010; i++) stage.socket.message('chat', i, 'x'.repeat(500_000))
  assert.equal(stage.socket.all('unsubscribe').length, 1, 'large messages are few')
})

play('presence', async stage => {
  const fan = await stage.connected()
  const told = []
  const note = what => change => told.push([what, change.count, change.members?.map(m => m.name)])
  const chat = fan.subscribe('chat', { presence: true, onMessage() { }, onPresence: note('here'), onJoin: note('join'), onLeave: note('leave') })
  assert.equal(stage.socket.last('subscribe').presence, true)
  await stage.socket.ok('subscribe', { position: '1-0', count: 1, members: [{ session: 's1' }] })
  stage.socket.say({ type: 'join', channel: 'chat', count: 2, members: [{ session: 'b', name: 'bob' }] })
  stage.socket.say({ type: 'leave', channel: 'chat', count: 1, members: [{ session: 'b', name: 'bob' }] })
  stage.socket.say({ type: 'gap', channel: 'chat', reason: 'presence', position: '1-0' })
  await stage.socket.ok('presence', { count: 9, members: [{ session: 'c', name: 'carol' }] })
  assert.deepEqual(told, [['here', 1, [undefined]], ['join', 2, ['bob']], ['leave', 1, ['bob']], ['here', 9, ['carol']]])
  assert.equal(chat.count, 9)
})

play('patterns', async stage => {
  const fan = await stage.connected()
  const heard = []
  fan.subscribe('chat/**', { onMessage: m => heard.push(['**', m.channel]), onGap: gap => heard.push(['gap', gap.pattern]) })
  fan.subscribe('chat/a', m => heard.push(['a', m.channel]))
  for (const { id } of stage.socket.all('subscribe')) stage.socket.say({ type: 'ok', id, position: '1-0' })
  stage.socket.message('chat/a', 1, 1, { pattern: 'chat/**' })
  stage.socket.message('chat/a', 1, 1)
  stage.socket.say({ type: 'gap', pattern: 'chat/**', reason: 'lost', position: '2-1' })
  assert.deepEqual(heard, [['**', 'chat/a'], ['a', 'chat/a'], ['gap', 'chat/**']])
})

play('a subscription that is refused', async stage => {
  const fan = await stage.connected()
  const told = []
  fan.subscribe('secret', { onMessage() { }, onError: error => told.push(error.code) })
  const refuse = why => stage.socket.answer('subscribe', { type: 'error', code: why, message: 'a sentence for people' })
  await refuse('internal')
  await stage.clock.pass(1_000)
  assert.equal(stage.socket.all('subscribe').length, 2, 'asked again')
  await refuse('forbidden')
  assert.deepEqual(told, ['forbidden'])
  const read = fate(fan.subscribe('secret')[Symbol.asyncIterator]().next())
  await refuse('forbidden')
  assert.equal(read.code, 'forbidden')
  await stage.socket.cut()
  await stage.clock.pass(300)
  await stage.socket.welcome()
  assert.equal(stage.socket.all('subscribe').length, 0, 'not asked again')
  // Who gave no onError hears of it where all errors go that nobody catches.
  const thrown = [], caught = error => thrown.push(error.code)
  process.on('uncaughtException', caught)
  fan.subscribe('secret', () => { })
  await refuse('forbidden')
  await stage.clock.pass(1).catch(caught)
  process.off('uncaughtException', caught)
  assert.deepEqual(thrown, ['forbidden'])
  // One that is left before its answer is left all the same, and one that was refused is not.
  let presences = 0
  fan.subscribe('hasty', { presence: true, onPresence() { presences++ } }).close()
  assert.equal(stage.socket.last('unsubscribe').channel, 'hasty')
  await stage.socket.ok('subscribe', { position: '1-1', count: 1 })
  assert.equal(presences, 0)
  assert.equal(fan.position('hasty'), undefined)
  const refused = fan.subscribe('busy')
  await refuse('timeout')
  refused.close()
  assert.equal(stage.socket.last('unsubscribe').channel, 'hasty')
  await stage.clock.pass(2_000)
  assert.equal(stage.socket.all('subscribe').filter(m => m.channel === 'busy').length, 1)
})

play('a callback that throws loses nothing', async stage => {
  const fan = await stage.connected()
  const heard = [], thrown = []
  const caught = error => thrown.push(error.message)
  process.on('uncaughtException', caught)
  try {
    fan.onstate = () => { throw new Error('mine') }
    fan.subscribe('chat', m => { heard.push(m.data); throw new Error('yours') })
    await stage.socket.ok('subscribe', { position: '1-0' })
    stage.socket.message('chat', 1, 1)
    stage.socket.message('chat', 2, 2)
    const stillThere = fan.position('chat')
    stage.socket.cut()
    for (let i = 0; i < 4; i++) await stage.clock.pass(200).catch(caught)
    await stage.socket.welcome()
    for (let i = 0; i < 4; i++) await stage.clock.pass(1).catch(caught)
    assert.deepEqual(heard, [1, 2])
    assert.equal(stillThere, '1-2')
    assert.deepEqual(thrown, ['yours', 'yours', 'mine', 'mine', 'mine'])
    assert.equal(fan.state, 'connected')
  } finally {
    process.off('uncaughtException', caught)
    fan.onstate = null
  }
})

// tokens gives one after the other, and the last for ever.
function tokens(...all) {
  const give = async () => all[Math.min(give.asked++, all.length - 1)]
  give.asked = 0
  return give
}

const bearer = stage => [stage.socket.protocol].flat()[1]

play('a token goes with the handshake, and each connection has its own', async stage => {
  const fan = stage.connect({ token: tokens('a.b-c_', 'two') })
  fan.subscribe('chat', () => { })
  assert.equal(fan.state, 'connecting')
  assert.equal(stage.socket, undefined, 'nothing goes before the token')
  await settled()
  assert.deepEqual(stage.socket.protocol, ['fanfare.v1', 'bearer.a.b-c_'])
  await stage.socket.welcome({ subject: 'alice', expires: 3600_000 })
  assert.equal(fan.subject, 'alice')
  assert.deepEqual(stage.socket.heard.map(m => m.type), ['subscribe'])
  await stage.socket.cut()
  assert.equal(fan.subject, undefined)
  await stage.clock.pass(300)
  assert.equal(bearer(stage), 'bearer.two')
  const fixed = stage.connect({ token: 'mine' })
  assert.equal(bearer(stage), 'bearer.mine')
  await stage.socket.welcome()
  assert.equal(fixed.state, 'connected')
})

play('a token that no header can carry is the first message', async stage => {
  const fan = stage.connect({ token: 'some/thing=' })
  fan.subscribe('chat', () => { })
  assert.equal(stage.socket.protocol, 'fanfare.v1')
  await stage.socket.welcome({ auth: 'required' })
  assert.deepEqual(stage.socket.heard.map(({ type, token }) => [type, token]), [['auth', 'some/thing=']])
  await stage.socket.ok('auth', { subject: 'alice' })
  assert.deepEqual([fan.state, fan.subject, stage.socket.heard[1].type], ['connected', 'alice', 'subscribe'])
  // So it is where a proxy took the header away.
  const other = stage.connect({ token: 'fits' })
  await stage.socket.welcome({ auth: 'required' })
  assert.equal(stage.socket.last('auth').token, 'fits')
  await stage.socket.answer('auth', { type: 'error', code: 'auth_unavailable', message: 'nobody knows you just now', retry: 2000 })
  assert.equal(other.state, 'waiting')
  assert.ok(other.retryAt - stage.clock.now >= 2000)
})

play('a handshake that came to nothing is asked why, with a message', async stage => {
  const fan = stage.connect({ token: tokens('one', 'two', 'three', 'four') })
  await settled()
  await stage.socket.cut()   // as a browser tells of a 401
  assert.equal(fan.state, 'waiting')
  await stage.clock.pass(300)
  assert.equal(stage.socket.protocol, 'fanfare.v1')
  await stage.socket.welcome({ auth: 'required' })
  assert.equal(stage.socket.last('auth').token, 'two')
  await stage.socket.answer('auth', { type: 'error', code: 'bad_token', message: 'this token is none of ours' })
  assert.equal(fan.state, 'waiting', 'another token may do')
  await stage.clock.pass(600)
  assert.equal(bearer(stage), 'bearer.three')
  await stage.socket.cut()
  await stage.clock.pass(1200)
  await stage.socket.welcome()
  await stage.socket.answer('auth', { type: 'error', code: 'token_revoked', message: 'this token was revoked' })
  assert.deepEqual([fan.state, fan.error.code], ['closed', 'token_revoked'])
  await stage.clock.pass(100_000)
  assert.equal(stage.sockets.length, 4)
  assert.equal(stage.clock.timers, 0)
})

play('the same token is not refused twice, and one that cannot change not once more', async stage => {
  const fan = stage.connect({ token: tokens('old') })
  await settled()
  await stage.socket.welcome()
  stage.socket.say({ type: 'bye', code: 'revoked', message: 'the token was revoked' })
  assert.equal(fan.state, 'waiting')
  await stage.clock.pass(300)
  assert.deepEqual([fan.state, fan.error.code, stage.sockets.length], ['closed', 'revoked', 1])
  const fixed = stage.connect({ token: 'old' })
  await stage.socket.welcome()
  stage.socket.say({ type: 'bye', code: 'token_expired', message: 'the token has expired' })
  assert.deepEqual([fixed.state, fixed.error.code], ['closed', 'token_expired'])
  const nobody = stage.connect()
  await stage.socket.welcome({ auth: 'required' })
  assert.deepEqual([nobody.state, nobody.error.code], ['closed', 'unauthenticated'])
  for (const [number, code] of [[4401, 'unauthenticated'], [4403, 'forbidden']]) {
    const wordless = await stage.connected()
    await stage.socket.cut(number, 'go away')
    assert.deepEqual([wordless.state, wordless.error.code, wordless.error.message], ['closed', code, 'go away'])
  }
  // A server that asks for none is asked nothing.
  const open = stage.connect({ token: 'not/fit' })
  await stage.socket.welcome()
  await stage.socket.answer('auth', { type: 'error', code: 'no_authentication', message: 'this server asks for none' })
  assert.equal(open.state, 'connected')
})

play('tokens run out as often as they like', async stage => {
  const fan = stage.connect({ token: tokens('1', '2', '3', '4', '5') })
  for (const n of [1, 2, 3, 4]) {
    await stage.clock.pass(3000)
    assert.equal(bearer(stage), 'bearer.' + n)
    await stage.socket.welcome()
    await stage.clock.pass(10)
    stage.socket.say({ type: 'bye', code: 'token_expired', message: 'the token has expired' })
    assert.equal(fan.state, 'waiting')
  }
})

play('a token is renewed in place', async stage => {
  const give = tokens('one', 'one', undefined, 'two', 'three', 'four')
  const fan = stage.connect({ token: give })
  const heard = []
  fan.subscribe('chat', m => heard.push(m.data))
  await settled()
  await stage.socket.welcome()
  await stage.socket.ok('subscribe', { position: '1-0' })
  stage.socket.say({ type: 'renew', expires: 30_000 })
  stage.socket.say({ type: 'renew', expires: 29_000 })
  await stage.clock.pass(100)
  assert.deepEqual(stage.socket.all('auth'), [], 'the same once more would change nothing')
  await stage.clock.pass(5000)
  stage.socket.message('chat', 1, 'meanwhile')
  await stage.socket.answer('auth', { type: 'error', code: 'auth_unavailable', message: 'nobody knows you just now' })
  await stage.clock.pass(5000)
  assert.deepEqual(stage.socket.all('auth').map(m => m.token), ['two', 'three'])
  await stage.socket.ok('auth', { subject: 'alice', expires: 60_000 })
  stage.socket.message('chat', 2, 'after')
  await stage.clock.pass(20_000)
  assert.equal(give.asked, 5)
  assert.deepEqual(heard, ['meanwhile', 'after'])
  stage.socket.say({ type: 'renew', expires: 30_000 })
  await settled()
  assert.equal(stage.socket.last('auth').token, 'four')
  assert.equal(stage.sockets.length, 1)
  fan.close()
  await stage.clock.pass(30_000)
  assert.equal(stage.clock.timers, 0)
  assert.equal(give.asked, 6)
})

play('a token that comes when its connection is gone is nobody\'s', async stage => {
  const give = []
  const fan = stage.connect({ token: () => new Promise(resolve => give.push(resolve)) })
  await settled()
  fan.reconnect()
  await settled()
  give[0]('late')
  await settled()
  assert.equal(stage.sockets.length, 0)
  give[1]('mine')
  await settled()
  assert.deepEqual([stage.sockets.length, bearer(stage)], [1, 'bearer.mine'])
  await stage.socket.welcome()
  stage.socket.say({ type: 'renew', expires: 30_000 })
  await settled()
  fan.reconnect()
  await settled()
  give[3]('next')
  await settled()
  await stage.socket.welcome()
  give[2]('renewed')
  await stage.clock.pass(1000)
  assert.deepEqual(stage.sockets.flatMap(s => s.all('auth')), [])
  const slow = stage.connect({ token: () => new Promise(() => { }) })
  await stage.clock.pass(12_000)
  assert.deepEqual([slow.states.includes('waiting'), stage.sockets.length], [true, 2], 'it does not wait for ever')
  const broken = stage.connect({ token: () => { throw new Error('the token server is away') } })
  await settled()
  assert.deepEqual([broken.state, broken.error.message], ['waiting', 'the token server is away'])
})

play('a right that is taken away ends what it granted', async stage => {
  const fan = await stage.connected()
  const heard = [], errors = []
  fan.subscribe('secret/*', { onMessage: m => heard.push(m.data), onError: error => errors.push(error.code) })
  await stage.socket.ok('subscribe', { position: '1-0' })
  fan.subscribe('open', { onMessage: m => heard.push(m.data), onGap: gap => heard.push(gap.reason) })
  await stage.socket.ok('subscribe', { position: '1-0' })
  stage.socket.say({ type: 'unsubscribed', channel: 'secret/*', code: 'forbidden', message: 'you may no longer read secret/*' })
  stage.socket.say({ type: 'unsubscribed', channel: 'unheard of', code: 'forbidden', message: 'you may no longer read this' })
  stage.socket.message('secret/1', 1, 'late', { pattern: 'secret/*' })
  stage.socket.say({ type: 'gap', channel: 'open', reason: 'forbidden', position: '1-3' })
  stage.socket.message('open', 4, 'still')
  assert.deepEqual([heard, errors], [['forbidden', 'still'], ['forbidden']])
  await stage.socket.cut()
  await stage.clock.pass(300)
  await stage.socket.welcome()
  assert.deepEqual(stage.socket.all('subscribe').map(m => m.channel), ['open'])
})

play('what comes too fast is repeated when the server says', async stage => {
  const fan = await stage.connected()
  const published = fate(fan.publish('chat', 1)), asked = fate(fan.request('time'))
  await settled()
  await stage.socket.answer('publish', { type: 'error', code: 'rate_limited', message: 'chat takes 10 messages a second', retry: 3000 })
  await stage.socket.answer('request', { type: 'error', code: 'rate_limited', message: 'chat takes 10 messages a second', retry: 3000 })
  assert.deepEqual([asked.code, asked.error.retry], ['rate_limited', 3000])
  await stage.clock.pass(2900)
  assert.equal(stage.socket.all('publish').length, 1)
  await stage.clock.pass(3200)
  const [first, again] = stage.socket.all('publish')
  assert.equal(again.id, first.id)
  await stage.socket.ok('publish', { position: '1-1' })
  assert.equal(published.value, '1-1')
})

play('what waited goes before what is said in answer to the state', async stage => {
  const fan = stage.connect()
  fate(fan.publish('chat', 1))
  fan.onstate = ({ state }) => { if (state === 'connected') fate(fan.publish('chat', 2)) }
  await stage.socket.welcome()
  await settled()
  assert.deepEqual(stage.socket.all('publish').map(m => m.data), [1, 2])
})

play('a name is changed with a new connection', async stage => {
  const fan = await stage.connected({ name: 'alice' })
  fan.name = 'bob'
  fan.reconnect()
  assert.equal(stage.socket.url.searchParams.get('name'), 'bob')
  assert.equal(stage.sockets[0].closed, 1000)
})

play('what is not understood is passed over', async stage => {
  const fan = await stage.connected()
  stage.socket.say({ type: 'news', of: 'a later server' })
  stage.socket.say({ type: 'ok', id: 'nobody asked' })
  stage.socket.say({ type: 'message', channel: 'nobody reads', position: '1-1', data: 1 })
  assert.equal(fan.state, 'connected')
})

// ---- The vectors ------------------------------------------------------------

// bytes is data as a program has it: base64 stands for bytes.
const asHad = ({ encoding, ...rest }) => encoding ? { ...rest, data: new Uint8Array(Buffer.from(rest.data, 'base64')) } : rest

// How each thing that a client says is said through this client, where it can be.
const say = {
  auth: (stage, { token }) => stage.connect({ token }),   // this one fits into no header
  subscribe: (_, { channel, since, presence, slow }, fan) => fan.subscribe(channel, { since, presence, slow }),
  unsubscribe: (stage, { channel }, fan) => {
    const subscription = fan.subscribe(channel)
    stage.socket.ok('subscribe', { position: '1-0' })
    subscription.close()
  },
  publish: (_, { channel, key, ...data }, fan) => fan.publish(channel, asHad(data).data, { key }).catch(() => { }),
  history: (_, { channel, since, limit }, fan) => fan.history(channel, { since, limit }).catch(() => { }),
  presence: (_, { channel, limit }, fan) => fan.presence(channel, { limit }).catch(() => { }),
  request: (_, { method, data }, fan) => fan.request(method, data).catch(() => { }),
  ping: (stage) => { stage.clock.now += 3000; stage.happens('focus') },
}

// What a program gets of each thing that a server says.
const get = {
  welcome: async (stage, said) => {
    const fan = stage.connect()
    stage.socket.readyState = 1
    stage.socket.say(said)
    await settled()
    const { session, auth, subject } = JSON.parse(said)
    return [[fan.state, fan.session, fan.subject], [auth ? 'closed' : 'connected', session, subject]]
  },
  message: (stage, said) => heard(stage, said, 'onMessage'),
  gap: (stage, said, value) => value.reason === 'presence' ? asksWhoIsHere(stage, said) : heard(stage, said, 'onGap'),
  join: (stage, said) => heard(stage, said, 'onJoin'),
  leave: (stage, said) => heard(stage, said, 'onLeave'),
  heartbeat: async (stage, said) => {
    const fan = await stage.connected()
    await stage.clock.pass(37_000)
    stage.socket.say(said)
    await stage.clock.pass(37_000)
    return [fan.state, 'connected']
  },
  ok: (stage, said, value) => answered(stage, said, fan => value.messages ? fan.history('a') : value.members || 'count' in value ? fan.presence('a') : fan.publish('a', 1),
    'messages' in value ? { channel: 'a', messages: value.messages.map(asHad), position: value.position, gap: !!value.gap, more: !!value.more }
      : 'count' in value ? { channel: 'a', count: value.count, members: value.members } : value.position),
  response: (stage, said, value) => answered(stage, said, fan => fan.request('a'), value.data),
  error: (stage, said, value) => answered(stage, said, fan => fan.request('a').catch(({ code, message }) => ({ code, message })), { code: value.code, message: value.message }),
  renew: async (stage, said) => {
    stage.connect({ token: tokens('one', 'two') })
    await settled()
    await stage.socket.welcome()
    stage.socket.say(said)
    await settled()
    return [stage.socket.last('auth')?.token, 'two']
  },
  unsubscribed: async (stage, said, { channel, code }) => {
    const fan = await stage.connected()
    const got = []
    fan.subscribe(channel, { onMessage() { }, onError: error => got.push(error.code) })
    await stage.socket.ok('subscribe', { position: '1-0' })
    stage.socket.say(said)
    return [got, [code]]
  },
  bye: async (stage, said, value) => {
    const fan = await stage.connected()
    stage.socket.say(said)
    return [[fan.state, fan.error.code, fan.error.message], ['retry' in value ? 'waiting' : 'closed', value.code, value.message]]
  },
}

async function heard(stage, said, callback) {
  const fan = await stage.connected()
  const { channel, pattern, ...rest } = JSON.parse(said)
  const got = []
  fan.subscribe(pattern ?? channel, { presence: true, onMessage() { }, [callback]: what => got.push(what) })
  await stage.socket.ok('subscribe', { position: '1-0' })
  stage.socket.say(said)
  return [got, [asHad(JSON.parse(said))]]
}

async function asksWhoIsHere(stage, said) {
  const fan = await stage.connected()
  const { channel } = JSON.parse(said)
  fan.subscribe(channel, { presence: true, onMessage() { } })
  await stage.socket.ok('subscribe', { position: '1-0' })
  stage.socket.say(said)
  return [stage.socket.last('presence')?.channel, channel]
}

// answered gives what becomes of a question that a vector answers; the id is the question's.
async function answered(stage, said, ask, want) {
  const fan = await stage.connected()
  const got = ask(fan)
  await settled()
  const value = JSON.parse(said)
  if (value.id === undefined) {
    got.catch?.(() => { })
    stage.socket.say(value)
    return [[fan.state], ['connected']]
  }
  stage.socket.say({ ...value, id: stage.socket.heard.at(-1).id })
  return [await got, want]
}

const vectors = new URL('../protocol/testdata/vectors/', import.meta.url)
for (const file of readdirSync(vectors).filter(name => name.endsWith('.json'))) {
  const type = file.slice(0, -5)
  for (const { name, direction, json, value, error, said, comes } of JSON.parse(readFileSync(new URL(file, vectors), 'utf8')).cases ?? []) {
    if (type === 'data' && error === undefined) {
      play(`data: ${name}`, async stage => {
        const fan = await stage.connected()
        const had = JSON.parse(said), got = []
        fan.subscribe('a', m => got.push(m.data))
        await stage.socket.ok('subscribe', { position: '1-0' })
        if (had !== -Infinity) {   // which JavaScript reads of -1e400, and cannot say
          fan.publish('a', had).catch(() => { })
          await settled()
          assert.deepEqual(stage.socket.last('publish').data, had)
        }
        stage.socket.say(`{"type":"message","channel":"a","position":"1-1","data":${comes ?? said}}`)
        assert.deepEqual(got, [had])
      })
    } else if (direction === 'client' && error === undefined && say[value.type] && !(value.type === 'auth' && !value.token)) {
      play(`${type}: ${name}`, async stage => {
        const fan = await stage.connected()
        say[value.type](stage, value, fan)
        if (stage.socket.readyState === 0) await stage.socket.welcome()
        await settled()
        const { id, ...got } = stage.socket.last(value.type), { id: _, ...want } = value
        assert.equal(JSON.stringify(got), JSON.stringify(want), 'in the order of the fields, too')
      })
    } else if (direction === 'server' && get[value?.type]) {
      play(`${type}: ${name}`, async stage => {
        const [got, want] = await get[value.type](stage, json, value)
        assert.deepEqual(got, want)
      })
    }
  }
}
