package client

import (
	"fmt"
	"slices"
	"time"

	"fanfare/broker"
	"fanfare/protocol"
)

// The course of a subscription over one connection:
//
//	subscribe ──▶ asked ──▶ live ──▶ behind: the buffer is full, unsubscribe
//	    ▲                              │
//	    └──────────────────────────────┘ whenever half is free: history, until there is no more
//
// What comes while it is not live is dropped: it will come again, because
// received does not move. Another connection begins with subscribe, or behind.

// attend asks for what a subscription needs. The caller holds mu.
func (c *Client) attend(sub *Subscription) {
	s := c.session
	switch {
	case s == nil || sub.asked || sub.live || !sub.retry.mono.IsZero():
	case !sub.behind:
		sub.asked = true
		s.say(protocol.Command{Type: protocol.Subscribe, Channel: sub.channel, Since: sub.received, Presence: sub.o.Presence, Slow: sub.o.Slow},
			func(e *protocol.Event) { s.subscribed(sub, e) })
	case sub.relaxed():
		sub.asked = true
		limit := min(max(c.o.Buffer-sub.half, 1), 1000)
		s.say(protocol.Command{Type: protocol.History, Channel: sub.channel, Since: sub.received, Limit: &limit},
			func(e *protocol.Event) { s.caughtUp(sub, e) })
	}
}

// subscribed hears the answer to a subscribe. The caller holds mu.
func (s *session) subscribed(sub *Subscription, e *protocol.Event) {
	sub.asked = false
	switch {
	case sub.err != nil:
		return
	case e.Type == protocol.ErrorEvent:
		s.refused(sub, e)
		return
	}
	sub.pause.reset()
	sub.live = true
	if sub.received == "" {
		sub.received, sub.given = e.Position, e.Position
	}
	if sub.o.Presence {
		sub.hear(hereOf(e))
	}
	if !sub.established {
		sub.established = true
		close(sub.ready)
	}
}

// refused does what a refusal means for a subscription. The caller holds mu.
func (s *session) refused(sub *Subscription, e *protocol.Event) {
	passing := e.Code == "timeout" || e.Code == "internal" || e.Code == "rate_limited"
	switch {
	case e.Code == "shutting_down": // the next connection asks again
	case passing && sub.established:
		wait := sub.pause.next() + span(e.Retry, time.Millisecond, mostRetry)
		now := s.client.now()
		sub.retry = moment{now.mono.Add(wait), now.wall.Add(wait)}
	default:
		s.client.endSubscription(sub, &Error{Code: e.Code, Message: e.Message, Retry: e.Retry})
	}
}

// caughtUp hears a page of history that follows what the buffer had room for.
// The caller holds mu.
func (s *session) caughtUp(sub *Subscription, e *protocol.Event) {
	sub.asked = false
	switch {
	case sub.err != nil:
		return
	case e.Type == protocol.ErrorEvent && e.Code == "forbidden": // it may read only what is new: the server's gap will say so
		sub.behind = false
		s.client.attend(sub)
		return
	case e.Type == protocol.ErrorEvent:
		s.refused(sub, e)
		return
	}
	page, err := pageOf(e)
	if err != nil {
		s.client.endSubscription(sub, err)
		return
	}
	sub.pause.reset()
	if page.Gap {
		sub.gap(protocol.Outrun, 0, sub.received, 0)
	}
	for i, m := range page.Messages {
		it := item{message: m, position: m.Position, size: len(e.Messages[i])}
		sub.received = m.Position
		sub.bytes += it.size
		sub.messages.put(it)
	}
	if page.Position != "" {
		sub.received = page.Position
	}
	sub.behind = page.More
	s.client.attend(sub)
}

func (s *Subscription) gap(reason string, missed int, position string, size int) {
	if position == "" {
		position = s.received
	}
	s.put(item{gap: &GapError{s.channel, reason, missed, position}, position: position, size: size})
}

// put takes in what arrived. The caller holds mu.
func (s *Subscription) put(it item) {
	if it.message != nil && !beyond(it.position, s.received) {
		return // it is here already
	}
	if s.full(it.size) && !s.makeRoom() {
		return
	}
	s.received = it.position
	s.bytes += it.size
	s.messages.put(it)
}

// beyond reports whether a position is after another. What the two do not tell
// of one another counts as after.
func beyond(position, than string) bool {
	p, err := broker.ParsePosition(position)
	q, err2 := broker.ParsePosition(than)
	if err != nil || err2 != nil || p.Epoch != q.Epoch {
		return position != than
	}
	return p.Offset > q.Offset
}

func (s *Subscription) full(more int) bool {
	n := len(s.messages.items)
	return n >= s.client.o.Buffer || n > 0 && s.bytes+more > s.client.o.BufferBytes
}

// relaxed reports whether a buffer that was full has room for a good deal.
func (s *Subscription) relaxed() bool {
	return len(s.messages.items) <= s.half && s.bytes <= s.client.o.BufferBytes/2
}

// makeRoom does what a full buffer means for this subscription, and reports
// whether what arrived may be put in. The caller holds mu.
func (s *Subscription) makeRoom() bool {
	c := s.client
	switch s.o.Slow {
	case "skip":
		s.replace(nil, protocol.Skipped)
	case "latest":
		s.replace(s.newest(), protocol.Superseded)
	case "close":
		c.session.say(protocol.Command{Type: protocol.Unsubscribe, Channel: s.channel}, nil)
		c.endSubscription(s, &Error{Code: "too_slow", Message: fmt.Sprintf("%d messages of %.80q wait for their reader, which is too slow", len(s.messages.items), s.channel)})
		return false
	default:
		s.live, s.behind = false, true
		c.session.say(protocol.Command{Type: protocol.Unsubscribe, Channel: s.channel}, nil)
		return false
	}
	return true
}

// newest returns the newest message in the buffer for each key of each channel, of which
// no key is one, if that is not more than half of a buffer.
func (s *Subscription) newest() []item {
	type name struct{ channel, key string }
	seen := make(map[name]bool)
	var newest []item
	bytes := 0
	for _, it := range slices.Backward(s.messages.items) {
		if it.message == nil || seen[name{it.message.Channel, it.message.Key}] {
			continue
		}
		seen[name{it.message.Channel, it.message.Key}] = true
		newest = append(newest, it)
		bytes += it.size
	}
	if len(newest) > s.half || bytes > s.client.o.BufferBytes/2 {
		return nil
	}
	slices.Reverse(newest)
	return newest
}

// replace puts a gap and what is left in the place of what waits in the buffer.
func (s *Subscription) replace(left []item, reason string) {
	gap := &GapError{Channel: s.channel, Reason: reason, Position: s.given}
	known := true
	for _, it := range s.messages.items {
		switch {
		case it.message != nil:
			gap.Missed++
		case it.gap.Missed == 0:
			known = false
		default:
			gap.Missed += it.gap.Missed
		}
	}
	if gap.Missed -= len(left); !known {
		gap.Missed = 0
	}
	if len(left) == 0 {
		gap.Position = s.received
	}
	s.dropMessages()
	s.messages.items = append([]item{{gap: gap, position: gap.Position}}, left...)
	for _, it := range left {
		s.bytes += it.size
	}
	s.messages.signal()
}
