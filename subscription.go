package fanfare

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/auth"
	"fanfare/broker"
	"fanfare/internal/feed"
	"fanfare/internal/transport"
	"fanfare/protocol"
)

// A subscription is one reader in one channel: a session's, a listener's, or
// the program's own.
type subscription struct {
	cursor   feed.Cursor // its owner's, under the owner's mu
	audience *audience   // static once attach was called; nil before
	seat     int32       // among the audience; owned by its loop
	since    uint32      // when it was attached: seconds after the server's start; static then
}

// A place is where a subscription will be, once its owner has a loop.
type place struct {
	channel *channel
	cursor  feed.Cursor
	// from is where reading begins, as the client is told: a gap, if there is one,
	// comes after it, so that who is cut off before he has heard of the gap hears
	// of it when he resumes from here.
	from Position
	own  Position // up to here messages may be in memory for this reader alone; zero: they are not
}

// maxOwn is how many messages a reader may have to itself without counting as one who replays.
const maxOwn = 64

// find opens a channel or a pattern, if it is not open yet, and finds the place
// after since, or, if that is nil, after the newest message. slow is what the
// reader wants other than the channel's settings. who may read it, and sees of it
// what he may at each moment; nil: everything. To who may not read history, all
// before now is a gap. The caller attaches a subscription to it, or releases its channel.
func (s *Server) find(ctx context.Context, name string, since *Position, slow slowness, w *wire, who *atomic.Pointer[speaker]) (place, error) {
	c, err := s.channel(ctx, name)
	if err != nil {
		return place{}, err
	}
	settings := s.now.Load().channel(name)
	slow = slow.or(settings.slowness())
	form, barred := c.form(w), false
	var reader *speaker
	var newest Position
	if who != nil {
		reader = who.Load()
		if see := sees(who, name, since != nil, c.feed.Position()); see != nil {
			form = &feed.Form{Sees: see, Of: form}
			if newest, err = s.newest(ctx); err != nil {
				s.release(c)
				return place{}, err
			}
		}
		barred = since != nil && reader.may(auth.History, name) != nil
		if barred && reader.mayRead(auth.History, name) != nil {
			since = nil
		}
	}
	cursor := c.feed.Live(form, slow.policy.feeds(), int64(slow.maxLag))
	gap, here, own := false, cursor.Position(), Position{}
	if since != nil && !cursor.Resume(*since) {
		page, err := s.recall(ctx, name, broker.Query{Since: *since}, reader)
		if err != nil {
			s.release(c)
			return place{}, err
		}
		cursor.Rewind(*since, page)
		gap = page.Gap
		if len(page.Messages) > maxOwn {
			own = here
		}
	}
	from := cursor.Position()
	switch {
	case gap, since != nil && cursor.Picks():
		from = *since
	case cursor.Picks():
		// Not where the feed is: that is the place of a message which the reader may
		// know nothing of. What was published until then was before it came.
		from = newest
	}
	if cursor.Picks() {
		cursor.Tell(from)
	}
	if barred {
		cursor.Miss(feed.Forbidden)
	}
	return place{c, *cursor, from, own}, nil
}

// attach has member, whose subscription this is, read from p on: a loop wakes it
// whenever the channel has more, and once for what came before. It may be called
// under the owner's mu.
func (s *Server) attach(sub *subscription, p place, loop transport.Loop, member subscriber) {
	sub.cursor = p.cursor
	sub.audience = p.channel.audience(loop)
	sub.since = uint32(time.Since(s.born) / time.Second)
	s.stats.subscribed.Add(1)
	loop.Post(sub.audience.join(member))
	p.channel.came(member)
}

// leave ends what attach began.
func (s *Server) leave(sub *subscription, member subscriber) {
	s.stats.subscribed.Add(-1)
	sub.audience.loop.Post(sub.audience.leave(member))
	sub.audience.channel.went(member)
	s.release(sub.audience.channel)
}

// gap says that messages are missing, at the place where reading goes on.
func (sub *subscription) gap(gap feed.Gap) *protocol.Event {
	e := &protocol.Event{Type: protocol.GapEvent, Reason: gap.Reason.String(), Missed: max(0, gap.Missed), Position: sub.cursor.Seen().String()}
	if name := sub.audience.channel.name; broker.IsPattern(name) {
		e.Pattern = name
	} else {
		e.Channel = name
	}
	return e
}

// SubscribeOptions are the settings of [Server.Subscribe]. Nil and zero values
// mean the defaults.
type SubscribeOptions struct {
	// Since: resume after this position. Nil: begin with what is published
	// from now on. A pointer to the zero Position: the oldest message kept.
	Since *Position
	// SlowReaders is what becomes of this reader when it lags more than MaxLag
	// bytes behind. Zero: what the channel's settings say.
	SlowReaders Policy
	MaxLag      int
}

// A Subscription is this program's own reader of a channel. It has a cursor
// like every other reader, and lags, skips and resumes by the same rules. It is
// safe for concurrent use; each message goes to one caller.
type Subscription struct {
	server *Server       // static
	more   chan struct{} // a token when there may be more to read
	done   chan struct{} // closed by Close and by the server's shutdown
	once   sync.Once     // closes done
	in     subscription  // its cursor is guarded by mu

	mu     sync.Mutex // guards the following
	closed bool       // by Close
}

// A GapError says that messages are missing before the next one. The
// subscription goes on.
type GapError struct {
	// Missed is how many; -1: unknown.
	Missed int64
	// Reason is "skipped", "superseded", "outrun", "expired" or "lost": see [Stats].
	Reason string
}

func (e *GapError) Error() string {
	if e.Missed < 0 {
		return "fanfare: messages are missing here: " + e.Reason
	}
	return fmt.Sprintf("fanfare: %d messages are missing here: %s", e.Missed, e.Reason)
}

// ErrUnsubscribed is what a [Subscription] answers after its Close.
var ErrUnsubscribed = errors.New("fanfare: the subscription was closed")

// Subscribe begins to read a channel, or all that fit a pattern such as
// "chat/**", as far as the broker can do that. ctx bounds the time until it began, not
// the subscription's life: that ends with Close. Errors are [*Error] for a name
// that is no channel's, [ErrServerClosed], or the broker's.
func (s *Server) Subscribe(ctx context.Context, channel string, o *SubscribeOptions) (*Subscription, error) {
	if o == nil {
		o = &SubscribeOptions{}
	}
	if err := s.readable(channel); err != nil {
		return nil, err
	}
	if o.SlowReaders > Close || o.MaxLag < 0 {
		return nil, errorf("bad_slow", "SlowReaders is %d and MaxLag %d; they must be one of the policies and a number of bytes, or zero for the channel's settings", o.SlowReaders, o.MaxLag)
	}
	at, err := s.find(ctx, channel, o.Since, slowness{o.SlowReaders, o.MaxLag}, nil, nil)
	switch {
	case errors.Is(err, broker.ErrClosed):
		return nil, ErrServerClosed
	case err != nil:
		return nil, err
	}
	sub := &Subscription{server: s, more: make(chan struct{}, 1), done: make(chan struct{})}
	s.attach(&sub.in, at, s.anyLoop(), sub)
	if !s.addLocal(sub) {
		s.leave(&sub.in, sub)
		return nil, ErrServerClosed
	}
	return sub, nil
}

// Next returns the next message; all share it, so it must not be changed. It
// waits for one until ctx is done. Other errors are a [*GapError], after which
// Next can be called again, and for good [ErrUnsubscribed], [ErrServerClosed]
// or [ErrTooSlow].
func (sub *Subscription) Next(ctx context.Context) (*Message, error) {
	for {
		m, err := sub.next()
		if m != nil || err != nil {
			return m, err
		}
		select {
		case <-sub.more:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-sub.done:
			// What was published before a shutdown comes before its news, also
			// where the waking for it was on its way.
			if m, err := sub.next(); m != nil || err != nil {
				return m, err
			}
			return nil, ErrServerClosed
		}
	}
}

// Messages returns what Next returns, one after the other, until ctx is done
// or the subscription ends. A [*GapError] comes with a nil message, between
// messages; every other error is the last thing that comes.
func (sub *Subscription) Messages(ctx context.Context) iter.Seq2[*Message, error] {
	return func(yield func(*Message, error) bool) {
		for {
			m, err := sub.Next(ctx)
			var gap *GapError
			if !yield(m, err) || err != nil && !errors.As(err, &gap) {
				return
			}
		}
	}
}

// Position returns the place after the message that Next returned last.
func (sub *Subscription) Position() Position {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	return sub.in.cursor.Position()
}

// Close ends the subscription, and what it has not read is let go. A second call
// changes nothing.
func (sub *Subscription) Close() {
	sub.end()
	sub.mu.Lock()
	defer sub.mu.Unlock()
	sub.closed = true
	sub.in.cursor.LetGo()
}

// end has nobody wake the subscription any more.
func (sub *Subscription) end() {
	sub.once.Do(func() {
		close(sub.done)
		sub.server.removeLocal(sub)
		sub.server.leave(&sub.in, sub)
	})
}

func (sub *Subscription) next() (*Message, error) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	if sub.closed {
		if sub.server.closing.Load() {
			return nil, ErrServerClosed
		}
		return nil, ErrUnsubscribed
	}
	m, gap, err := sub.in.cursor.Next()
	switch {
	case err != nil:
		return nil, ErrTooSlow
	case gap.Missed != 0:
		sub.server.stats.miss(gap)
		return nil, &GapError{gap.Missed, gap.Reason.String()}
	}
	if m != nil {
		sub.in.audience.counts.delivered[programFace].Add(1)
	}
	if sub.in.cursor.Pending() {
		sub.signal() // for another caller
	}
	return m, nil
}

func (sub *Subscription) signal() {
	select {
	case sub.more <- struct{}{}:
	default:
	}
}

// reading implements [subscriber].
func (sub *Subscription) reading() *subscription { return &sub.in }

// member implements [subscriber]: the program is nobody.
func (sub *Subscription) member() (member, bool) { return member{}, false }

// wake implements [subscriber].
func (sub *Subscription) wake() {
	sub.signal()
	sub.mu.Lock()
	defer sub.mu.Unlock()
	// Nobody knows whether the program reads on or not, so it is treated as if
	// not. An error is what Next will return.
	_ = sub.in.cursor.Relieve()
}
