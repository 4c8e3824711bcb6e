package fanfare

import (
	"sync/atomic"

	"fanfare/internal/transport"
)

// A subscriber is somebody who reads a channel.
type subscriber interface {
	// wake says that the feed has more. It is called by the loop that the
	// subscriber belongs to, and does not block.
	wake()
	// reading is the subscriber's place in the channel.
	reading() *subscription
	// member is who is present in the channel because of this subscriber, if anybody.
	member() (member, bool)
}

// slice is how many subscribers are woken in one go. Between two slices the loop
// reads, answers pings and serves other channels.
const slice = 256

// An audience is the subscribers of a channel that belong to one loop. It is a
// task of that loop: one walk past all members.
type audience struct {
	channel *channel       // static
	loop    transport.Loop // static
	counts  *loopCounts    // static; the loop's

	state atomic.Uint32 // idle, due or walking
	size  atomic.Int32  // members, and those about to be

	// Owned by the loop.
	members []subscriber
	start   int // where the next walk begins: not always with the same, so that nobody is always last
	at      int // where this one is
	left    int // how many members it has before it
}

const (
	idle    = iota // nobody has anything to write
	walking        // the loop is on its way past all members, or about to be
	due            // and more came meanwhile: it must go round again
)

// wake has the loop wake all members. While that is about to happen already,
// or nobody is here, it costs next to nothing: the busier a channel is, the
// more messages one walk carries.
func (a *audience) wake() {
	if a.size.Load() > 0 && a.state.Swap(due) == idle {
		a.loop.Post(a)
	}
}

// Run implements [transport.Task]: it wakes a slice of the members.
func (a *audience) Run() (more bool) {
	if a.left == 0 {
		a.state.Store(walking)
		a.begin()
	}
	for range min(slice, a.left) {
		if a.at >= len(a.members) {
			a.at = 0
		}
		s := a.members[a.at]
		a.at++
		a.left--
		s.wake()
	}
	return a.left > 0 || !a.state.CompareAndSwap(walking, idle)
}

// begin begins a walk.
func (a *audience) begin() {
	a.left = len(a.members)
	if a.left == 0 {
		return
	}
	a.start = (a.start + a.left*5/8 + 1) % a.left
	a.at = a.start
}

// join is a task that adds s.
func (a *audience) join(s subscriber) transport.Do {
	a.size.Add(1)
	return func() {
		s.reading().seat = int32(len(a.members))
		a.members = append(a.members, s)
		if a.left > 0 {
			a.left++ // it may stand between where a walk is and where it ends
		}
		s.wake() // for what was appended before it was here
	}
}

// leave is a task that removes s.
func (a *audience) leave(s subscriber) transport.Do {
	a.size.Add(-1)
	return func() {
		seat, last := int(s.reading().seat), len(a.members)-1
		moved := a.members[last]
		a.members[seat] = moved
		moved.reading().seat = int32(seat)
		a.members[last] = nil
		a.members = a.members[:last]
		a.left = min(a.left, last)
		if a.left > 0 && moved != s {
			moved.wake() // a walk may have had it before it, and has it behind it now
		}
	}
}
