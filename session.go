package fanfare

import (
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/auth"
	"fanfare/broker"
	"fanfare/internal/feed"
	"fanfare/internal/frame"
	"fanfare/internal/transport"
)

// maxBatch is how many bytes of messages are written at once, unless one
// message alone has more.
const maxBatch = 64 << 10

// A session is one client connected by WebSocket. Its transport calls the
// methods of [transport.Session]; what is said, and how, is its conversation's.
// Most sessions are idle most of the time, so what is rarely there is behind a
// pointer.
type session struct {
	// What a delivery looks at comes first, so that it is together in the
	// processor's cache.
	conn transport.Conn // static

	mu sync.Mutex // guards the following, but for what says something else

	closing *closing // we close or answer a close; nil as long as neither
	asides  *asides  // nil: none

	quiet      int32  // ticks since something was heard
	mute       int32  // ticks since something was said, besides pings and pongs
	unanswered int32  // the weight of what the client said and was not answered yet
	speaking   bool   // a goroutine is in speak
	parted     bool   // the hook Disconnect was called
	why        ending // of the end, once gone
	ping       bool   // a ping is due
	beat       bool   // a heartbeat of the conversation's is due
	paused     bool   // nothing is read for now
	out        bool   // nothing is taken from the client any more, nor told to it but why
	strikes    uint8  // bad tokens shown, and messages behind our expelling it
	closeSent  bool
	closeSeen  bool  // the client closed, or broke the protocol: nothing is expected of it any more
	gone       bool  // Gone was called
	bits       uint8 // static: the client's window, to which messages are compressed; 0: they are not

	v1       *v1          // static; nil: it speaks plain
	sub      subscription // of the plain conversation; of it, only the cursor
	incoming *incoming    // a message under way; nil: none. Written by Receive under mu, so Receive may read it without

	server *Server                 // static
	who    atomic.Pointer[speaker] // replaced under mu
	guest  *guest                  // as it counts against limits; as it is once gone
	id     uint64                  // static: see Server.newID
}

// talk is the session's conversation.
func (s *session) talk() conversation {
	if s.v1 == nil {
		return plain{}
	}
	return s.v1
}

// A conversation is what a session and its client say to one another: [plain],
// or [*v1].
type conversation interface {
	// face is what it counts as.
	face() face
	// rules are those of the frames that the client sends.
	rules(*Server) *frameRules
	// hear does what the client said, on the goroutine that read it, if that is
	// possible without waiting for anybody, and otherwise reports false and does
	// nothing. text is not the conversation's to keep.
	hear(s *session, isBinary bool, text []byte) bool
	// act does what hear could not. It may block.
	act(s *session, isBinary bool, text []byte)

	// All of the following are called with the session's mu held.

	// read returns the next messages for the client, or what is to be said in
	// their place; nil: nothing.
	read(s *session) []byte
	// pending reports whether read may have more.
	pending(s *session) bool
	// each calls f for all subscriptions that the session has.
	each(s *session, f func(*subscription, subscriber))
	// ping returns what a ping carries.
	ping(s *session) []byte
	// heartbeat returns the frame to say when there is nothing else; nil: none.
	heartbeat() []byte
	// renew returns what asks for another token; nil: nothing can.
	renew(*speaker) []byte
	// readHome has the session read the channel of its URL, from a place.
	readHome(s *session, at place)
	// dismiss ends the subscriptions that are not the client's to have any more.
	dismiss(s *session)
	// warn returns the frame that tells the client of an error that is no answer.
	warn(*Error) []byte
	// bye returns what goes before our close frame; nil: nothing.
	bye(*disconnect) []byte
	// busy reports whether nothing more is to be heard until more was read.
	busy() bool
	// end says that the session is gone.
	end()
}

// A speaker is who publishes over a connection, and reads. It does not change: with
// another token the connection has another speaker.
type speaker struct {
	name   string // empty: nobody in particular
	key    string // of what is published; empty: none
	client string // ?client=; empty: none
	home   string // the channel of the URL; empty: none

	id     *auth.Identity // nil: anonymous, or nobody asks
	grants *auth.Grants   // nil: everything
	by     *AuthConfig    // whose rules grants are of; nil: nobody asks
	waits  bool           // it must say who it is before anything else
	unread *settings      // of the URL, whose channel it may not read; nil: it does, or there is none
	until  time.Time      // when it must be somebody else; zero: never
	renew  time.Time      // when it is asked to; zero: never
}

// asides are what a session has to say besides messages, and what the client
// said and was not looked at yet. All of it is guarded by the session's mu.
type asides struct {
	pace    *pace  // what may still be said; nil: as much as ever
	pong    []byte // the payload of the newest ping not answered yet; nil: none
	notices []byte // frames
	parked  []byte // as park has it: what one read brought, no more
}

// closing is how a session closes. All of it is guarded by the session's mu.
type closing struct {
	*disconnect
	flush     bool   // what was published before goes out before the close
	goals     []goal // that is
	lingering int    // ticks since we began to close, and again since we said so
}

// A goal is a place that a subscription is to reach.
type goal struct {
	sub *subscription
	to  Position
}

func (g *goal) reached() bool { return reached(g.to, g.sub.cursor.Position()) }

// incoming takes a client's bytes. It is a [frame.Handler], and Receive's alone.
type incoming struct {
	session *session
	parser  frame.Parser
	message frame.Message
	packed  bool // the message under way is compressed
	whole   bool // a message was completed since Receive was called
	frames  int  // since then, besides those that completed one
	age     int  // ticks since the message under way began; guarded by the session's mu
}

// spare are of those who have nothing under way: nearly all, nearly always.
var spare = sync.Pool{New: func() any { return new(incoming) }}

// Receive implements [transport.Session].
func (s *session) Receive(b []byte) bool {
	in := s.incoming
	if in == nil {
		in = spare.Get().(*incoming)
		in.session = s
	}
	s.mu.Lock()
	s.spent(0, len(b))
	s.mu.Unlock()
	err := in.parser.Push(b, s.rules(), in)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quiet = 0
	if s.incoming == nil || in.whole {
		in.age, in.whole = 0, false
	}
	frames := in.frames
	in.frames = 0
	s.incoming = in
	if in.parser.Idle() {
		s.incoming, in.session = nil, nil
		spare.Put(in)
	}
	var broken *frame.Error
	if errors.As(err, &broken) {
		s.closeSeen = true
		s.disconnect(s.breach(broken), false)
	}
	if s.spent(frames, 0); s.closeSeen || s.broke() {
		s.restrain() // and if it closed, we see the connection's end
	}
	return !s.closeSeen
}

// errClosed stops the parser behind a close frame.
var errClosed = errors.New("fanfare: the client closed")

// Frame implements [frame.Handler]; Receive is what leads here.
func (in *incoming) Frame(f frame.Frame) error {
	s := in.session
	in.frames++
	switch f.Opcode {
	case frame.Ping:
		s.mu.Lock()
		// Only the newest is answered (RFC 6455, section 5.5.3), so that a
		// client that pings and never reads costs nothing.
		s.aside().pong = append(make([]byte, 0, len(f.Payload)), f.Payload...)
		s.mu.Unlock()
		s.conn.Wake()
	case frame.Pong:
	case frame.Close:
		return s.peerClosed(f.Payload)
	default:
		if f.First {
			in.packed = f.Rsv1
		}
		if payload, whole := in.message.Add(f); whole {
			in.whole = true
			in.frames--
			frames := in.frames
			in.frames = 0
			if in.packed {
				return s.saidPacked(frames, f.Opcode == frame.Binary, payload)
			}
			s.said(frames, f.Opcode == frame.Binary, payload)
		}
	}
	return nil
}

// aside returns the session's asides. The caller holds mu.
func (s *session) aside() *asides {
	if s.asides == nil {
		s.asides = new(asides)
	}
	return s.asides
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

// reached reports whether a reader at pos has got what is up to target. A
// position of another epoch says that there is nothing more to wait for.
func reached(target, pos Position) bool {
	return pos.Epoch != target.Epoch || pos.Offset >= target.Offset
}

// disconnect begins to close. flush says that what was published before is to
// go out first, as far as that is possible within CloseTimeout. The first
// reason counts. The caller holds mu.
func (s *session) disconnect(d *disconnect, flush bool) {
	if s.closing != nil {
		return
	}
	s.closing = &closing{disconnect: d, flush: flush}
	if flush {
		s.talk().each(s, func(sub *subscription, _ subscriber) {
			s.closing.goals = append(s.closing.goals, goal{sub, sub.audience.channel.feed.Position()})
		})
	}
	if s.broke() && !s.out {
		// It need not wait any more: what it said goes out before the close, and we
		// see that it has gone.
		s.asides.pace.broke = false
		s.goOn()
	}
	s.conn.Wake()
}

// expel ends the session at once: nothing more is taken from the client, nor told
// to it but why. The caller holds mu.
func (s *session) expel(d *disconnect) {
	s.out = true
	s.talk().each(s, func(sub *subscription, _ subscriber) { sub.cursor.LetGo() })
	if s.asides != nil {
		s.asides.notices, s.asides.parked = nil, nil
	}
	s.disconnect(d, false)
	s.closing.flush = false
	s.restrain()
}

// revoke implements [client].
func (s *session) revoke() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	first := !s.out
	s.expel(revoked)
	return first
}

// speaks implements [client].
func (s *session) speaks() *speaker { return s.who.Load() }

// reconsider implements [client].
func (s *session) reconsider() {
	s.mu.Lock()
	defer s.mu.Unlock()
	who := s.who.Load()
	if now := s.server.current(who); now != who && !who.waits && !s.out {
		s.who.Store(now)
		s.talk().dismiss(s)
	}
}

// become has the session go on as somebody who said who he is. It returns the place
// where the URL's channel is read from now on; its channel is nil if nothing changed about that.
func (s *session) become(who *speaker) (place, error) {
	// Whoever revokes from now on finds it as who it is.
	leave := s.server.revoked.enter()
	if s.server.revoked.hit(who.id) {
		leave()
		s.refuse(revoked)
		return place{}, errRevokedToken
	}
	s.mu.Lock()
	set := who.unread
	s.who.Store(who)
	leave()
	s.talk().dismiss(s)
	s.mu.Unlock()
	if set == nil {
		return place{}, nil
	}
	reads, _, err := who.admits(who.home)
	if err != nil || !reads {
		return place{}, err
	}
	if err := s.server.cfg.Hooks.mayReadHome(who.context(s.server.life), who); err != nil {
		return place{}, err
	}
	return s.server.find(s.server.life, who.home, set.since, slowness{policy: set.slow}, set.wire, &s.who)
}

// authCost is how many messages a token counts as: a signature costs the time of
// about so many.
const authCost = 50

// maxBabble is how many messages of an expelled client are thrown away before it is not
// read any more.
const maxBabble = 32

// maxStrikes is how many bad tokens a client may show over one connection.
const maxStrikes = 5

// authenticate takes a token from the client. A client that waited for nothing else
// is over without a good one.
func (s *session) authenticate(token string) (at place, err error) {
	s.spend(authCost)
	waited := s.who.Load().waits
	who, err := s.renewed(token)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.strikes++; waited || s.strikes == maxStrikes {
			s.expel(unknown(s.server.known(err)))
		}
		return place{}, err
	}
	if err = s.sits(who); err == nil {
		at, err = s.become(who)
	}
	if err != nil {
		s.refuse(barred(s.server.known(err)))
		return place{}, err
	}
	// What happened since it was asked who it is counts for it too.
	s.reconsider()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case at.channel == nil:
	case s.gone || s.out || s.reads(at.channel) || !s.who.Load().keeps(auth.Subscribe, at.channel.name, &at.cursor):
		s.server.abandon(at)
		at.channel = nil
	default:
		now := *s.who.Load()
		now.unread = nil
		s.who.Store(&now)
		s.talk().readHome(s, at)
	}
	return at, nil
}

// reads reports whether the session has a subscription to a channel. The caller
// holds mu.
func (s *session) reads(c *channel) (does bool) {
	s.talk().each(s, func(sub *subscription, _ subscriber) { does = does || sub.audience.channel == c })
	return does
}

// sits counts the session as one of somebody's.
func (s *session) sits(who *speaker) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.gone {
		s.guest, err = s.server.seat(s.guest, who)
	}
	return err
}

// refuse expels the client.
func (s *session) refuse(d *disconnect) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expel(d)
}

// publish publishes what the client said, unless it was expelled meanwhile: when
// it is told that its access was revoked, nothing of it comes behind that.
func (s *session) publish(m *Message, done func(Position, error)) {
	if s.server.trust() != nil {
		defer s.server.revoked.enter()()
		s.mu.Lock()
		out := s.out
		s.mu.Unlock()
		err := s.server.revoked.stands(s.who.Load())
		if out {
			err = errRevokedToken
		}
		if err != nil {
			done(Position{}, err)
			return
		}
	}
	s.server.publish(m, s.talk().face(), done)
}

// goAway tells the client that we shut down.
func (s *session) goAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.disconnect(goingAway, true)
}

// flushing reports whether messages are to go out before the close.
func (s *session) flushing() bool {
	return s.closing.flush && (s.unanswered > 0 || s.parks() ||
		slices.ContainsFunc(s.closing.goals, func(g goal) bool { return !g.reached() }))
}

// face implements [client].
func (s *session) face() face { return s.talk().face() }

// reading implements [subscriber].
func (s *session) reading() *subscription { return &s.sub }

// counted implements [client].
func (s *session) counted() *guest { return s.guest }

// member implements [subscriber].
func (s *session) member() (member, bool) {
	return member{s.id, s.who.Load().name}, !broker.IsPattern(s.sub.audience.channel.name)
}

// wake implements [subscriber].
func (s *session) wake() { s.flush(&s.sub) }

// flush has the client get what it can take, because there is more for sub.
func (s *session) flush(sub *subscription) {
	if !s.conn.Flush() {
		return
	}
	// A write is under way. Should it last, the reader must not keep all that
	// comes meanwhile.
	s.mu.Lock()
	defer s.mu.Unlock()
	sub.lags()
	if err := sub.cursor.Relieve(); err != nil {
		s.disconnect(tooSlow(&sub.cursor), false)
	}
}

// Next implements [transport.Session]. What is to be written is, in this order:
// pong, ping, heartbeat, notices, messages, close.
func (s *session) Next() ([]byte, transport.Then) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, then := s.next()
	if len(b) > 0 && b[0]&8 == 0 { // no ping, no pong: a program in a browser does not see those
		s.mute = 0
	}
	return b, then
}

func (s *session) next() ([]byte, transport.Then) {
	if s.closeSent {
		return nil, s.afterClose()
	}
	if s.asides != nil || s.ping || s.beat {
		if b := s.control(); b != nil {
			return b, transport.More
		}
	}
	if s.closing == nil || s.flushing() {
		if b := s.talk().read(s); b != nil {
			if s.closing == nil && !s.talk().pending(s) {
				return b, transport.Wait
			}
			return b, transport.More
		}
	}
	if s.closing != nil && !s.flushing() {
		return s.closeFrame(), s.afterClose()
	}
	return nil, transport.Wait
}

// afterClose is what follows our close frame: nothing, once there is the client's.
func (s *session) afterClose() transport.Then {
	if s.closeSeen {
		return transport.Last
	}
	return transport.Wait
}

// control returns what goes before messages.
func (s *session) control() []byte {
	if a := s.asides; a != nil && a.pong != nil {
		b := frame.Append(nil, frame.Pong, a.pong)
		a.pong = nil
		return b
	}
	if s.ping {
		s.ping = false
		return frame.Append(nil, frame.Ping, s.talk().ping(s))
	}
	if s.beat {
		s.beat = false
		return s.talk().heartbeat()
	}
	if a := s.asides; a != nil && len(a.notices) > 0 {
		b := a.notices
		a.notices = nil
		s.goOn()
		return b
	} else if a != nil && !s.parks() && a.pace == nil {
		s.asides = nil
	}
	return nil
}

// take returns the next messages of a subscription, or a gap in their place, and
// counts them as given. Without either, the session may have begun to close.
func (s *session) take(sub *subscription, as face) ([]byte, feed.Gap) {
	batch, err := sub.cursor.Take(&sub.audience.channel.joiner, maxBatch)
	for err == nil && batch.Bytes == nil && batch.Count > 0 && sub.cursor.Pending() {
		batch, err = sub.cursor.Take(&sub.audience.channel.joiner, maxBatch) // of what it saw nothing
	}
	if err != nil {
		s.disconnect(tooSlow(&sub.cursor), false)
		s.closing.flush = false
	}
	sub.delivered(as, &batch)
	return batch.Bytes, batch.Gap
}

// closeFrame returns our close frame, and notes that it was said.
func (s *session) closeFrame() []byte {
	s.closeSent, s.closing.lingering = true, 0
	return frame.Append(s.talk().bye(s.closing.disconnect), frame.Close, frame.AppendClose(nil, s.closing.code, s.closing.reason))
}

// LastWords implements [transport.Session].
func (s *session) LastWords(err error) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closeSent {
		return nil
	}
	if s.closing == nil {
		d := s.server.because(err)
		if d == nil {
			return nil
		}
		s.closing = &closing{disconnect: d}
	}
	return s.closeFrame()
}

// Tick implements [transport.Session].
func (s *session) Tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relax()
	t := &s.server.ticks
	switch c := s.closing; {
	case c != nil:
		// The transport has a deadline of its own for what is written; this is
		// for what is to go out before our close, and then for the answer to it.
		patience := t.close
		if s.out {
			patience = t.farewell
		}
		switch c.lingering++; {
		case c.lingering <= patience:
		case s.closeSent, s.out: // also one who takes what was written before a byte at a time
			s.conn.End(c.disconnect)
		case c.flush:
			c.flush = false
			s.conn.Wake()
		}
	case s.paused:
		// Its silence is our doing.
	case s.ping:
		// Our ping waits behind a long message that still makes progress, and
		// silence counts from when it goes out. The transport's deadline is for
		// a peer that takes nothing.
		s.quiet = int32(t.heartbeat)
	default:
		switch s.quiet++; {
		case s.quiet >= int32(t.heartbeat+t.answer):
			s.conn.End(s.server.silent())
		case s.quiet == int32(t.heartbeat):
			s.ping = true
			s.conn.Wake()
		}
	}
	s.watchClock()
	if s.mute++; s.mute >= int32(t.heartbeat) && s.closing == nil && !s.beat && s.talk().heartbeat() != nil {
		s.beat = true
		s.conn.Wake()
	}
	if s.incoming != nil && s.closing == nil && !s.paused {
		if s.incoming.age++; s.incoming.age > t.message {
			s.closeSeen = true // half a message is no place to wait for a close
			s.disconnect(s.server.unfinished(), false)
		}
	}
}

// watchClock ends a client whose time is over to say who it is, and asks for another
// token before that. The caller holds mu.
func (s *session) watchClock() {
	who := s.who.Load()
	if who.until.IsZero() || s.out {
		return
	}
	switch now := time.Now(); {
	case now.Before(who.until):
		if !who.renew.IsZero() && now.After(who.renew) {
			asked := *who
			asked.renew = time.Time{} // once is enough
			s.who.Store(&asked)
			s.notice(s.talk().renew(who))
		}
	case who.waits:
		s.expel(s.server.tooLate())
	default:
		s.expel(expired)
	}
}

// Gone implements [transport.Session].
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
	s.gone, s.why = true, why
	// A hook or a broker that has not answered keeps the session a while longer,
	// and must not keep the channel's messages with it.
	s.talk().each(s, func(sub *subscription, _ subscriber) { sub.cursor.LetGo() })
	s.talk().end()
	if s.asides != nil {
		s.asides.notices = nil
	}
	s.rest()
	s.goOn()
	s.forgotten()
	s.mu.Unlock()
	s.talk().each(s, s.server.leave) // nobody adds one behind gone
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.server.leaves(s.guest)
	s.server.left(s, s.conn, s.id, why, err)
}
