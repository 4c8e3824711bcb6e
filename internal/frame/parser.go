package frame

import (
	"encoding/binary"
	"fmt"
)

// Rules are what a [Parser] holds the peer to. They are static and shared by
// all connections of a kind.
type Rules struct {
	// Masked says that the peer is a client, whose frames must be masked;
	// a server's must not be (RFC 6455, section 5.1).
	Masked bool
	// Limit is the largest message in bytes, its fragments together. Zero
	// means no message may have a payload; there is no "unlimited", because
	// whoever sets none is the one who runs out of memory.
	Limit int64
	// Compressed permits RSV1 on the first frame of a message (RFC 7692,
	// section 6). UTF-8 of such a message is not checked here, and its frames may
	// have a little more than Limit: what does not get smaller gets larger. That it
	// has no more than Limit once it is inflated is for whoever inflates it.
	Compressed bool
}

// most is how many bytes the frames of a message may have together.
func (r *Rules) most(compressed bool) int64 {
	if compressed {
		return r.Limit + r.Limit>>8 + 64
	}
	return r.Limit
}

// fragmentCost is what one frame of a message weighs, in bytes. All frames of
// one message together may weigh Limit, whatever they carry, so that a flood of
// empty fragments ends too (at the 16,384th for 1 MiB), while a large limit
// permits many small fragments.
const fragmentCost = 64

// minFragments is what a message may always have, however small the limit.
const minFragments = 128

// A Frame is one whole frame, unmasked.
type Frame struct {
	// Opcode of a continuation is that of its message, Text or Binary; see First.
	Opcode Opcode
	First  bool // the first frame of a message; always true for control frames
	Fin    bool // the last frame of a message; always true for control frames
	Rsv1   bool // the message is compressed; set on its first frame
	// Payload is valid until the handler returns. Its capacity ends where it
	// ends, so that appending to it does not write into the next frame. Text
	// has been checked as UTF-8, up to a character that the cut between two
	// fragments may tear.
	Payload []byte
}

// A Handler is called by [Parser.Push], once for each frame, in order.
// An error stops the parser for good and is what Push returns.
type Handler interface {
	Frame(Frame) error
}

// Parser takes a connection's bytes in any cut and calls back for each frame.
// The zero value is ready. It is not safe for concurrent use.
//
// When a push holds whole frames, their payloads are slices of it and nothing
// is copied or allocated; only a frame torn by the end of a push is kept. A
// parser that is [Parser.Idle] holds nothing and may be dropped for a new one.
type Parser struct {
	err error // the breach that ended the parsing

	header [MaxHeader]byte // of the frame under way
	have   uint8           // bytes of header so far
	inside bool            // the header is complete, the payload is not
	frame  Header          // what header says, once inside
	got    int64           // bytes of payload so far
	torn   []byte          // those bytes, when a push ended within the payload

	message    Opcode // kind of the message under way; 0: none
	compressed bool   // it came with RSV1
	size       int64  // its bytes, as announced by the headers so far
	fragments  int64  // its frames so far
	text       UTF8
}

// Idle reports whether the parser stands between two messages and holds nothing.
func (p *Parser) Idle() bool {
	return p.err == nil && p.have == 0 && !p.inside && p.message == 0
}

// Held returns the bytes of payload that the parser keeps for the frame under way.
func (p *Parser) Held() int { return cap(p.torn) }

// Push takes the next bytes of the connection, in any cut. It changes b. It
// returns the first error: a breach of the protocol as [*Error], whose code is
// the one to close with, or the handler's own. From then on every Push
// returns that error and calls nobody.
func (p *Parser) Push(b []byte, rules *Rules, h Handler) error {
	if p.err != nil {
		return p.err
	}
	for len(b) > 0 {
		if !p.inside {
			n, err := p.takeHeader(b, rules)
			if err != nil {
				return p.fail(err)
			}
			b = b[n:]
			if !p.inside {
				return nil
			}
		}
		n := min(int64(len(b)), p.frame.Length-p.got)
		done, err := p.takePayload(b[:n:n], h)
		if err != nil {
			return p.fail(err)
		}
		b = b[n:]
		if !done {
			return nil
		}
	}
	return nil
}

func (p *Parser) fail(err error) error {
	*p = Parser{err: err}
	return err
}

// takeHeader takes header bytes from b and returns how many. It checks each
// part as soon as it is there, so that a peer that stops within a bad header
// is answered all the same.
func (p *Parser) takeHeader(b []byte, rules *Rules) (int, error) {
	taken := 0
	for {
		want := 2
		if p.have >= 2 {
			want = headerLength(p.header[1])
		}
		n := copy(p.header[p.have:want], b[taken:])
		p.have += uint8(n)
		taken += n
		if int(p.have) < 2 {
			return taken, nil
		}
		if want == 2 {
			if err := p.checkFlags(rules); err != nil {
				return taken, err
			}
			if want = headerLength(p.header[1]); want > 2 {
				continue
			}
		}
		keyless := want
		if p.header[1]&maskBit != 0 {
			keyless -= 4
		}
		if int(p.have) < keyless {
			return taken, nil
		}
		length, err := p.checkLength(rules)
		if err != nil {
			return taken, err
		}
		if int(p.have) < want {
			return taken, nil
		}
		p.enter(length, keyless)
		return taken, nil
	}
}

// headerLength returns the length of a header whose second byte is b1.
func headerLength(b1 byte) int {
	n := 2
	switch b1 & lenBits {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	if b1&maskBit != 0 {
		n += 4
	}
	return n
}

// checkFlags checks the first two bytes (RFC 6455, sections 5.1, 5.2, 5.4 and 5.5).
func (p *Parser) checkFlags(rules *Rules) error {
	b0, b1 := p.header[0], p.header[1]
	op := Opcode(b0 & opBits)
	fin := b0&finBit != 0
	if !op.known() {
		return &Error{ProtocolError, fmt.Sprintf("opcode 0x%X is reserved", byte(op))}
	}
	if rsv := b0 & rsvBits; rsv != 0 {
		if rsv != rsv1Bit || !rules.Compressed || op.Control() || op == Continuation {
			return &Error{ProtocolError, "a reserved bit is set and no extension gives it a meaning"}
		}
	}
	switch {
	case op.Control():
		if !fin {
			return &Error{ProtocolError, "a control frame must not be fragmented"}
		}
		if b1&lenBits > MaxControl {
			return &Error{ProtocolError, "a control frame carries 125 bytes at most"}
		}
	case op == Continuation:
		if p.message == 0 {
			return &Error{ProtocolError, "a continuation frame without a message to continue"}
		}
	default:
		if p.message != 0 {
			return &Error{ProtocolError, "a new message began before the last one ended"}
		}
	}
	if masked := b1&maskBit != 0; masked != rules.Masked {
		if masked {
			return &Error{ProtocolError, "a server's frames must not be masked"}
		}
		return &Error{ProtocolError, "a client's frames must be masked"}
	}
	return nil
}

// checkLength reads the length, which is all there, and holds it to the limit.
func (p *Parser) checkLength(rules *Rules) (int64, error) {
	length := int64(p.header[1] & lenBits)
	switch length {
	case 126:
		length = int64(binary.BigEndian.Uint16(p.header[2:]))
		if length < 126 {
			return 0, &Error{ProtocolError, "the length is not in its shortest form"}
		}
	case 127:
		u := binary.BigEndian.Uint64(p.header[2:])
		if u>>63 != 0 {
			return 0, &Error{ProtocolError, "a length has 63 bits at most"}
		}
		if u <= 0xFFFF {
			return 0, &Error{ProtocolError, "the length is not in its shortest form"}
		}
		length = int64(u)
	}
	if Opcode(p.header[0] & opBits).Control() {
		return length, nil
	}
	if length > rules.most(p.compressed || p.header[0]&rsv1Bit != 0)-p.size {
		return 0, &Error{MessageTooBig, fmt.Sprintf("a message may have %d bytes", rules.Limit)}
	}
	fragments := p.fragments + 1
	if p.header[0]&finBit == 0 {
		fragments++ // at least one more must follow
	}
	if most := max(minFragments, rules.Limit/fragmentCost); fragments > most {
		return 0, &Error{MessageTooBig, fmt.Sprintf("a message may come in %d fragments", most)}
	}
	return length, nil
}

// enter begins the payload of the frame whose header is complete.
func (p *Parser) enter(length int64, keyless int) {
	b0 := p.header[0]
	p.frame = Header{
		Opcode: Opcode(b0 & opBits),
		Fin:    b0&finBit != 0,
		Rsv1:   b0&rsv1Bit != 0,
		Masked: p.header[1]&maskBit != 0,
		Length: length,
	}
	if p.frame.Masked {
		copy(p.frame.Key[:], p.header[keyless:])
	}
	p.have, p.got, p.inside = 0, 0, true
	if !p.frame.Opcode.Control() {
		if p.frame.Opcode != Continuation {
			p.message, p.compressed = p.frame.Opcode, p.frame.Rsv1
		}
		p.size += length
		p.fragments++
	}
}

// takePayload takes b, which is no longer than what the payload lacks, and
// reports whether the frame is complete and was handed over.
func (p *Parser) takePayload(b []byte, h Handler) (bool, error) {
	f := &p.frame
	if f.Masked {
		Mask(b, f.Key, p.got)
	}
	p.got += int64(len(b))
	whole := p.got == f.Length
	control := f.Opcode.Control()
	if p.message == Text && !control && !p.compressed {
		if !p.text.Write(b) || whole && f.Fin && !p.text.Done() {
			return false, &Error{InvalidPayload, "a text message is not UTF-8"}
		}
	}
	if !whole || p.torn != nil {
		p.keep(b)
		if !whole {
			return false, nil
		}
		b = p.torn
	}
	out := Frame{Opcode: f.Opcode, First: true, Fin: f.Fin, Rsv1: f.Rsv1, Payload: b}
	if !control {
		out.Opcode, out.First = p.message, p.fragments == 1
	}
	p.inside, p.torn = false, nil
	if !control && f.Fin {
		p.message, p.compressed, p.size, p.fragments = 0, false, 0, 0
	}
	return true, h.Frame(out)
}

// keep copies b behind what is there of a torn frame. Room grows with what
// has arrived, never with what the header announced: 14 bytes must not make
// us set aside a megabyte.
func (p *Parser) keep(b []byte) {
	if need := len(p.torn) + len(b); need > cap(p.torn) {
		room := int(min(int64(max(2*cap(p.torn), need, 512)), p.frame.Length))
		p.torn = append(make([]byte, 0, room), p.torn...)
	}
	p.torn = append(p.torn, b...)
}
