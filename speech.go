package fanfare

import "encoding/binary"

// What a client says is done at once, on the goroutine that read it, if that is
// possible: if it cannot block, and not too much of the client's is under way.
// Otherwise it is parked, nothing more is read, and a goroutine does it as soon
// as that may be. So what a client says is done in order, and nobody but the
// client waits.

const (
	// maxUnanswered is how much of what a client said may be under way at once,
	// each message by its weight.
	maxUnanswered = 64
	// maxNotices is how many bytes of answers may wait for a client before it is
	// heard again: one that asks must read what it is told.
	maxNotices = 64 << 10
)

// weight is what a message counts against maxUnanswered: one, and one for each
// 16 KiB, so that no client has much more than 1 MiB with the broker, unless it is one message.
func weight(text []byte) int32 { return 1 + int32(len(text)>>14) }

// said takes a message from the client, behind so many frames that were none.
func (s *session) said(frames int, isBinary bool, text []byte) {
	s.mu.Lock()
	s.spent(frames, 0)
	waits, out := s.waits() || !s.affords(), s.out
	if out {
		s.babble()
	}
	s.mu.Unlock()
	if out {
		return
	}
	// Until here returns nobody but Receive's goroutine parks anything.
	if !waits && s.talk().hear(s, isBinary, text) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !waits {
		s.unheard() // it is counted when it is done
	}
	if !s.out {
		s.park(isBinary, false, text)
		s.goOn()
	}
}

// babble notes that a client that was expelled goes on talking. If it does so for long, its
// answer to our close is not waited for. The caller holds mu.
func (s *session) babble() {
	s.strikes = min(s.strikes, 255-1) + 1
	s.restrain()
}

// waits reports whether what the client says must be parked. The caller holds mu.
func (s *session) waits() bool { return s.parks() || s.speaking || s.full() }

// owe counts what is being done for the client, until answered is called. The
// caller holds mu.
func (s *session) owe(text []byte) {
	s.unanswered += weight(text)
	s.restrain()
}

// park keeps what the client said until speak takes it. What one read brings
// can be ten thousand messages, so they are kept as long as they came, and no longer.
// What came compressed stays so. The caller holds mu.
func (s *session) park(isBinary, packed bool, text []byte) {
	head := uint64(len(text)) << 2
	if isBinary {
		head |= 1
	}
	if packed {
		head |= 2
	}
	a := s.aside()
	a.parked = append(binary.AppendUvarint(a.parked, head), text...)
}

// parks reports whether something is parked. The caller holds mu.
func (s *session) parks() bool { return s.asides != nil && len(s.asides.parked) > 0 }

// full reports whether nothing more may be done for now. The caller holds mu.
func (s *session) full() bool {
	return s.unanswered >= maxUnanswered || s.asides != nil && (len(s.asides.notices) >= maxNotices || s.broke()) || s.talk().busy()
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
	paused := !s.closeSeen && (s.out && s.strikes > maxBabble || s.parks() || s.speaking || s.full())
	switch {
	case paused && !s.paused:
		s.conn.Pause()
	case !paused && s.paused:
		s.quiet = 0 // what it said meanwhile is only now read
		s.conn.Resume()
	}
	s.paused = paused
}

// forgotten has nobody find the session any more when it is gone and all that it said
// was done: until then it can be revoked. The caller holds mu.
func (s *session) forgotten() {
	if s.gone && !s.speaking && !s.parks() {
		s.server.revoked.clients.Delete(s.id)
	}
}

// speak does what is parked, one after the other, and at last tells the hook
// Disconnect.
func (s *session) speak() {
	defer s.server.speakers.Add(-1)
	for {
		isBinary, packed, text, then := s.unpark()
		switch then {
		case nothing:
			return
		case parting:
			if err := s.server.cfg.Hooks.disconnected(s.who.Load().home, s.who.Load().name, s.why); err != nil {
				s.server.log.Error("internal error", "error", err)
			}
		case act:
			if packed {
				var ok bool
				if text, ok = s.unpack(isBinary, text); !ok {
					continue
				}
			}
			s.talk().act(s, isBinary, text)
		}
	}
}

// step is what speak does next.
type step uint8

const (
	nothing step = iota
	act
	parting
)

// unpark takes the next of what is parked, as far as it may be done, or says that
// the session parts. Without either speak ends.
func (s *session) unpark() (isBinary, packed bool, text []byte, then step) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.parts():
		s.parted = true
		return false, false, nil, parting
	case !s.parks() || s.full() || !s.affords():
		s.speaking = false
		s.restrain()
		s.forgotten()
		return false, false, nil, nothing
	}
	a := s.asides
	head, n := binary.Uvarint(a.parked)
	end := n + int(head>>2)
	text = a.parked[n:end:end]
	s.unanswered += weight(text)
	if a.parked = a.parked[end:]; len(a.parked) == 0 {
		a.parked = nil
	}
	return head&1 != 0, head&2 != 0, text, act
}

// notice has frames go out as soon as possible. Behind our close nothing is
// said, and notices that wait for ever would keep us from hearing the answer to
// it. The caller holds mu.
func (s *session) notice(frames []byte) {
	if len(frames) > 0 && !s.gone && !s.closeSent && !s.out {
		s.aside().notices = append(s.aside().notices, frames...)
		s.conn.Wake()
	}
}

// answered ends what owe or unpark began for a message of this weight: notice is
// what the client is told, and pos where in a channel it was published, if it was.
func (s *session) answered(weight int32, notice []byte, channel string, pos Position) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unanswered -= weight
	s.notice(notice)
	s.goOn()
	if s.closing == nil {
		return
	}
	for i := range s.closing.goals {
		g := &s.closing.goals[i]
		if s.closing.flush && g.sub.audience.channel.name == channel && !reached(pos, g.to) {
			g.to = pos
		}
	}
	s.conn.Wake()
}
