// Package feed is the heart of Fanfare: the messages of a channel, or of all
// channels that fit a pattern, as one append-only linked list that all readers
// share, so that there is no queue per reader.
//
// # One feed, many cursors
//
// An [Entry] is a message with a pointer to the next one. A [Cursor] is a
// reader's place: the entry it took last. "Has something to send" is a next that is
// not nil. History is the same list, kept alive by a pointer to its oldest
// retained entry; what neither history nor a reader can reach, the garbage
// collector frees. Resuming is placing a cursor.
//
// An entry encodes itself at most once for each wire [Form], for the first
// reader that wants it; the bytes are shared and never change. A reader takes
// everything between its cursor and the head at once: [Joiner] joins those
// bytes once for all readers that stand at the same place. The busier the
// channel, the bigger the writes, with no timer and no wait when it is quiet.
//
// # Readers that lag
//
// Every entry carries the feed's running byte count, so a reader's lag is one
// subtraction. A cursor far behind would keep all that follows it in memory;
// past the limit it therefore lets go of its entry and keeps only the number
// of it, and its [Policy] decides where it goes on. What it then misses is
// reported as a [Gap], never passed over in silence. The publisher never
// waits, and other readers never notice.
//
// An earlier thought was to cut off old entries by changing their next
// pointer, so that history alone bounds memory. It needs no visit to lagging
// readers, but a feed without history would have to keep a window of entries
// just in case somebody lags; letting go costs nothing until somebody does.
//
// # Two ways to hurt yourself
//
// The feed knows no sockets and starts no goroutine. Somebody must call
// [Cursor.Relieve] for readers that cannot be written to while others are, or
// their cursors hold memory; and bytes that [Cursor.Take] returned are shared
// and must not be changed.
package feed

import (
	"sync"
	"sync/atomic"
	"time"

	"fanfare/broker"
)

// A Form is a way to write messages: a wire form. Forms are compared by
// pointer; make each once.
type Form struct {
	// Encode appends the message to dst as it goes over the wire. It is called
	// at most once for each message of a feed, by any goroutine, and must not
	// keep either. Messages older than the feed's history, which a reader went
	// back to by Rewind, are encoded for that reader alone.
	Encode func(dst []byte, m *broker.Message) []byte

	// Sees, if it is not nil, makes this the form of readers that see only some
	// of the messages: those for which it reports true, as Of has them. It is
	// asked for each reader and message, by any goroutine, and must not block.
	// Encode is not called then. Such a form is one reader's own.
	Sees func(m *broker.Message) bool
	Of   *Form

	seen broker.Position // where the reader is, as it may know; its owner's
}

// An Entry is a place in a feed: a message, and what comes next.
type Entry struct {
	*content
	seq   int64                 // running count of the feed's messages, this one included; never changes
	size  int64                 // running count of their bytes; never changes
	after uint64                // offset of a place after which this message is the feed's next; never changes
	next  atomic.Pointer[Entry] // written once
}

// content is a message and what it was encoded to. It knows no place, so that
// keeping it does not keep all that came after it.
type content struct {
	msg    *broker.Message // never changes
	silent bool            // no message is here, msg has only a Position; never changes
	enc    atomic.Pointer[encoding]
	mu     sync.Mutex // held while encoding, so that it happens once
}

// encoding is a link in the short list of what a message was encoded to.
type encoding struct {
	form  *Form
	bytes []byte
	next  *encoding
}

// placeOf returns the content of a place where no message is: the start of a
// feed, or of the entries that a reader has to itself.
func placeOf(p broker.Position) *content {
	return &content{msg: &broker.Message{Position: p}, silent: true}
}

// following returns the next entry that has a message, or nil.
func (e *Entry) following() *Entry {
	for e = e.next.Load(); e != nil && e.silent; e = e.next.Load() {
	}
	return e
}

// in returns the message in a wire form; nil if its readers do not see it. The
// bytes are shared.
func (c *content) in(f *Form) []byte {
	if f.Sees != nil {
		if !f.Sees(c.msg) {
			return nil
		}
		f = f.Of
	}
	if x := c.find(f); x != nil {
		return x.bytes
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if x := c.find(f); x != nil {
		return x.bytes
	}
	b := f.Encode(nil, c.msg)
	c.enc.Store(&encoding{f, b, c.enc.Load()})
	return b
}

// find returns nil when the message was not yet encoded in the form.
func (c *content) find(f *Form) *encoding {
	x := c.enc.Load()
	for x != nil && x.form != f {
		x = x.next
	}
	return x
}

// Retention says how much history a feed keeps: as much as Count, Age and
// Bytes all permit; and besides, for readers with the policy [Latest], the
// newest message for each of so many Keys, of Bytes together at most.
type Retention struct {
	Count int           // messages; 0: none
	Age   time.Duration // 0: any age
	Bytes int64         // [broker.Message.Size] of all; 0: any size. The newest is kept even if it alone is larger.
	Keys  int           // 0: none, and Latest then does what Skip does
}

// Feed is the messages of a channel or a pattern. All methods may be called from any goroutine;
// Append and Trim wait for one another, and readers for neither, but for the
// moment in which a lagging one with the policy [Latest] is placed.
type Feed struct {
	head   atomic.Pointer[Entry] // the newest entry; before the first one an empty sentinel
	oldest atomic.Pointer[Entry] // the oldest retained entry; nil: no history

	mu      sync.Mutex // guards the following, and writing the above
	retain  Retention
	latest  latest
	manners []*manner // that readers have, oldest first
}

// New returns a feed whose first call of Append brings the message after base.
// history is what there is of the messages up to base, oldest first; those
// after base, which a broker asked a little later answers too, are left out,
// since Append brings them.
func New(retain Retention, base broker.Position, history []*broker.Message) *Feed {
	f := &Feed{retain: retain}
	begin := base
	if len(history) > 0 && upTo(history[0], base) {
		begin = placeBefore(history[0])
	}
	f.head.Store(&Entry{content: placeOf(begin)})
	for _, m := range history {
		if upTo(m, base) {
			f.Append(m)
		}
	}
	return f
}

// upTo reports whether m is a message before the place p, or the one p is
// right after.
func upTo(m *broker.Message, p broker.Position) bool {
	return m.Position.Epoch == p.Epoch && m.Position.Offset <= p.Offset
}

// placeBefore returns the latest place that a message comes after. What of the
// feed is before it nobody can tell from the message: Prev is the one before it
// in its channel, and a feed can have many channels.
func placeBefore(m *broker.Message) broker.Position {
	return broker.Position{Epoch: m.Position.Epoch, Offset: m.Position.Offset - 1}
}

// Append adds the newest message. The order of the calls is the order of the
// feed, and by offset. A message of another epoch begins history anew:
// positions of two epochs cannot be compared.
func (f *Feed) Append(m *broker.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := f.head.Load()
	e := &Entry{content: &content{msg: m}, seq: head.seq + 1, size: head.size + int64(m.Size()), after: head.msg.Position.Offset}
	if m.Position.Epoch != head.msg.Position.Epoch {
		e.after = placeBefore(m).Offset
		f.oldest.Store(nil)
		f.latest = latest{}
	}
	head.next.Store(e)
	f.head.Store(e)
	if f.retain.Count > 0 && f.oldest.Load() == nil {
		f.oldest.Store(e)
	}
	f.trim(m.Time)
	f.latest.put(e, f.retain)
}

// Retain changes how much history the feed keeps, from now on.
func (f *Feed) Retain(r Retention) {
	f.mu.Lock()
	defer f.mu.Unlock()
	had := f.retain.Keys
	f.retain = r
	f.trim(time.Now())
	head := f.head.Load()
	switch {
	case r.Keys == 0:
		f.latest = latest{}
	case had == 0 && !head.silent:
		f.latest.put(head, r) // the newest of all is always among the newest for each key
	default:
		f.latest.trim(r)
	}
}

// Position returns the place after the newest message.
func (f *Feed) Position() broker.Position { return f.head.Load().msg.Position }

// Trim drops history that is too old at the time now. Append does it too;
// Trim is for feeds that have fallen quiet.
func (f *Feed) Trim(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trim(now)
}

func (f *Feed) trim(now time.Time) {
	head, old := f.head.Load(), f.oldest.Load()
	for old != nil {
		switch {
		case head.seq-old.seq >= int64(f.retain.Count):
		case f.retain.Age > 0 && now.Sub(old.msg.Time) > f.retain.Age:
		case f.retain.Bytes > 0 && head.size-old.size+int64(old.msg.Size()) > f.retain.Bytes && old != head:
		default:
			f.oldest.Store(old)
			return
		}
		old = old.next.Load()
	}
	f.oldest.Store(nil)
}
