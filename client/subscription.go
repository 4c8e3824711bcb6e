package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"

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
