//go:build !386 && !s390x

package reactor

import (
	"net"
	"sync"

	"fanfare/internal/transport"
)

// A Reactor implements [transport.Transport] for TCP connections.
type Reactor struct {
	loops   []*loop          // static
	asLoops []transport.Loop // static; the same

	mu     sync.Mutex // guards the following
	closed bool
	ends   sync.WaitGroup // one for each connection, until after Gone; Add under mu
}

// New starts the loops. Close ends them. The error is the system's, which may
// be out of descriptors: a loop has two.
func New(o transport.Options) (*Reactor, error) {
	r := &Reactor{}
	for range max(1, o.Loops) {
		l, err := newLoop(o, &r.ends)
		if err != nil {
			r.Close()
			return nil, err
		}
		r.loops, r.asLoops = append(r.loops, l), append(r.asLoops, l)
	}
	return r, nil
}

// Accept implements [transport.Transport]. A connection that is not plain TCP is
// refused with [ErrNotTCP].
func (r *Reactor) Accept(nc net.Conn, early []byte) (transport.Conn, error) {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil, ErrNotTCP
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, transport.ErrClosed
	}
	fd, err := take(tcp)
	if err != nil {
		return nil, err
	}
	r.ends.Add(1)
	c := &Conn{loop: r.least(), fd: int32(fd)}
	if len(early) > 0 {
		c.held = &held{bytes: early}
	}
	return c, nil
}

// least returns the loop that has the fewest connections, and counts one more.
func (r *Reactor) least() *loop {
	least := r.loops[0]
	for _, l := range r.loops[1:] {
		if l.load.Load() < least.load.Load() {
			least = l
		}
	}
	least.load.Add(1)
	return least
}

// Each implements [transport.Transport].
func (r *Reactor) Each(f func(transport.Session)) {
	for _, l := range r.loops {
		l.Post(transport.Do(func() {
			for _, c := range l.conns {
				if c != nil {
					f(c.session)
				}
			}
		}))
	}
}

// Loops implements [transport.Transport].
func (r *Reactor) Loops() []transport.Loop { return r.asLoops }

// Name implements [transport.Transport].
func (r *Reactor) Name() string { return "reactor" }

// Load implements [transport.Transport].
func (r *Reactor) Load() (sum transport.Load) {
	for _, l := range r.loops {
		sum.Read += l.didRead.Load()
		sum.Written += l.didWrite.Load()
		l.mu.Lock()
		waiting := len(l.queue)
		l.mu.Unlock()
		sum.Loops = append(sum.Loops, transport.LoopLoad{Turns: l.turns, Queue: waiting + int(l.leftOver.Load())})
	}
	return sum
}

// Close implements [transport.Transport].
func (r *Reactor) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	for _, l := range r.loops {
		l.Post(transport.Do(l.close))
	}
	r.ends.Wait()
	for _, l := range r.loops {
		<-l.done
	}
}
