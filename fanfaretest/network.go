package fanfaretest

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A network carries TCP connections to a server and back, in both directions.
type network struct {
	net.Listener
	to       string
	delay    atomic.Int64 // nanoseconds
	carriers sync.WaitGroup
	hurry    chan struct{} // closed when nothing is delayed any more

	mu      sync.Mutex // guards the following
	offline bool
	conns   map[*net.TCPConn]struct{} // of both sides
}

func newNetwork(to string) (*network, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n := &network{Listener: listener, to: to, hurry: make(chan struct{}), conns: make(map[*net.TCPConn]struct{})}
	n.carriers.Go(n.accept)
	return n, nil
}

func (n *network) accept() {
	for {
		conn, err := n.Accept()
		if err != nil {
			return
		}
		near := conn.(*net.TCPConn)
		conn, err = net.Dial("tcp", n.to)
		if err != nil {
			reset(near)
			continue
		}
		n.carriers.Go(func() { n.join(near, conn.(*net.TCPConn)) })
	}
}

// join carries in both directions until both have ended.
func (n *network) join(near, far *net.TCPConn) {
	n.mu.Lock()
	if n.offline {
		reset(near)
		reset(far)
	}
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	n.mu.Unlock()
	var back sync.WaitGroup
	back.Go(func() { n.carry(far, near) })
	n.carry(near, far)
	back.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, near)
	delete(n.conns, far)
	near.Close()
	far.Close()
}

// A piece is what was read at once.
type piece struct {
	bytes []byte
	due   time.Time // at the other side
}

// carry takes one direction's bytes to the other side, and its end.
func (n *network) carry(from, to *net.TCPConn) {
	pieces := make(chan piece, 64)
	broken := false // instead of ended; before pieces is closed
	n.carriers.Go(func() {
		defer close(pieces)
		for {
			buf := make([]byte, 16<<10)
			length, err := from.Read(buf)
			pieces <- piece{buf[:length], time.Now().Add(time.Duration(n.delay.Load()))}
			if err != nil {
				broken = err != io.EOF
				return
			}
		}
	})
	for p := range pieces {
		select {
		case <-time.After(time.Until(p.due)):
		case <-n.hurry:
		}
		if _, err := to.Write(p.bytes); err != nil {
			reset(from) // ends the reading
		}
	}
	if broken {
		reset(to)
		return
	}
	_ = to.CloseWrite()
}

// cut resets all connections, and those that come later if they are not to come.
func (n *network) cut(offline bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.offline = n.offline || offline
	for conn := range n.conns {
		reset(conn)
	}
}

func (n *network) mend() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.offline = false
}

func (n *network) close() {
	n.Close()
	n.cut(true)
	n.carriers.Wait()
}

// reset ends a connection with a reset.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
