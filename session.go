package fanfare

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"fanfare/internal/feed"
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
	// Static once start was called.
	server    *Server
	link      *stream.Conn // written under mu, since Shutdown may come before start
	channel   *channel
	audience  *audience
	name      string // of the client; empty: nobody in particular
	positions bool   // the client asked for positions in pongs

	// Owned by Receive.
	parser  frame.Parser
	message frame.Message

	mu     sync.Mutex // guards the following
	reader *feed.Cursor

	// To be written, in this order: pong, ping, notices, messages, position, close.
	pong     []byte   // the payload of the newest ping not answered yet; nil: none
	ping     bool     // a ping is due
	notices  [][]byte // frames
	position bool     // the position reached is to be told

	closing   *disconnect // why we close or answer a close; nil as long as neither
	flushTo   uint64      // messages up to this offset go out before the close
	closeSent bool
	closeSeen bool // the client closed, or broke the protocol: nothing is expected of it any more
	finished  bool // Next said that nothing will follow

	quiet     int // ticks since something was heard
	partial   int // ticks since a message began that is not complete; -1: there is none
	lingering int // ticks since we said close
}

// start begins to serve. The session has its channel's ref and its reader already.
func (s *session) start(link *stream.Conn) {
	for _, a := range s.channel.audiences {
		if a.loop == link.Loop() {
			s.audience = a
		}
	}
	s.mu.Lock()
	s.link, s.partial = link, -1
	s.mu.Unlock()
	s.audience.add(s)
	s.link.Start(s)
	s.link.Wake() // for what happened since the reader got its place
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
		s.link.Wake()
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
		s.link.Wake() // we closed first, and this is the answer
	} else {
		s.disconnect(&disconnect{byClient, code, ""}, true)
	}
	return errClosed
}

// said publishes what the client said.
func (s *session) said(isBinary bool, payload []byte) {
	m := &Message{Channel: s.channel.name, Sender: s.name, Binary: isBinary, Payload: bytes.Clone(payload)}
	s.server.publish(m, func(_ Position, err error) {
		if err != nil {
			s.notice("not published: " + s.server.known(err).Message)
		}
	})
}

// notice queues a notice for the client.
func (s *session) notice(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.notices) < maxNotices {
		s.notices = append(s.notices, plainNotice(text))
		s.link.Wake()
	}
}

// disconnect begins to close. flush says that what is in the feed already is
// to go out first. The first reason counts. The caller holds mu.
func (s *session) disconnect(d *disconnect, flush bool) {
	if s.closing == nil {
		s.closing = d
		if flush {
			s.flushTo = s.channel.feed.Position().Offset
		}
		if s.link != nil {
			s.link.Wake()
		}
	}
}

// wake implements [subscriber].
func (s *session) wake() {
	if !s.link.Wake() {
		return
	}
	// A write is under way. Should it last, the reader must not keep all that
	// comes meanwhile.
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reader.Relieve(); err != nil {
		s.disconnect(s.server.tooSlow(s.reader.Position()), false)
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
	if s.closing == nil || s.reader.Position().Offset < s.flushTo {
		if b := s.fromFeed(); b != nil {
			return b, false
		}
	}
	if s.closing != nil {
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
		return frame.Append(nil, frame.Ping, s.reader.Position().Append(nil))
	case len(s.notices) > 0:
		b := s.notices[0]
		s.notices = s.notices[1:]
		return b
	}
	return nil
}

// fromFeed returns the next messages, or what is to be said in their place.
func (s *session) fromFeed() []byte {
	batch, err := s.reader.Take(&s.server.joiner, maxBatch)
	switch {
	case err != nil:
		s.flushTo = 0
		s.disconnect(s.server.tooSlow(s.reader.Position()), false)
		return nil
	case batch.Gap.Missed != 0:
		s.server.stats.miss(batch.Gap)
		return plainNotice(gapText(batch.Gap))
	case batch.Bytes != nil:
		s.position = s.positions
		return batch.Bytes
	case s.position:
		s.position = false
		return frame.Append(nil, frame.Pong, s.reader.Position().Append(nil))
	}
	return nil
}

// closeFrame returns our close frame, and notes that it was said.
func (s *session) closeFrame() []byte {
	s.closeSent = true
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
		// The transport has a deadline of its own for what is written; this one
		// is for the answer to our close.
		if s.lingering++; s.closeSent && s.lingering > t.close {
			s.link.End(s.closing)
		}
	case s.quiet >= t.heartbeat+t.answer:
		s.link.End(s.server.silent())
	case s.quiet == t.heartbeat:
		s.ping = true
		s.link.Wake()
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
	s.audience.remove(s)
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
	s.server.leave(s, why, err)
}
