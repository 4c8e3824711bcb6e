// Package stream is the portable transport: it moves a session's bytes over
// any net.Conn, on any system, TLS or not.
//
// A goroutine reads for as long as the connection lives; a goroutine that
// writes lives only while there is something to write. Every write has a
// deadline.
package stream

import (
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/internal/netend"
	"fanfare/internal/transport"
)

// A Transport implements [transport.Transport] for any net.Conn.
type Transport struct {
	opts  transport.Options // static
	loops []transport.Loop  // static

	mu     sync.Mutex // guards the following
	conns  map[*Conn]struct{}
	next   int         // the loop of the next connection
	ticker *time.Timer // nil while there are no connections
	closed bool
	ends   sync.WaitGroup // one for each connection, until after Gone; Add under mu
}

// New returns a transport.
func New(o transport.Options) *Transport {
	t := &Transport{opts: o, conns: make(map[*Conn]struct{})}
	for range max(1, o.Loops) {
		t.loops = append(t.loops, new(loop))
	}
	return t
}

// Loops implements [transport.Transport].
func (t *Transport) Loops() []transport.Loop { return t.loops }

// Accept implements [transport.Transport].
func (t *Transport) Accept(nc net.Conn, early []byte) (transport.Conn, error) {
	c := &Conn{nc: nc, early: early, transport: t}
	c.idle.L, c.reads.L = &c.mu, &c.mu
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, transport.ErrClosed
	}
	c.loop = t.loops[t.next%len(t.loops)].(*loop)
	t.next++
	t.conns[c] = struct{}{}
	t.ends.Add(1)
	if t.ticker == nil {
		t.ticker = time.AfterFunc(t.opts.Tick, t.tick)
	}
	return c, nil
}

// Each implements [transport.Transport].
func (t *Transport) Each(f func(transport.Session)) {
	t.mu.Lock()
	conns := t.snapshot()
	t.mu.Unlock()
	for _, c := range conns {
		c.loop.Post(transport.Do(func() { c.during(f) }))
	}
}

// Name implements [transport.Transport].
func (t *Transport) Name() string { return "stream" }

// Load implements [transport.Transport].
func (t *Transport) Load() (sum transport.Load) {
	for _, l := range t.loops {
		sum.Read += l.(*loop).read.Load()
		sum.Written += l.(*loop).written.Load()
	}
	return sum
}

// Close implements [transport.Transport].
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	conns := t.snapshot()
	if t.ticker != nil {
		t.ticker.Stop()
	}
	t.mu.Unlock()
	for _, c := range conns {
		c.End(transport.ErrClosed)
	}
	t.ends.Wait()
}

func (t *Transport) snapshot() []*Conn {
	conns := make([]*Conn, 0, len(t.conns))
	for c := range t.conns {
		conns = append(conns, c)
	}
	return conns
}

func (t *Transport) tick() {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	if len(t.conns) == 0 {
		t.ticker = nil
		t.mu.Unlock()
		return
	}
	conns := t.snapshot()
	t.mu.Unlock()
	for _, c := range conns {
		c.tick()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.ticker.Reset(t.opts.Tick)
	}
}

func (t *Transport) forget(c *Conn) {
	t.mu.Lock()
	delete(t.conns, c)
	t.mu.Unlock()
}

// A loop is a goroutine that lives while there are tasks.
type loop struct {
	read, written atomic.Int64 // bytes, of all its connections

	mu      sync.Mutex // guards the following
	queue   []transport.Task
	running bool
}

// Post implements [transport.Loop].
func (l *loop) Post(t transport.Task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, t)
	if !l.running {
		l.running = true
		go l.run()
	}
}

func (l *loop) run() {
	var again []transport.Task
	for {
		l.mu.Lock()
		tasks := append(again, l.queue...)
		again, l.queue = nil, nil
		if len(tasks) == 0 {
			l.running = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, t := range tasks {
			if t.Run() {
				again = append(again, t)
			}
		}
	}
}

// A Conn implements [transport.Conn]. All its methods may be called from any
// goroutine: what writes is another one.
type Conn struct {
	nc        net.Conn          // static
	transport *Transport        // static
	loop      *loop             // static
	session   transport.Session // static after Start
	early     []byte            // what was read before Accept; the reading goroutine's

	mu      sync.Mutex // guards the following
	started bool
	idle    sync.Cond // signalled when writing or during ends
	writing bool      // a goroutine writes
	inside  int       // goroutines that are in during
	ended   bool      // nobody enters it any more
	reads   sync.Cond // signalled when paused or cause changes, and once a tick
	paused  bool      // nothing is read
	again   bool      // Wake was called meanwhile
	over    bool      // no goroutine may start writing any more
	last    bool      // our direction is ended
	closeBy time.Time // when the peer's direction must have ended, if ours is
	cause   error     // why the connection is to end; nil as long as it is not
}

// Loop implements [transport.Conn].
func (c *Conn) Loop() transport.Loop { return c.loop }

// Wake implements [transport.Conn].
func (c *Conn) Wake() { c.Flush() }

// Flush implements [transport.Conn]: it has another goroutine write, or the
// one that writes go on, and then it may be that the peer is slow.
func (c *Conn) Flush() (busy bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writing {
		c.again = true
		return true
	}
	switch {
	case !c.started:
		c.again = true
	case !c.over:
		c.writing = true
		go c.write()
	}
	return false
}

// Pause implements [transport.Conn].
func (c *Conn) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = true
}

// Resume implements [transport.Conn].
func (c *Conn) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = false
	c.reads.Broadcast()
}

// whilePaused waits as long as nothing is to be read. Behind closeBy there
// is: that it has passed.
func (c *Conn) whilePaused() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.paused && c.cause == nil && (c.closeBy.IsZero() || time.Now().Before(c.closeBy)) {
		c.reads.Wait()
	}
}

// Start implements [transport.Conn].
func (c *Conn) Start(s transport.Session) {
	boundUnsent(c.nc)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.started = s, true
	go c.read()
	if c.again {
		c.again, c.writing = false, true
		go c.write()
	}
}

// End implements [transport.Conn].
func (c *Conn) End(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = err
	c.reads.Broadcast()
	c.nc.SetDeadline(time.Unix(1, 0)) // both goroutines stop waiting
}

func (c *Conn) tick() {
	c.reads.Broadcast() // what is paused looks at the clock
	c.during(transport.Session.Tick)
}

// during calls f within the session's life: after Start, and not after Gone.
func (c *Conn) during(f func(transport.Session)) {
	c.mu.Lock()
	if !c.started || c.ended {
		c.mu.Unlock()
		return
	}
	c.inside++
	c.mu.Unlock()
	f(c.session)
	c.mu.Lock()
	c.inside--
	c.idle.Broadcast()
	c.mu.Unlock()
}

// The buffers to read into. A connection has a small one; while more than
// that arrives at a time it borrows a big one, and gives it back as soon as a
// read leaves room in it: then nothing more was there, and the next read may
// wait for hours.
const (
	smallBuffer = 2 << 10
	bigBuffer   = 64 << 10
)

var bigBuffers = sync.Pool{New: func() any { b := make([]byte, bigBuffer); return &b }}

// read is the connection's life.
func (c *Conn) read() {
	err := c.receive()
	c.mu.Lock()
	if c.cause == nil {
		c.cause = err
		c.nc.SetWriteDeadline(time.Unix(1, 0)) // not later: the writer may be at its last words
	}
	c.over = true
	for c.writing || c.inside > 0 {
		c.idle.Wait()
	}
	c.ended = true
	last := c.last
	err = c.cause
	c.mu.Unlock()
	if !last {
		c.speakLast(nil, err)
	}
	netend.HangUp(c.nc, farewell)
	c.transport.forget(c)
	c.session.Gone(err)
	c.transport.ends.Done()
}

// receive reads until the connection fails or ends, and returns why.
func (c *Conn) receive() error {
	wanted := true
	if len(c.early) > 0 {
		c.loop.read.Add(int64(len(c.early)))
		wanted = c.session.Receive(c.early)
		c.early = nil
	}
	small := make([]byte, smallBuffer)
	var big *[]byte
	for {
		buf := small
		if big != nil {
			buf = *big
		}
		c.whilePaused()
		n, err := c.nc.Read(buf)
		c.loop.read.Add(int64(n))
		if n > 0 && wanted {
			wanted = c.session.Receive(buf[:n])
		}
		if err != nil {
			if big != nil {
				bigBuffers.Put(big)
			}
			return err
		}
		switch {
		case n == len(buf) && big == nil:
			big = bigBuffers.Get().(*[]byte)
		case n < len(buf) && big != nil:
			bigBuffers.Put(big)
			big = nil
		}
		if n == bigBuffer {
			// Whoever floods never has to wait for the network here, and would
			// keep the processor for a time slice of 10 ms, again and again: then
			// twenty of them are a delay of 200 ms for everybody else.
			runtime.Gosched()
		}
	}
}

// write writes until there is nothing left to write.
func (c *Conn) write() {
	for {
		rest, err := c.writeNext()
		if err != nil {
			c.speakLast(rest, c.fail(err))
		}
		c.mu.Lock()
		if err != nil {
			c.over, c.last = true, true
			c.nc.SetReadDeadline(time.Unix(1, 0))
		}
		if !c.again || c.over {
			c.writing = false
			c.idle.Broadcast()
			c.mu.Unlock()
			return
		}
		c.again = false
		c.mu.Unlock()
	}
}

// fail has err end the connection, unless something else does already, and
// returns what does: a write that End cut short looks like one that timed out.
func (c *Conn) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		c.cause = err
		c.reads.Broadcast()
	}
	return c.cause
}

// writeNext writes all that the session has. On an error it returns what is
// left of the bytes that were begun.
func (c *Conn) writeNext() (rest []byte, err error) {
	for {
		b, then := c.session.Next()
		if rest, err := c.writeAll(b); err != nil {
			return rest, err
		}
		switch {
		case then == transport.Last:
			c.endWriting()
			return nil, nil
		case then == transport.Wait, len(b) == 0:
			return nil, nil
		}
	}
}

func (c *Conn) writeAll(b []byte) (rest []byte, err error) {
	rest, err = netend.Write(c.nc, b, c.transport.opts.WriteTimeout, c.writeUntil)
	c.loop.written.Add(int64(len(b) - len(rest)))
	if err == netend.ErrStuck {
		err = transport.ErrWriteTimeout
	}
	return rest, err
}

// writeUntil sets the write deadline, unless the connection is to end: then it
// leaves the one that End set, and returns why.
func (c *Conn) writeUntil(deadline time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return c.cause
	}
	c.nc.SetWriteDeadline(deadline)
	return nil
}

// deafTimeout is CloseTimeout's bound where a direction cannot be ended alone,
// as when a listener wraps its connections: a peer that waits for our end, as a
// WebSocket's client does, cannot see it, and would wait for all of CloseTimeout.
const deafTimeout = 100 * time.Millisecond

// endWriting ends our direction, and gives the peer CloseTimeout to end its own.
func (c *Conn) endWriting() {
	timeout := c.transport.opts.CloseTimeout
	if !netend.EndWriting(c.nc) {
		timeout = min(timeout, deafTimeout)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over, c.last = true, true
	if c.cause == nil {
		c.closeBy = time.Now().Add(timeout)
		c.nc.SetReadDeadline(c.closeBy)
	}
}

// farewell is how long last words may take. They wait for nobody, but on a busy
// machine, with thousands to be told at once, time passes between two lines of code.
const farewell = time.Second

// speakLast tries to write the rest of what was begun and the last words, and
// does not wait for a peer that reads nothing longer than farewell. Over TLS there are none after a write that was
// cut short: half a record is on its way.
func (c *Conn) speakLast(rest []byte, err error) {
	words := c.session.LastWords(err)
	if len(words) == 0 {
		return
	}
	makeRoom(c.nc, len(rest)+len(words))
	c.nc.SetWriteDeadline(time.Now().Add(farewell))
	both := net.Buffers{rest, words} // not joined: many sessions may share a large rest
	n, _ := both.WriteTo(c.nc)
	c.loop.written.Add(n)
}
