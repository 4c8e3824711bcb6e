package loadgen

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"fanfare/internal/frame"
)

// A conn is one client. Its life is one call of run.
type conn struct {
	// static
	net     net.Conn
	arrived []byte // behind the answer to the handshake
	crowd   *crowd
	shard   int

	// owned by run
	scanner
	at      int64    // when the bytes being scanned were read
	pong    []byte   // to be sent
	goodbye *goodbye // the close frame that came

	// guarded by the shard's lock
	got     uint32 // messages of the run under way, each once
	next    uint32 // the number after the highest that came
	recent  uint64 // which of the 64 before next came; the lowest bit is next-1
	mute    bool   // what it gets is not counted
	leaving bool   // it is we who end it
	ended   error  // why it ended though we did not want it to

	writing sync.Mutex // held while a frame is written
}

// goodbye is a server's close frame, as an error.
type goodbye struct {
	code   frame.Code
	reason string
}

func (g *goodbye) Error() string {
	text := fmt.Sprintf("the server closed it (%d %s", uint16(g.code), g.code)
	if g.reason != "" {
		text += ": " + g.reason
	}
	return text + ")"
}

// mask is the key of all frames we send. A browser takes a new one for each, so
// that no proxy on the way takes what a page chose for HTTP (RFC 6455, section
// 10.3); to a server one is as much work as another.
var mask = [4]byte{0x1F, 0x2E, 0x3D, 0x4C}

// run reads until the connection ends.
func (c *conn) run() {
	err := c.take(c.arrived)
	c.arrived = nil
	if err == nil {
		err = c.receive()
	}
	if c.goodbye != nil {
		err = c.goodbye
	}
	s := &c.crowd.shards[c.shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.leaving {
		return
	}
	c.ended = err
	if s.closed++; s.why == nil {
		s.why = err
	}
}

// receive calls take with what comes until there is an error.
func (c *conn) receive() error {
	b := make([]byte, 16<<10)
	for {
		n, err := c.net.Read(b)
		if n > 0 {
			if err := c.take(b[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}

// take takes the next bytes from the server.
func (c *conn) take(b []byte) error {
	c.at = c.crowd.now()
	s := &c.crowd.shards[c.shard]
	s.mu.Lock()
	err := c.scan(b, s.prefix, c)
	leaving := c.leaving
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("the server breaks the protocol: %w", err)
	}
	if c.goodbye != nil && !leaving {
		_ = c.write(frame.Close, frame.AppendClose(nil, c.goodbye.code, "")) // RFC 6455, section 5.5.1
		return c.goodbye
	}
	if c.pong != nil {
		err = c.write(frame.Pong, c.pong)
		c.pong = nil
	}
	return err
}

// marked is called by scan, with the shard's lock.
func (c *conn) marked(number uint32, intended int64) {
	if c.mute {
		return
	}
	s := &c.crowd.shards[c.shard]
	if ahead := int64(number) - int64(c.next); ahead >= 0 {
		c.recent = c.recent<<1<<ahead | 1
		c.next = number + 1
	} else {
		bit := uint64(1) << (-ahead - 1) // 0 for what is too long ago, which counts as doubled
		if bit&^c.recent == 0 {
			s.doubled++
			return
		}
		c.recent |= bit
		s.disordered++
	}
	c.got++
	s.arrived(number, intended, c.at)
}

// controlled is called by scan.
func (c *conn) controlled(op frame.Opcode, payload []byte) {
	switch op {
	case frame.Ping: // only the newest is answered (RFC 6455, section 5.5.3)
		c.pong = append([]byte{}, payload...)
	case frame.Close:
		code, reason, err := frame.ParseClose(payload)
		if err != nil {
			code, reason = frame.NoStatus, ""
		}
		c.goodbye = &goodbye{code, reason}
	}
}

// write sends one frame. Any goroutine may call it.
func (c *conn) write(op frame.Opcode, payload []byte) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.net.Write(frame.AppendMasked(nil, op, true, mask, payload))
	return err
}

// leave says goodbye, after which the server should end the connection. It
// bounds how long run may go on.
func (c *conn) leave(within time.Duration) {
	s := &c.crowd.shards[c.shard]
	s.mu.Lock()
	c.leaving = true
	s.mu.Unlock()
	_ = c.net.SetDeadline(time.Now().Add(within))
	_ = c.write(frame.Close, frame.AppendClose(nil, frame.NormalClosure, ""))
}

// abandon resets the connection of one that never reads: what waits for it in
// the server goes nowhere.
func (c *conn) abandon() {
	if tcp, ok := c.net.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.net.Close()
}

// describe says for people how a connection ended.
func describe(err error) string {
	var g *goodbye
	switch {
	case errors.As(err, &g):
		return g.Error()
	case errors.Is(err, io.EOF):
		return "the server cut it without a close frame"
	}
	return err.Error()
}
