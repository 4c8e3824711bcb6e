package feed

import (
	"errors"
	"math"
	"slices"

	"fanfare/broker"
)

// Policy is what becomes of a reader that lags too far behind.
type Policy uint8

const (
	// CatchUp lets it read on from history, and reports a gap only when
	// history no longer reaches back to it.
	CatchUp Policy = iota
	// Skip lets it go on with the newest message, after a gap.
	Skip
	// Latest lets it go on with the newest message for each key, after a gap.
	// Messages without a key count as one key's.
	Latest
	// Close ends it: Take and Relieve return ErrTooSlow.
	Close
)

// String returns the policy's name as it is written in settings.
func (p Policy) String() string {
	switch p {
	case CatchUp:
		return "catch-up"
	case Skip:
		return "skip"
	case Latest:
		return "latest"
	case Close:
		return "close"
	}
	return "unknown"
}

// ErrTooSlow ends a reader whose policy is Close.
var ErrTooSlow = errors.New("feed: the reader is too slow")

// Reason says why a reader has a gap.
type Reason uint8

const (
	Skipped    Reason = iota // it lagged; its policy is Skip
	Outrun                   // it lagged, and history did not reach back to it
	Superseded               // it lagged; newer values of the same keys follow
	Expired                  // it resumed from a position that history does not reach
	Lost                     // it resumed from a position of another epoch: the channel's history was lost since
	Forbidden                // it wanted to resume, and may not read what was
)

// String returns the reason's name, as counters use it.
func (r Reason) String() string {
	return [...]string{"skipped", "outrun", "superseded", "expired", "lost", "forbidden"}[r]
}

// A Gap is messages that a reader will not see. The zero Gap is none.
type Gap struct {
	Reason Reason
	Missed int64 // how many; when unknown, -1
}

// A Cursor is one reader's place in a feed. It is small, 32 bytes, since there
// are a million of them. It is not safe for concurrent use; its owner guards it.
type Cursor struct {
	*manner        // static; shared with all who read in the same way
	from    int64  // static: the feed's size when the reader was made; what was there then is no lag
	at      *Entry // the entry taken last; nil when the reader let go of it

	astray *astray // what few readers need; nil as long as nothing of it was
}

// manner is how readers read. All who read a feed in the same way share one.
type manner struct {
	feed   *Feed
	form   *Form
	policy Policy
	limit  int64 // lag in bytes past which policy applies
}

// maxManners is how many manners a feed remembers. There are few, unless a
// program or a reload of settings makes up ever new limits; the readers of one
// that is forgotten keep it.
const maxManners = 32

// manner returns the manner that is equal to m, for all to share.
func (f *Feed) manner(m manner) *manner {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, have := range f.manners {
		if *have == m {
			return have
		}
	}
	if len(f.manners) == maxManners {
		f.manners = slices.Delete(f.manners, 0, 1)
	}
	own := m // m itself stays off the heap
	f.manners = append(f.manners, &own)
	return &own
}

// astray is what remains of a reader's place once it let go of it, or when it
// has missed something.
type astray struct {
	seq int64           // number of the entry taken last, once at is nil
	pos broker.Position // its position, once at is nil
	gap Gap             // to be reported before anything else is taken

	// A place that the feed has yet to reach, and the reader has been at; zero: none.
	ahead broker.Position
}

// stray returns what few readers need, to be written to.
func (c *Cursor) stray() *astray {
	if c.astray == nil {
		c.astray = new(astray)
	}
	return c.astray
}

// Live returns a reader of what comes after the newest message. limit is how
// many bytes it may lag before the policy applies. The message that is next
// does not count, so that nobody is slow for one that is larger than limit;
// nor does what the reader goes back to by Resume or Rewind.
func (f *Feed) Live(form *Form, policy Policy, limit int64) *Cursor {
	how := f.manner(manner{f, form, policy, limit})
	at := f.head.Load()
	return &Cursor{manner: how, from: at.size, at: at}
}

// Resume moves a reader, of which nothing was taken yet, back to pos, and
// reports whether the feed's own history reaches there without a gap. If it
// does not, the reader stays where it is: ask the broker, and call Rewind.
func (c *Cursor) Resume(pos broker.Position) bool {
	if pos == c.Position() {
		return true
	}
	old := c.feed.oldest.Load()
	if old == nil || pos.Epoch != old.msg.Position.Epoch || pos.Offset < old.after {
		return false
	}
	at := before(old)
	next := old
	for ; next != nil && upTo(next.msg, pos); next = next.next.Load() {
		at = next
	}
	if next == nil && at.msg.Position != pos {
		return false // after the newest message: not of this feed, or not yet
	}
	c.at = at
	return true
}

// Rewind moves a reader, of which nothing was taken yet, back to where page
// begins: what a broker answered, after the reader was made, for since, the
// position to resume from. A page without a limit reaches at least to the
// reader's place, so nothing is between; what it has beyond comes from the feed.
// After a gap a page of many channels can have holes, since each keeps what it
// keeps; what the feed's own history has there is read all the same.
func (c *Cursor) Rewind(since broker.Position, page broker.Page) {
	here, begin := c.Position(), page.Position
	if len(page.Messages) > 0 {
		begin = placeBefore(page.Messages[0])
	}
	if !page.Gap && since.Epoch == here.Epoch && since.Offset > here.Offset {
		// It heard of messages before this server did.
		if c.at == nil {
			c.astray.pos = since
		} else {
			c.stray().ahead = since
		}
		return
	}
	if page.Gap {
		why := Expired
		if !since.IsZero() && since.Epoch != begin.Epoch {
			why = Lost
		}
		c.stray().gap = Gap{why, c.missed(page.Missed, begin)}
	}
	msgs := page.Messages
	for len(msgs) > 0 && !upTo(msgs[len(msgs)-1], here) {
		msgs = msgs[:len(msgs)-1]
	}
	if len(msgs) == 0 {
		return
	}
	// What the feed's own history has is read from there, since it is encoded
	// already; entries for what is before it are this reader's alone.
	next := c.feed.oldest.Load()
	for next != nil && upTo(next.msg, begin) {
		next = next.next.Load()
	}
	if next == nil || !upTo(next.msg, here) {
		next = c.at
	}
	if next == nil {
		// It let go of its place while the broker was asked. Its policy decides
		// where it goes on, and counts what it then misses from here.
		c.astray.seq -= int64(len(msgs))
		c.astray.pos = begin
		return
	}
	for n := len(msgs) - 1; n >= 0 && !next.silent && upTo(next.msg, msgs[n].Position); n-- {
		msgs = msgs[:n]
	}
	for i := len(msgs) - 1; i >= 0; i-- {
		e := &Entry{content: &content{msg: msgs[i]}, seq: next.seq - 1, size: c.from, after: placeBefore(msgs[i]).Offset}
		if next.silent {
			e.seq = next.seq // the same place, with its message
		}
		e.next.Store(next)
		next = e
	}
	c.at = before(next)
}

// missed returns how many messages a reader misses of those that a broker no
// longer had before the place begin; when unknown, -1. What came after the
// reader's own place is not missed: the feed brings it.
func (c *Cursor) missed(gone uint64, begin broker.Position) int64 {
	here := c.Position()
	beyond := begin.Epoch == here.Epoch && begin.Offset > here.Offset
	switch {
	case gone == 0 || gone > math.MaxInt64, beyond && c.at == nil:
		return -1
	case !beyond:
		return int64(gone)
	}
	n := int64(gone)
	for e := c.at.following(); e != nil && upTo(e.msg, begin); e = e.following() {
		n--
	}
	return max(0, n)
}

// Limit returns how many bytes the reader may lag.
func (c *Cursor) Limit() int64 { return c.limit }

// Lag returns how many bytes of messages the reader has not taken yet, of
// those that came after it was made; once it let go of its place, more than
// its limit.
func (c *Cursor) Lag() int64 {
	if c.at == nil {
		return c.limit + 1
	}
	c.pass()
	return max(0, c.feed.head.Load().size-max(c.at.size, c.from))
}

// pass goes on behind what the reader had before the feed did.
func (c *Cursor) pass() {
	if c.at == nil || c.astray == nil || c.astray.ahead.IsZero() {
		return
	}
	next := c.at.following()
	for ; next != nil && upTo(next.msg, c.astray.ahead); next = next.following() {
		c.at = next
	}
	if next != nil || c.at.msg.Position == c.astray.ahead {
		c.astray.ahead = broker.Position{}
	}
}

// slow reports whether the reader lags too far to keep its place.
func (c *Cursor) slow() bool {
	next := c.at.following()
	return next != nil && c.feed.head.Load().size-max(next.size, c.from) > c.limit
}

// Pending reports whether Take has something to give.
func (c *Cursor) Pending() bool {
	c.pass()
	return c.at == nil || c.astray != nil && c.astray.gap.Missed != 0 || c.at.following() != nil
}

// Position returns the place after the message taken last.
func (c *Cursor) Position() broker.Position {
	if c.at == nil {
		return c.astray.pos
	}
	if c.astray != nil && !c.astray.ahead.IsZero() {
		return c.astray.ahead
	}
	return c.at.msg.Position
}

// Miss has the reader told of a gap before anything else is taken, of which
// nothing was taken yet.
func (c *Cursor) Miss(why Reason) { c.stray().gap = Gap{why, -1} }

// Picks reports whether the reader sees only some of the messages.
func (c *Cursor) Picks() bool { return c.form != nil && c.form.Sees != nil }

// Seen returns where the reader is as it may know: its Position, or, if it sees only
// some of the messages, the place after the last that it saw.
func (c *Cursor) Seen() broker.Position {
	if c.Picks() {
		return c.form.seen
	}
	return c.Position()
}

// Tell has a reader that sees only some of the messages begin at a place, as it
// may know.
func (c *Cursor) Tell(p broker.Position) { c.form.seen = p }

// A Batch is what a reader takes at once: a gap, or messages, or nothing.
type Batch struct {
	Gap   Gap    // if its Missed is not 0: tell the reader; no bytes come with it
	Bytes []byte // of Count messages, in the reader's form; shared, not to be changed. Nil if it sees none of them
	Count int
}

// Take returns what comes next, up to limit bytes but at least one message,
// and moves behind it. It allocates nothing when the batch is a single message
// or was joined before.
func (c *Cursor) Take(j *Joiner, limit int) (Batch, error) {
	gap, err := c.settle()
	if err != nil || gap.Missed != 0 {
		return Batch{Gap: gap}, err
	}
	bytes, n, last := j.batch(c.at, c.form, limit)
	c.at = last
	return Batch{Bytes: bytes, Count: n}, nil
}

// Next returns the next message itself, and moves behind it, for readers
// within the process; nil without one. Gaps and errors are those of Take.
func (c *Cursor) Next() (*broker.Message, Gap, error) {
	gap, err := c.settle()
	if err != nil || gap.Missed != 0 {
		return nil, gap, err
	}
	for next := c.at.next.Load(); next != nil; next = next.next.Load() {
		c.at = next
		if !next.silent {
			return next.msg, Gap{}, nil
		}
	}
	return nil, Gap{}, nil
}

// settle finds the place to go on from, and returns a gap that is to be
// reported first.
func (c *Cursor) settle() (Gap, error) {
	c.pass()
	if (c.astray == nil || c.astray.gap.Missed == 0) && (c.at == nil || c.slow()) {
		if err := c.place(); err != nil {
			return Gap{}, err
		}
	}
	if c.astray == nil {
		return Gap{}, nil
	}
	gap := c.astray.gap
	c.astray.gap = Gap{}
	if gap.Missed > 0 && c.Picks() {
		gap.Missed = -1 // how many of them it would have seen, nobody knows
	}
	if c.at != nil && c.astray.ahead.IsZero() {
		c.astray = nil
	}
	return gap, nil
}

// Relieve is to be called while a reader cannot be written to and others can.
// When it lags too far it lets go of its entry, so that it keeps no message in
// memory, and Take will find the place where to go on.
func (c *Cursor) Relieve() error {
	c.pass()
	if c.at != nil && c.slow() {
		c.LetGo()
	}
	if c.at == nil && c.policy == Close {
		return ErrTooSlow
	}
	return nil
}

// LetGo gives up the reader's entry, and with it all the messages that it keeps
// in memory. Its position remains, and Take will find the place where to go on.
func (c *Cursor) LetGo() {
	if c.at == nil {
		return
	}
	lost, pos := c.stray(), c.Position()
	lost.seq, lost.pos, lost.ahead, c.at = c.at.seq, pos, broker.Position{}, nil
}

// place finds where a reader that lags too far goes on.
func (c *Cursor) place() error {
	old := c.feed.oldest.Load()
	if c.at != nil {
		if c.policy == CatchUp && old != nil && c.at.seq >= old.seq-1 {
			return nil // it reads from history; waiting for it costs nothing
		}
		c.LetGo()
	}
	switch {
	case c.policy == Close:
		return ErrTooSlow
	case c.policy == Latest:
		c.placeLatest()
	case c.policy == CatchUp && old != nil:
		c.at = before(old)
		for next := old; next != nil && upTo(next.msg, c.astray.pos); next = next.next.Load() {
			c.at = next
		}
		c.astray.gap = Gap{Outrun, max(0, old.seq-1-c.astray.seq)}
	case c.policy == CatchUp:
		c.placeNewest(Outrun)
	default:
		c.placeNewest(Skipped)
	}
	return nil
}

// placeNewest goes to the place before the newest message.
func (c *Cursor) placeNewest(why Reason) {
	head := c.feed.head.Load()
	c.at = before(head)
	c.astray.gap = Gap{why, head.seq - 1 - c.astray.seq}
}

// placeLatest goes to a place from which the newest messages for each key are
// next, and then the feed's newest: entries of the reader's own, that end in
// the feed's head.
func (c *Cursor) placeLatest() {
	f := c.feed
	f.mu.Lock()
	head, keys := f.head.Load(), f.retain.Keys
	found := f.latest.since(c.astray.pos)
	f.mu.Unlock()
	if keys == 0 {
		c.placeNewest(Superseded)
		return
	}
	n := int64(len(found))
	// The newest message of all is the newest for its key, so it is the last found.
	next := head
	for i := n - 2; i >= 0; i-- {
		e := &Entry{content: found[i].content, seq: next.seq - 1, size: head.size}
		e.next.Store(next)
		next = e
	}
	// After a page of many channels that had holes, more may be found than it had.
	c.astray.gap = Gap{Superseded, max(0, head.seq-c.astray.seq-n)}
	c.at = &Entry{content: placeOf(c.astray.pos), seq: next.seq - 1, size: head.size}
	c.at.next.Store(next)
}

// before returns a place from which e is next.
func before(e *Entry) *Entry {
	place := broker.Position{Epoch: e.msg.Position.Epoch, Offset: e.after}
	b := &Entry{content: placeOf(place), seq: e.seq - 1, size: e.size - int64(e.msg.Size())}
	b.next.Store(e)
	return b
}
