package fanfare

import (
	"errors"
	"net/http"

	"fanfare/internal/descriptors"
	"fanfare/internal/handshake"
	"fanfare/protocol"
)

// serveWebSocket opens a session. channel is the URL's, or a pattern; empty:
// none, and then the client must speak fanfare.v1.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request, channel string) {
	guest, err := s.arrive(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	entered := false
	defer func() {
		if !entered {
			s.leaves(guest)
		}
	}()
	subprotocol, err := handshake.Check(r, &handshake.Options{Origins: s.now.Load().Origins, Subprotocols: []string{protocol.Subprotocol, plainProtocol}})
	if err != nil {
		s.refuse(w, err)
		return
	}
	extensions, bits, err := s.compress(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	if channel == "" && subprotocol != protocol.Subprotocol {
		s.refuse(w, errorf("bad_subprotocol", "/-/connect has no channel: ask for the subprotocol %s, or connect to a channel's URL", protocol.Subprotocol))
		return
	}
	if descriptors.Scarce() {
		descriptors.Refused(s.log)
		s.refuse(w, &Error{Code: descriptors.Code, Message: descriptors.Reason()})
		return
	}
	set, err := settingsOf(r)
	if err != nil {
		s.refuse(w, err)
		return
	}
	wire := plainWire
	switch {
	case subprotocol == protocol.Subprotocol:
		wire = v1Wire
	case r.Header.Get(positionHeader) == "pong":
		wire = plainWithPosition
	}
	wire = s.wire(wire, bits)
	sess := &session{server: s, id: s.newID(), bits: bits}
	who, r, err := s.visitor(r, &set, channel)
	if err == nil {
		guest, err = s.seat(guest, who)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	reads, waits, err := who.admits(channel)
	if err == nil {
		err = s.cfg.Hooks.mayConnect(r, channel)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	if waits {
		s.expects(who)
	}
	if channel != "" && !reads {
		set.wire = wire
		who.unread = &set
	}
	sess.who.Store(who)
	var at place
	header := http.Header{}
	if reads {
		if at, err = s.find(r.Context(), channel, set.since, slowness{policy: set.slow}, wire, &sess.who); err != nil {
			s.refuse(w, err)
			return
		}
		if who.isNobody() {
			sess.who.Store(&at.channel.nobody)
		}
		header.Set(positionHeader, at.from.String())
	}
	// From the 101 on the client is one that Shutdown has to wait for.
	if !s.admit() {
		s.abandon(at)
		s.refuse(w, ErrServerClosed)
		return
	}
	defer func() {
		if !entered {
			s.abandon(at)
			s.ends.Done()
		}
	}()
	nc, early, err := handshake.Take(w, r, handshake.Agreed{Subprotocol: subprotocol, Extensions: extensions}, header)
	if err != nil {
		var refusal *handshake.Refusal
		if errors.As(err, &refusal) {
			s.log.Error("a connection cannot become a WebSocket", "error", refusal)
			s.refuse(w, refusal)
		}
		return
	}
	conn, err := s.accept(nc, early)
	if err != nil {
		nc.Close()
		return
	}
	entered = true
	sess.conn, sess.guest = conn, guest
	if subprotocol == protocol.Subprotocol {
		sess.begin(at)
	} else if at.channel != nil {
		s.attach(&sess.sub, at, conn.Loop(), sess)
	}
	s.enter(sess, sess.id, conn)
}

// abandon gives up a place to which nothing was attached.
func (s *Server) abandon(at place) {
	if at.channel != nil {
		s.release(at.channel)
	}
}

// isNobody reports whether who is nobody in particular, as many are, who share
// what they are.
func (who *speaker) isNobody() bool { return *who == speaker{home: who.home} }
