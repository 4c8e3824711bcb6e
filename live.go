package fanfare

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"fanfare/auth"
	"fanfare/broker"
	"fanfare/internal/descriptors"
	"fanfare/internal/handshake"
	"fanfare/internal/netend"
)

// serveLive answers with the live channel, or a pattern, until either side ends it.
func (s *Server) serveLive(w http.ResponseWriter, r *http.Request, channel string, set *settings, d *dialect) {
	if descriptors.Scarce() {
		descriptors.Refused(s.log)
		s.refuse(w, &Error{Code: descriptors.Code, Message: descriptors.Reason()})
		return
	}
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
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		since, err := broker.ParsePosition(last)
		if err != nil {
			s.refuse(w, errorf("bad_since", "Last-Event-ID: %v", err))
			return
		}
		set.since = &since
	}
	who, r, err := s.visitor(r, set, channel)
	if err == nil {
		guest, err = s.seat(guest, who)
	}
	if err == nil {
		err = who.mayRead(auth.Subscribe, channel)
	}
	if err == nil {
		err = s.cfg.Hooks.mayConnect(r, channel)
	}
	if err != nil {
		s.refuse(w, err)
		return
	}
	l := &listener{dialect: d, server: s, id: s.newID()}
	l.who.Store(who)
	at, err := s.find(r.Context(), channel, set.since, slowness{policy: set.slow}, d.wire, &l.who)
	if err != nil {
		s.refuse(w, err)
		return
	}
	if who.isNobody() {
		l.who.Store(&at.channel.nobody)
	}
	position := at.from.String()
	h := w.Header()
	liveHeader(h, d.media)
	h.Set(positionHeader, position)
	if r.Method == http.MethodHead {
		s.abandon(at)
		return
	}
	// From here on the client is one that Shutdown has to wait for.
	if !s.admit() {
		s.abandon(at)
		s.refuse(w, ErrServerClosed)
		return
	}
	nc, wait, err := s.stream(w, r, d.preface(position))
	if err != nil {
		s.abandon(at)
		s.ends.Done()
		var refusal *handshake.Refusal
		if errors.As(err, &refusal) {
			s.log.Error("an answer cannot go on", "error", refusal)
			s.refuse(w, refusal)
		}
		return
	}
	conn, err := s.accept(nc, nil)
	if err != nil {
		nc.Close()
		s.abandon(at)
		s.ends.Done()
		return
	}
	entered = true
	l.guest = guest
	l.conn = conn
	s.attach(&l.sub, at, conn.Loop(), l)
	s.enter(l, l.id, conn)
	wait()
}

// stream begins an answer that goes on, with the headers that w has: what is
// written to nc is its body. The caller's request is over when wait has returned.
//
// Over HTTP/1 nc is the request's own connection, so that an event loop can
// have it. A reader of whom nothing is ever heard must be found dead all the same: by what his system
// does not acknowledge, heartbeats above all.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, preface []byte) (nc net.Conn, wait func(), err error) {
	if r.ProtoMajor == 1 {
		nc, err := handshake.TakeStream(w, w.Header(), preface)
		if err == nil {
			netend.GiveUp(nc, max(s.cfg.Heartbeat+s.cfg.HeartbeatTimeout, 2*s.cfg.WriteTimeout))
			return nc, func() {}, nil
		}
		var hidden *handshake.Refusal
		if !errors.As(err, &hidden) {
			return nil, nil, err
		}
	}
	// HTTP/2, or behind a middleware that hides the connection.
	control := http.NewResponseController(w)
	if err := control.Flush(); errors.Is(err, http.ErrNotSupported) {
		return nil, nil, handshake.NoStream(w)
	}
	nc, ours := net.Pipe()
	return nc, func() { s.relay(w, r, control, ours, preface) }, nil
}

// relay writes the answer of what comes through a pipe, until that or the
// request ends. It is the only one that writes it.
func (s *Server) relay(w http.ResponseWriter, r *http.Request, control *http.ResponseController, pipe net.Conn, preface []byte) {
	defer pipe.Close()
	defer context.AfterFunc(r.Context(), func() { pipe.Close() })()
	buf := make([]byte, 16<<10)
	for b := preface; ; {
		if len(b) > 0 {
			// That the reader is stuck is for the transport to find out, which waits for
			// us; this is so that we do not outlast it. And it is for this write
			// alone: over HTTP/2 a deadline ends also an answer that waits.
			_ = control.SetWriteDeadline(time.Now().Add(2 * s.cfg.WriteTimeout))
			_, err := w.Write(b)
			if err == nil {
				err = control.Flush()
			}
			_ = control.SetWriteDeadline(time.Time{})
			if err != nil {
				return
			}
		}
		n, err := pipe.Read(buf)
		if err != nil {
			return
		}
		b = buf[:n]
	}
}
