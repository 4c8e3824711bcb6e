package feed

import (
	"sync/atomic"
	"weak"
)

// Joiner joins the bytes of messages that stand one after the other, once for
// all readers that stand before them. The zero value is ready; it is safe for
// concurrent use. Whoever owns it calls Reset now and then, since the bytes that
// it remembers stay in memory. No message does because of it.
type Joiner struct {
	slots [16]atomic.Pointer[joined]
}

// joined is the result of one join. Its pointers are weak, since an entry keeps
// all that comes after it: on a busy channel that would be a second's worth.
type joined struct {
	form        *Form
	first, last weak.Pointer[Entry]
	count       int
	bytes       []byte
}

// batch returns the bytes of the entries after from, up to limit bytes but at
// least one entry, how many they are, and the last of them; nil without one.
func (j *Joiner) batch(from *Entry, form *Form, limit int) ([]byte, int, *Entry) {
	first := from.following()
	if first == nil {
		return nil, 0, from
	}
	if form.Sees != nil {
		return pick(first, form, limit)
	}
	if first.next.Load() == nil {
		return first.in(form), 1, first
	}
	// The slot goes by the first message, not by the place before it: readers
	// that were placed have such a place each to itself.
	slot := &j.slots[uint64(first.seq)%uint64(len(j.slots))]
	if s := slot.Load(); s != nil && s.form == form && len(s.bytes) <= limit && s.first.Value() == first {
		return s.bytes, s.count, s.last.Value() // there, since first leads to it
	}
	total, count := 0, 0
	last := first
	for e := first; e != nil && !e.silent; e = e.next.Load() {
		n := len(e.in(form))
		if count > 0 && total+n > limit {
			break
		}
		total += n
		count++
		last = e
	}
	if count == 1 {
		return first.in(form), 1, first
	}
	bytes := make([]byte, 0, total)
	for e := first; ; e = e.next.Load() {
		bytes = append(bytes, e.in(form)...)
		if e == last {
			break
		}
	}
	slot.Store(&joined{form, weak.Make(first), weak.Make(last), count, bytes})
	return bytes, count, last
}

// pick joins what a reader sees of the entries from first on, as batch does. What
// it does not see costs no bytes, so the count can be anything; nil: nothing.
func pick(first *Entry, form *Form, limit int) (bytes []byte, count int, last *Entry) {
	last = first
	for e := first; e != nil && !e.silent; e = e.next.Load() {
		b := e.in(form)
		if len(bytes) > 0 && len(bytes)+len(b) > limit {
			break
		}
		if len(b) > 0 {
			form.seen = e.msg.Position
		}
		bytes = append(bytes, b...)
		count++
		last = e
	}
	return bytes, count, last
}

// Reset forgets what was joined.
func (j *Joiner) Reset() {
	for i := range j.slots {
		if j.slots[i].Load() != nil {
			j.slots[i].Store(nil)
		}
	}
}
