package chromiumtest

import (
	"net"
	"sync"
	"testing"
)

// A Line carries TCP connections to a server, until it is cut. Its methods may
// be called from any goroutine.
type Line struct {
	URL string // http://…, of this end

	mu     sync.Mutex
	down   bool
	budget func() int        // bytes that each direction of a new connection carries before it breaks; nil: no end
	conns  map[net.Conn]bool // true: carried; false: stalled
}

// NewLine lays a line to the server at an address, for as long as the test
// lasts.
func NewLine(t *testing.T, server string) *Line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &Line{URL: "http://" + listener.Addr().String(), conns: map[net.Conn]bool{}}
	var carriers sync.WaitGroup
	carriers.Go(func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", server)
			if err != nil {
				near.Close()
				continue
			}
			there, back, up := l.add(near, far)
			if !up {
				continue
			}
			carriers.Go(func() { l.carry(near, far, there) })
			carriers.Go(func() { l.carry(far, near, back) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		l.Cut()
		carriers.Wait()
	})
	return l
}

// add takes a pair of connections, or breaks both when the line is down.
func (l *Line) add(near, far net.Conn) (there, back int, up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		reset(near)
		reset(far)
		return 0, 0, false
	}
	l.conns[near], l.conns[far] = true, true
	if l.budget == nil {
		return -1, -1, true
	}
	return l.budget(), l.budget(), true
}

func (l *Line) carry(from, to net.Conn, budget int) {
	for b := make([]byte, 4096); ; {
		n, err := from.Read(b)
		if budget >= 0 && n >= budget {
			n, err = budget, net.ErrClosed
		}
		if budget >= 0 {
			budget -= n
		}
		if err == nil && l.stalled(from) {
			continue
		}
		if _, wrote := to.Write(b[:n]); wrote != nil || err != nil {
			break
		}
	}
	reset(from)
	reset(to)
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, from)
}

// reset ends a connection the way a crash does.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// Cut breaks all connections, and those that come until Mend.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for c := range l.conns {
		reset(c)
	}
}

func (l *Line) stalled(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.conns[c]
}

// Stall has the connections of now go on to stand, and carry nothing any more,
// as behind a router that forgot them.
func (l *Line) Stall() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		l.conns[c] = false
	}
}

// Mend lets connections through again.
func (l *Line) Mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

// Break has each direction of a new connection break after so many bytes, in
// the middle of whatever that is. Nil: none does. budget is called by one
// goroutine at a time.
func (l *Line) Break(budget func() int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.budget = budget
}
