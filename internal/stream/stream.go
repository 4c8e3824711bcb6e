// Package stream is the portable transport: it moves a session's bytes over
// any net.Conn, on any system, TLS or not.
//
// A goroutine reads for as long as the connection lives; a goroutine that
// writes lives only while there is something to write. Every write has a
// deadline.
//
// # The door
//
// A transport knows nothing of WebSocket, channels or feeds. It sees a
// [Session]: bytes in, bytes out, a tick for time, and the end. The session
// sees a [Conn]: wake me, end me, and the [Loop] where work for many sessions
// is done. Whoever writes another transport has these three to offer.
//
// # Two ways to hurt yourself
//
// A session's methods must not block: Receive is the connection's reading,
// Next its writing, Tick everybody's clock. And what Next returned is written
// as it is, later: it must not change.
package stream

import (
	"errors"
	"net"
	"runtime"
	"sync"
	"time"

	"fanfare/internal/netend"
)

// A Session is what a connection serves. Receive is called by one goroutine,
// Next by another, Tick by a third, each never twice at once; Gone is the last
// call of all.
type Session interface {
	// Receive takes bytes that arrived, and may change them until it returns.
	// It reports whether the session wants more; if not, what still arrives is
	// read and thrown away, so that the peer can read our last words in peace.
	Receive(b []byte) bool
	// Next returns what to write now; nothing if there is nothing until Wake
	// is called. last says that nothing will follow these bytes: the transport
	// ends its direction of the connection, and, when the peer ended its own
	// or CloseTimeout passed, all of it.
	Next() (b []byte, last bool)
	// LastWords returns what is still to be said when the peer is stuck, or the
	// connection is being ended before Next said last. It is written behind what
	// was begun if that is possible without waiting. It is called once, by
	// whoever called Receive or Next.
	LastWords(err error) []byte
	// Tick is called about every Options.Tick.
	Tick()
	// Gone says that the connection is over, and why: io.EOF when the peer
	// ended it, the error given to End, or the network's. Nothing of it is
	// left then.
	Gone(err error)
}

// Options are a transport's settings. All are needed.
type Options struct {
	Tick         time.Duration // between two calls of Session.Tick
	WriteTimeout time.Duration // how long a peer may take nothing of what is written; see [netend.Write] for what that means over TLS
	CloseTimeout time.Duration // how long a peer may take to end its direction after we ended ours
	Loops        int           // how many Loops
}

// ErrWriteTimeout is the end of a connection whose peer is stuck.
var ErrWriteTimeout = errors.New("stream: the peer took nothing of what was written within the write timeout")

// ErrClosed is the end of the connections that a transport had when it was closed.
var ErrClosed = errors.New("stream: transport closed")

// A Transport serves connections. Its methods may be called from any goroutine.
type Transport struct {
	opts  Options // static
	loops []*Loop // static

	mu     sync.Mutex // guards the following
	conns  map[*Conn]struct{}
	next   int         // the loop of the next connection
	ticker *time.Timer // nil while there are no connections
	closed bool
	ends   sync.WaitGroup // one for each connection, until after Gone; Add under mu
}

// New returns a transport.
func New(o Options) *Transport {
	t := &Transport{opts: o, conns: make(map[*Conn]struct{})}
	for range max(1, o.Loops) {
		t.loops = append(t.loops, new(Loop))
	}
	return t
}

// Loops returns the transport's loops; the same slice each time.
func (t *Transport) Loops() []*Loop { return t.loops }

// Accept takes over nc, of which early was read already. The connection can be
// woken at once, but nothing is read, written or told before Start, which must
// follow. After Close, Accept returns ErrClosed and nc is the caller's still.
func (t *Transport) Accept(nc net.Conn, early []byte) (*Conn, error) {
	c := &Conn{nc: nc, early: early, transport: t}
	c.idle.L = &c.mu
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	c.loop = t.loops[t.next%len(t.loops)]
	t.next++
	t.conns[c] = struct{}{}
	t.ends.Add(1)
	if t.ticker == nil {
		t.ticker = time.AfterFunc(t.opts.Tick, t.tick)
	}
	return c, nil
}

// Close ends all connections with ErrClosed and waits until all were told
// Gone. So it must not be called by a session.
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	conns := t.snapshot()
	if t.ticker != nil {
		t.ticker.Stop()
	}
	t.mu.Unlock()
	for _, c := range conns {
		c.End(ErrClosed)
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

// A Task is work for the sessions of one loop.
type Task interface{ Run() }

// A Loop runs tasks one after the other. Each connection belongs to one for
// good, so that what concerns many connections can be done by several loops
// at once without meeting.
type Loop struct {
	mu      sync.Mutex // guards the following
	queue   []Task
	running bool
}

// Post has t run soon. It does not wait. May be called from any goroutine.
func (l *Loop) Post(t Task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue = append(l.queue, t)
	if !l.running {
		l.running = true
		go l.run()
	}
}

func (l *Loop) run() {
	for {
		l.mu.Lock()
		tasks := l.queue
		l.queue = nil
		if len(tasks) == 0 {
			l.running = false
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
		for _, t := range tasks {
			t.Run()
		}
	}
}

// A Conn is a session's connection. Its methods may be called from any goroutine.
type Conn struct {
	nc        net.Conn   // static
	transport *Transport // static
	loop      *Loop      // static
	session   Session    // static after Start
	early     []byte     // what was read before Accept; the reading goroutine's

	mu      sync.Mutex // guards the following
	started bool
	idle    sync.Cond // signalled when writing or ticking ends
	writing bool      // a goroutine writes
	ticking bool      // a goroutine is in Tick
	ended   bool      // Tick is not called any more
	again   bool      // Wake was called meanwhile
	over    bool      // no goroutine may start writing any more
	last    bool      // our direction is ended
	cause   error     // why the connection is to end; nil as long as it is not
}

// Loop returns the loop that the connection belongs to.
func (c *Conn) Loop() *Loop { return c.loop }

// Wake says that Next has something to give. It reports whether a write is
// under way, which then goes on with it: when it takes long, the peer is slow.
func (c *Conn) Wake() (busy bool) {
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

// Start begins to serve s. It is called once.
func (c *Conn) Start(s Session) {
	tuneTCP(c.nc)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session, c.started = s, true
	go c.read()
	if c.again {
		c.again, c.writing = false, true
		go c.write()
	}
}

// End ends the connection at once; Gone will be told err. What the session
// has as last words is tried, without waiting. A second call changes nothing.
func (c *Conn) End(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause != nil {
		return
	}
	c.cause = err
	c.nc.SetDeadline(time.Unix(1, 0)) // both goroutines stop waiting
}

func (c *Conn) tick() {
	c.mu.Lock()
	if !c.started || c.ended {
		c.mu.Unlock()
		return
	}
	c.ticking = true
	c.mu.Unlock()
	c.session.Tick()
	c.mu.Lock()
	c.ticking = false
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
	for c.writing || c.ticking {
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
		n, err := c.nc.Read(buf)
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
	}
	return c.cause
}

// writeNext writes all that the session has. On an error it returns what is
// left of the bytes that were begun.
func (c *Conn) writeNext() (rest []byte, err error) {
	for {
		b, last := c.session.Next()
		if len(b) == 0 && !last {
			return nil, nil
		}
		if rest, err := c.writeAll(b); err != nil {
			return rest, err
		}
		if last {
			c.endWriting()
			return nil, nil
		}
	}
}

func (c *Conn) writeAll(b []byte) (rest []byte, err error) {
	rest, err = netend.Write(c.nc, b, c.transport.opts.WriteTimeout, c.writeUntil)
	if err == netend.ErrStuck {
		err = ErrWriteTimeout
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
		c.nc.SetReadDeadline(time.Now().Add(timeout))
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
	both.WriteTo(c.nc)
}
