package terminal

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Printable returns s with everything that could drive a terminal made visible:
// control characters become their pictures (ESC is ␛), C1 controls,
// bidirectional overrides and invisible line breaks their number (‹U+202E›),
// bytes that are not UTF-8 the replacement character. Tabs become spaces.
// Letters, wide characters and emoji stay as they are. What it returns has no
// line break and is safe to print; a string that needs no change comes back as
// it is, without a copy.
func Printable(s string) string {
	i := firstUnprintable(s)
	if i < 0 {
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + 16)
	b.WriteString(s[:i])
	for i < len(s) {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size <= 1:
			b.WriteRune(utf8.RuneError)
		case r == '\t':
			b.WriteString("    ")
		case r < 0x20:
			b.WriteRune(0x2400 + r) // the Control Pictures block: ␀ to ␟
		case r == 0x7F:
			b.WriteRune('␡')
		case drives(r):
			fmt.Fprintf(&b, "‹U+%04X›", r)
		default:
			b.WriteString(s[i : i+size])
		}
		i += size
	}
	return b.String()
}

// firstUnprintable returns where the first character stands that Printable
// changes, or -1.
func firstUnprintable(s string) int {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c < 0x20 || c == 0x7F {
				return i
			}
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && size <= 1 || drives(r) {
			return i
		}
		i += size
	}
	return -1
}

// drives reports whether a character beyond ASCII changes what a terminal does
// with its neighbours.
func drives(r rune) bool {
	switch {
	case r >= 0x80 && r <= 0x9F: // C1 controls; U+009B is a CSI to some terminals
		return true
	case r == 0x2028 || r == 0x2029: // line and paragraph separator
		return true
	case r >= 0x202A && r <= 0x202E, r >= 0x2066 && r <= 0x2069: // bidirectional embeddings, overrides, isolates
		return true
	}
	return false
}
