package websocket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"net"
	"sync"
	"time"

	"fanfare/internal/frame"
)

// A Message is one message, whole.
type Message struct {
	Type MessageType
	Data []byte
}

// Read returns the next message. The bytes are the caller's. When the
// connection has ended and everything that arrived before has been read, the error is a
// [*CloseError]. When ctx ends first, nothing is lost: the next Read gets the message.
func (c *Conn) Read(ctx context.Context) (MessageType, []byte, error) {
	if err := c.takeReadTurn(ctx); err != nil {
		return 0, nil, err
	}
	defer c.releaseReadTurn()
	m := &c.message
	if err := c.begin(ctx); err != nil {
		return 0, nil, err
	}
	for !m.last {
		if err := c.more(ctx); err != nil {
			return 0, nil, err
		}
	}
	kind, data := m.kind, m.unread
	*m = incoming{turn: m.turn}
	if data == nil {
		data = []byte{}
	}
	return kind, data, nil
}

// Reader returns the next message as a stream, as soon as its first frame is
// there; after the message's last byte comes [io.EOF]. ctx is also that of the
// stream's reads. What is not read of a message is skipped by the next Read or Reader.
func (c *Conn) Reader(ctx context.Context) (MessageType, io.Reader, error) {
	if err := c.takeReadTurn(ctx); err != nil {
		return 0, nil, err
	}
	defer c.releaseReadTurn()
	m := &c.message
	if err := c.begin(ctx); err != nil {
		return 0, nil, err
	}
	m.streamed = true
	m.turn++
	return m.kind, &messageReader{c, ctx, m.turn, false}, nil
}

// Messages yields messages until the connection ends. It ends without an error
// after 1000, 1001 or a close frame without a code, whoever sent it; otherwise
// the last pair carries the error: a [*CloseError], or ctx's.
func (c *Conn) Messages(ctx context.Context) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		for {
			kind, data, err := c.Read(ctx)
			if err != nil {
				switch CloseCode(err) {
				case NormalClosure, GoingAway, NoStatus:
				default:
					yield(Message{}, err)
				}
				return
			}
			if !yield(Message{kind, data}, nil) {
				return
			}
		}
	}
}

// incoming is the message that Read and Reader are at.
type incoming struct {
	kind     MessageType // 0: between two messages
	last     bool        // its last frame has been taken from the inbox
	streamed bool        // a Reader has it; else a Read was cancelled and the next goes on
	unread   []byte
	turn     int // counts Readers, so that an old one cannot read the next message
}

func (c *Conn) takeReadTurn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.readTurn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Conn) releaseReadTurn() { <-c.readTurn }

// begin makes sure that a message is under way which no Reader has had.
func (c *Conn) begin(ctx context.Context) error {
	m := &c.message
	for m.streamed && !m.last {
		m.unread = nil
		if err := c.more(ctx); err != nil {
			return err
		}
	}
	if m.streamed {
		*m = incoming{turn: m.turn}
	}
	if m.kind != 0 {
		return nil
	}
	return c.more(ctx)
}

// more takes the message's next frame.
func (c *Conn) more(ctx context.Context) error {
	f, err := c.take(ctx)
	if err != nil {
		return err
	}
	m := &c.message
	m.kind, m.last = f.kind, f.last
	if len(m.unread) == 0 {
		m.unread = f.payload
	} else {
		m.unread = append(m.unread, f.payload...)
	}
	return nil
}

// messageReader is what Reader returns. Its fields are static, but for eof.
type messageReader struct {
	c    *Conn
	ctx  context.Context
	turn int  // which of the Readers it is
	eof  bool // its message was read to the end; owned by whoever holds the read turn
}

func (r *messageReader) Read(p []byte) (int, error) {
	if err := r.c.takeReadTurn(r.ctx); err != nil {
		return 0, err
	}
	defer r.c.releaseReadTurn()
	m := &r.c.message
	switch {
	case r.eof:
		return 0, io.EOF
	case m.turn != r.turn || !m.streamed:
		return 0, errors.New("websocket: this message was skipped, the next one has been asked for")
	case len(p) == 0:
		return 0, nil
	}
	for len(m.unread) == 0 {
		if m.last {
			*m = incoming{turn: m.turn}
			r.eof = true
			return 0, io.EOF
		}
		if err := r.c.more(r.ctx); err != nil {
			return 0, err
		}
	}
	n := copy(p, m.unread)
	m.unread = m.unread[n:]
	return n, nil
}

// inbox is the bounded queue of data frames between run and the readers.
type inbox struct {
	// static
	arrived chan struct{} // one place: look again, there is a frame, or the end
	room    chan struct{} // one place: look again, a frame was taken

	mu       sync.Mutex // guards the following
	used     bool       // there was a reader
	frames   []inFrame
	bytes    int64
	end      *CloseError // what comes after the last frame; nil: the connection is open
	dropping bool        // nobody reads any more and the end is under way
}

// inFrame is a frame in the inbox. It does not change.
type inFrame struct {
	kind    MessageType
	last    bool
	payload []byte
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// lingering is how long a slow reader may hold up the end: once Close was
// called, a full inbox keeps us from seeing the peer's close frame; and the peer's close
// frame waits for the answers to the messages before it.
const lingering = 500 * time.Millisecond

// deliver puts a data frame into the inbox and waits while there is no room.
// It is where back-pressure begins: run stops reading.
func (c *Conn) deliver(f frame.Frame) error {
	in := &c.in
	for {
		if in.put(f, c.set) {
			return nil
		}
		c.stalled.Store(true)
		began := time.Now()
		var patience <-chan time.Time
		ended := c.ended
		if c.Err() != nil {
			ended, patience = nil, time.After(lingering)
		}
		select {
		case <-in.room:
		case <-ended:
		case <-patience:
			in.drop()
		case <-c.gone:
			return net.ErrClosed
		}
		c.heldUp += time.Since(began)
		c.heard.Store(c.since())
		c.stalled.Store(false)
	}
}

// put reports whether there was room, or nobody will ever want the frame.
func (in *inbox) put(f frame.Frame, set settings) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.dropping {
		return true
	}
	size := int64(len(f.Payload))
	if n := len(in.frames); n >= set.queue || n > 0 && in.bytes+size > set.limit {
		return false
	}
	in.frames = append(in.frames, inFrame{MessageType(f.Opcode), f.Fin, bytes.Clone(f.Payload)})
	in.bytes += size
	signal(in.arrived)
	return true
}

func (in *inbox) drop() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.dropping = true
}

// finishReading says what comes after the last frame, and makes it the
// connection's end, unless it has one: when a reader comes to it, who can answer
// all that was before until then, but not later than lingering; where nobody
// reads, at once.
func (c *Conn) finishReading(end *CloseError) {
	c.in.mu.Lock()
	c.in.end = end
	read := c.in.used || len(c.in.frames) > 0
	c.in.mu.Unlock()
	signal(c.in.arrived)
	if read {
		patience := time.NewTimer(lingering)
		defer patience.Stop()
		select {
		case <-c.ended: // by the reader, or before
		case <-patience.C:
		}
	}
	c.setEnd(end)
}

// take returns the next frame. Whoever calls it holds the read turn.
func (c *Conn) take(ctx context.Context) (inFrame, error) {
	in := &c.in
	for {
		in.mu.Lock()
		in.used = true
		if len(in.frames) > 0 {
			f := in.frames[0]
			in.frames[0] = inFrame{}
			if in.frames = in.frames[1:]; len(in.frames) == 0 {
				in.frames = nil
			}
			in.bytes -= int64(len(f.payload))
			in.mu.Unlock()
			signal(in.room)
			return f, nil
		}
		end := in.end
		in.mu.Unlock()
		if end != nil {
			c.setEnd(end)
			return inFrame{}, c.Err()
		}
		select {
		case <-in.arrived:
		case <-ctx.Done():
			return inFrame{}, ctx.Err()
		}
	}
}
