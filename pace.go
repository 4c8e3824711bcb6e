package fanfare

import (
	"fmt"
	"math"
	"sync"
	"time"

	"fanfare/internal/limit"
)

// How fast a session is heard. Each message, ping, command and piece of a message
// takes a token, and so does each byte. Once there is none left, what came already is
// parked and nothing more is read until there are some; nothing is lost. Most
// sessions say nothing most of the time, and have no pace: it is among their
// asides, and goes as soon as the tokens are all back.

const (
	// leastPause is how long reading is paused at least, so that a client that is always over its
	// rate is not resumed for each message.
	leastPause = 20 * time.Millisecond
	// tellEvery is how often a client is told that it has to wait.
	tellEvery = 5 * time.Second
)

// A pace is what a session may still say. It is guarded by the session's mu.
//
// Of what the buckets have a part is set aside, and the clock and the buckets are looked at
// again when that is used up.
type pace struct {
	messages, bytes *limit.Bucket // nil as long as there was no such limit

	room, heard int         // messages and other frames that may come, and that came and took no token yet
	space, read int         // the same in bytes
	broke       bool        // nothing is heard
	until       time.Time   // that is
	told        time.Time   // when the client was last told
	timer       *time.Timer // thaws the session; nil as long as it was never broke
}

var paces = sync.Pool{New: func() any { return new(pace) }}

// rates are those that hold the session alone, and those it shares with others of its
// subject. What an identity is permitted counts for both.
func (s *session) rates() (messages, bytes, allMessages, allBytes limit.Rate) {
	b, who := s.server.limits.now.Load(), s.who.Load()
	allMessages, allBytes = who.ownRates(b)
	if who.id == nil {
		return b.messages, b.bytes, allMessages, allBytes
	}
	return or(rateOf(who.id.Limits.Messages, 1, 1), b.messages), or(rateOf(who.id.Limits.Bytes, 1, leastBytes), b.bytes), allMessages, allBytes
}

// affords reports whether one more message may be heard now, and counts it. If not, it
// will be when the session thaws. The caller holds mu, here and below.
func (s *session) affords() bool {
	if s.gone || s.closing != nil && !s.out {
		return true // not much more will come
	}
	p := s.pace()
	if p.room <= 0 && !p.broke {
		now := time.Now()
		if s.pay(p, now); p.room <= 0 && !p.broke {
			s.freeze(p, now, byMessages, p.messages.Missing(now))
		}
	}
	if p.broke {
		return false
	}
	p.room--
	p.heard++
	return true
}

// unheard takes back what affords counted.
func (s *session) unheard() {
	if !s.gone {
		p := s.pace()
		p.room, p.heard = p.room+1, p.heard-1
	}
}

// spent counts frames that are no message, and the bytes of all that came.
func (s *session) spent(frames, bytes int) {
	p := s.pace()
	p.room, p.heard = p.room-frames, p.heard+frames
	p.space, p.read = p.space-bytes, p.read+bytes
	if (p.space < 0 || p.room < 0) && !s.gone {
		s.pay(p, time.Now())
	}
}

// spend is spent, for who does not hold mu: so many messages more.
func (s *session) spend(messages int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spent(messages, 0)
}

// pace returns the session's, or a new one.
func (s *session) pace() *pace {
	a := s.aside()
	if a.pace == nil {
		a.pace = paces.Get().(*pace)
	}
	return a.pace
}

// pay takes the tokens for what came, and freezes the session if they were not all
// there. Otherwise it sets some more aside.
func (s *session) pay(p *pace, now time.Time) {
	messages, bytes, allMessages, allBytes := s.rates()
	if p.heard > 0 && !allMessages.None() {
		s.freeze(p, now, bySubjectMessages, s.server.limits.subjects.Spend(now, s.who.Load().subject(), p.heard, allMessages))
	}
	if p.read > 0 && !allBytes.None() {
		s.freeze(p, now, bySubjectBytes, s.server.limits.uploads.Spend(now, s.who.Load().subject(), p.read, allBytes))
	}
	p.room = s.draw(p, now, byMessages, &p.messages, p.heard, messages)
	p.space = s.draw(p, now, byBytes, &p.bytes, p.read, bytes)
	p.heard, p.read = 0, 0
	if !allMessages.None() {
		p.room = min(p.room, 1) // others take from it too
	}
	if !allBytes.None() {
		p.space = 0
	}
}

// draw takes n tokens from a bucket, and returns how many more may be used up before it is
// looked at again: an eighth of a burst at most, since a bucket that is not looked at is not filled.
func (s *session) draw(p *pace, now time.Time, what limited, b **limit.Bucket, n int, r limit.Rate) int {
	if r.None() {
		*b = nil
		return math.MaxInt32
	}
	if *b == nil {
		*b = limit.NewBucket(r)
	}
	if wait := (*b).Spend(now, n, r); wait > 0 {
		if s.freeze(p, now, what, wait); !p.broke {
			*b = limit.NewBucket(r) // a dry run: nothing is owed
		}
	}
	return min((*b).Tokens(now), max(1, r.Burst/8))
}

// freeze has nothing heard for a while.
func (s *session) freeze(p *pace, now time.Time, what limited, wait time.Duration) {
	if wait <= 0 || s.closing != nil && !s.out {
		return
	}
	if !p.broke {
		if !s.server.reached(what, "channel", s.who.Load().home, "name", s.who.Load().name, "session", idText(s.id)) {
			return
		}
		p.broke, p.until = true, now
	}
	wait = max(wait, leastPause)
	if until := now.Add(wait); until.After(p.until) {
		p.until = until
		if p.timer == nil {
			p.timer = time.AfterFunc(wait, s.thaw)
		} else {
			p.timer.Reset(wait)
		}
	}
	if now.Sub(p.told) > tellEvery {
		p.told = now
		s.notice(s.talk().warn(s.tooFast(what, wait)))
	}
}

// tooFast is what the client is told.
func (s *session) tooFast(what limited, wait time.Duration) *Error {
	messages, bytes, allMessages, allBytes := s.rates()
	text := ""
	switch what {
	case byMessages:
		text = fmt.Sprintf("this connection sends more than %v messages a second", messages.Second)
	case byBytes:
		text = fmt.Sprintf("this connection sends more than %v bytes a second", bytes.Second)
	case bySubjectMessages:
		text = fmt.Sprintf("%.80q sends more than %v messages a second", s.who.Load().subject(), allMessages.Second)
	default:
		text = fmt.Sprintf("%.80q sends more than %v bytes a second", s.who.Load().subject(), allBytes.Second)
	}
	e := errorf("rate_limited", "%s; what is more has to wait, and nothing of it is lost", text)
	e.retry = wait
	return e
}

// thaw has the session heard again, when it is time. It is called by the timer.
func (s *session) thaw() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asides == nil || s.asides.pace == nil || !s.asides.pace.broke {
		return
	}
	p := s.asides.pace
	if left := time.Until(p.until); left > 0 {
		p.timer.Reset(left)
		return
	}
	p.broke = false
	s.goOn()
}

// relax gives the pace back if all tokens are there again. It is called now and then.
func (s *session) relax() {
	if s.asides == nil || s.asides.pace == nil || s.asides.pace.broke {
		return
	}
	p, now := s.asides.pace, time.Now()
	if s.pay(p, now); p.broke || !p.messages.Full(now) || !p.bytes.Full(now) || now.Sub(p.told) < tellEvery {
		return
	}
	s.asides.pace = nil
	*p = pace{messages: p.messages, bytes: p.bytes}
	paces.Put(p)
}

// rest ends the pace of a session that is gone.
func (s *session) rest() {
	if s.asides == nil || s.asides.pace == nil {
		return
	}
	if t := s.asides.pace.timer; t != nil {
		t.Stop()
	}
	s.asides.pace = nil
}

// broke reports whether nothing is heard for now, because too much was said.
func (s *session) broke() bool { return s.asides != nil && s.asides.pace != nil && s.asides.pace.broke }
