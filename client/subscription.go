package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"

	"fanfare/broker"
	"fanfare/protocol"
)

// A Message is a publication. Its Data are JSON, or with an Encoding of
// "base64" a string with bytes.
type Message struct{ protocol.Message }

func messageOf(e *protocol.Event) *Message { return &Message{e.Record()} }

// Decode decodes the message's JSON, as [json.Unmarshal] does. Text that is no
// JSON is a string.
func (m *Message) Decode(v any) error { return json.Unmarshal(m.Data, v) }

// Bytes returns what the channel keeps: the text of a message as those who
// speak plain see it, or the bytes of a binary one. Nil if the server sent nonsense.
func (m *Message) Bytes() []byte {
	payload, _, err := m.Payload()
	if err != nil {
		return nil
	}
	return payload
}

// Binary reports whether the message is any bytes and not a text.
func (m *Message) Binary() bool { return m.Encoding != "" }

// SubscribeOptions are a subscription's. Nil or zero: what is published from
// now on, without who is here.
type SubscribeOptions struct {
	// Since: what follows this position comes first. "0": from the oldest kept.
	Since string
	// Presence: also who comes and goes. Not for patterns.
	Presence bool
	// Slow is what becomes of this reader when it lags: "catch-up", "skip",
	// "latest" or "close". Empty: what the channel's settings say, and catch-up
	// for a consumer that lags behind the client.
	//
	// When the buffer is full, skip drops all of it, and latest all but the newest
	// for each key; a [GapError] says so. close ends the subscription
	// with the [Error] too_slow.
	Slow string
}

// A Subscription is one channel or pattern that the client reads, over as many
// connections as it takes. All its methods may be called from any goroutine;
// a message goes to one of those who wait for the next.
type Subscription struct {
	// static
	client  *Client
	channel string
	o       SubscribeOptions
	ready   chan struct{} // closed when the server has agreed, or it ended
	half    int           // of the buffer, in messages

	// under Client.mu
	err         error // why it ended; nil: it has not
	established bool  // the server has agreed once
	received    string
	given       string
	messages    box[item]
	bytes       int // in messages
	changes     box[*PresenceEvent]
	members     map[string]Member // who is here, by session, as far as told
	count       int
	pause       backoff // after the server could not
	retry       moment  // not before; zero: no need to wait

	// under Client.mu, and about the connection under way
	live   bool // what comes is taken
	asked  bool // there is a question on the way that will change that
	behind bool // the buffer ran over, and something was left out; over connections too
}

// An item is a message or a gap.
type item struct {
	message  *Message
	gap      *GapError
	position string
	size     int
}

// Subscribe begins to read a channel, or a pattern of channels. It waits for a
// connection and the server's agreement, which may be refused with an [*Error]. A client
// has one subscription to a channel or pattern. If it is in several that a message fits, each brings it.
func (c *Client) Subscribe(ctx context.Context, channel string, o *SubscribeOptions) (*Subscription, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &Subscription{
		client: c, channel: c.orURLs(channel), ready: make(chan struct{}), half: c.o.Buffer / 2,
		messages: newBox[item](), changes: newBox[*PresenceEvent](),
		pause: backoff{first: c.o.LeastPause, most: c.o.MostPause},
	}
	if o != nil {
		s.o = *o
	}
	s.received, s.given = s.o.Since, s.o.Since
	if err := c.enter(s); err != nil {
		return nil, err
	}
	select {
	case <-s.ready:
	case <-ctx.Done():
		s.Close()
		return nil, context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.established {
		return nil, s.err
	}
	return s, nil
}

func (c *Client) enter(s *Subscription) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.open(); err != nil {
		return err
	}
	if c.subs[s.channel] != nil {
		return &Error{Code: "already_subscribed", Message: fmt.Sprintf("this client is subscribed to %.80q already", s.channel)}
	}
	c.subs[s.channel] = s
	c.attend(s)
	return nil
}

// Channel returns the channel or pattern.
func (s *Subscription) Channel() string { return s.channel }

// Next returns the next message. When ctx ends first nothing is lost. A
// [*GapError] says that messages are missing before the next, and is not the end; every other
// error is: [ErrClosed] after Close, otherwise why the client ended or what the server said.
// What had arrived before that comes first.
func (s *Subscription) Next(ctx context.Context) (*Message, error) {
	it, err := next(ctx, s, &s.messages, s.taken)
	switch {
	case err != nil:
		return nil, err
	case it.gap != nil:
		return nil, it.gap
	}
	return it.message, nil
}

// taken notes that an item goes to the consumer. The caller holds mu.
func (s *Subscription) taken(it item) {
	s.given = it.position
	s.bytes -= it.size
	if s.behind {
		s.client.attend(s)
	}
}

// Messages yields messages until the subscription ends, ctx ends or the loop
// is left, which ends nothing: another loop goes on. Gaps come as a nil message with a
// [*GapError]. After Close it ends without an error, otherwise with the one that Next would return.
func (s *Subscription) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for {
			m, err := s.Next(ctx)
			var gap *GapError
			last := err != nil && !errors.As(err, &gap)
			if last && errors.Is(err, ErrClosed) || !yield(m, err) || last {
				return
			}
		}
	}
}

// Position returns the place after the message or gap that Next returned last,
// for subscribing from there another time. Before the first it is where reading began.
func (s *Subscription) Position() string {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	return s.given
}

// Close ends the subscription. What waits in its buffer is dropped.
func (s *Subscription) Close() {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.err != nil {
		return
	}
	s.dropMessages()
	if c.session != nil && (s.live || s.asked) {
		c.session.say(protocol.Command{Type: protocol.Unsubscribe, Channel: s.channel}, nil)
	}
	c.endSubscription(s, ErrClosed)
}

// endSubscription ends one that has not ended. The caller holds mu.
func (c *Client) endSubscription(s *Subscription, err error) {
	delete(c.subs, s.channel)
	s.err = err
	s.live = false
	if !s.established {
		close(s.ready)
	}
	s.messages.signal()
	s.changes.signal()
}

func (s *Subscription) dropMessages() {
	s.messages.items, s.bytes = nil, 0
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

// mostMembers and mostChanges bound what is kept of presence.
const (
	mostMembers = 1000
	mostChanges = 100
)

// hear takes over a change of who is here. The caller holds mu.
func (s *Subscription) hear(e *PresenceEvent) {
	if e.Type == "here" || s.members == nil {
		s.members = make(map[string]Member)
	}
	s.count = e.Count
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

// A box holds what waits for those who call next. It is under Client.mu.
type box[T any] struct {
	items   []T
	arrived chan struct{} // one place: look again
}

func newBox[T any]() box[T] { return box[T]{arrived: make(chan struct{}, 1)} }

func (b *box[T]) put(item T) {
	b.items = append(b.items, item)
	b.signal()
}

func (b *box[T]) signal() {
	select {
	case b.arrived <- struct{}{}:
	default:
	}
}

// next takes the first item out of a box of the subscription, and waits for one. taken,
// if not nil, is called with it under mu.
func next[T any](ctx context.Context, s *Subscription, b *box[T], taken func(T)) (first T, err error) {
	for {
		if ctx.Err() != nil {
			return first, context.Cause(ctx)
		}
		s.client.mu.Lock()
		if len(b.items) > 0 {
			first, b.items[0] = b.items[0], first
			if b.items = b.items[1:]; len(b.items) == 0 {
				b.items = nil
			}
			if len(b.items) > 0 || s.err != nil {
				b.signal()
			}
			if taken != nil {
				taken(first)
			}
			s.client.mu.Unlock()
			return first, nil
		}
		err := s.err
		s.client.mu.Unlock()
		if err != nil {
			b.signal() // others may wait too
			return first, err
		}
		select {
		case <-b.arrived:
		case <-ctx.Done():
		}
	}
}
