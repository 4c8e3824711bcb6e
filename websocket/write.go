package websocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"unicode/utf8"

	"fanfare/internal/deflate"
	"fanfare/internal/frame"
	"fanfare/internal/netend"
)

// Write sends one message and returns when the network has taken it. p may be
// used again at once. Messages of concurrent calls go out whole, one after
// another. When ctx ends first, either nothing was sent, or the message is
// completed in the background before any other and may still arrive. Text that is
// not UTF-8 is refused and nothing is sent. When the connection has ended, the
// error is a [*CloseError].
func (c *Conn) Write(ctx context.Context, kind MessageType, p []byte) error {
	if err := checkKind(kind); err != nil {
		return err
	}
	if kind == Text && !utf8.Valid(p) {
		return errors.New("websocket: a text message must be UTF-8; send these bytes as Binary")
	}
	if c.pack.packs(len(p)) {
		return c.writePacked(ctx, kind, p)
	}
	f := c.dataFrame(frame.Opcode(kind), true, false, p)
	if err := c.takeMessageTurn(ctx); err != nil {
		return err
	}
	c.out.add(f)
	c.releaseMessageTurn() // what is queued goes out in order, so the next one may queue up and share a system call
	return c.await(ctx, f)
}

// writePacked is Write, of a message that goes out compressed.
func (c *Conn) writePacked(ctx context.Context, kind MessageType, p []byte) error {
	var packed []byte
	window := c.pack.out
	if window == nil { // others may do the same meanwhile
		packed = deflate.Append(make([]byte, 0, len(p)/2+64), p, c.pack.bits, nil)
	}
	if err := c.takeMessageTurn(ctx); err != nil {
		return err
	}
	if window != nil {
		packed = deflate.Append(make([]byte, 0, len(p)/2+64), p, c.pack.bits, window)
	}
	var f *outFrame
	if window == nil && (len(packed) >= len(p) || !deflate.Bears(len(p), len(packed))) {
		f = c.dataFrame(frame.Opcode(kind), true, false, p)
	} else {
		f = c.dataFrame(frame.Opcode(kind), true, true, packed)
		f.kept = window != nil
	}
	c.out.add(f)
	c.releaseMessageTurn()
	return c.await(ctx, f)
}

// Writer begins a message that is sent piece by piece: each Write to it goes
// out as a fragment of its own, and Close ends the message. Until then all
// other messages wait, while pings and their answers go between the pieces. ctx
// is that of the waiting here, in each Write and in Close.
//
// A message begun cannot be taken back: Close ends it with what was written,
// also after ctx has ended; then it does not wait for the network, and returns
// ctx's error. To leave a message unfinished, close the connection.
func (c *Conn) Writer(ctx context.Context, kind MessageType) (io.WriteCloser, error) {
	if err := checkKind(kind); err != nil {
		return nil, err
	}
	if err := c.takeMessageTurn(ctx); err != nil {
		return nil, err
	}
	return &messageWriter{c: c, ctx: ctx, kind: kind, next: frame.Opcode(kind)}, nil
}

func checkKind(kind MessageType) error {
	if kind != Text && kind != Binary {
		return fmt.Errorf("websocket: a message is Text (1) or Binary (2), not %d", byte(kind))
	}
	return nil
}

func (c *Conn) takeMessageTurn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-c.ended:
		return c.Err()
	default:
	}
	select {
	case c.messageTurn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ended:
		return c.Err()
	}
}

func (c *Conn) releaseMessageTurn() { <-c.messageTurn }

// await returns when the frame is written, cannot be, or need not be waited for.
func (c *Conn) await(ctx context.Context, f *outFrame) error {
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		if !f.kept {
			c.out.cancel(f)
		}
		return ctx.Err()
	}
}

// messageWriter is what Writer returns. It holds the message turn until closed.
type messageWriter struct {
	// static
	c    *Conn
	ctx  context.Context
	kind MessageType

	mu     sync.Mutex   // guards the following; held while a fragment is written
	next   frame.Opcode // Continuation after the first fragment
	text   frame.UTF8
	packer *deflate.Writer // nil: the message goes out as it is
	closed bool
}

func (w *messageWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return 0, errors.New("websocket: the message was ended by Close")
	case len(p) == 0:
		return 0, nil
	}
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	if w.kind == Text && !w.text.Write(p) {
		return 0, w.spoil()
	}
	first, out := w.next != frame.Continuation, p
	if first && w.c.pack.packs(len(p)) {
		w.packer = deflate.NewWriter(w.c.pack.bits, w.c.pack.out)
	}
	if w.packer != nil {
		out = w.packer.Append(make([]byte, 0, len(p)/2+64), p)
	}
	f := w.c.dataFrame(w.next, false, first && w.packer != nil, out)
	w.next = frame.Continuation
	w.c.out.add(f)
	// The fragment is part of the message now: it is never taken back, only not waited for.
	select {
	case <-f.done:
		if f.err != nil {
			return 0, f.err
		}
		return len(p), nil
	case <-w.ctx.Done():
		return len(p), w.ctx.Err()
	}
}

func (w *messageWriter) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	defer w.c.releaseMessageTurn()
	if w.packer != nil {
		w.packer.Close()
	}
	if w.kind == Text && !w.text.Done() {
		return w.spoil()
	}
	f := w.c.dataFrame(w.next, true, false, nil)
	w.c.out.add(f)
	select { // as for fragments
	case <-f.done:
		return f.err
	case <-w.ctx.Done():
		return w.ctx.Err()
	}
}

// spoil gives up on a message under way whose text is not UTF-8. There is no
// way to take back what went out, and the peer would end the connection for it.
func (w *messageWriter) spoil() error {
	err := &CloseError{Code: InvalidPayload, Reason: "the text being written is not UTF-8", Local: true, cause: errNotText}
	if w.c.setEnd(err) {
		w.c.boundEnd()
		w.c.queueClose(err.Code, err.Reason, true)
	}
	return err
}

var errNotText = errors.New("text that is not UTF-8")

// An outFrame is one frame on its way out, its bytes ready for the wire.
//
// Whoever made it owns it until it is queued; then the outbox's lock guards it,
// until flush takes it out; then it is flush's. Whoever closes done has set err
// and at before, and from then on nobody changes anything.
type outFrame struct {
	bytes []byte        // of a close frame: nil once it is taken
	kept  bool          // static: it must go out, because those behind it refer to it
	done  chan struct{} // static; closed when it was written, or never will be
	err   error         // why not; valid after done
	at    int64         // when its writing began; valid after done
}

// dataFrame encodes a frame. It copies p, which the caller may change before
// the bytes have gone out. packed says that p begins a compressed message.
func (c *Conn) dataFrame(op frame.Opcode, fin, packed bool, p []byte) *outFrame {
	h := frame.Header{Opcode: op, Fin: fin, Rsv1: packed, Masked: c.client, Length: int64(len(p))}
	if c.client {
		h.Key = c.masks.next()
	}
	b := append(frame.AppendHeader(make([]byte, 0, frame.MaxHeader+len(p)), h), p...)
	if c.client {
		frame.Mask(b[len(b)-len(p):], h.Key, 0)
	}
	return &outFrame{bytes: b, done: make(chan struct{})}
}

// appendControl encodes a control frame.
func (c *Conn) appendControl(b []byte, op frame.Opcode, p []byte) []byte {
	if c.client {
		return frame.AppendMasked(b, op, true, c.masks.next(), p)
	}
	return frame.Append(b, op, p)
}

// outbox is what waits to be written. The goroutine flush is there while it is not empty.
type outbox struct {
	conn *Conn      // static
	idle *sync.Cond // static; signalled when flush ends

	sync.Mutex      // guards the following
	running    bool // flush is there

	// pongs are payloads of pings not answered yet, at most mostPongs of them and
	// then the newest: RFC 6455, section 5.5.3, permits to leave out the others,
	// and a peer that asks without ever reading could otherwise fill our memory.
	pongs   [][]byte
	control []*outFrame // our pings
	data    []*outFrame
	closing *outFrame // the close frame; nothing is queued after it
	err     error     // no more writing, and why
}

// add queues a data frame behind the others.
func (o *outbox) add(f *outFrame) { o.queue(&o.data, f) }

// addControl queues a control frame ahead of all data.
func (o *outbox) addControl(f *outFrame) { o.queue(&o.control, f) }

func (o *outbox) queue(to *[]*outFrame, f *outFrame) {
	o.Lock()
	defer o.Unlock()
	if err := o.refusal(); err != nil {
		f.err = err
		close(f.done)
		return
	}
	*to = append(*to, f)
	o.kick()
}

func (o *outbox) refusal() error {
	if o.closing != nil {
		return o.conn.Err()
	}
	return o.err
}

// kick starts flush where there is none. The lock is held.
func (o *outbox) kick() {
	if !o.running {
		o.running = true
		go o.conn.flush()
	}
}

// cancel takes back a frame that flush has not taken yet.
func (o *outbox) cancel(f *outFrame) {
	o.Lock()
	defer o.Unlock()
	for _, queue := range []*[]*outFrame{&o.data, &o.control} {
		for i, other := range *queue {
			if other == f {
				*queue = append((*queue)[:i:i], (*queue)[i+1:]...)
				return
			}
		}
	}
}

// mostPongs is far more than an honest peer has under way.
const mostPongs = 64

// answer queues a pong with the payload. It never waits.
func (c *Conn) answer(payload []byte) {
	o := &c.out
	o.Lock()
	defer o.Unlock()
	if o.refusal() != nil {
		return
	}
	if len(o.pongs) == mostPongs {
		o.pongs = append(o.pongs[:0], o.pongs[1:]...)
	}
	o.pongs = append(o.pongs, bytes.Clone(payload))
	o.kick()
}

// queueClose queues the close frame behind the data that waits, or instead of
// it, and returns it; if there is one already, that.
func (c *Conn) queueClose(code Code, reason string, now bool) *outFrame {
	o := &c.out
	o.Lock()
	defer o.Unlock()
	if now {
		o.failAll(&o.data, c.Err())
	}
	if o.closing != nil {
		return o.closing
	}
	f := &outFrame{done: make(chan struct{})}
	f.bytes = c.appendControl(nil, frame.Close, frame.AppendClose(nil, code, reason))
	o.closing = f
	if o.err != nil {
		f.bytes, f.err = nil, o.err
		close(f.done)
		return f
	}
	o.kick()
	return f
}

func (o *outbox) failAll(queue *[]*outFrame, err error) {
	for _, f := range *queue {
		f.err = err
		close(f.done)
	}
	*queue = nil
}

// fail ends all writing.
func (o *outbox) fail(err error) {
	o.Lock()
	defer o.Unlock()
	if o.err == nil {
		o.err = err
	}
	o.failAll(&o.data, err)
	o.failAll(&o.control, err)
	if f := o.closing; f != nil && f.bytes != nil { // else flush has it
		f.bytes, f.err = nil, err
		close(f.done)
	}
}

// shut ends all writing and returns when flush is gone. The socket is closed by now.
func (o *outbox) shut(err error) {
	o.fail(err)
	o.Lock()
	defer o.Unlock()
	for o.running {
		o.idle.Wait()
	}
}

// joined is how much is written at once when several frames wait.
const joined = 64 << 10

// take returns what to write next: control frames, then data as much as fits (a
// big frame goes alone, uncopied), then the close frame. Nothing means that flush
// is over.
func (o *outbox) take(scratch []byte) (frames []*outFrame, b []byte) {
	o.Lock()
	defer o.Unlock()
	b = scratch[:0]
	if o.err == nil {
		for _, payload := range o.pongs {
			b = o.conn.appendControl(b, frame.Pong, payload)
		}
		o.pongs = nil
		for _, f := range o.control {
			b = append(b, f.bytes...)
		}
		frames, o.control = o.control, nil
		n := 0
		for ; n < len(o.data); n++ {
			f := o.data[n]
			if len(b) == 0 && n == 0 && len(f.bytes) >= joined/4 {
				b = f.bytes
				n = 1
				break
			}
			if len(b)+len(f.bytes) > joined {
				break
			}
			b = append(b, f.bytes...)
		}
		frames = append(frames, o.data[:n]...)
		if o.data = o.data[n:]; len(o.data) == 0 {
			o.data = nil
			if f := o.closing; f != nil && f.bytes != nil && len(b) < joined {
				b = append(b, f.bytes...)
				f.bytes = nil // it goes out once
				frames = append(frames, f)
			}
		}
	}
	if len(b) == 0 {
		o.running = false
		o.idle.Broadcast()
	}
	return frames, b
}

// flush writes until there is nothing left to write.
func (c *Conn) flush() {
	var scratch []byte
	for {
		frames, b := c.out.take(scratch)
		if len(b) == 0 {
			return
		}
		if cap(b) > cap(scratch) && len(b) <= joined {
			scratch = b
		}
		now := c.since() // before, because an answer may be here before writeAll returns
		err := c.writeAll(b)
		if err != nil {
			err = c.unwritten(err)
		}
		for _, f := range frames {
			f.err, f.at = err, now
			close(f.done)
		}
		if err != nil {
			c.out.fail(err)
		}
	}
}

// unwritten decides what a failed write means. No progress means that the peer
// is dead. Anything else the reader will find out about too, and perhaps
// better: the peer's close frame may still lie unread before the reset.
func (c *Conn) unwritten(err error) error {
	if errors.Is(err, netend.ErrStuck) {
		c.setEnd(&CloseError{Code: Abnormal, Local: true, cause: err,
			Reason: fmt.Sprintf("the peer took no byte for %v", c.set.writeTimeout)})
		c.abort()
		return c.Err()
	}
	c.boundEnd()
	if ended := c.Err(); ended != nil {
		return ended
	}
	return &CloseError{Code: Abnormal, Reason: err.Error(), cause: err}
}

// writeAll writes b. Every byte of progress renews the write timeout.
func (c *Conn) writeAll(b []byte) error {
	_, err := netend.Write(c.conn, b, c.set.writeTimeout, c.conn.SetWriteDeadline)
	return err
}
