package terminal

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestPrintable(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "hello, world", "hello, world"},
		{"Chinese and emoji", "你好 👩‍👩‍👧 ❤️ 🇨🇭", "你好 👩‍👩‍👧 ❤️ 🇨🇭"},
		{"clear screen", "\x1b[2Jgone", "␛[2Jgone"},
		{"window title", "\x1b]0;owned\a", "␛]0;owned␇"},
		{"C1 CSI", "a\u009b31mb", "a‹U+009B›31mb"},
		{"raw C1 byte", "a\x9b31mb", "a\uFFFD31mb"},
		{"carriage return and line feed", "a\r\nb", "a␍␊b"},
		{"backspaces", "safe\b\b\b\bevil", "safe␈␈␈␈evil"},
		{"delete", "a\x7fb", "a␡b"},
		{"right to left override", "txt.\u202Eexe", "txt.‹U+202E›exe"},
		{"isolate", "\u2067x\u2069", "‹U+2067›x‹U+2069›"},
		{"line separator", "a\u2028b", "a‹U+2028›b"},
		{"tab", "a\tb", "a    b"},
		{"nothing", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Printable(c.in); got != c.want {
				t.Errorf("Printable(%q) = %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func TestPrintableLetsNothingThrough(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) + rapid.String().Draw(t, "text")
		out := Printable(in)
		if !utf8.ValidString(out) {
			t.Fatalf("Printable(%q) = %q, which is not UTF-8", in, out)
		}
		for _, r := range out {
			if unicode.IsControl(r) || drives(r) {
				t.Fatalf("Printable(%q) = %q, which has %U", in, out, r)
			}
		}
		if again := Printable(out); again != out {
			t.Fatalf("Printable changes its own output %q to %q", out, again)
		}
	})
}

func TestPrintableCopiesNothingHarmless(t *testing.T) {
	s := strings.Repeat("harmless 你好 ", 100)
	if n := testing.AllocsPerRun(100, func() { Printable(s) }); n != 0 {
		t.Errorf("%v allocations for a string that needs no change", n)
	}
}
