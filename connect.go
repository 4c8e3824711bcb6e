package fanfare

import (
	"errors"
	"net/http"

	"fanfare/internal/descriptors"
	"fanfare/internal/handshake"
)

// serveWebSocket opens a session.
func (s *Server) serveWebSocket(w http.ResponseWriter, r *http.Request, channel string) {
	subprotocol, err := handshake.Check(r, &handshake.Options{Origins: s.now.Load().Origins})
	if err != nil {
		s.refuse(w, err)
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
	form := plainForm
	if r.Header.Get(positionHeader) == "pong" {
		form = plainWithPosition
	}
	if err := s.cfg.Hooks.mayConnect(r, channel); err != nil {
		s.refuse(w, err)
		return
	}
	sess := &session{server: s, who: nobody}
	if set.name != "" || set.key != "" {
		sess.who = &speaker{set.name, set.key}
	}
	sess.sub, err = s.subscribe(r.Context(), channel, set.since, slowness{policy: set.slow}, form)
	if err != nil {
		s.refuse(w, err)
		return
	}
	// From the 101 on the client is one that Shutdown has to wait for.
	if !s.admit() {
		s.leave(&sess.sub, sess)
		s.refuse(w, ErrServerClosed)
		return
	}
	entered := false
	defer func() {
		if !entered {
			s.leave(&sess.sub, sess)
			s.ends.Done()
		}
	}()
	nc, early, err := handshake.Take(w, r, subprotocol, http.Header{positionHeader: {sess.sub.cursor.Position().String()}})
	if err != nil {
		var refusal *handshake.Refusal
		if errors.As(err, &refusal) {
			s.log.Error("a connection cannot become a WebSocket", "error", refusal)
			s.refuse(w, refusal)
		}
		return
	}
	sess.conn, err = s.accept(nc, early)
	if err != nil {
		nc.Close()
		return
	}
	entered = true
	s.enter(sess)
}
