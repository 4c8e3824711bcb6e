package client

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"

	"fanfare/protocol"
)

// A Member is who is in a channel.
type Member = protocol.Member

// Presence is who is in a channel.
type Presence struct {
	Count   int      // all
	Members []Member // as many as were asked for
}

// Presence asks who is in a channel: how many, and limit of them at most, up to 1,000; 0 is
// cheapest, and below 0 means 100. It waits for a connection.
func (c *Client) Presence(ctx context.Context, channel string, limit int) (*Presence, error) {
	command := protocol.Command{Type: protocol.Presence, Channel: c.orURLs(channel)}
	if limit >= 0 {
		command.Limit = &limit
	}
	answer, err := c.ask(ctx, command, 0)
	if err != nil {
		return nil, err
	}
	p := &Presence{Members: answer.Members}
	if answer.Count != nil {
		p.Count = *answer.Count
	}
	return p, nil
}

// A PresenceEvent is a change of who is in a channel.
type PresenceEvent struct {
	// Type is "join" or "leave", or "here": the list anew, in the beginning,
	// after each reconnection, and when changes were left out.
	Type    string
	Members []Member // who came, who went, who is here
	Omitted int      // how many more came or went, and are not told
	Count   int      // how many are here now
}

// Presence yields who is here, and then who comes and goes, until the subscription
// ends, ctx ends or the loop is left. It ends like Messages. Changes that nobody
// takes are replaced by a list of who is here.
func (s *Subscription) Presence(ctx context.Context) iter.Seq2[*PresenceEvent, error] {
	return func(yield func(*PresenceEvent, error) bool) {
		for {
			e, err := next(ctx, s, &s.changes, nil)
			if err != nil && errors.Is(err, ErrClosed) || !yield(e, err) || err != nil {
				return
			}
		}
	}
}

// Count returns how many are here, as far as told. Zero without [SubscribeOptions.Presence].
func (s *Subscription) Count() int {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.count
}

// Members returns who is here, who came first first, and whether that is all:
// where many come and go the server does not name everyone. [Client.Presence] asks anew.
func (s *Subscription) Members() (members []Member, all bool) {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.here(), len(s.members) == s.count
}

// here returns who is here. The caller holds mu.
func (s *Subscription) here() []Member {
	return slices.SortedFunc(maps.Values(s.members), func(a, b Member) int {
		if order := a.Since.Compare(b.Since); order != 0 {
			return order
		}
		return strings.Compare(a.Session, b.Session)
	})
}

// What is kept of presence is bounded, whatever a server says: so many members,
// also of one change, so many changes, and so many bytes of a member's session and name.
const (
	mostMembers = 1000
	mostChanges = 100
	mostNamed   = 512
)

// hear takes over a change of who is here. The caller holds mu.
func (s *Subscription) hear(e *PresenceEvent) {
	if e.Type == "here" || s.members == nil {
		s.members = make(map[string]Member)
	}
	s.count = e.Count
	var named []Member
	for _, m := range e.Members {
		if len(named) < mostMembers && len(m.Session)+len(m.Name) <= mostNamed {
			named = append(named, m)
		}
	}
	e.Omitted += len(e.Members) - len(named)
	e.Members = named
	for _, m := range e.Members {
		if e.Type == protocol.LeaveEvent {
			delete(s.members, m.Session)
		} else if len(s.members) < mostMembers {
			s.members[m.Session] = m
		}
	}
	for session := range s.members { // who went and was not named may be any
		if len(s.members) <= s.count {
			break
		}
		delete(s.members, session)
	}
	if len(s.changes.items) >= mostChanges || e.Type == "here" {
		s.changes.items = nil
		e = &PresenceEvent{Type: "here", Members: s.here(), Count: s.count}
	}
	s.changes.put(e)
}

func hereOf(e *protocol.Event) *PresenceEvent {
	here := &PresenceEvent{Type: "here", Members: e.Members}
	if e.Count != nil {
		here.Count = *e.Count
	}
	return here
}

// askPresence asks who is here: changes were left out. The caller holds mu.
func (s *session) askPresence(sub *Subscription) {
	s.say(protocol.Command{Type: protocol.Presence, Channel: sub.channel}, func(e *protocol.Event) {
		if sub.err == nil && e.Type != protocol.ErrorEvent {
			sub.hear(hereOf(e))
		}
	})
}
