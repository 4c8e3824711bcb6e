package fanfare

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"fanfare/auth"
	"fanfare/broker"
	"fanfare/internal/transport"
	"fanfare/protocol"
)

// A dialect is how a channel is read over HTTP, as long as the reader likes.
type dialect struct {
	face  face
	media string
	wire  *wire
	// event is something said besides messages; at is a position to resume from
	// after it, empty if it changes none.
	event func(e *protocol.Event, at string) []byte
	// heartbeat is said when there is nothing else. Proxies cut what is silent.
	heartbeat []byte
	// preface returns the beginning of the answer, of a reader at a position.
	preface func(at string) []byte
}

// Server-sent events (the HTML standard, section 9.2). A browser repeats the
// newest id when it connects again, in Last-Event-ID. An id without data is no
// event, and counts all the same: so who is cut off before the first message
// does not miss it. When to connect again it is told by retry; a browser adds nothing at
// random, and without that all of them would be back at once.
var eventStream = &dialect{
	face:  sseFace,
	media: "text/event-stream",
	wire: newWire(func(dst []byte, pattern string, m *Message) []byte {
		record := protocol.AppendMessage(nil, pattern, m)
		dst = slices.Grow(dst, len("id: ")+len("18446744073709551615-18446744073709551615")+len("\ndata: ")+len(record)+len("\n\n"))
		dst = m.Position.Append(append(dst, "id: "...))
		dst = append(append(dst, "\ndata: "...), record...)
		return append(dst, "\n\n"...)
	}),
	event: func(e *protocol.Event, at string) []byte {
		b := fmt.Appendf(nil, "event: %s\n", e.Type)
		if at != "" {
			b = fmt.Appendf(b, "id: %s\n", at)
		}
		return append(e.Append(append(b, "data: "...)), "\n\n"...)
	},
	heartbeat: []byte(": \n\n"),
	preface: func(at string) []byte {
		soon := retryAfter + rand.N(retryAfter) // #nosec G404: spreads those who come back
		return fmt.Appendf(nil, "retry: %d\nid: %s\n\n", soon.Milliseconds(), at)
	},
}

// A line of JSON for each message and each event.
var jsonLines = &dialect{
	face:  linesFace,
	media: manyType,
	wire: newWire(func(dst []byte, pattern string, m *Message) []byte {
		record := protocol.AppendMessage(nil, pattern, m)
		return append(append(slices.Grow(dst, len(record)+1), record...), '\n')
	}),
	event:     func(e *protocol.Event, _ string) []byte { return append(e.Append(nil), '\n') },
	heartbeat: append((&protocol.Event{Type: protocol.HeartbeatEvent}).Append(nil), '\n'),
	preface:   func(string) []byte { return nil },
}

// A listener is one client that reads a channel over HTTP. Its transport calls the
// methods of [transport.Session]. It has nothing to say: what still comes from it
// is thrown away.
type listener struct {
	conn transport.Conn // static

	mu      sync.Mutex   // guards the following, but for what says something else
	sub     subscription // of it, only the cursor
	closing *disconnect  // why we end; nil as long as we do not
	goal    Position     // before that messages up to here go out
	ticks   int32        // since something was said; once we end, since then
	beat    bool         // a heartbeat is due
	over    bool         // bye was said
	out     bool         // it was expelled

	dialect *dialect                // static
	server  *Server                 // static
	who     atomic.Pointer[speaker] // replaced under mu
	guest   *guest                  // static
	id      uint64                  // static: see Server.newID
}

// Receive implements [transport.Session].
func (l *listener) Receive([]byte) bool { return false }

// face implements [client].
func (l *listener) face() face { return l.dialect.face }

// reading implements [subscriber].
func (l *listener) reading() *subscription { return &l.sub }

// counted implements [client].
func (l *listener) counted() *guest { return l.guest }

// member implements [subscriber].
func (l *listener) member() (member, bool) {
	return member{l.id, l.who.Load().name}, !broker.IsPattern(l.sub.audience.channel.name)
}

// wake implements [subscriber].
func (l *listener) wake() {
	if !l.conn.Flush() {
		return
	}
	// A write is under way. Should it last, the reader must not keep all that
	// comes meanwhile.
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sub.lags()
	if err := l.sub.cursor.Relieve(); err != nil {
		l.end(tooSlow(&l.sub.cursor), Position{})
	}
}

// end begins to end it, when messages up to goal have gone out. The first reason
// counts. The caller holds mu.
func (l *listener) end(d *disconnect, goal Position) {
	if l.closing == nil {
		l.closing, l.goal, l.ticks = d, goal, 0
		l.conn.Wake()
	}
}

// revoke implements [client].
func (l *listener) revoke() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.closing != revoked
	l.expel(revoked)
	return first
}

// expel ends it at once: nothing more is told but why. The caller holds mu.
func (l *listener) expel(d *disconnect) {
	l.end(d, Position{})
	l.goal, l.out = Position{}, true
	l.sub.cursor.LetGo()
}

// speaks implements [client].
func (l *listener) speaks() *speaker { return l.who.Load() }

// reconsider implements [client].
func (l *listener) reconsider() {
	l.mu.Lock()
	defer l.mu.Unlock()
	who := l.server.current(l.who.Load())
	if l.who.Swap(who) != who && !who.keeps(auth.Subscribe, l.sub.audience.channel.name, &l.sub.cursor) {
		l.expel(noRights)
	}
}

// goAway implements [client].
func (l *listener) goAway() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.end(goingAway, l.sub.audience.channel.feed.Position())
}

// Next implements [transport.Session]. What is to be written is, in this order:
// messages, bye, a heartbeat.
func (l *listener) Next() ([]byte, transport.Then) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil, transport.Last
	}
	if l.closing == nil || !reached(l.goal, l.sub.cursor.Position()) {
		if b, then := l.fromFeed(); b != nil {
			if l.closing == nil {
				l.ticks, l.beat = 0, false
			}
			return b, then
		}
	}
	switch {
	case l.closing != nil:
		return l.bye(), transport.Last
	case l.beat:
		l.ticks, l.beat = 0, false
		return l.dialect.heartbeat, transport.Wait
	}
	return nil, transport.Wait
}

// fromFeed returns the next messages, or what is to be said in their place.
// Without either it may have begun to end.
func (l *listener) fromFeed() ([]byte, transport.Then) {
	batch, err := l.sub.cursor.Take(&l.sub.audience.channel.joiner, maxBatch)
	for err == nil && batch.Bytes == nil && batch.Count > 0 && l.sub.cursor.Pending() {
		batch, err = l.sub.cursor.Take(&l.sub.audience.channel.joiner, maxBatch) // of what it saw nothing
	}
	l.sub.delivered(l.dialect.face, &batch)
	switch {
	case err != nil:
		l.end(tooSlow(&l.sub.cursor), Position{})
		return nil, transport.Wait
	case batch.Gap.Missed != 0:
		l.server.stats.miss(batch.Gap)
		e := l.sub.gap(batch.Gap)
		return l.dialect.event(e, e.Position), transport.More
	case l.closing == nil && !l.sub.cursor.Pending():
		return batch.Bytes, transport.Wait
	}
	return batch.Bytes, transport.More
}

// bye returns the last that is said.
func (l *listener) bye() []byte {
	l.over = true
	return l.dialect.event(l.closing.bye(), "")
}

// LastWords implements [transport.Session].
func (l *listener) LastWords(err error) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil
	}
	if l.closing == nil {
		if l.closing = l.server.because(err); l.closing == nil {
			return nil
		}
	}
	return l.bye()
}

// Tick implements [transport.Session].
func (l *listener) Tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &l.server.ticks
	if who := l.who.Load(); l.closing == nil && !who.until.IsZero() && time.Now().After(who.until) {
		l.expel(expired)
	}
	switch l.ticks++; {
	case l.out && l.ticks > int32(t.farewell): // also one who takes what was written before a byte at a time
		l.conn.End(l.closing)
	case l.closing != nil && l.ticks > int32(t.close):
		l.goal = Position{} // it has been waited for
		l.conn.Wake()
	case l.closing == nil && l.ticks >= int32(t.heartbeat) && !l.beat:
		l.beat = true
		l.conn.Wake()
	}
}

// Gone implements [transport.Session].
func (l *listener) Gone(err error) {
	l.mu.Lock()
	why := byLoss
	switch {
	case l.closing != nil:
		why = l.closing.why
	case errors.Is(err, io.EOF):
		why, err = byClient, nil
	case errors.Is(err, syscall.ETIMEDOUT):
		why = bySilence // no acknowledgement came, see serveLive
	}
	l.sub.cursor.LetGo()
	l.mu.Unlock()
	s := l.server
	s.leave(&l.sub, l)
	if s.cfg.Hooks.Disconnect != nil {
		s.speakers.Add(1)
		go func() {
			defer s.speakers.Add(-1)
			if err := s.cfg.Hooks.disconnected(l.who.Load().home, l.who.Load().name, why); err != nil {
				s.log.Error("internal error", "error", err)
			}
		}()
	}
	s.leaves(l.guest)
	s.revoked.clients.Delete(l.id)
	s.left(l, l.conn, l.id, why, err)
}
