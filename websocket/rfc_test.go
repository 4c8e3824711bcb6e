package websocket

import (
	"fmt"
	"strings"
	"testing"
)

// A talk is what the wire sends to an echo and what must come back. After it, the
// wire closes with 1000 where the echo has not closed already, and the end must follow.
type talk struct {
	name string
	chop int
	send []raw
	want []raw
}

// The cases follow the sections of the Autobahn test suite, which is how the field
// compares its implementations.
func talks() []talk {
	var all []talk
	add := func(name string, chop int, send, want []raw) { all = append(all, talk{name, chop, send, want}) }
	frames := func(f ...raw) []raw { return f }
	breach := closing(1002, "")
	notText := closing(1007, "")
	hello := whole(1, "Hello, 世界")

	// 1: both kinds in all forms of length.
	for kind, letter := range map[byte]string{1: "*", 2: "\xFE"} {
		for _, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
			m := whole(kind, strings.Repeat(letter, n))
			add(fmt.Sprintf("1.%d/%d bytes", kind, n), 0, frames(m), frames(m))
		}
		m := whole(kind, strings.Repeat(letter, 65536))
		add(fmt.Sprintf("1.%d/65536 bytes in pieces", kind), 997, frames(m), frames(m))
	}

	// 2: pings and pongs.
	most := strings.Repeat("\xFE", 125)
	add("2.1/ping without payload", 0, frames(whole(9, "")), frames(whole(10, "")))
	add("2.2/ping with text", 0, frames(whole(9, "Hello")), frames(whole(10, "Hello")))
	add("2.3/ping with bytes", 0, frames(whole(9, "\x00\xFF\xFE\xFD")), frames(whole(10, "\x00\xFF\xFE\xFD")))
	add("2.4/ping with 125 bytes", 0, frames(whole(9, most)), frames(whole(10, most)))
	add("2.5/ping with 126 bytes", 0, frames(whole(9, most+"x")), frames(breach))
	add("2.6/ping byte by byte", 1, frames(whole(9, most)), frames(whole(10, most)))
	add("2.7/pong unasked", 0, frames(whole(10, "")), nil)
	add("2.8/pong unasked with payload", 0, frames(whole(10, "unasked")), nil)
	add("2.9/pong unasked, then ping", 0, frames(whole(10, "unasked"), whole(9, "asked")), frames(whole(10, "asked")))
	var pings, pongs []raw
	for i := range 10 {
		pings, pongs = append(pings, whole(9, fmt.Sprint("ping ", i))), append(pongs, whole(10, fmt.Sprint("ping ", i)))
	}
	add("2.10/ten pings", 0, pings, pongs)
	add("2.11/ten pings byte by byte", 1, pings, pongs)

	// 3: reserved bits.
	for rsv := byte(1); rsv < 8; rsv++ {
		bad := raw{b0: fin | rsv<<4 | 1, payload: "Hello"}
		for _, chop := range []int{0, 1} {
			add(fmt.Sprintf("3.%d/reserved bits by %d", rsv, chop), chop, frames(hello, bad, whole(9, "")), frames(hello, breach))
		}
	}
	add("3.5/reserved bit on bytes", 0, frames(raw{b0: fin | 0x50 | 2, payload: "x"}), frames(breach))
	add("3.6/reserved bit on a ping", 0, frames(raw{b0: fin | 0x60 | 9, payload: "x"}), frames(breach))
	add("3.7/reserved bits on a close frame", 0, frames(raw{b0: fin | 0x70 | 8}), frames(breach))

	// 4: reserved opcodes.
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		add(fmt.Sprintf("4/opcode %d", op), 0, frames(whole(op, "")), frames(breach))
		for _, chop := range []int{0, 1} {
			add(fmt.Sprintf("4/text, opcode %d with payload, ping, by %d", op, chop), chop,
				frames(hello, whole(op, "reserved"), whole(9, "")), frames(hello, breach))
		}
	}

	// 5: fragments.
	add("5.1/ping in fragments", 0, frames(part(9, "one"), whole(0, "two")), frames(breach))
	add("5.2/pong in fragments", 0, frames(part(10, "one"), whole(0, "two")), frames(breach))
	for _, chop := range []int{0, 1} {
		by := fmt.Sprintf(" by %d", chop)
		add("5.3/two fragments"+by, chop, frames(part(1, "one"), whole(0, "two")), frames(whole(1, "onetwo")))
		add("5.6/ping between"+by, chop, frames(part(1, "one"), whole(9, "now"), whole(0, "two")), frames(whole(10, "now"), whole(1, "onetwo")))
		add("5.9/continuation of nothing"+by, chop, frames(whole(0, "x"), hello), frames(breach))
		add("5.12/unfinished continuation of nothing"+by, chop, frames(part(0, "x"), hello), frames(breach))
	}
	add("5.15/continuation after the end", 0, frames(part(1, "one"), whole(0, "two"), part(0, "x"), hello), frames(whole(1, "onetwo"), breach))
	add("5.16/unfinished continuation, then fragments", 0, frames(part(0, "x"), part(1, "one"), whole(0, "two")), frames(breach))
	add("5.17/continuation, then fragments", 0, frames(whole(0, "x"), part(1, "one"), whole(0, "two")), frames(breach))
	add("5.18/a second beginning", 0, frames(part(1, "one"), whole(1, "two")), frames(breach))
	add("5.20/five fragments and two pings", 0,
		frames(part(1, "1"), part(0, "2"), whole(9, "a"), part(0, "3"), part(0, "4"), whole(9, "b"), whole(0, "5")),
		frames(whole(10, "a"), whole(10, "b"), whole(1, "12345")))

	// 6: UTF-8.
	add("6.1.1/empty", 0, frames(whole(1, "")), frames(whole(1, "")))
	add("6.1.2/empty in three", 0, frames(part(1, ""), part(0, ""), whole(0, "")), frames(whole(1, "")))
	add("6.1.3/middle not empty", 0, frames(part(1, ""), part(0, "middle"), whole(0, "")), frames(whole(1, "middle")))
	good := "Hello-µ@ßöäüàá-UTF-8!!"
	inBytes := func(s string) []raw {
		f := make([]raw, len(s))
		for i := range f {
			f[i] = part(0, s[i:i+1])
		}
		f[0].b0 |= 1
		f[len(f)-1].b0 |= fin
		return f
	}
	add("6.2.1/one frame", 0, frames(whole(1, good)), frames(whole(1, good)))
	add("6.2.2/cut between characters", 0, frames(part(1, "Hello-µ@ß"), whole(0, "öäü")), frames(whole(1, "Hello-µ@ßöäü")))
	add("6.2.3/a fragment a byte", 0, inBytes(good), frames(whole(1, good)))
	add("6.2.4/a fragment a byte, Greek", 0, inBytes("κόσμε"), frames(whole(1, "κόσμε")))
	add("6.2/a fragment a byte, emoji", 1, inBytes("😀👩‍👩‍👧"), frames(whole(1, "😀👩‍👩‍👧")))
	surrogate := "κόσμε\xED\xA0\x80edited"
	add("6.3.1/surrogate", 0, frames(whole(1, surrogate)), frames(notText))
	add("6.3.2/surrogate, a fragment a byte", 0, inBytes(surrogate), frames(notText))
	// At once: the rest of the message never comes.
	add("6.4.1/bad fragment", 0, frames(part(1, "κόσμε"), part(0, "\xF4\x90\x80\x80")), frames(notText))
	add("6.4.2/bad from its second byte on", 0, frames(part(1, "κόσμε\xF4"), part(0, "\x90")), frames(notText))
	add("6.4.3/bad within an unfinished frame", 0, frames(raw{b0: fin | 1, payload: "κόσμε\xF4\x90\x80\x80", length: 100}), frames(notText))
	add("6.4.4/bad second byte within an unfinished frame", 1, frames(raw{b0: fin | 1, payload: "κόσμε\xF4\x90", length: 1 << 17}), frames(notText))
	for _, s := range []string{"κόσμε", "\x00", "\u0080", "\u07FF", "\u0800", "\uFFFF", "\uD7FF", "\uE000", "\uFFFD", "\uFEFF", "\uFDD0",
		"\U00010000", "\U0001FFFE", "\U0010FFFF", "a\U0010FFFEb", "\x7F"} {
		add(fmt.Sprintf("6/good %q", s), 0, frames(whole(1, s)), frames(whole(1, s)))
		add(fmt.Sprintf("6/good %q, a fragment a byte", s), 1, inBytes(s), frames(whole(1, s)))
	}
	for _, s := range []string{"\xCE", "\xCE\xBA\xE1", "\x80", "\xBF", "\x80\xBF\x80", "\xC0\xAF", "\xC1\xBF", "\xE0\x80\xAF", "\xE0\x9F\xBF",
		"\xF0\x80\x80\xAF", "\xF0\x8F\xBF\xBF", "\xF8\x88\x80\x80\x80", "\xFC\x84\x80\x80\x80\x80", "\xF4\x90\x80\x80", "\xF7\xBF\xBF\xBF",
		"\xED\xA0\x80", "\xED\xAF\xBF\xED\xBF\xBF", "\xED\xBF\xBF", "\xC0\x80", "\xFE", "\xFF", "\xFE\xFE\xFF\xFF", "\xE2\x82", "\xF0\x9F\x98", "\xC3 ", "ok\xC3"} {
		add(fmt.Sprintf("6/bad %q", s), 0, frames(whole(1, s)), frames(notText))
		add(fmt.Sprintf("6/bad %q, a fragment a byte", s), 1, inBytes(s), frames(notText))
		add(fmt.Sprintf("6/bytes %q", s), 0, frames(whole(2, s)), frames(whole(2, s)))
	}

	// 7: closing.
	ok := closing(1000, "")
	add("7.1.1/text, close", 0, frames(hello, ok), frames(hello, ok))
	add("7.1.2/two close frames", 0, frames(ok, ok), frames(ok))
	add("7.1.3/close, ping", 0, frames(ok, whole(9, "late")), frames(ok))
	add("7.1.4/close, text", 0, frames(ok, hello), frames(ok))
	add("7.1.5/fragment, close, fragment", 0, frames(part(1, "one"), ok, whole(0, "two")), frames(ok))
	add("7.3.1/no code", 0, frames(whole(8, "")), frames(whole(8, "")))
	add("7.3.2/half a code", 0, frames(whole(8, "\x03")), frames(breach))
	add("7.3.3/code alone", 0, frames(ok), frames(ok))
	add("7.3.4/code and reason", 0, frames(closing(1000, "Hello, 世界")), frames(ok))
	add("7.3.5/longest reason", 0, frames(closing(1000, strings.Repeat("*", 123))), frames(ok))
	add("7.3.6/reason too long", 0, frames(closing(1000, strings.Repeat("*", 124))), frames(breach))
	add("7.5.1/reason not UTF-8", 0, frames(closing(1000, surrogate)), frames(notText))
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		add(fmt.Sprintf("7.7/code %d", code), 0, frames(closing(code, "")), frames(closing(code, "")))
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		add(fmt.Sprintf("7.9/code %d", code), 0, frames(closing(code, "")), frames(breach))
	}

	// 9, reduced: long messages, long in fragments, in pieces, and many.
	long := strings.Repeat("0123456789abcdef", 1<<16)
	add("9.1/1 MiB of text", 0, frames(whole(1, long)), frames(whole(1, long)))
	add("9.2/1 MiB of bytes", 0, frames(whole(2, long)), frames(whole(2, long)))
	for _, size := range []int{64, 256, 4096, 65536} {
		var f []raw
		for i := 0; i < len(long); i += size {
			f = append(f, part(0, long[i:i+size]))
		}
		f[0].b0 |= 2
		f[len(f)-1].b0 |= fin
		add(fmt.Sprintf("9.4/fragments of %d", size), 0, f, frames(whole(2, long)))
	}
	for _, chop := range []int{64, 1024} {
		add(fmt.Sprintf("9.5/pieces of %d", chop), chop, frames(whole(1, long[:1<<17])), frames(whole(1, long[:1<<17])))
	}
	var many []raw
	for i := range 500 {
		many = append(many, whole(1+byte(i%2), strings.Repeat("x", i)))
	}
	add("9.7/many", 0, many, many)

	// 10: fragments of an odd size.
	var odd []raw
	for rest := long[:65536]; rest != ""; {
		n := min(1300, len(rest))
		odd = append(odd, part(0, rest[:n]))
		rest = rest[n:]
	}
	odd[0].b0 |= 1
	odd[len(odd)-1].b0 |= fin
	add("10.1.1/fragments of 1300", 0, odd, frames(whole(1, long[:65536])))
	return all
}

// play runs one talk against the echo at the other end of the wire.
func (k talk) play(w *wire) {
	w.t.Helper()
	sent := make(chan struct{})
	go func() { // beside the reading: a long talk fills the buffers of both sides
		defer close(sent)
		w.send(k.chop, k.send...)
	}()
	w.want(k.want...)
	<-sent
	if n := len(k.want); n == 0 || k.want[n-1].b0 != fin|8 {
		w.send(0, closing(1000, "bye"))
		w.want(closing(1000, ""))
	}
	w.wantEOF()
}

func TestRFC6455OfAccept(t *testing.T) {
	url := serve(t, nil, echo)
	for _, k := range talks() {
		t.Run(k.name, func(t *testing.T) {
			w := toAccept(t, url)
			w.t = t
			k.play(w)
		})
	}
	t.Run("5.1/frame without a mask", func(t *testing.T) {
		w := toAccept(t, url)
		_, _ = w.Write([]byte{fin | 1, 5, 'H', 'e', 'l', 'l', 'o'})
		w.want(closing(1002, ""))
		w.wantEOF()
	})
}

func TestRFC6455OfDial(t *testing.T) {
	for _, k := range talks() {
		t.Run(k.name, func(t *testing.T) {
			w, c := toDial(t, nil)
			over := make(chan struct{})
			go func() {
				defer close(over)
				echo(c)
				<-c.Done()
			}()
			k.play(w)
			<-over
		})
	}
	t.Run("5.1/frame with a mask", func(t *testing.T) {
		w, c := toDial(t, nil)
		_, _ = w.Write([]byte{fin | 1, 0x85, 0, 0, 0, 0, 'H', 'e', 'l', 'l', 'o'})
		w.want(closing(1002, ""))
		w.wantEOF()
		wantEnd(t, c, ProtocolError, true)
	})
}

// The application has answered what came before a breach, or a close frame,
// when the connection ends for it, however the two fall in time.
func TestAnswersBeforeTheEnd(t *testing.T) {
	hello, ok, breach := whole(1, "Hello"), closing(1000, ""), closing(1002, "")
	talks := []talk{
		{send: []raw{hello, whole(15, "")}, want: []raw{hello, breach}},
		{send: []raw{hello, hello, ok}, want: []raw{hello, hello, ok}},
	}
	url := serve(t, nil, echo)
	for i := range 400 {
		k := talks[i%len(talks)]
		k.play(toAccept(t, url))
		w, c := toDial(t, nil)
		over := make(chan struct{})
		go func() {
			defer close(over)
			echo(c)
			<-c.Done()
		}()
		k.play(w)
		<-over
		_ = w.Close()
	}
}
