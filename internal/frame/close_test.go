package frame

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// Which codes a close frame may carry (RFC 6455, section 7.4; the registry).
func sendable(c int) bool {
	switch c {
	case 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014:
		return true
	}
	return c >= 3000 && c <= 4999
}

// All codes that two bytes can say: what may be sent is read, what must not be
// is a protocol error, and both directions agree.
func TestEveryCloseCode(t *testing.T) {
	for c := range 1 << 16 {
		code := Code(c)
		if code.Sendable() != sendable(c) {
			t.Fatalf("%d: Sendable says %v", c, code.Sendable())
		}
		got, reason, err := ParseClose([]byte{byte(c >> 8), byte(c), 'o', 'k'})
		if sendable(c) {
			if err != nil || got != code || reason != "ok" {
				t.Fatalf("%d: read as %d %q, %v", c, got, reason, err)
			}
		} else if codeOf(t, err) != ProtocolError {
			t.Fatalf("%d: %v", c, err)
		}
		payload := AppendClose(nil, code, "ok")
		got, _, err = ParseClose(payload)
		want := code
		switch {
		case code == NoStatus:
			if len(payload) != 0 {
				t.Fatalf("1005 is written as %x", payload)
			}
		case !sendable(c):
			want = InternalError
		}
		if err != nil || got != want {
			t.Fatalf("%d: written as %d, %v", c, got, err)
		}
		if code.String() == "" {
			t.Fatalf("%d has no words", c)
		}
	}
}

func TestParseClose(t *testing.T) {
	for _, tt := range []struct {
		name, payload string
		code          Code
		reason        string
		breach        Code
	}{
		{"5.5.1 nothing", "", NoStatus, "", 0},
		{"5.5.1 one byte", "\x03", 0, "", ProtocolError},
		{"5.5.1 a code alone", "\x03\xE8", NormalClosure, "", 0},
		{"5.5.1 code and reason", "\x03\xE9bye", GoingAway, "bye", 0},
		{"5.5.1 the longest reason", "\x0F\xA0" + strings.Repeat("é", 61) + "x", 4000, strings.Repeat("é", 61) + "x", 0},
		{"5.5.1 a reason that is not UTF-8", "\x03\xE8\xCE\xBA\xED\xA0\x80", 0, "", InvalidPayload},
		{"5.5.1 a reason that ends within a character", "\x03\xE8gr\xC3", 0, "", InvalidPayload},
		{"7.4.1 code 1005 on the wire", "\x03\xED", 0, "", ProtocolError},
		{"7.4.1 code 1006 on the wire", "\x03\xEE", 0, "", ProtocolError},
		{"7.4.1 code 1015 on the wire", "\x03\xF7", 0, "", ProtocolError},
		{"7.4.2 code 0", "\x00\x00", 0, "", ProtocolError},
	} {
		code, reason, err := ParseClose([]byte(tt.payload))
		if codeOf(t, err) != tt.breach || code != tt.code || reason != tt.reason {
			t.Errorf("%s: %d %q, %v", tt.name, code, reason, err)
		}
	}
}

// A reason is cut at a character's end and never makes the frame too long.
func TestAppendCloseCutsReason(t *testing.T) {
	for _, r := range []string{"x", "é", "€", "😀", "\xFF"} {
		for n := range 130 {
			for pad := range 4 {
				reason := strings.Repeat("p", pad) + strings.Repeat(r, n)
				payload := AppendClose([]byte("kept"), GoingAway, reason)
				if string(payload[:4]) != "kept" {
					t.Fatal("what stood before is changed")
				}
				got := string(payload[6:])
				want := strings.ToValidUTF8(strings.Repeat("p", pad)+strings.Repeat(strings.ToValidUTF8(r, "\uFFFD"), n), "")
				if len(got) > MaxReason || !utf8.ValidString(got) || !strings.HasPrefix(want, got) {
					t.Fatalf("%d × %q: %q", n, r, got)
				}
				if len(got) < len(want) && len(got) < MaxReason-utf8.UTFMax+1 {
					t.Fatalf("%d × %q: cut at %d bytes", n, r, len(got))
				}
			}
		}
	}
}

func TestErrorSaysCodeAndWords(t *testing.T) {
	err := &Error{ProtocolError, "opcode 0x3 is reserved"}
	if got, want := err.Error(), "1002 protocol error: opcode 0x3 is reserved"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
