package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

var testKey = [4]byte{0x37, 0xFA, 0x21, 0x3D}

// fromClient is what servers hold their peers to, with the default limit.
var fromClient = Rules{Masked: true, Limit: 1 << 20}

// long is a header from a client with an 8-byte length, and no payload.
func long(op Opcode, length uint64) []byte {
	b := binary.BigEndian.AppendUint64([]byte{finBit | byte(op), maskBit | 127}, length)
	return append(b, testKey[:]...)
}

// fragments are n frames of a client's message, each with payload; the last
// has FIN when whole.
func fragments(n int, payload []byte, whole bool) []byte {
	var wire []byte
	for i := range n {
		op := Continuation
		if i == 0 {
			op = Binary
		}
		wire = AppendMasked(wire, op, whole && i == n-1, testKey, payload)
	}
	return wire
}

func masked(op Opcode, fin bool, payload string) []byte {
	return AppendMasked(nil, op, fin, testKey, []byte(payload))
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// What the RFC forbids is refused with its code, in whatever cut it comes; the
// frames before it are still handed over.
func TestParserRefuses(t *testing.T) {
	limited := Rules{Masked: true, Limit: 1000}
	fromServer := Rules{Limit: 1 << 20}
	deflate := Rules{Masked: true, Limit: 1 << 20, Compressed: true}
	vast := Rules{Masked: true, Limit: 1<<63 - 1}
	type breach struct {
		name   string
		rules  Rules
		wire   []byte
		code   Code
		frames int // handed over before
	}
	tests := []breach{
		{"5.1 a client's frame is not masked", fromClient, Append(nil, Text, []byte("hi")), ProtocolError, 0},
		{"5.1 a client's ping is not masked", fromClient, join(masked(Text, true, "hi"), Append(nil, Ping, nil)), ProtocolError, 1},
		{"5.1 a server's frame is masked", fromServer, masked(Text, true, "hi"), ProtocolError, 0},
		{"5.1 a server's close is masked", fromServer, masked(Close, true, ""), ProtocolError, 0},
		{"5.2 length of 16 bits for 125", fromClient, []byte{0x82, 0xFE, 0, 125}, ProtocolError, 0},
		{"5.2 length of 16 bits for 0", fromClient, []byte{0x82, 0xFE, 0, 0}, ProtocolError, 0},
		{"5.2 length of 64 bits for 0", fromClient, long(Binary, 0), ProtocolError, 0},
		{"5.2 length of 64 bits for 125", fromClient, long(Binary, 125), ProtocolError, 0},
		{"5.2 length of 64 bits for 65535", fromClient, long(Binary, 0xFFFF), ProtocolError, 0},
		{"5.2 length 2^63", vast, long(Binary, 1<<63), ProtocolError, 0},
		{"5.2 length 2^63+1", vast, long(Binary, 1<<63+1), ProtocolError, 0},
		{"5.2 length 2^64-1", vast, long(Binary, 1<<64-1), ProtocolError, 0},
		{"5.2 length 2^63 in a text", fromClient, long(Text, 1<<63), ProtocolError, 0},
		{"10.4 length 2^63-1 over the limit", fromClient, long(Binary, 1<<63-1), MessageTooBig, 0},
		{"10.4 length 2^62 over the limit", fromClient, long(Binary, 1<<62), MessageTooBig, 0},
		{"10.4 length 2^32 over the limit", fromClient, long(Binary, 1<<32), MessageTooBig, 0},
		{"10.4 length 2^20+1 over the limit", fromClient, long(Binary, 1<<20+1), MessageTooBig, 0},
		{"10.4 one byte over the limit", limited, masked(Binary, true, strings.Repeat("x", 1001)), MessageTooBig, 0},
		{"10.4 one byte over the limit, in two frames", limited, join(masked(Binary, false, strings.Repeat("x", 1000)), masked(Continuation, true, "x")), MessageTooBig, 1},
		{"10.4 lengths that would overflow when added", vast, join(masked(Binary, false, "x"), long(Continuation, 1<<63-1)), MessageTooBig, 1},
		{"10.4 any payload at limit 0", Rules{Masked: true}, masked(Binary, true, "x"), MessageTooBig, 0},
		{"5.4 a continuation and nothing to continue", fromClient, masked(Continuation, true, "x"), ProtocolError, 0},
		{"5.4 an unfinished one and nothing to continue", fromClient, masked(Continuation, false, ""), ProtocolError, 0},
		{"5.4 a continuation after the message's end", fromClient, join(masked(Text, true, "x"), masked(Continuation, true, "y")), ProtocolError, 1},
		{"5.4 a text within a text", fromClient, join(masked(Text, false, "x"), masked(Text, true, "y")), ProtocolError, 1},
		{"5.4 a binary within a text", fromClient, join(masked(Text, false, "x"), masked(Binary, true, "y")), ProtocolError, 1},
		{"5.4 a text within a binary", fromClient, join(masked(Binary, false, "x"), masked(Continuation, false, "y"), masked(Text, false, "z")), ProtocolError, 2},
		{"5.5 a ping of 126 bytes", fromClient, masked(Ping, true, strings.Repeat("x", 126)), ProtocolError, 0},
		{"5.5 a pong of 126 bytes", fromClient, masked(Pong, true, strings.Repeat("x", 126)), ProtocolError, 0},
		{"5.5 a close of 126 bytes", fromClient, masked(Close, true, strings.Repeat("x", 126)), ProtocolError, 0},
		{"5.5 a ping of 65536 bytes", fromClient, long(Ping, 65536), ProtocolError, 0},
		{"5.5 a ping of 2^63 bytes", fromClient, long(Ping, 1<<63), ProtocolError, 0},
		{"5.5 a ping that is fragmented", fromClient, masked(Ping, false, "x"), ProtocolError, 0},
		{"5.5 a pong that is fragmented", fromClient, masked(Pong, false, "x"), ProtocolError, 0},
		{"5.5 a close that is fragmented", fromClient, masked(Close, false, "\x03\xE8"), ProtocolError, 0},
		{"5.4 a ping that is fragmented within a message", fromClient, join(masked(Text, false, "x"), masked(Ping, false, "y")), ProtocolError, 1},
		{"8.1 a text that is not UTF-8", fromClient, masked(Text, true, "\xC0\xAF"), InvalidPayload, 0},
		{"8.1 a text that ends within a character", fromClient, masked(Text, true, "gr\xC3"), InvalidPayload, 0},
		{"8.1 a text whose empty last frame leaves a character torn", fromClient, join(masked(Text, false, "gr\xC3"), masked(Continuation, true, "")), InvalidPayload, 1},
		{"8.1 a text torn by a ping is still one text", fromClient, join(masked(Text, false, "\xE2\x82"), masked(Ping, true, "\xAC"), masked(Continuation, true, "x")), InvalidPayload, 2},
		{"8.1 the second text is checked anew", fromClient, join(masked(Text, true, "\xC3\xBC"), masked(Text, true, "\xBC")), InvalidPayload, 1},
		{"RFC 7692, 6 a ping with RSV1", deflate, []byte{0xC9, 0x80}, ProtocolError, 0},
		{"RFC 7692, 6 a continuation with RSV1", deflate, join([]byte{0x42, 0x80, 0, 0, 0, 0}, []byte{0xC0, 0x80}), ProtocolError, 1},
		{"RFC 7692, 6 RSV1 with RSV2", deflate, []byte{0xE1, 0x80}, ProtocolError, 0},
		{"8.1 a text without RSV1 is checked beside deflate", deflate, masked(Text, true, "\xFF"), InvalidPayload, 0},
		{"10.4 16,384 fragments of a byte", fromClient, fragments(16384, []byte("x"), false), MessageTooBig, 16383},
		{"10.4 16,384 empty fragments", fromClient, fragments(16384, nil, false), MessageTooBig, 16383},
		{"10.4 128 fragments at a small limit", limited, fragments(128, nil, false), MessageTooBig, 127},
	}
	for rsv := byte(1); rsv < 8; rsv++ {
		for _, op := range []Opcode{Continuation, Text, Binary, Close, Ping, Pong} {
			tests = append(tests, breach{fmt.Sprintf("5.2 reserved bits %03b, %s", rsv, op), fromClient, []byte{finBit | rsv<<4 | byte(op), 0x80}, ProtocolError, 0})
		}
	}
	for op := range Opcode(16) {
		if op > 2 && op < 8 || op > 10 {
			tests = append(tests,
				breach{fmt.Sprintf("5.2 opcode 0x%X", byte(op)), fromClient, masked(op, true, ""), ProtocolError, 0},
				breach{fmt.Sprintf("5.2 opcode 0x%X within a message", byte(op)), fromClient, join(masked(Text, false, "x"), masked(op, true, "y")), ProtocolError, 1})
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if _, code := model(tt.wire, tt.rules); code != tt.code {
				t.Errorf("the model says %v, want %v", code, tt.code)
			}
			for _, cuts := range [][]byte{nil, {0}, {1, 0, 4}} {
				got, p, err := pushCut(tt.wire, tt.rules, cuts)
				if code := codeOf(t, err); code != tt.code || len(got.frames) != tt.frames {
					t.Fatalf("cuts %v: %v after %d frames, want %d after %d", cuts, err, len(got.frames), tt.code, tt.frames)
				}
				var e *Error
				if errors.As(err, &e) && (len(e.Reason) > MaxReason || e.Reason == "") {
					t.Errorf("the reason %q does not fit a close frame", e.Reason)
				}
				if p.Idle() || p.Held() != 0 {
					t.Errorf("after the breach: idle %v, %d bytes held", p.Idle(), p.Held())
				}
				if again := p.Push(masked(Ping, true, ""), &tt.rules, got); again != err || len(got.frames) != tt.frames {
					t.Errorf("the next push says %v and hands over %d frames", again, len(got.frames)-tt.frames)
				}
			}
		})
	}
}

// What looks odd and is allowed goes through.
func TestParserAccepts(t *testing.T) {
	limited := Rules{Masked: true, Limit: 1000}
	thousand := strings.Repeat("x", 1000)
	tests := []struct {
		name  string
		rules Rules
		wire  []byte
		want  string // the messages
	}{
		{"5.2 an empty text", fromClient, masked(Text, true, ""), `[""]`},
		{"5.4 three empty frames are an empty message", fromClient, join(masked(Text, false, ""), masked(Continuation, false, ""), masked(Continuation, true, "")), `[""]`},
		{"5.4 controls between fragments", fromClient, join(masked(Text, false, "a"), masked(Ping, true, "p"), masked(Pong, true, ""), masked(Continuation, true, "b")), `["ab"]`},
		{"5.5 a control frame of 125 bytes", fromClient, masked(Ping, true, strings.Repeat("p", 125)), `[]`},
		{"5.5 a control frame at limit 0", Rules{Masked: true}, join(masked(Ping, true, strings.Repeat("p", 125)), masked(Text, true, "")), `[""]`},
		{"5.5 a control frame beside a full message", limited, join(masked(Binary, false, thousand), masked(Ping, true, "p"), masked(Continuation, true, "")), fmt.Sprintf("[%q]", thousand)},
		{"10.4 a message of the limit", limited, masked(Binary, true, thousand), fmt.Sprintf("[%q]", thousand)},
		{"10.4 a message one below the limit", limited, masked(Binary, true, thousand[1:]), fmt.Sprintf("[%q]", thousand[1:])},
		{"10.4 each message has the limit to itself", limited, join(masked(Binary, true, thousand), masked(Text, true, thousand)), fmt.Sprintf("[%q %q]", thousand, thousand)},
		{"10.4 16,384 fragments with an end", fromClient, fragments(16384, []byte("x"), true), fmt.Sprintf("[%q]", strings.Repeat("x", 16384))},
		{"10.4 128 fragments at a small limit", limited, fragments(128, []byte("x"), true), fmt.Sprintf("[%q]", strings.Repeat("x", 128))},
		{"5.6 a binary that is not UTF-8", fromClient, masked(Binary, true, "\xFF\xFE"), `["\xff\xfe"]`},
		{"8.1 a character torn into four frames", fromClient, join(masked(Text, false, "\xF0"), masked(Continuation, false, "\x9F"), masked(Continuation, false, "\x98"), masked(Continuation, true, "\x80")), `["😀"]`},
		{"8.1 a zero byte, a byte order mark and a noncharacter", fromClient, masked(Text, true, "\x00\uFEFF\uFFFF"), `["\x00\ufeff\uffff"]`},
		{"5.1 a server's frames", Rules{Limit: 10}, join(Append(nil, Text, []byte("a")), Append(nil, Binary, []byte("b"))), `["a" "b"]`},
		{"RFC 7692, 6 a compressed text is not checked", Rules{Limit: 10, Compressed: true}, []byte{0xC1, 1, 0xFF}, `["\xff"]`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wantFrames, code := model(tt.wire, tt.rules)
			if code != 0 {
				t.Errorf("the model says %v", code)
			}
			for _, cuts := range [][]byte{nil, {0}, {6, 2}} {
				got, p, err := pushCut(tt.wire, tt.rules, cuts)
				if err != nil {
					t.Fatal(err)
				}
				if have := fmt.Sprintf("%q", got.whole); have != tt.want {
					t.Fatalf("cuts %v: %.200s, want %.200s", cuts, have, tt.want)
				}
				if diff := sameFrames(got.frames, wantFrames); diff != nil {
					t.Fatalf("cuts %v, parser and model differ: %v", cuts, diff)
				}
				if !p.Idle() || p.Held() != 0 {
					t.Errorf("at the end: idle %v, %d bytes held", p.Idle(), p.Held())
				}
			}
		})
	}
}

// A length from the edges of its three forms comes through whole.
func TestParserLengths(t *testing.T) {
	rules := Rules{Masked: true, Limit: 1 << 17}
	for _, n := range []int{0, 1, 125, 126, 127, 255, 256, 65535, 65536, 65537, 1 << 17} {
		payload := make([]byte, n)
		for i := range payload {
			payload[i] = byte(i * 7)
		}
		wire := AppendMasked(nil, Binary, true, testKey, payload)
		for _, cuts := range [][]byte{nil, {255}} {
			got, _, err := pushCut(wire, rules, cuts)
			if err != nil || len(got.frames) != 1 || !bytes.Equal(got.frames[0].Payload, payload) {
				t.Fatalf("%d bytes: %d frames, %v", n, len(got.frames), err)
			}
		}
	}
}

// A peer that sends a bad header and then waits is answered at once: after two
// bytes what they say, after the length what it says, before any key.
func TestParserAnswersWithinHeader(t *testing.T) {
	tests := []struct {
		name string
		wire []byte
		code Code
	}{
		{"5.2 reserved bit", []byte{0x91, 0x80}, ProtocolError},
		{"5.2 opcode", []byte{0x83, 0x80}, ProtocolError},
		{"5.1 not masked, long", []byte{0x81, 0x7F}, ProtocolError},
		{"5.5 control frame of 16-bit length", []byte{0x89, 0xFE}, ProtocolError},
		{"5.5 control frame in fragments", []byte{0x09, 0x80}, ProtocolError},
		{"5.4 continuation of nothing", []byte{0x80, 0xFF}, ProtocolError},
		{"5.2 non-minimal 16-bit length", []byte{0x82, 0xFE, 0, 125}, ProtocolError},
		{"5.2 non-minimal 64-bit length", long(Binary, 65535)[:10], ProtocolError},
		{"5.2 length 2^63", long(Binary, 1<<63)[:10], ProtocolError},
		{"10.4 length over the limit", long(Binary, 1<<20+1)[:10], MessageTooBig},
	}
	for _, tt := range tests {
		for _, cuts := range [][]byte{nil, {0}} {
			_, _, err := pushCut(tt.wire, fromClient, cuts)
			if code := codeOf(t, err); code != tt.code {
				t.Errorf("%s: after %d bytes the parser says %v, want %d", tt.name, len(tt.wire), err, tt.code)
			}
		}
		if got, _, err := pushCut(tt.wire[:len(tt.wire)-1], fromClient, nil); err != nil || len(got.frames) != 0 {
			t.Errorf("%s: one byte earlier the parser says %v", tt.name, err)
		}
	}
	limited := Rules{Masked: true, Limit: 100}
	if _, _, err := pushCut([]byte{0x82, 0x80 | 101}, limited, nil); codeOf(t, err) != MessageTooBig {
		t.Errorf("two bytes that say 101 at limit 100: %v", err)
	}
}

// Text is refused at the first byte that cannot belong to it, without waiting
// for the frame's end (RFC 6455, section 8.1).
func TestParserFailsFast(t *testing.T) {
	good := "κόσμε"
	for _, bad := range []string{"\xF4\x90\x80\x80", "\xED\xA0\x80", "\xC0\xAF", "\xE0\x80\xAF", "\xF0\x80\x80\xAF", "\xFF", "\x80", "\xF8\x88\x80\x80\x80"} {
		text := good + bad + "edited"
		// The first byte at which no text begins like this any more.
		at := 0
		for ok := true; ok; at++ {
			ok, _ = modelUTF8([]byte(text[:at+1]))
		}
		wire := masked(Text, true, text)
		head := len(wire) - len(text)
		if got, _, err := pushCut(wire[:head+at-1], fromClient, nil); err != nil || len(got.frames) != 0 {
			t.Errorf("%q: before the bad byte: %v", bad, err)
		}
		for _, cuts := range [][]byte{nil, {0}} {
			if _, _, err := pushCut(wire[:head+at], fromClient, cuts); codeOf(t, err) != InvalidPayload {
				t.Errorf("%q, cuts %v: at byte %d of the text: %v", bad, cuts, at, err)
			}
		}
		// The same within an unfinished fragment.
		wire = join(masked(Text, false, good), masked(Ping, true, ""), masked(Continuation, false, bad+"edited"))
		if _, _, err := pushCut(wire, fromClient, nil); codeOf(t, err) != InvalidPayload {
			t.Errorf("%q in a fragment: %v", bad, err)
		}
	}
}

// One conversation, cut in two at every place and into even pieces of every
// length, is always the same frames.
func TestParserAnyCut(t *testing.T) {
	wire := join(
		masked(Text, true, "héllo"), masked(Text, false, "\xF0\x9F"), masked(Ping, true, ""),
		masked(Continuation, false, ""), masked(Continuation, true, "\x98\x80"),
		masked(Binary, true, strings.Repeat("0123456789", 30)), masked(Pong, true, "p"),
		masked(Close, true, "\x03\xE8bye"))
	want, code := model(wire, fromClient)
	if len(want) != 8 || code != 0 {
		t.Fatalf("the model sees %d frames and %v", len(want), code)
	}
	check := func(got *collect, p *Parser, err error, what string) {
		t.Helper()
		if diff := sameFrames(got.frames, want); err != nil || diff != nil || !p.Idle() {
			t.Fatalf("%s: %v, %v, idle %v", what, err, diff, p.Idle())
		}
	}
	for at := range wire {
		p := new(Parser)
		c := &collect{parser: p}
		err := p.Push(bytes.Clone(wire[:at]), &fromClient, c)
		if err == nil {
			err = p.Push(bytes.Clone(wire[at:]), &fromClient, c)
		}
		check(c, p, err, fmt.Sprintf("cut at %d", at))
	}
	for n := range 255 {
		got, p, err := pushCut(wire, fromClient, []byte{byte(n)})
		check(got, p, err, fmt.Sprintf("pieces of %d", n+1))
	}
}

// Random conversations, right and wrong, in random cuts: the parser and the
// model agree. go test -fuzz goes on from here.
func TestParserAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	breaches, frames := 0, 0
	for range 4000 {
		rules := fuzzRules(byte(rng.Uint32()))
		var wire []byte
		for range rng.IntN(12) {
			h := Header{
				Opcode: []Opcode{Continuation, Continuation, Text, Binary, Ping, Pong, Close}[rng.IntN(7)],
				Fin:    rng.IntN(2) == 0, Masked: rules.Masked, Key: testKey,
				Rsv1:   rules.Compressed && rng.IntN(8) == 0,
				Length: int64([]int{0, 1, 3, 20, 125, 126, 200}[rng.IntN(7)]),
			}
			if h.Opcode.Control() && rng.IntN(8) != 0 {
				h.Fin, h.Length, h.Rsv1 = true, min(h.Length, MaxControl), false
			}
			wire = AppendHeader(wire, h)
			at := len(wire)
			for range h.Length / 2 {
				wire = append(wire, "é"...)
			}
			for int64(len(wire)-at) < h.Length {
				wire = append(wire, []byte{'a', 0xC3, 0xBC}[rng.IntN(3)])
			}
			if h.Masked {
				Mask(wire[at:], h.Key, 0)
			}
		}
		if len(wire) > 0 && rng.IntN(6) == 0 {
			wire[rng.IntN(len(wire))] ^= 1 << rng.IntN(8)
		}
		cuts := make([]byte, 1+rng.IntN(5))
		for i := range cuts {
			cuts[i] = byte(rng.ExpFloat64() * 8)
		}
		want, code := model(wire, rules)
		got, _, err := pushCut(wire, rules, cuts)
		if diff := sameFrames(got.frames, want); diff != nil || codeOf(t, err) != code {
			t.Fatalf("seed %d, rules %+v, cuts %v, wire %x: %v; %v, want %v", seed, rules, cuts, wire, diff, err, code)
		}
		frames += len(want)
		if code != 0 {
			breaches++
		}
	}
	if breaches < 500 || frames < 2000 {
		t.Errorf("only %d breaches and %d frames: the conversations are too tame", breaches, frames)
	}
}

type stopAt struct {
	n   int
	err error
}

func (s *stopAt) Frame(Frame) error {
	if s.n--; s.n == 0 {
		return s.err
	}
	return nil
}

// A handler's error stops the parser for good: what stood behind it in the
// same push, as after a close frame, is never seen (RFC 6455, section 5.5.1).
func TestParserStopsForHandler(t *testing.T) {
	enough := errors.New("enough")
	h := &stopAt{2, enough}
	var p Parser
	wire := join(masked(Text, true, "a"), masked(Close, true, ""), masked(Text, true, "b"))
	for range 3 {
		if err := p.Push(bytes.Clone(wire), &fromClient, h); err != enough {
			t.Fatal(err)
		}
	}
	if h.n != 0 {
		t.Errorf("%d frames after the stop", -h.n)
	}
	if p.Idle() {
		t.Error("a stopped parser is idle, so its owner would drop it for one that is not stopped")
	}
}

type appender struct{ seen []string }

func (a *appender) Frame(f Frame) error {
	a.seen = append(a.seen, string(f.Payload))
	_ = append(f.Payload, "!!!!!!!!!!!!!!!!!!!!"...)
	return nil
}

// A handler that appends to a payload does not write into the next frame.
func TestParserPayloadHasNoSpareRoom(t *testing.T) {
	var p Parser
	var a appender
	if err := p.Push(join(masked(Text, true, "one"), masked(Text, true, "two"), masked(Text, true, "three")), &fromClient, &a); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(a.seen, " "); got != "one two three" {
		t.Errorf("got %q", got)
	}
}

// Rules may change between pushes: a lower limit holds for the message under way.
func TestParserLowerLimit(t *testing.T) {
	var p Parser
	c := &collect{parser: &p}
	if err := p.Push(masked(Binary, false, strings.Repeat("x", 500)), &fromClient, c); err != nil {
		t.Fatal(err)
	}
	if err := p.Push(masked(Continuation, true, ""), &Rules{Masked: true, Limit: 499}, c); codeOf(t, err) != MessageTooBig {
		t.Error(err)
	}
}

// A parser is idle between two messages and nowhere else: whoever drops an
// idle one loses nothing.
func TestParserIdle(t *testing.T) {
	var p Parser
	c := &collect{parser: &p}
	if !p.Idle() {
		t.Error("a new parser is not idle")
	}
	for _, part := range []struct {
		wire []byte
		idle bool // after it
	}{
		{masked(Ping, true, "p"), true},
		{masked(Text, false, "a"), false},
		{masked(Ping, true, ""), false},
		{masked(Continuation, false, ""), false},
		{masked(Continuation, true, "b"), true},
		{masked(Binary, true, ""), true},
	} {
		for i := range part.wire {
			if err := p.Push(bytes.Clone(part.wire[i:i+1]), &fromClient, c); err != nil {
				t.Fatal(err)
			}
			if last := i == len(part.wire)-1; p.Idle() != (last && part.idle) {
				t.Fatalf("% x, after byte %d: idle %v", part.wire, i, p.Idle())
			}
		}
	}
}
