package feed

import (
	"errors"

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
)

// String returns the reason's name, as counters use it.
func (r Reason) String() string {
	return [...]string{"skipped", "outrun", "superseded", "expired"}[r]
}

// A Gap is messages that a reader will not see. The zero Gap is none.
type Gap struct {
	Reason Reason
	Missed int64 // how many; when unknown, -1
}

// A Reader is one subscription's place in a feed. It is not safe for
// concurrent use; its owner guards it.
type Reader struct {
	feed   *Feed  // static
	form   *Form  // static
	limit  int64  // static: lag in bytes from which policy applies
	policy Policy // static

	at  *Entry          // the entry taken last; nil when the reader let go of it
	seq int64           // its number, once at is nil
	pos broker.Position // its position, once at is nil
	gap Gap             // to be reported before anything else is taken
}

// Live returns a reader of what comes after the newest message. limit is how
// many bytes it may lag before the policy applies.
func (f *Feed) Live(form *Form, policy Policy, limit int64) *Reader {
	return &Reader{feed: f, form: form, policy: policy, limit: limit, at: f.head.Load()}
}

// Resume moves a reader, of which nothing was taken yet, back to pos, and
// reports whether the feed's own history reaches there without a gap. If it
// does not, the reader stays where it is: ask the broker, and call Rewind.
func (r *Reader) Resume(pos broker.Position) bool {
	f := r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if pos == r.at.msg.Position {
		return true
	}
	old := f.oldest.Load()
	if old == nil || pos.Epoch != old.msg.Position.Epoch || pos.Offset < old.msg.Prev || pos.Offset > r.at.msg.Position.Offset {
		return false
	}
	r.at = before(old)
	for next := old; next != nil && next.msg.Position.Offset <= pos.Offset; next = next.next.Load() {
		r.at = next
	}
	return true
}

// Rewind moves a reader, of which nothing was taken yet, back to where page
// begins: what a broker answered, after the reader was made, for the position
// to resume from. A page without a limit reaches at least to the reader's
// place, so nothing is between; what it has beyond comes from the feed.
func (r *Reader) Rewind(page broker.Page) {
	if page.Gap {
		r.gap = Gap{Expired, int64(page.Missed)}
		if page.Missed == 0 {
			r.gap.Missed = -1
		}
	}
	here := r.at.msg.Position
	msgs := page.Messages
	for len(msgs) > 0 && (msgs[len(msgs)-1].Position.Epoch != here.Epoch || msgs[len(msgs)-1].Position.Offset > here.Offset) {
		msgs = msgs[:len(msgs)-1]
	}
	if len(msgs) == 0 {
		return
	}
	if !r.at.silent() {
		// The place itself is a message, in the page too.
		msgs = msgs[:len(msgs)-1]
	}
	next := r.at
	for i := len(msgs) - 1; i >= 0; i-- {
		// These entries are this reader's alone and count for nothing as lag.
		e := &Entry{content: &content{msg: msgs[i]}, seq: next.seq - 1, size: r.at.size}
		if next.silent() {
			e.seq = next.seq // the same place, with its message
		}
		e.next.Store(next)
		next = e
	}
	r.at = before(next)
}

// Lag returns how many bytes of messages the reader has not taken yet, if it
// still has its place; after it let go of it, more than its limit.
func (r *Reader) Lag() int64 {
	if r.at == nil {
		return r.limit + 1
	}
	return max(0, r.feed.head.Load().size-r.at.size)
}

// Pending reports whether Take has something to give.
func (r *Reader) Pending() bool {
	return r.gap.Missed != 0 || r.at == nil || r.at.next.Load() != nil
}

// Position returns the place after the message taken last.
func (r *Reader) Position() broker.Position {
	if r.at == nil {
		return r.pos
	}
	return r.at.msg.Position
}

// A Batch is what a reader takes at once: a gap, or messages, or nothing.
type Batch struct {
	Gap   Gap    // if its Missed is not 0: tell the reader; no bytes come with it
	Bytes []byte // of Count messages, in the reader's form; shared, not to be changed
	Count int
}

// Take returns what comes next, up to limit bytes but at least one message,
// and moves behind it. It allocates nothing when the batch is a single message
// or was joined before.
func (r *Reader) Take(j *Joiner, limit int) (Batch, error) {
	if r.gap.Missed == 0 && (r.at == nil || r.Lag() > r.limit) {
		if err := r.place(); err != nil {
			return Batch{}, err
		}
	}
	if r.gap.Missed != 0 {
		g := r.gap
		r.gap = Gap{}
		return Batch{Gap: g}, nil
	}
	bytes, n, last := j.batch(r.at, r.form, limit)
	r.at = last
	return Batch{Bytes: bytes, Count: n}, nil
}

// Relieve is to be called while a reader cannot be written to and others can.
// When it lags too far it lets go of its entry, so that it keeps no message in
// memory, and Take will find the place where to go on.
func (r *Reader) Relieve() error {
	if r.at == nil || r.Lag() <= r.limit {
		return nil
	}
	if r.policy == Close {
		return ErrTooSlow
	}
	r.seq, r.pos, r.at = r.at.seq, r.at.msg.Position, nil
	return nil
}

// place finds where a reader that lags too far goes on.
func (r *Reader) place() error {
	if r.policy == Close {
		return ErrTooSlow
	}
	old := r.feed.oldest.Load()
	if r.at != nil {
		if r.policy == CatchUp && old != nil && r.at.seq >= old.seq-1 {
			return nil // it reads from history; waiting for it costs nothing
		}
		r.seq, r.pos = r.at.seq, r.at.msg.Position
	}
	switch {
	case r.policy == Latest:
		r.placeLatest()
	case r.policy == CatchUp && old != nil:
		r.at = before(old)
		for next := old; next != nil && next.seq <= r.seq; next = next.next.Load() {
			r.at = next
		}
		r.gap = Gap{Outrun, max(0, old.seq-1-r.seq)}
	case r.policy == CatchUp:
		r.placeNewest(Outrun)
	default:
		r.placeNewest(Skipped)
	}
	return nil
}

// placeNewest goes to the place before the newest message.
func (r *Reader) placeNewest(why Reason) {
	head := r.feed.head.Load()
	if head.seq <= r.seq {
		r.at = head
		return
	}
	r.at = before(head)
	r.gap = Gap{why, head.seq - 1 - r.seq}
}

// placeLatest goes to a place from which the newest messages for each key are
// next, and then the feed's newest: entries of the reader's own, that end in
// the feed's head.
func (r *Reader) placeLatest() {
	f := r.feed
	f.mu.Lock()
	head := f.head.Load()
	found := f.latest.since(r.pos.Offset)
	f.mu.Unlock()
	n := int64(len(found))
	if n == 0 {
		r.at = head
		return
	}
	// The newest message of all is the newest for its key, so it is the last found.
	next := head
	for i := n - 2; i >= 0; i-- {
		e := &Entry{content: found[i].content, seq: next.seq - 1, size: head.size}
		e.next.Store(next)
		next = e
	}
	r.gap = Gap{Superseded, head.seq - r.seq - n}
	r.at = &Entry{content: placeOf(r.pos), seq: next.seq - 1, size: head.size}
	r.at.next.Store(next)
}

// before returns a place from which e is next.
func before(e *Entry) *Entry {
	pos := e.msg.Position
	pos.Offset = e.msg.Prev
	b := &Entry{content: placeOf(pos), seq: e.seq - 1, size: e.size - int64(e.msg.Size())}
	b.next.Store(e)
	return b
}
