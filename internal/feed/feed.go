// Package feed is the heart of Fanfare: a channel's messages as one
// append-only linked list that all readers share, so that there is no queue
// per reader.
//
// # One feed, many cursors
//
// An [Entry] is a message with a pointer to the next one. A [Reader] is a
// cursor: the entry it took last. "Has something to send" is a next that is
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
// [Reader.Relieve] for readers that cannot be written to while others are, or
// their cursors hold memory; and bytes that [Reader.Take] returned are shared
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
	// keep either.
	Encode func(dst []byte, m *broker.Message) []byte
}

// An Entry is a place in a feed: a message, and what comes next.
type Entry struct {
	*content
	seq  int64                 // running count of the feed's messages, this one included; never changes
	size int64                 // running count of their bytes; never changes
	next atomic.Pointer[Entry] // written once
}

// content is a message and what it was encoded to. It knows no place, so that
// keeping it does not keep all that came after it.
type content struct {
	msg *broker.Message // never changes
	enc atomic.Pointer[encoding]
	mu  sync.Mutex // held while encoding, so that it happens once
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
	return &content{msg: &broker.Message{Position: p}}
}

// silent reports whether there is no message here. A broker gives every
// message a time.
func (c *content) silent() bool { return c.msg.Time.IsZero() }

// in returns the message in a wire form. The bytes are shared.
func (c *content) in(f *Form) []byte {
	if b := c.find(f); b != nil {
		return b
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.find(f); b != nil {
		return b
	}
	b := f.Encode(nil, c.msg)
	c.enc.Store(&encoding{f, b, c.enc.Load()})
	return b
}

func (c *content) find(f *Form) []byte {
	for x := c.enc.Load(); x != nil; x = x.next {
		if x.form == f {
			return x.bytes
		}
	}
	return nil
}

// Retention says how much history a feed keeps: as much as all three permit.
type Retention struct {
	Count int           // messages; 0: none
	Age   time.Duration // 0: any age
	Bytes int64         // [broker.Message.Size] of all; 0: any size. The newest is kept even if it alone is larger.
}

// Feed is a channel's messages. Append and Trim may be called from any
// goroutine, one at a time waits for the other; readers never wait.
type Feed struct {
	retain Retention // static

	head   atomic.Pointer[Entry] // the newest entry; before the first one an empty sentinel
	oldest atomic.Pointer[Entry] // the oldest retained entry; nil: no history

	mu     sync.Mutex // guards the following, and writing the above
	latest latest
}

// New returns a feed whose next message comes after base, with what is given
// of the messages before it, oldest first, as its history.
func New(retain Retention, base broker.Position, history []*broker.Message) *Feed {
	f := &Feed{retain: retain}
	f.head.Store(&Entry{content: placeOf(base)})
	for _, m := range history {
		f.Append(m)
	}
	return f
}

// Append adds the newest message. The order of the calls is the order of the feed.
func (f *Feed) Append(m *broker.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := f.head.Load()
	e := &Entry{content: &content{msg: m}, seq: head.seq + 1, size: head.size + int64(m.Size())}
	head.next.Store(e)
	f.head.Store(e)
	if f.retain.Count > 0 && f.oldest.Load() == nil {
		f.oldest.Store(e)
	}
	f.trim(m.Time)
	f.latest.put(e, f.retain.Bytes)
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
