// Package deflate is permessage-deflate, RFC 7692: what two ends agree on, and
// messages made smaller and whole again. It knows no sockets.
//
//	client                                  server
//	Sec-WebSocket-Extensions: [Offer]  ──►  [Accept] chooses
//	[Check]                            ◄──  Sec-WebSocket-Extensions: [Params.String]
//
//	message ── [Append] ──► payload with RSV1 ── [Inflate] ──► message
//
// A message is deflated, flushed to a byte's end, and goes out without the four
// bytes 00 00 FF FF that every such flush ends in (section 7.2.1).
//
// What deflates and inflates is borrowed for one message and given back.
// Only where both ends agreed on context takeover there is something to keep from
// one message to the next, and that is a [Window]: the last 32 KiB at most, plain bytes.
package deflate

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/flate"

	"fanfare/internal/frame"
)

// tail is what a flush ends in: an empty block without compression.
const tail = "\x00\x00\xff\xff"

// A Window is the context that one direction of a connection takes over from
// message to message. Make one with [NewWindow]; nil is none.
type Window struct {
	size int
	last []byte // no more than size
}

// NewWindow returns the empty window of 2^bits bytes; 0 bits are 15.
func NewWindow(bits int) *Window { return &Window{size: 1 << orMost(bits)} }

func orMost(bits int) int {
	if bits == 0 {
		return maxBits
	}
	return bits
}

func (w *Window) bytes() []byte {
	if w == nil {
		return nil
	}
	return w.last
}

// slide moves the window behind p.
func (w *Window) slide(p []byte) {
	if w == nil {
		return
	}
	if len(p) >= w.size {
		w.last = append(w.last[:0], p[len(p)-w.size:]...)
		return
	}
	if drop := len(w.last) + len(p) - w.size; drop > 0 {
		w.last = append(w.last[:0], w.last[drop:]...)
	}
	w.last = append(w.last, p...)
}

// A Writer deflates one message, piece by piece.
type Writer struct {
	lender *sync.Pool
	flate  *flate.Writer
	out    sink
	window *Window
	begun  bool // the last flush's tail is owed
}

// sink is what a flate.Writer writes to.
type sink struct{ b []byte }

func (s *sink) Write(p []byte) (int, error) {
	s.b = append(s.b, p...)
	return len(p), nil
}

// The writers to borrow: one kind for the largest window, which is faster, and
// one for each that is smaller.
var writers [maxBits + 1]sync.Pool

// level 1 is a third of the time of 6, for a tenth more bytes of JSON.
const level = 1

// NewWriter begins a message for a peer whose window is 2^bits bytes; 0 bits
// are 15. With a window, w goes on from there, and [Writer.Close] says where it is.
func NewWriter(bits int, w *Window) *Writer { return newWriter(orMost(bits), w) }

func newWriter(bits int, w *Window) *Writer {
	d, _ := writers[bits].Get().(*Writer)
	if d == nil {
		d = &Writer{lender: &writers[bits]}
		if bits == maxBits {
			d.flate, _ = flate.NewWriter(nil, level) // errors are for levels and
		} else {
			d.flate, _ = flate.NewWriterWindow(nil, 1<<bits) // windows that there are not
		}
	}
	d.window, d.begun = w, false
	if dict := w.bytes(); len(dict) > 0 {
		d.flate.ResetDict(&d.out, dict)
	} else {
		d.flate.Reset(&d.out)
	}
	return d
}

// Append deflates the message's next piece behind dst, so that the peer can
// inflate it all.
func (d *Writer) Append(dst, p []byte) []byte {
	if d.begun {
		dst = append(dst, tail...)
	}
	d.begun = true
	d.out.b = dst
	_, _ = d.flate.Write(p) // a sink has no errors
	_ = d.flate.Flush()
	dst, d.out.b = d.out.b[:len(d.out.b)-len(tail)], nil
	d.window.slide(p)
	return dst
}

// Close gives back what was borrowed.
func (d *Writer) Close() {
	if d.window != nil {
		d.flate.ResetDict(nil, nil) // it would keep the window
		d.window = nil
	}
	d.lender.Put(d)
}

// Append deflates a whole message behind dst, for a peer whose window is 2^bits
// bytes; 0 bits are 15. w is nil where there is no context takeover.
func Append(dst, p []byte, bits int, w *Window) []byte {
	bits = orMost(bits)
	if len(w.bytes())+len(p) <= 1<<bits {
		bits = maxBits // no distance can be too long
	}
	d := newWriter(bits, w)
	defer d.Close()
	return d.Append(dst, p)
}

const (
	// freely is what a message may inflate to, whatever it came as. Deflate makes
	// at most 1,032 bytes of one.
	freely = 16 << 20
	// maxRatio is what it may inflate to beyond, as a multiple of what it came as.
	maxRatio = 100
	// maxEnds is in how many parts, each with an end of its own (BFINAL), a
	// message may come. Honest ones have none or one.
	maxEnds = 64
)

// bound is how much a message that came as n bytes may inflate to, whatever the limit.
func bound(n int) int64 { return max(freely, maxRatio*int64(n)) }

// Bears reports whether a peer that bounds ratios as [Inflate] does takes a
// message of n bytes that was deflated to packed.
func Bears(n, packed int) bool { return int64(n) <= bound(packed) }

// reader is what inflates.
type reader struct {
	flate  io.ReadCloser
	in     bytes.Reader
	packed []byte // the payload and what was left out behind it
	out    []byte
}

var readers = sync.Pool{New: func() any {
	r := new(reader)
	r.flate = flate.NewReader(&r.in)
	return r
}}

// Inflate returns the message that came as the payload p; its bytes are the
// caller's. A message of more than limit bytes, or of far more than it came as,
// is not inflated beyond that. w is nil where there is no context takeover. The
// error says what to close with.
func Inflate(p []byte, limit int64, w *Window) ([]byte, *frame.Error) {
	r := readers.Get().(*reader)
	defer readers.Put(r)
	// An empty block with an end behind it, so that the end is seen.
	r.packed = append(append(r.packed[:0], p...), tail+"\x01"+tail...)
	r.in.Reset(r.packed)
	r.out = r.out[:0]
	most := min(limit, bound(len(p)))
	dict := w.bytes()
	for ends := 0; ; ends++ {
		if err := r.inflate(dict, most); err != nil {
			return nil, err
		}
		switch {
		case int64(len(r.out)) > limit:
			return nil, &frame.Error{Code: frame.MessageTooBig, Reason: fmt.Sprintf("a message may have %d bytes", limit)}
		case int64(len(r.out)) > most:
			return nil, &frame.Error{Code: frame.MessageTooBig, Reason: fmt.Sprintf("a message may inflate to %d times what it came as", maxRatio)}
		case ends > maxEnds:
			return nil, &frame.Error{Code: frame.InvalidPayload, Reason: "a deflated message has too many ends"}
		case r.in.Len() == 0:
			w.slide(r.out)
			return slices.Clone(r.out), nil
		case len(r.out) >= 1<<maxBits: // the end came early: what follows goes on from here
			dict = r.out[len(r.out)-1<<maxBits:]
		default:
			dict = append(slices.Clone(w.bytes()), r.out...)
			dict = dict[max(0, len(dict)-1<<maxBits):]
		}
	}
}

// inflate goes on to the next end, or until there are more than most bytes.
func (r *reader) inflate(dict []byte, most int64) *frame.Error {
	_ = r.flate.(flate.Resetter).Reset(&r.in, dict) // it has no errors
	for {
		if len(r.out) == cap(r.out) {
			r.out = slices.Grow(r.out, int(min(int64(max(4<<10, len(r.out))), most+1-int64(len(r.out)))))
		}
		n, err := r.flate.Read(r.out[len(r.out):min(int64(cap(r.out)), most+1)])
		r.out = r.out[:len(r.out)+n]
		switch {
		case int64(len(r.out)) > most:
			return nil
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return &frame.Error{Code: frame.InvalidPayload, Reason: "a deflated message cannot be inflated"}
		}
	}
}
