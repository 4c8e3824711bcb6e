package frame

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// The frames that RFC 6455 prints in section 5.7.
func TestExamplesOfTheRFC(t *testing.T) {
	for _, tt := range []struct {
		name string
		wire string
		got  []byte
	}{
		{"unmasked text", "810548656c6c6f", Append(nil, Text, []byte("Hello"))},
		{"masked text", "818537fa213d7f9f4d5158", AppendMasked(nil, Text, true, testKey, []byte("Hello"))},
		{"first fragment", "010348656c", append(AppendHeader(nil, Header{Opcode: Text, Length: 3}), "Hel"...)},
		{"last fragment", "80026c6f", Append(nil, Continuation, []byte("lo"))},
		{"unmasked ping", "890548656c6c6f", Append(nil, Ping, []byte("Hello"))},
		{"masked pong", "8a8537fa213d7f9f4d5158", AppendMasked(nil, Pong, true, testKey, []byte("Hello"))},
		{"256 bytes", "827e0100", Append(nil, Binary, make([]byte, 256))[:4]},
		{"64 KiB", "827f0000000000010000", Append(nil, Binary, make([]byte, 65536))[:10]},
		{"RFC 7692, 7.2.3.1 compressed", "c107", AppendHeader(nil, Header{Opcode: Text, Fin: true, Rsv1: true, Length: 7})},
	} {
		if got := hex.EncodeToString(tt.got); got != tt.wire {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.wire)
		}
	}
}

// AppendMasked leaves the caller's payload as it is.
func TestAppendMaskedKeepsPayload(t *testing.T) {
	payload := []byte("Hello")
	AppendMasked(make([]byte, 0, 100), Text, true, testKey, payload)
	if string(payload) != "Hello" {
		t.Errorf("the payload became %q", payload)
	}
}

// Every length around the word sizes, from every position and alignment, is
// XOR byte by byte, and nothing beside the slice is touched.
func TestMaskEveryLength(t *testing.T) {
	buf := make([]byte, 160)
	for n := range 130 {
		for pos := range int64(5) {
			for align := range 9 {
				for i := range buf {
					buf[i] = byte(i * 31)
				}
				Mask(buf[align:align+n], testKey, pos)
				for i := range buf {
					want := byte(i * 31)
					if i >= align && i < align+n {
						want ^= testKey[(int64(i-align)+pos)%4]
					}
					if buf[i] != want {
						t.Fatalf("length %d, position %d, alignment %d: byte %d is wrong", n, pos, align, i-align)
					}
				}
			}
		}
	}
}

type ignore struct{ frames, bytes int }

func (i *ignore) Frame(f Frame) error {
	i.frames++
	i.bytes += len(f.Payload)
	return nil
}

// Nothing is allocated for whole frames pushed, for headers and frames
// appended into room, for masking and for checking text.
func TestNoAllocations(t *testing.T) {
	whole := join(
		masked(Text, true, "grüße"), masked(Binary, true, string(make([]byte, 300))), masked(Ping, true, "p"),
		masked(Text, false, "a\xC3"), masked(Continuation, true, "\xBC"), masked(Binary, true, string(make([]byte, 70000))))
	scratch := make([]byte, len(whole))
	room := make([]byte, 0, 100000)
	payload := make([]byte, 70000)
	text := bytes.Repeat([]byte("grüße 😀 "), 100)
	var p Parser
	var h ignore
	var m Message
	var u UTF8
	for _, tt := range []struct {
		name string
		f    func()
	}{
		{"Push of whole frames", func() {
			copy(scratch, whole)
			if p.Push(scratch, &fromClient, &h) != nil {
				panic("refused")
			}
		}},
		{"Push of a torn header", func() {
			copy(scratch, whole)
			if p.Push(scratch[:1], &fromClient, &h) != nil || p.Push(scratch[1:5], &fromClient, &h) != nil || p.Push(scratch[5:], &fromClient, &h) != nil {
				panic("refused")
			}
		}},
		{"Message.Add of one frame", func() { m.Add(Frame{Opcode: Text, First: true, Fin: true, Payload: text}) }},
		{"AppendHeader", func() { AppendHeader(room, Header{Opcode: Binary, Fin: true, Masked: true, Length: 1 << 40}) }},
		{"Append", func() { Append(room, Binary, payload) }},
		{"AppendMasked", func() { AppendMasked(room, Binary, true, testKey, payload) }},
		{"AppendClose", func() { AppendClose(room, GoingAway, "the server shuts down") }},
		{"Mask", func() { Mask(payload, testKey, 3) }},
		{"UTF8.Write", func() {
			if !u.Write(text[:len(text)-3]) || !u.Write(text[len(text)-3:]) {
				panic("refused")
			}
		}},
	} {
		if n := testing.AllocsPerRun(50, tt.f); n != 0 {
			t.Errorf("%s allocates %v times", tt.name, n)
		}
	}
	// 51 runs: AllocsPerRun warms up with one.
	if h.frames != 2*51*6 {
		t.Errorf("%d frames were handed over, want %d", h.frames, 2*51*6)
	}
}
