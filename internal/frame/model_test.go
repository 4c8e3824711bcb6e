package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"
	"unicode/utf8"
)

// model reads a whole conversation the slow and obvious way, straight from the
// RFC, and is what the parser is compared with. It returns the frames before
// the first breach and the breach's code, or 0.
func model(wire []byte, rules Rules) ([]Frame, Code) {
	var frames []Frame
	var message []byte // of the text or binary message under way
	var kind Opcode    // its kind; 0: none
	var compressed bool
	var count int64
	for {
		if len(wire) < 2 {
			return frames, 0
		}
		b0, b1 := wire[0], wire[1]
		fin, rsv, op := b0&0x80 != 0, b0>>4&7, Opcode(b0&15)
		masked, short := b1&0x80 != 0, int(b1&0x7F)
		control := op == Close || op == Ping || op == Pong
		data := op == Text || op == Binary
		switch {
		case !control && !data && op != Continuation: // 5.2: unknown opcode
			return frames, ProtocolError
		case rsv != 0 && !(rsv == 4 && rules.Compressed && data): // 5.2; RFC 7692, 6
			return frames, ProtocolError
		case control && (!fin || short > 125): // 5.5
			return frames, ProtocolError
		case data && kind != 0, op == Continuation && kind == 0: // 5.4
			return frames, ProtocolError
		case masked != rules.Masked: // 5.1
			return frames, ProtocolError
		}
		at, length := 2, uint64(short)
		switch short {
		case 126:
			if len(wire) < 4 {
				return frames, 0
			}
			at, length = 4, uint64(binary.BigEndian.Uint16(wire[2:]))
			if length < 126 {
				return frames, ProtocolError
			}
		case 127:
			if len(wire) < 10 {
				return frames, 0
			}
			at, length = 10, binary.BigEndian.Uint64(wire[2:])
			if length < 1<<16 || length >= 1<<63 {
				return frames, ProtocolError
			}
		}
		if !control {
			most := rules.Limit
			if rsv == 4 || !data && compressed { // it may have grown
				most += most/256 + 64
			}
			if uint64(len(message))+length > uint64(most) {
				return frames, MessageTooBig
			}
			most = max(minFragments, rules.Limit/fragmentCost)
			if count+1 > most || count+1 == most && !fin {
				return frames, MessageTooBig
			}
		}
		var key [4]byte
		if masked {
			if len(wire) < at+4 {
				return frames, 0
			}
			copy(key[:], wire[at:])
			at += 4
		}
		have := wire[at:min(len(wire), at+int(length))]
		payload := make([]byte, len(have))
		for i := range have {
			payload[i] = have[i]
			if masked {
				payload[i] ^= key[i%4]
			}
		}
		whole := uint64(len(payload)) == length
		if data {
			kind, compressed, message, count = op, rsv == 4, nil, 0
		}
		if !control {
			message = append(message, payload...)
			count++
			if kind == Text && !compressed {
				ok, ended := modelUTF8(message)
				if !ok || whole && fin && !ended {
					return frames, InvalidPayload
				}
			}
		}
		if !whole {
			return frames, 0
		}
		f := Frame{Opcode: op, First: true, Fin: fin, Rsv1: rsv == 4, Payload: payload}
		if !control {
			f.Opcode, f.First = kind, data
			if fin {
				kind, message, count = 0, nil, 0
			}
		}
		frames = append(frames, f)
		wire = wire[at+int(length):]
	}
}

// modelUTF8 reports whether b can be the beginning of valid text, and whether
// it ends on a character's end.
func modelUTF8(b []byte) (ok, ended bool) {
	for utf8.FullRune(b) {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			return false, false
		}
		b = b[n:]
	}
	return true, len(b) == 0
}

// collect keeps a copy of each frame, joins messages, and remembers the most
// bytes that parser and message held together.
type collect struct {
	frames []Frame

	parser  *Parser // may be nil
	message Message
	held    int
	whole   []string // payloads of the messages
}

func (c *collect) Frame(f Frame) error {
	payload := bytes.Clone(f.Payload)
	if !f.Opcode.Control() {
		if b, done := c.message.Add(f); done {
			c.whole = append(c.whole, string(b))
		}
		c.measure(len(f.Payload)) // the frame itself is still in the parser's hand
	}
	f.Payload = payload
	c.frames = append(c.frames, f)
	return nil
}

func (c *collect) measure(extra int) {
	held := c.message.Held() + extra
	if c.parser != nil {
		held += c.parser.Held()
	}
	c.held = max(c.held, held)
}

// pushCut pushes wire in pieces of the given lengths, over and over, and
// returns what came of it. The parser gets a copy of each piece.
func pushCut(wire []byte, rules Rules, cuts []byte) (*collect, *Parser, error) {
	p := new(Parser)
	c := &collect{parser: p}
	for i := 0; len(wire) > 0; i++ {
		n := len(wire)
		if len(cuts) > 0 {
			n = min(n, int(cuts[i%len(cuts)])+1)
		}
		if err := p.Push(bytes.Clone(wire[:n]), &rules, c); err != nil {
			return c, p, err
		}
		c.measure(0)
		wire = wire[n:]
	}
	return c, p, nil
}

// codeOf returns the close code of a breach, and 0 for nil.
func codeOf(t testing.TB, err error) Code {
	t.Helper()
	if err == nil {
		return 0
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Fatalf("%v is no *Error", err)
	}
	return e.Code
}

func sameFrames(a, b []Frame) error {
	for i := range min(len(a), len(b)) {
		x, y := a[i], b[i]
		if x.Opcode != y.Opcode || x.First != y.First || x.Fin != y.Fin || x.Rsv1 != y.Rsv1 || !bytes.Equal(x.Payload, y.Payload) {
			return fmt.Errorf("frame %d: %s and %s", i, describe(x), describe(y))
		}
	}
	if len(a) != len(b) {
		return fmt.Errorf("%d frames and %d frames", len(a), len(b))
	}
	return nil
}

func describe(f Frame) string {
	return fmt.Sprintf("{%s first=%v fin=%v rsv1=%v %d bytes %.40q}", f.Opcode, f.First, f.Fin, f.Rsv1, len(f.Payload), f.Payload)
}
