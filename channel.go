package fanfare

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/broker"
	"fanfare/internal/feed"
	"fanfare/internal/transport"
)

// lobby is the channel of the URL "/".
const lobby = "lobby"

// CheckChannel returns nil if name can be a channel's, and otherwise an
// [*Error] that says which rule it breaks: a path of segments divided by "/",
// UTF-8 without control characters, 255 bytes at most; no segment is empty,
// ".", "..", or contains "*" (patterns do), and the first is not "-".
func CheckChannel(name string) error {
	if err := broker.CheckName(name); err != nil {
		return errorf("bad_channel", "%v", err)
	}
	return nil
}

// checkReadable returns nil if name is a channel's, or a pattern: if one can
// subscribe to it.
func checkReadable(name string) error {
	if !broker.IsPattern(name) {
		return CheckChannel(name)
	}
	if err := CheckPattern(name); err != nil {
		return errorf("bad_channel", "%v", err)
	}
	if n := strings.Count(strings.TrimSuffix(name, "**"), "*"); n > broker.MaxStars {
		return errorf("bad_channel", "the pattern has %d segments *, and may have %d: read more with a last **", n, broker.MaxStars)
	}
	return nil
}

// A channel is what this server has of a channel while somebody subscribes to
// it: its feed and the subscribers. A pattern that somebody subscribes to is one
// too: its feed has the messages of all channels that it fits, in the order in
// which the broker delivers them.
type channel struct {
	server *Server       // static
	name   string        // static
	nobody speaker       // static: nobody in particular, from here
	joiner feed.Joiner   // all subscriptions'
	opened chan struct{} // closed when open is done
	err    error         // of open; static once opened is closed
	feed   *feed.Feed    // static once opened is closed, if err is nil

	refs atomic.Int32 // subscriptions, and those about to be; changed under Server.mu

	// One for each loop that a subscriber belongs to. It is replaced under mu,
	// and read without.
	audiences atomic.Pointer[[]*audience]

	present atomic.Int64          // members
	crowd   atomic.Pointer[crowd] // nil until somebody wants to know who comes and goes

	mu    sync.Mutex           // guards the following
	live  *feed.Feed           // feed, as soon as it may be appended to
	early []*broker.Message    // delivered before that
	forms map[*wire]*feed.Form // of a pattern
}

func (s *Server) newChannel(name string) *channel {
	c := &channel{server: s, name: name, opened: make(chan struct{}), nobody: speaker{home: name}}
	c.audiences.Store(new([]*audience))
	return c
}

// audience returns the subscribers that belong to a loop.
func (c *channel) audience(l transport.Loop) *audience {
	c.mu.Lock()
	defer c.mu.Unlock()
	have := *c.audiences.Load()
	for _, a := range have {
		if a.loop == l {
			return a
		}
	}
	a := &audience{channel: c, loop: l, counts: c.server.counts[l]}
	more := append(slices.Clip(have), a)
	c.audiences.Store(&more)
	return a
}

// open declares interest to the broker and fills the feed with what there is
// of history. It is called once. retention is what the settings say at the moment.
func (c *channel) open(ctx context.Context, b broker.Broker, retention func(channel string) feed.Retention) error {
	began := time.Now()
	base, err := b.Subscribe(ctx, c.name)
	c.server.metrics.answered(subscribeOperation, began, err)
	if err != nil {
		return err
	}
	page, err := b.History(ctx, c.name, broker.Query{Limit: max(1, retention(c.name).Count), Tail: true})
	if err == nil && len(page.Messages) > 0 && broker.IsPattern(c.name) {
		// Each of its channels keeps what it keeps, so together they can have holes:
		// then whoever resumes must ask the broker.
		begin := page.Messages[0].Position
		begin.Offset--
		var probe broker.Page
		if probe, err = b.History(ctx, c.name, broker.Query{Since: begin, Limit: 1}); probe.Gap {
			page.Messages = nil
		}
	}
	if err != nil {
		b.Unsubscribe(c.name)
		return err
	}
	// What was published since Subscribe is in the page, or comes early, or both.
	if len(page.Messages) > 0 {
		base = page.Position
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feed = feed.New(retention(c.name), base, page.Messages)
	c.live = c.feed
	for _, m := range c.early {
		c.appendNew(m)
	}
	c.early = nil
	return nil
}

// A wire is a way in which messages go out to a kind of reader.
type wire struct {
	// encode appends a message. pattern is the subscription that brings it, if
	// that is one: what such a reader gets must name the channel.
	encode func(dst []byte, pattern string, m *Message) []byte
	form   feed.Form // of a channel's messages
}

func newWire(encode func(dst []byte, pattern string, m *Message) []byte) *wire {
	w := &wire{encode: encode}
	w.form.Encode = func(dst []byte, m *Message) []byte { return encode(dst, "", m) }
	return w
}

// form returns what the channel's messages look like over a wire; nil for none.
func (c *channel) form(w *wire) *feed.Form {
	switch {
	case w == nil:
		return nil
	case !broker.IsPattern(c.name):
		return &w.form
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.forms[w]
	if f == nil {
		f = &feed.Form{Encode: func(dst []byte, m *Message) []byte { return w.encode(dst, c.name, m) }}
		if c.forms == nil {
			c.forms = make(map[*wire]*feed.Form)
		}
		c.forms[w] = f
	}
	return f
}

// isOpen reports whether open is done.
func (c *channel) isOpen() bool {
	select {
	case <-c.opened:
		return true
	default:
		return false
	}
}

// appendNew appends m unless the feed has it. The caller holds mu.
func (c *channel) appendNew(m *broker.Message) {
	newest := c.live.Position()
	if m.Position.Epoch != newest.Epoch || m.Position.Offset > newest.Offset {
		c.live.Append(m)
	}
}

// deliver takes the channel's next message from the broker and wakes
// everybody. It does not wait for anybody.
func (c *channel) deliver(m *broker.Message) {
	c.mu.Lock()
	if c.live == nil {
		c.early = append(c.early, m)
	} else {
		c.appendNew(m)
	}
	c.mu.Unlock()
	for _, a := range *c.audiences.Load() {
		a.wake()
	}
}
