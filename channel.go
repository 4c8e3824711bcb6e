package fanfare

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	"fanfare/broker"
	"fanfare/internal/feed"
	"fanfare/internal/stream"
)

const (
	// lobby is the channel of the URL "/".
	lobby = "lobby"
	// maxChannelName is the longest name of a channel in bytes.
	maxChannelName = 255
)

// CheckChannel returns nil if name can be a channel's, and otherwise an
// [*Error] that says which rule it breaks: a path of segments divided by "/",
// UTF-8 without control characters, 255 bytes at most; no segment is empty,
// ".", "..", or contains "*" (patterns will), and the first is not "-".
func CheckChannel(name string) error {
	bad := func(rule string) error {
		return errorf("bad_channel", "%.80q is no channel's name: %s", name, rule)
	}
	switch {
	case name == "":
		return bad("it is empty")
	case len(name) > maxChannelName:
		return bad(fmt.Sprintf("it has %d bytes, and a name may have %d", len(name), maxChannelName))
	case !utf8.ValidString(name):
		return bad("it is not UTF-8")
	case strings.ContainsFunc(name, unicode.IsControl):
		return bad("it contains a control character")
	case strings.Contains(name, "*"):
		return bad("it contains *, which is kept for patterns")
	case name == "-" || strings.HasPrefix(name, "-/"):
		return bad("what begins with -/ is the server's own")
	}
	for segment := range strings.SplitSeq(name, "/") {
		switch segment {
		case "":
			return bad("two slashes follow each other, or it begins or ends with one")
		case ".", "..":
			return bad("a segment is . or ..")
		}
	}
	return nil
}

// A channel is what this server has of a channel while somebody subscribes to
// it: its feed and the subscribers.
type channel struct {
	name      string        // static
	audiences []*audience   // static; one for each of the transport's loops
	joiner    feed.Joiner   // all subscriptions'
	opened    chan struct{} // closed when open is done
	err       error         // of open; static once opened is closed
	feed      *feed.Feed    // static once opened is closed, if err is nil

	refs int // subscriptions, and those about to be; guarded by Server.mu

	mu    sync.Mutex        // guards the following
	live  *feed.Feed        // feed, as soon as it may be appended to
	early []*broker.Message // delivered before that
}

func newChannel(name string, loops []*stream.Loop) *channel {
	c := &channel{name: name, opened: make(chan struct{})}
	for _, l := range loops {
		c.audiences = append(c.audiences, &audience{loop: l, members: make(map[subscriber]struct{})})
	}
	return c
}

// audience returns the subscribers that belong to a loop.
func (c *channel) audience(l *stream.Loop) *audience {
	for _, a := range c.audiences {
		if a.loop == l {
			return a
		}
	}
	panic("fanfare: a loop that is not of this server's transport")
}

// open declares interest to the broker and fills the feed with what there is
// of history. It is called once.
func (c *channel) open(ctx context.Context, b broker.Broker, retain feed.Retention) error {
	base, err := b.Subscribe(ctx, c.name)
	if err != nil {
		return err
	}
	page, err := b.History(ctx, c.name, broker.Query{Limit: max(1, retain.Count), Tail: true})
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
	c.feed = feed.New(retain, base, page.Messages)
	c.live = c.feed
	for _, m := range c.early {
		c.appendNew(m)
	}
	c.early = nil
	return nil
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
	for _, a := range c.audiences {
		a.wake()
	}
}

// A subscriber is somebody who reads a channel.
type subscriber interface {
	// wake says that the feed has more. It does not block.
	wake()
}

// An audience is the subscribers of a channel that belong to one loop.
type audience struct {
	loop  *stream.Loop // static
	dirty atomic.Bool  // Run is on its way, and has not begun

	mu      sync.Mutex // guards the following
	members map[subscriber]struct{}
	size    atomic.Int32 // of members; written under mu
}

func (a *audience) add(s subscriber) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.members[s] = struct{}{}
	a.size.Store(int32(len(a.members)))
}

func (a *audience) remove(s subscriber) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.members, s)
	a.size.Store(int32(len(a.members)))
}

// wake has the loop wake all members. While that is about to happen already,
// or nobody is here, it costs next to nothing: the busier a channel is, the
// more messages one round carries.
func (a *audience) wake() {
	if a.size.Load() > 0 && !a.dirty.Swap(true) {
		a.loop.Post(a)
	}
}

// Run is the loop's: it wakes all members.
func (a *audience) Run() {
	a.dirty.Store(false)
	a.mu.Lock()
	defer a.mu.Unlock()
	for s := range a.members {
		s.wake()
	}
}
