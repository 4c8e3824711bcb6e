package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"fanfare/websocket"
)

// A link is one plain WebSocket connection, to a server that is not ours, which
// comes back when it is lost. What was said meanwhile is lost: RFC 6455 knows
// nothing of it.
//
// A message handed over by send or trySend waits in the queue until the server
// has confirmed it: RFC 6455 has no acknowledgements, but a server answers a
// ping after what came before it (section 5.5.3 lets it answer only the
// newest), so a pong says that the messages before the ping have been read.
// What was not confirmed when the connection broke is sent again, so that a
// message may arrive twice but is not lost in silence. A message may also be
// what breaks connections: after two that it saw break it goes out alone, and
// five end the link.
type link struct {
	linkConfig
	ended chan struct{} // static; closed when run returns

	// guarded by mu
	mu        sync.Mutex
	changed   chan struct{} // closed and replaced whenever something below changes
	queue     []*outgoing   // unconfirmed, oldest first
	bytes     int           // of the queue
	written   int           // how many of queue went out over the connection under way
	online    bool
	finishing bool          // nothing will be added to the queue
	lastHeard time.Time     // when the last message came
	roundTrip time.Duration // of the last ping
}

// linkConfig is what a command wants of its link. The functions may be nil.
// They are called from the link's goroutines, one at a time each, except for
// onQueue, which whoever changes the queue calls. Nothing in it changes once the
// link runs.
type linkConfig struct {
	url     *url.URL
	first   *websocket.Conn // the first connection; nil: there is none yet
	options websocket.DialOptions

	once    bool          // a lost connection is the end
	linger  time.Duration // before closing, wait until nothing came for so long
	pause   backoff       // between two attempts
	confirm time.Duration // once finished, how long a pong may take; default 30 s

	// onMessage takes what arrives. An error ends the link, and run returns it.
	onMessage func(typ websocket.MessageType, data []byte) error
	onState   func(linkState)
	onSent    func(m *outgoing) // m went out, for the first time
	onQueue   func()            // which messages wait has changed
}

// outgoing is a message on its way.
type outgoing struct {
	// static
	typ    websocket.MessageType
	data   []byte
	number int // which line it was, for errors

	// guarded by the link's mu
	sent  bool // at least once
	tries int  // connections that broke while it was unconfirmed
}

// linkState is what a link tells about itself.
type linkState struct {
	connected bool
	wait      time.Duration // not connected: the time to the next attempt; 0 during one
	reason    string        // why there is a wait
}

const (
	queueMessages = 1000             // unconfirmed
	queueBytes    = 4 << 20          // unconfirmed, except that one message may always be there
	maxTries      = 5                // of one message
	aloneAfter    = 2                // tries
	steady        = 10 * time.Second // a connection that lasted so long was good
	lingerMost    = 5 * time.Second  // on a channel that is never quiet, unless linger itself is longer
)

// errStop ends a link from within onMessage, in order and without an error.
var errStop = errors.New("enough")

func newLink(cfg linkConfig) *link {
	if cfg.confirm == 0 {
		cfg.confirm = 30 * time.Second
	}
	return &link{linkConfig: cfg, ended: make(chan struct{}), changed: make(chan struct{})}
}

// change wakes whoever waits for something in the queue. The caller holds mu.
func (l *link) change() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// full says which limit the queue would break with more bytes in one more
// message; nil: none. The caller holds mu.
func (l *link) full(more int) error {
	switch {
	case len(l.queue) >= queueMessages:
		return errors.New("1,000 lines wait to be sent already: wait until the connection is back")
	case len(l.queue) > 0 && l.bytes+more > queueBytes:
		return errors.New("with this line, more than 4 MiB would wait to be sent: wait until the connection is back")
	}
	return nil
}

// send hands a message over and waits while the queue is full. It fails when
// ctx or the link ends.
func (l *link) send(ctx context.Context, m *outgoing) error {
	for {
		l.mu.Lock()
		if l.full(len(m.data)) == nil {
			l.add(m)
			l.mu.Unlock()
			return nil
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ended:
			return errStop
		}
	}
}

// trySend hands a message over, or fails at once.
func (l *link) trySend(m *outgoing) error {
	l.mu.Lock()
	if err := l.full(len(m.data)); err != nil {
		l.mu.Unlock()
		return err
	}
	l.add(m)
	l.mu.Unlock()
	l.queueChanged()
	return nil
}

func (l *link) add(m *outgoing) {
	l.queue = append(l.queue, m)
	l.bytes += len(m.data)
	l.change()
}

// finish says that nothing more will be sent: run confirms what is in the
// queue, closes in order and returns.
func (l *link) finish() {
	l.mu.Lock()
	l.finishing = true
	l.change()
	l.mu.Unlock()
}

// unconfirmed returns the messages of which nobody knows whether they arrived,
// and those that never went out.
func (l *link) unconfirmed() (doubtful, unsent int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.queue {
		if m.sent {
			doubtful++
		} else {
			unsent++
		}
	}
	return doubtful, unsent
}

// waiting returns the texts in the queue that have to go out, oldest first.
func (l *link) waiting() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var texts []string
	for _, m := range l.queue[l.written:] {
		texts = append(texts, string(m.data))
	}
	return texts
}

func (l *link) isOnline() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.online
}

func (l *link) state(s linkState) {
	l.mu.Lock()
	l.online = s.connected
	l.change()
	l.mu.Unlock()
	if l.onState != nil {
		l.onState(s)
	}
}

func (l *link) queueChanged() {
	if l.onQueue != nil {
		l.onQueue()
	}
}

// run keeps the link until it ends: nil when it was finished, the server said
// goodbye, onMessage had enough or ctx ended; else an error with its exit code.
func (l *link) run(ctx context.Context) error {
	defer close(l.ended)
	pause := l.pause
	for conn := l.first; ; conn = nil {
		var err error
		var least time.Duration // before the next attempt
		if conn == nil {
			l.state(linkState{})
			var answer *http.Response
			conn, answer, err = websocket.Dial(ctx, l.url.String(), &l.options)
			if err != nil && ctx.Err() != nil {
				return nil
			}
			if err != nil {
				failure := explainDial(l.url, answer, err)
				if failure.final || l.once {
					return &exitError{exitConnect, failure}
				}
				err, least = failure, failure.retryAfter
			}
		}
		if conn != nil {
			began := time.Now()
			var lost bool
			if lost, err = l.session(ctx, conn); !lost || ctx.Err() != nil {
				return err
			}
			if l.once {
				return &exitError{exitClosed, err}
			}
			if stuck := l.takeBack(); stuck != nil {
				return &exitError{exitClosed, stuck}
			}
			if time.Since(began) >= steady {
				pause.reset()
			}
		}
		wait := max(pause.next(), least)
		l.state(linkState{wait: wait, reason: err.Error()})
		l.queueChanged()
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// sleep waits, and reports whether ctx lasted so long.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// takeBack makes what was written but not confirmed wait again. It returns an
// error when a message seems to be what breaks connections.
func (l *link) takeBack() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, m := range l.queue[:l.written] {
		if m.tries++; m.tries >= maxTries {
			return fmt.Errorf("the connection broke %d times right after line %d was sent, so that line may be why", m.tries, m.number)
		}
	}
	l.written = 0
	return nil
}

// mayWrite returns the message to be written next, or nil if there is none or
// one that may break connections has to be confirmed first. The caller holds
// mu.
func (l *link) mayWrite() *outgoing {
	if l.written == len(l.queue) {
		return nil
	}
	m := l.queue[l.written]
	if l.written > 0 && (m.tries >= aloneAfter || l.queue[l.written-1].tries >= aloneAfter) {
		return nil
	}
	return m
}

// session is the life of one connection. When it returns, the connection is
// gone and all that arrived has been handed on. lost says that another
// connection may go on where this one ended, and err why it did.
func (l *link) session(ctx context.Context, conn *websocket.Conn) (lost bool, err error) {
	l.state(linkState{connected: true})

	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	var others sync.WaitGroup
	others.Go(func() { l.write(life, conn) })
	others.Go(func() { l.confirmWritten(life, conn) })
	left := false // in order: the server answered our close, having read all that came before
	others.Go(func() { left = l.leave(ctx, life, conn) })
	err = l.read(conn)
	stop()
	others.Wait()
	_ = conn.CloseNow()

	doubtful, unsent := l.unconfirmed()
	switch code := websocket.CloseCode(err); {
	case errors.Is(err, errStop) || ctx.Err() != nil:
		return false, nil
	case code == 0: // onMessage's
		return false, err
	case l.isFinishing() && unsent == 0 && (doubtful == 0 || left && ours(err)):
		l.forget()
		return false, nil
	case goodbye(code) && doubtful+unsent == 0:
		return false, nil
	case goodbye(code):
		return false, &exitError{exitClosed, fmt.Errorf("the connection was closed before the server confirmed the last %s", several(doubtful+unsent, "line"))}
	case !returns(err):
		return false, &exitError{exitClosed, explainClose(err)}
	}
	return true, explainClose(err)
}

// read hands on what arrives until the connection has ended, and returns why,
// or what onMessage returned.
func (l *link) read(conn *websocket.Conn) error {
	var enough error
	var closing sync.WaitGroup
	defer closing.Wait()
	for {
		typ, data, err := conn.Read(context.Background())
		switch {
		case err != nil && enough != nil:
			return enough
		case err != nil:
			return err
		case enough != nil:
			continue // while closing, reading on is what lets the server's close frame in
		}
		l.mu.Lock()
		l.lastHeard = time.Now()
		l.mu.Unlock()
		if err := l.onMessage(typ, data); err != nil {
			enough = err
			closing.Go(func() { _ = conn.Close(context.Background(), websocket.NormalClosure, "") })
		}
	}
}

// write sends what waits in the queue, until life ends.
func (l *link) write(life context.Context, conn *websocket.Conn) {
	for {
		l.mu.Lock()
		changed := l.changed
		first := false
		m := l.mayWrite()
		if m != nil {
			first, m.sent = !m.sent, true
		}
		l.mu.Unlock()
		if m == nil {
			select {
			case <-changed:
				continue
			case <-life.Done():
				return
			}
		}
		if err := conn.Write(life, m.typ, m.data); err != nil {
			if conn.Err() == nil && life.Err() == nil {
				_ = conn.CloseNow() // it cannot be written to, so it is of no use; read will notice
			}
			return
		}
		l.mu.Lock()
		l.written++
		l.change()
		l.mu.Unlock()
		if first && l.onSent != nil {
			l.onSent(m)
		}
		l.queueChanged()
	}
}

// confirmWritten asks with pings what has been read, and takes it off the
// queue.
func (l *link) confirmWritten(life context.Context, conn *websocket.Conn) {
	for {
		l.mu.Lock()
		n, changed := l.written, l.changed
		l.mu.Unlock()
		if n == 0 {
			select {
			case <-changed:
				continue
			case <-life.Done():
				return
			}
		}
		roundTrip, err := conn.Ping(life)
		if err != nil {
			return
		}
		l.mu.Lock()
		l.roundTrip = roundTrip
		for _, m := range l.queue[:n] {
			l.bytes -= len(m.data)
		}
		clear(l.queue[:n])
		l.queue = l.queue[n:]
		l.written -= n
		l.change()
		l.mu.Unlock()
	}
}

// leave closes the connection in order when ctx ends, or when the link is
// finished, everything is confirmed and what the server answers to it has had
// time to come. A server that answers no pings is not waited for: its answer to
// our close confirms as much (RFC 6455, section 5.5.1: nothing is sent after
// it, and what came before it has been read). It reports whether that came.
func (l *link) leave(ctx, life context.Context, conn *websocket.Conn) (inOrder bool) {
	var since time.Time // zero: there is still something to confirm
	var deaf <-chan time.Time
	for {
		l.mu.Lock()
		changed := l.changed
		if since.IsZero() && l.finishing && len(l.queue) == 0 {
			since = time.Now()
		}
		if l.finishing && l.written == len(l.queue) && deaf == nil {
			deaf = time.After(l.confirm)
		}
		heard, quiet := l.lastHeard, max(l.linger, 2*l.roundTrip)
		l.mu.Unlock()
		var enough <-chan time.Time
		if !since.IsZero() {
			if heard.Before(since) {
				heard = since
			}
			left := min(time.Until(heard.Add(quiet)), time.Until(since.Add(max(lingerMost, l.linger))))
			if left <= 0 || l.linger == 0 {
				break
			}
			changed, enough = nil, time.After(left)
		}
		select {
		case <-changed:
			continue
		case <-enough:
			continue
		case <-life.Done():
			return false
		case <-deaf:
			if !since.IsZero() {
				deaf = make(chan time.Time) // all is confirmed
				continue
			}
		case <-ctx.Done():
		}
		break
	}
	return conn.Close(context.Background(), websocket.NormalClosure, "") == nil
}

// forget takes everything off the queue: it has arrived.
func (l *link) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queue, l.bytes, l.written = nil, 0, 0
	l.change()
}

func (l *link) isFinishing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.finishing
}
