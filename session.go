package fanfare

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"fanfare/internal/frame"
	"fanfare/internal/stream"
)

// maxBatch is how many bytes of messages are written at once, unless one
// message alone has more.
const maxBatch = 64 << 10

// maxNotices is how many notices wait for a slow client; what comes then is
// left out, since nothing may grow without bound.
const maxNotices = 16

// A session is one connected client that speaks WebSocket. Its transport
// calls the methods of [stream.Session], each from one goroutine at a time.
type session struct {
	// Static.
	server *Server
	conn   *stream.Conn
	sub    *subscription // its cursor is guarded by mu
	name   string        // of the client; empty: nobody in particular
	key    string        // of what it publishes; empty: none

	// Owned by Receive.
	parser  frame.Parser
	message frame.Message

	mu sync.Mutex // guards the following

	// To be written, in this order: pong, ping, notices, messages, close.
	pong    []byte   // the payload of the newest ping not answered yet; nil: none
	ping    bool     // a ping is due
	notices [][]byte // frames

	unanswered int         // publications of the client's that the broker has not answered yet
	closing    *disconnect // why we close or answer a close; nil as long as neither
	flush      bool        // what was published before goes out before the close
	flushTo    Position    // that is, messages up to this one
	closeSent  bool
	closeSeen  bool // the client closed, or broke the protocol: nothing is expected of it any more
	finished   bool // Next said that nothing will follow

	quiet     int // ticks since something was heard
	partial   int // ticks since a message began that is not complete; -1: there is none
	lingering int // ticks since we began to close, and again since we said so
}

// start begins to serve.
func (s *session) start() {
	s.sub.attach(s.conn.Loop(), s)
	s.conn.Start(s)
	s.conn.Wake() // for what happened since the cursor got its place
}

// Receive implements [stream.Session].
func (s *session) Receive(b []byte) bool {
	err := s.parser.Push(b, &s.server.rules, s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = 0
	if s.parser.Idle() {
		s.partial = -1
	} else if s.partial < 0 {
		s.partial = 0
	}
	var broken *frame.Error
	if errors.As(err, &broken) {
		s.closeSeen = true
		s.disconnect(breach(broken), false)
	}
	return !s.closeSeen
}

// errClosed stops the parser behind a close frame.
var errClosed = errors.New("fanfare: the client closed")

// Frame implements [frame.Handler]; Receive is what leads here.
func (s *session) Frame(f frame.Frame) error {
	switch f.Opcode {
	case frame.Ping:
		s.mu.Lock()
		// Only the newest is answered (RFC 6455, section 5.5.3), so that a
		// client that pings and never reads costs nothing.
		s.pong = append(make([]byte, 0, len(f.Payload)), f.Payload...)
		s.mu.Unlock()
		s.conn.Wake()
	case frame.Pong:
	case frame.Close:
		return s.peerClosed(f.Payload)
	default:
		if payload, whole := s.message.Add(f); whole {
			s.said(f.Opcode == frame.Binary, payload)
		}
	}
	return nil
}

func (s *session) peerClosed(payload []byte) error {
	code, _, err := frame.ParseClose(payload)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeSeen = true
	if s.closing != nil {
		s.conn.Wake() // we closed first, and this is the answer
	} else {
		s.disconnect(&disconnect{byClient, code, ""}, true)
	}
	return errClosed
}

// said publishes what the client said.
func (s *session) said(isBinary bool, payload []byte) {
	s.mu.Lock()
	s.unanswered++
	s.mu.Unlock()
	m := &Message{Channel: s.sub.channel.name, Sender: s.name, Key: s.key, Binary: isBinary, Payload: bytes.Clone(payload)}
	s.server.publish(m, s.published)
}

// published is the broker's answer to what the client said.
func (s *session) published(pos Position, err error) {
	if err != nil {
		s.notice("not published: " + s.server.known(err).Message)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unanswered--
	if s.closing == nil {
		return
	}
	if s.flush && err == nil && !reached(pos, s.flushTo) {
		s.flushTo = pos
	}
	s.conn.Wake()
}

// reached reports whether a reader at pos has got what is up to target. A
// position of another epoch says that there is nothing more to wait for.
func reached(target, pos Position) bool {
	return pos.Epoch != target.Epoch || pos.Offset >= target.Offset
}

// notice queues a notice for the client.
func (s *session) notice(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.notices) < maxNotices {
		s.notices = append(s.notices, plainNotice(text))
		s.conn.Wake()
	}
}

// disconnect begins to close. flush says that what was published before is to
// go out first, as far as that is possible within CloseTimeout. The first
// reason counts. The caller holds mu.
func (s *session) disconnect(d *disconnect, flush bool) {
	if s.closing != nil {
		return
	}
	s.closing, s.flush = d, flush
	if flush {
		s.flushTo = s.sub.channel.feed.Position()
	}
	s.conn.Wake()
}

// flushing reports whether messages are to go out before the close.
func (s *session) flushing() bool {
	return s.flush && (s.unanswered > 0 || !reached(s.flushTo, s.sub.cursor.Position()))
}

// wake implements [subscriber].
func (s *session) wake() {
	if !s.conn.Wake() {
		return
	}
	// A write is under way. Should it last, the reader must not keep all that
	// comes meanwhile.
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sub.cursor.Relieve(); err != nil {
		s.disconnect(s.server.tooSlow(s.sub.cursor.Position()), false)
	}
}

// Next implements [stream.Session].
func (s *session) Next() ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeSent {
		if s.closeSeen && !s.finished {
			s.finished = true
			return nil, true
		}
		return nil, false
	}
	if b := s.control(); b != nil {
		return b, false
	}
	if s.closing == nil || s.flushing() {
		if b := s.fromFeed(); b != nil {
			return b, false
		}
	}
	if s.closing != nil && !s.flushing() {
		s.finished = s.closeSeen
		return s.closeFrame(), s.closeSeen
	}
	return nil, false
}

// control returns what goes before messages.
func (s *session) control() []byte {
	switch {
	case s.pong != nil:
		b := frame.Append(nil, frame.Pong, s.pong)
		s.pong = nil
		return b
	case s.ping:
		s.ping = false
		return frame.Append(nil, frame.Ping, s.sub.cursor.Position().Append(nil))
	case len(s.notices) > 0:
		b := s.notices[0]
		s.notices = s.notices[1:]
		return b
	}
	return nil
}

// fromFeed returns the next messages, or what is to be said in their place.
func (s *session) fromFeed() []byte {
	batch, err := s.sub.cursor.Take(&s.sub.channel.joiner, maxBatch)
	switch {
	case err != nil:
		s.flush = false
		s.disconnect(s.server.tooSlow(s.sub.cursor.Position()), false)
		return nil
	case batch.Gap.Missed != 0:
		s.server.stats.miss(batch.Gap)
		return plainNotice(gapText(batch.Gap))
	}
	return batch.Bytes
}

// closeFrame returns our close frame, and notes that it was said.
func (s *session) closeFrame() []byte {
	s.closeSent, s.lingering = true, 0
	return frame.Append(nil, frame.Close, frame.AppendClose(nil, s.closing.code, s.closing.reason))
}

// LastWords implements [stream.Session].
func (s *session) LastWords(err error) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeSent {
		return nil
	}
	if s.closing == nil {
		var d *disconnect
		switch {
		case errors.As(err, &d):
			s.closing = d
		case errors.Is(err, stream.ErrWriteTimeout):
			s.closing = s.server.stuck()
		case errors.Is(err, stream.ErrClosed):
			s.closing = goingAway
		default:
			return nil // the peer is not there to hear it
		}
	}
	return s.closeFrame()
}

// Tick implements [stream.Session].
func (s *session) Tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.server.ticks
	s.quiet++
	switch {
	case s.closing != nil:
		// The transport has a deadline of its own for what is written; this is
		// for what is to go out before our close, and then for the answer to it.
		switch s.lingering++; {
		case s.lingering <= t.close:
		case s.closeSent:
			s.conn.End(s.closing)
		case s.flush:
			s.flush = false
			s.conn.Wake()
		}
	case s.ping:
		// Our ping waits behind a long message that still makes progress, and
		// silence counts from when it goes out. The transport's deadline is for
		// a peer that takes nothing.
		s.quiet = t.heartbeat
	case s.quiet >= t.heartbeat+t.answer:
		s.conn.End(s.server.silent())
	case s.quiet == t.heartbeat:
		s.ping = true
		s.conn.Wake()
	}
	if s.partial >= 0 && s.closing == nil {
		if s.partial++; s.partial > t.message {
			s.closeSeen = true // half a message is no place to wait for a close
			s.disconnect(s.server.unfinished(), false)
		}
	}
}

// Gone implements [stream.Session].
func (s *session) Gone(err error) {
	s.mu.Lock()
	why := byLoss
	var d *disconnect
	switch {
	case s.closing != nil:
		why = s.closing.why
	case errors.As(err, &d):
		why = d.why
	}
	s.mu.Unlock()
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.server.gone(s, why, err)
}
