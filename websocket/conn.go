package websocket

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/internal/frame"
	"fanfare/internal/netend"
)

// MessageType is what a message's payload is.
type MessageType byte

const (
	Text   MessageType = MessageType(frame.Text)   // UTF-8
	Binary MessageType = MessageType(frame.Binary) // any bytes
)

// String returns "text" or "binary".
func (t MessageType) String() string { return frame.Opcode(t).String() }

// A Conn is one WebSocket connection, either end of it. All its methods may be
// called from any goroutine.
//
// Its life is one call of run, in a goroutine of its own, which reads until
// the connection ends and then ends everything else. A second goroutine, flush,
// exists only while there is something to write.
type Conn struct {
	// static
	conn        net.Conn
	client      bool // frames out are masked, frames in are not
	subprotocol string
	set         settings
	rules       frame.Rules
	pack        *packing  // nil: nothing is compressed
	start       time.Time // all times below are since then
	masks       masks

	// owned by run
	parser  frame.Parser
	arrived int64         // messages, whole
	begun   time.Time     // when the message under way began, later by heldUp; zero: there is none
	heldUp  time.Duration // how long the last push waited for the readers at this end

	// owned by whoever holds the one place in readTurn
	readTurn chan struct{}
	message  incoming

	// one place: held while a message is queued for writing, and by a Writer until its end
	messageTurn chan struct{}

	// each with a lock of its own
	in    inbox
	out   outbox
	pings pings

	// run tells keepalive
	heard   atomic.Int64 // when something last arrived
	stalled atomic.Bool  // nothing can arrive: the inbox is full

	ownPing *outFrame // sent and unanswered; owned by keepalive, the timer's callback

	// static; who closes the first two holds end
	ended chan struct{} // closed when end.err is set
	gone  chan struct{} // closed when the socket is being closed under everybody
	done  chan struct{} // closed by run when all is over

	end struct {
		sync.Mutex // guards the following

		err     *CloseError // the first reason wins; nil: open
		parting bool        // run is at the closing handshake's last part
		met     bool        // the peer's close frame came
		bound   *time.Timer // of the closing handshake; nil until it begins
		alive   *time.Timer // keepalive's; nil: none, or no more
	}
}

// newConn begins the connection's life. What had arrived behind the handshake comes first.
func newConn(conn net.Conn, arrived []byte, client bool, subprotocol string, pack *packing, set settings) *Conn {
	c := &Conn{
		conn:        conn,
		client:      client,
		subprotocol: subprotocol,
		set:         set,
		rules:       frame.Rules{Masked: !client, Limit: set.limit, Compressed: pack != nil},
		pack:        pack,
		start:       time.Now(),
		readTurn:    make(chan struct{}, 1),
		messageTurn: make(chan struct{}, 1),
		ended:       make(chan struct{}),
		gone:        make(chan struct{}),
		done:        make(chan struct{}),
	}
	c.in.arrived = make(chan struct{}, 1)
	c.in.room = make(chan struct{}, 1)
	c.out.conn = c
	c.out.idle = sync.NewCond(&c.out.Mutex)
	if set.pingInterval > 0 {
		c.end.Lock() // the callback may come before AfterFunc has returned
		c.end.alive = time.AfterFunc(set.pingInterval, c.keepalive)
		c.end.Unlock()
	}
	go c.run(arrived)
	return c
}

// Subprotocol returns the subprotocol agreed on in the handshake, "" for none.
func (c *Conn) Subprotocol() string { return c.subprotocol }

// LocalAddr returns this end's network address.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr returns the other end's network address, or its proxy's.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Done returns a channel that is closed when the connection is gone: the socket
// is closed and no goroutine is left. Messages that arrived before can still be
// read.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err returns nil while the connection is open, and then why it is not, as [*CloseError].
func (c *Conn) Err() error {
	c.end.Lock()
	defer c.end.Unlock()
	if c.end.err == nil {
		return nil
	}
	return c.end.err
}

func (c *Conn) since() int64 { return int64(time.Since(c.start)) }

// run is the connection's life.
func (c *Conn) run(arrived []byte) {
	c.finish(c.receive(arrived))
	c.abort()
	c.out.shut(c.Err())
	close(c.done)
}

const (
	smallRead = 4 << 10
	largeRead = 64 << 10
)

// receive reads until the connection ends, and returns why: a [*CloseError] is
// the peer's close frame, a [*frame.Error] its breach of the protocol.
func (c *Conn) receive(arrived []byte) error {
	if err := c.push(arrived); err != nil {
		return err
	}
	buf := make([]byte, smallRead)
	for {
		n, err := c.conn.Read(buf)
		if n > 0 {
			c.heard.Store(c.since())
			if err := c.push(buf[:n]); err != nil {
				return err
			}
			if n == len(buf) && n < largeRead {
				buf = make([]byte, 4*n)
			}
		}
		if !c.begun.IsZero() && errors.Is(err, os.ErrDeadlineExceeded) {
			return &frame.Error{Code: PolicyViolation, Reason: fmt.Sprintf("a message must be complete within %v", c.set.messageTimeout)}
		}
		if err != nil {
			return err
		}
	}
}

// push hands bytes to the parser, and sets the read deadline to when the
// message that they leave unfinished must be complete.
func (c *Conn) push(b []byte) error {
	before := c.arrived
	c.heldUp = 0
	if err := c.parser.Push(b, &c.rules, (*receiver)(c)); err != nil || c.set.messageTimeout <= 0 {
		return err
	}
	deadline := time.Time{}
	switch {
	case !c.parser.Idle():
		switch {
		case c.begun.IsZero() || c.arrived > before:
			c.begun = time.Now()
		case c.heldUp > 0:
			c.begun = c.begun.Add(c.heldUp)
		default:
			return nil
		}
		deadline = c.begun.Add(c.set.messageTimeout)
	case c.begun.IsZero():
		return nil
	default:
		c.begun = time.Time{}
	}
	_ = c.conn.SetReadDeadline(deadline) // a connection that knows no deadlines has none
	return nil
}

// receiver is the Conn as the parser's handler; run calls it.
type receiver Conn

// Frame takes the next frame of the peer.
func (r *receiver) Frame(f frame.Frame) error {
	c := (*Conn)(r)
	switch f.Opcode {
	case frame.Ping:
		c.answer(f.Payload)
	case frame.Pong:
		if !c.pings.answered(f.Payload) && len(f.Payload) > 0 && c.set.onPong != nil {
			c.set.onPong(f.Payload, c.arrived)
		}
	case frame.Close:
		code, reason, err := frame.ParseClose(f.Payload)
		if err != nil {
			return err
		}
		return &CloseError{Code: code, Reason: reason}
	default:
		if f.Fin {
			c.arrived++
		}
		f, ok, err := c.pack.unpack(f, c.set.limit)
		if err != nil || !ok {
			return err
		}
		return c.deliver(f)
	}
	return nil
}

// finish ends the connection in the order of RFC 6455, section 7: both close
// frames, then the server closes TCP and the client waits for it.
func (c *Conn) finish(err error) {
	var closed *CloseError
	var breach *frame.Error
	var code Code
	var reason string
	switch {
	case errors.As(err, &closed):
		c.part(true)
		c.finishReading(closed)
		// The peer's code goes back (section 5.5.1); a close frame without one is answered by the same.
		code = closed.Code
	case errors.As(err, &breach):
		c.part(false)
		c.finishReading(&CloseError{Code: breach.Code, Reason: breach.Reason, Local: true, cause: breach})
		code, reason = breach.Code, breach.Reason
	default:
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		lost := &CloseError{Code: Abnormal, Reason: err.Error(), cause: err}
		c.setEnd(lost)
		c.finishReading(lost)
	}
	c.pings.finish(c.Err())
	if code == 0 {
		return
	}
	c.boundEnd()
	<-c.queueClose(code, reason, true).done
	if !c.client && !netend.EndWriting(c.conn) {
		return // a client that waits for our end could not see it
	}
	c.drain()
}

// drain reads to the peer's end of the connection; the closing timer bounds it.
func (c *Conn) drain() {
	_ = c.conn.SetReadDeadline(time.Time{}) // that of a message that will not be complete
	buf := make([]byte, smallRead)
	for {
		if _, err := c.conn.Read(buf); err != nil {
			return
		}
	}
}
