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
	subprotocol, err := handshake.Check(r, &handshake.Options{Origins: s.now.Load().Origins, Subprotocols: []string{protocol.Subprotocol}})
	if err != nil {
		s.refuse(w, err)
		return
	}
	if channel == "" && subprotocol == "" {
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
	if err := s.cfg.Hooks.mayConnect(r, channel); err != nil {
		s.refuse(w, err)
		return
	}
	wire := plainWire
	switch {
	case subprotocol != "":
		wire = v1Wire
	case r.Header.Get(positionHeader) == "pong":
		wire = plainWithPosition
	}
	var at place
	header := http.Header{}
	if channel != "" {
		if at, err = s.find(r.Context(), channel, set.since, slowness{policy: set.slow}, wire); err != nil {
			s.refuse(w, err)
			return
		}
		header.Set(positionHeader, at.from.String())
	}
	// From the 101 on the client is one that Shutdown has to wait for.
	if !s.admit() {
		s.abandon(at)
		s.refuse(w, ErrServerClosed)
		return
	}
	entered := false
	defer func() {
		if !entered {
			s.abandon(at)
			s.ends.Done()
		}
	}()
	nc, early, err := handshake.Take(w, r, subprotocol, header)
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
	sess := &session{server: s, conn: conn, id: s.newID(), who: set.speaker(at)}
	if subprotocol == "" {
		sess.talk = plain{}
		s.attach(&sess.sub, at, conn.Loop(), sess)
	} else {
		sess.begin(at)
	}
	s.enter(sess, conn)
}

// abandon gives up a place to which nothing was attached.
func (s *Server) abandon(at place) {
	if at.channel != nil {
		s.release(at.channel)
	}
}

// speaker is who the settings say speaks, from a place; many are nobody in
// particular, and share what they are.
func (set *settings) speaker(at place) *speaker {
	if at.channel != nil && set.name == "" && set.key == "" && set.client == "" {
		return &at.channel.nobody
	}
	who := &speaker{name: set.name, key: set.key, client: set.client}
	if at.channel != nil {
		who.home = at.channel.name
	}
	return who
}
