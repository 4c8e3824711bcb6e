package frame

import "unicode/utf8"

// UTF8 checks text that arrives in pieces, cut anywhere, and says so at the
// first byte that cannot belong to it (RFC 6455, section 8.1; RFC 3629,
// section 4). The zero value is ready.
type UTF8 struct {
	need   uint8 // continuation bytes that the character under way still lacks
	lo, hi uint8 // range of the next one; tighter than 80–BF after E0, ED, F0 and F4
}

// Write takes the next piece and reports whether the text can still be valid.
// After false the checker is spent.
func (u *UTF8) Write(b []byte) bool {
	for u.need > 0 {
		if len(b) == 0 {
			return true
		}
		if !u.step(b[0]) {
			return false
		}
		b = b[1:]
	}
	cut := lastStart(b)
	if !utf8.Valid(b[:cut]) {
		return false
	}
	for _, c := range b[cut:] {
		if !u.step(c) {
			return false
		}
	}
	return true
}

// Done reports whether the text ended on a character's end.
func (u *UTF8) Done() bool { return u.need == 0 }

// lastStart returns where the last character of b starts if its end is
// missing, and len(b) otherwise.
func lastStart(b []byte) int {
	for i := len(b) - 1; i >= 0 && i >= len(b)-3; i-- {
		c := b[i]
		switch {
		case c < 0x80:
			return len(b)
		case c < 0xC0:
			continue
		case c >= 0xF0 && len(b)-i < 4, c >= 0xE0 && len(b)-i < 3, len(b)-i < 2:
			return i
		}
		return len(b)
	}
	return len(b)
}

// step takes one byte of a character of two bytes or more, or of ASCII.
func (u *UTF8) step(c byte) bool {
	if u.need > 0 {
		if c < u.lo || c > u.hi {
			return false
		}
		u.need--
		u.lo, u.hi = 0x80, 0xBF
		return true
	}
	u.lo, u.hi = 0x80, 0xBF
	switch {
	case c < 0x80:
	case c < 0xC2:
		return false
	case c < 0xE0:
		u.need = 1
	case c < 0xF0:
		u.need = 2
		switch c {
		case 0xE0:
			u.lo = 0xA0
		case 0xED:
			u.hi = 0x9F
		}
	case c < 0xF5:
		u.need = 3
		switch c {
		case 0xF0:
			u.lo = 0x90
		case 0xF4:
			u.hi = 0x8F
		}
	default:
		return false
	}
	return true
}
