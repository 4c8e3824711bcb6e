package fanfare

import (
	"bytes"
	"encoding/binary"
)

// What a client says is published at once, on the goroutine that read it, if
// that is possible: if there is no hook to ask, which may block, and not too much
// of the client's is with the broker. Otherwise it is parked, nothing more is
// read, and a goroutine publishes it as soon as that may be. So a client's
// messages stay in order, and nobody but the client waits.

const (
	// maxUnanswered is how many of a client's messages may be with the broker at
	// once, each by its weight.
	maxUnanswered = 64
	// maxNotices is how many notices may wait for a client: one that is told of
	// each message why it was refused must read that.
	maxNotices = 16
)

// weight is what a message counts against maxUnanswered: one, and one for each
// 16 KiB, so that no client has much more than 1 MiB with the broker, unless it is one message.
func weight(payload []byte) int32 { return 1 + int32(len(payload)>>14) }

// said takes a message from the client.
func (s *session) said(isBinary bool, payload []byte) {
	s.mu.Lock()
	if s.server.cfg.Hooks.Publish != nil || s.parks() || s.speaking || s.full() {
		s.park(isBinary, payload)
		s.goOn()
		s.mu.Unlock()
		return
	}
	s.unanswered += weight(payload)
	s.restrain()
	s.mu.Unlock()
	s.server.publish(s.message(isBinary, payload), s.answer(payload))
}

// message makes a message of what the client said.
func (s *session) message(isBinary bool, payload []byte) *Message {
	return &Message{Channel: s.sub.channel.name, Sender: s.who.name, Key: s.who.key, Binary: isBinary, Payload: bytes.Clone(payload)}
}

// park keeps what the client said until speak takes it. What one read brings
// can be ten thousand messages, so they are kept as long as they came, and no longer.
// The caller holds mu.
func (s *session) park(isBinary bool, payload []byte) {
	head := uint64(len(payload)) << 1
	if isBinary {
		head |= 1
	}
	a := s.aside()
	a.parked = append(binary.AppendUvarint(a.parked, head), payload...)
}

// parks reports whether something is parked. The caller holds mu.
func (s *session) parks() bool { return s.asides != nil && len(s.asides.parked) > 0 }

// full reports whether nothing more may be published for now. The caller holds mu.
func (s *session) full() bool {
	return s.unanswered >= maxUnanswered || s.asides != nil && len(s.asides.notices) >= maxNotices
}

// goOn has speak do what there is to do, and pauses or resumes the reading. It is
// to be called when something was parked, and when what it waits for happened.
// The caller holds mu.
func (s *session) goOn() {
	if !s.speaking && (s.parks() && !s.full() || s.parts()) {
		s.speaking = true
		s.server.speakers.Add(1)
		go s.speak()
	}
	s.restrain()
}

// parts reports whether the hook Disconnect is to be told: all was said, and
// the connection is over. The caller holds mu.
func (s *session) parts() bool {
	return s.gone && !s.parted && !s.parks() && s.server.cfg.Hooks.Disconnect != nil
}

// restrain has nothing read while something is parked or nothing may be
// published, and else goes on. The caller holds mu.
func (s *session) restrain() {
	paused := !s.closeSeen && (s.parks() || s.speaking || s.full())
	switch {
	case paused && !s.paused:
		s.conn.Pause()
	case !paused && s.paused:
		s.quiet = 0 // what it said meanwhile is only now read
		s.conn.Resume()
	}
	s.paused = paused
}

// speak has the program's hook look at what is parked, one message after the
// other, and publishes it; and at last tells the hook Disconnect.
func (s *session) speak() {
	defer s.server.speakers.Add(-1)
	hooks := &s.server.cfg.Hooks
	for {
		m, parting := s.unpark()
		switch {
		case parting:
			if err := hooks.disconnected(s.sub.channel.name, s.who.name, s.why); err != nil {
				s.server.log.Error("internal error", "error", err)
			}
		case m == nil:
			return
		default:
			answer := s.answer(m.Payload) // as it is now: the hook may change it
			if err := hooks.mayPublish(s.server.life, m); err != nil {
				answer(Position{}, err)
			} else {
				s.server.publish(m, answer)
			}
		}
	}
}

// unpark takes the next message from those that are parked, as far as it may be
// published, or says that the session parts. Neither ends speak.
func (s *session) unpark() (m *Message, parting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.parts():
		s.parted = true
		return nil, true
	case !s.parks() || s.full():
		s.speaking = false
		s.restrain()
		return nil, false
	}
	a := s.asides
	head, n := binary.Uvarint(a.parked)
	end := n + int(head>>1)
	m = s.message(head&1 == 1, a.parked[n:end])
	s.unanswered += weight(m.Payload)
	if a.parked = a.parked[end:]; len(a.parked) == 0 {
		a.parked = nil
	}
	return m, false
}

// answer returns what takes the broker's answer to what the client said, or the
// hook's.
func (s *session) answer(payload []byte) func(Position, error) {
	w := weight(payload)
	return func(pos Position, err error) { s.answered(w, pos, err) }
}

func (s *session) answered(weight int32, pos Position, err error) {
	var notice []byte
	if err != nil {
		notice = plainNotice("not published: " + s.server.known(err).Message)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unanswered -= weight
	// Behind our close nothing is said, and notices that wait for ever would keep
	// us from hearing the answer to it.
	if notice != nil && !s.gone && !s.closeSent {
		s.aside().notices = append(s.aside().notices, notice)
		s.conn.Wake()
	}
	s.goOn()
	if s.closing == nil {
		return
	}
	if s.closing.flush && err == nil && !reached(pos, s.closing.flushTo) {
		s.closing.flushTo = pos
	}
	s.conn.Wake()
}
