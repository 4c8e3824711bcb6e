package frame

import (
	"testing"
	"unicode/utf8"
)

// Every character that Unicode has is accepted, byte by byte, and torn at no
// other place than its end (RFC 3629, section 3).
func TestUTF8EveryCharacter(t *testing.T) {
	var b [4]byte
	for r := range rune(0x110000) {
		if r >= 0xD800 && r <= 0xDFFF {
			continue // surrogates, which UTF-8 does not encode
		}
		n := utf8.EncodeRune(b[:], r)
		var whole, torn UTF8
		if !whole.Write(b[:n]) || !whole.Done() {
			t.Fatalf("%U is refused", r)
		}
		for i := range n {
			if !torn.Write(b[i:i+1]) || torn.Done() != (i == n-1) {
				t.Fatalf("%U, byte %d: done %v", r, i, torn.Done())
			}
		}
	}
}

// Every sequence of two bytes, and every one that goes on from there with bytes
// at the edges of the table, is accepted exactly when it is valid, in every
// cut (RFC 3629, section 4).
func TestUTF8EverySequence(t *testing.T) {
	check := func(b []byte) {
		valid, may := utf8.Valid(b), false
		if may, _ = modelUTF8(b); valid && !may {
			t.Fatalf("% x: the model is wrong", b)
		}
		for cut := range len(b) {
			var u UTF8
			ok := u.Write(b[:cut]) && u.Write(b[cut:])
			if ok != may || ok && u.Done() != valid {
				t.Fatalf("% x cut at %d: ok %v, want %v; done %v, valid %v", b, cut, ok, may, u.Done(), valid)
			}
		}
	}
	edges := []byte{0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xE0, 0xF0, 0xFF}
	for a := range 256 {
		check([]byte{byte(a)})
		for b := range 256 {
			check([]byte{byte(a), byte(b)})
			for _, c := range edges {
				check([]byte{byte(a), byte(b), c})
				if a < 0xE0 {
					continue
				}
				for _, d := range edges {
					check([]byte{byte(a), byte(b), c, d})
				}
			}
		}
	}
}

// A character torn at a piece's end does not hide what is wrong before it.
func TestUTF8WrongBeforeTornEnd(t *testing.T) {
	for _, s := range []string{"a\xFFb\xF0\x9F", "\xC3\xC3", "\xE2\x82\xE2\x82", "\xF0\x9F\x98\xF0", "aaaaaaaa\x80\xE2"} {
		var u UTF8
		if u.Write([]byte(s)) {
			t.Errorf("%q is not refused", s)
		}
	}
}
