package loadgen

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"fanfare/internal/deflate"
	"fanfare/internal/frame"
)

// A mark: see the package comment.
const (
	markSign = '~' // not a hex digit, so that a mark can begin nowhere inside another
	markHead = 1 + 8
	markTail = 8 + 12
	// MinSize is the smallest message: one with nothing but its mark.
	MinSize = markHead + markTail
)

type markPrefix [markHead]byte

func newPrefix(run uint32) *markPrefix {
	p := markPrefix{0: markSign}
	putHex(p[1:], uint64(run))
	return &p
}

// appendMark appends the mark of a message; intended is in ns.
func appendMark(dst []byte, p *markPrefix, number uint32, intended int64) []byte {
	var tail [markTail]byte
	putHex(tail[:8], uint64(number))
	putHex(tail[8:], uint64(intended))
	return append(append(dst, p[:]...), tail[:]...)
}

// putHex fills b with the lowest digits of v.
func putHex(b []byte, v uint64) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = "0123456789abcdef"[v&15]
		v >>= 4
	}
}

// hex reads what putHex wrote.
func hex(b []byte) (v uint64, ok bool) {
	for _, d := range b {
		switch {
		case '0' <= d && d <= '9':
			v = v<<4 | uint64(d-'0')
		case 'a' <= d && d <= 'f':
			v = v<<4 | uint64(d-'a'+10)
		default:
			return 0, false
		}
	}
	return v, true
}

// A scanner takes what a server sends, in any cut, and finds the marks. It
// keeps no payload, but of compressed messages, and allocates nothing. It is not [frame.Parser], which holds
// a server to the letter of RFC 6455 and for that keeps what was torn: that
// would be most messages here where they are large, for every connection. So
// it checks only what would make it misread the rest.
type scanner struct {
	header [10]byte
	have   uint8 // bytes of header
	op     frame.Opcode
	fin    bool
	left   uint64 // of the payload
	inside bool   // in a payload
	packs  bool   // frames may be compressed
	packed bool   // the message under way is
	whole  []byte // of it, what came

	// The message under way, which may have several frames.
	found uint8 // bytes of the mark
	tail  [markTail]byte

	control [frame.MaxControl]byte
	length  uint8 // of what is in control
}

// A listener is told what a scanner finds.
type listener interface {
	marked(number uint32, intended int64) // a whole message with a mark
	controlled(op frame.Opcode, payload []byte)
}

// scan takes the next bytes. prefix may be nil, and then no message has a mark.
func (s *scanner) scan(b []byte, prefix *markPrefix, l listener) error {
	for len(b) > 0 {
		if !s.inside {
			want := 2
			if s.have >= 2 {
				want = serverHeader(s.header[1])
			}
			n := copy(s.header[s.have:want], b)
			s.have += uint8(n)
			b = b[n:]
			if int(s.have) < want || want == 2 && serverHeader(s.header[1]) > 2 {
				continue
			}
			if err := s.enter(); err != nil {
				return err
			}
		}
		n := min(uint64(len(b)), s.left)
		switch {
		case s.op.Control():
			s.length += uint8(copy(s.control[s.length:], b[:n]))
		case s.packed:
			s.whole = append(s.whole, b[:n]...)
		case prefix != nil && s.found < MinSize:
			s.seek(b[:n], prefix)
		}
		b = b[n:]
		s.left -= n
		if s.left == 0 {
			if s.packed && s.fin && !s.op.Control() {
				text, err := deflate.Inflate(s.whole, mostInflated, nil)
				if err != nil {
					return err
				}
				if prefix != nil {
					s.seek(text, prefix)
				}
			}
			s.leave(l)
		}
	}
	return nil
}

// mostInflated is what a compressed message may have.
const mostInflated = 64 << 20

// serverHeader is the length of a header without a mask, by its second byte.
func serverHeader(b1 byte) int {
	switch b1 & 127 {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// enter begins the payload of the frame whose header is complete.
func (s *scanner) enter() error {
	b0, b1 := s.header[0], s.header[1]
	op := frame.Opcode(b0 & 15)
	switch {
	case b0&0x70 != 0 && !(s.packs && b0&0x70 == 0x40 && (op == frame.Text || op == frame.Binary)):
		return errors.New("it sets a reserved bit though no extension was agreed to")
	case b1&0x80 != 0:
		return errors.New("it masks its frames, as only clients do")
	case op > frame.Binary && op < frame.Close || op > frame.Pong:
		return fmt.Errorf("it sends frames of the reserved opcode %d", op)
	case op.Control() && b1 > frame.MaxControl:
		return errors.New("it sends a control frame of more than 125 bytes")
	}
	switch serverHeader(b1) {
	case 4:
		s.left = uint64(binary.BigEndian.Uint16(s.header[2:]))
	case 10:
		s.left = binary.BigEndian.Uint64(s.header[2:])
	default:
		s.left = uint64(b1)
	}
	s.op, s.fin, s.inside, s.have = op, b0&0x80 != 0, true, 0
	switch {
	case op.Control():
		s.length = 0
	case op != frame.Continuation:
		s.found, s.packed, s.whole = 0, b0&0x40 != 0, s.whole[:0]
	}
	return nil
}

// leave ends a frame.
func (s *scanner) leave(l listener) {
	s.inside = false
	if s.op.Control() {
		l.controlled(s.op, s.control[:s.length])
		return
	}
	if !s.fin || s.found < MinSize {
		return
	}
	number, ok := hex(s.tail[:8])
	intended, ok2 := hex(s.tail[8:])
	if ok && ok2 {
		l.marked(uint32(number), int64(intended))
	}
}

// seek looks for the mark in the next part of a message.
func (s *scanner) seek(b []byte, prefix *markPrefix) {
	for len(b) > 0 && s.found < MinSize {
		switch {
		case s.found == 0:
			i := bytes.IndexByte(b, markSign)
			if i < 0 {
				return
			}
			s.found, b = 1, b[i+1:]
		case s.found < markHead:
			switch b[0] {
			case prefix[s.found]:
				s.found++
			case markSign:
				s.found = 1
			default:
				s.found = 0
			}
			b = b[1:]
		default:
			n := copy(s.tail[s.found-markHead:], b)
			s.found += uint8(n)
			b = b[n:]
		}
	}
}
