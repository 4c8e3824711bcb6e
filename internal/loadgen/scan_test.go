package loadgen

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"slices"
	"testing"

	"fanfare/internal/deflate"
	"fanfare/internal/frame"
)

// heard is what a scanner found.
type heard struct {
	numbers  []uint32
	intended []int64
	control  []string
}

func (h *heard) marked(number uint32, intended int64) {
	h.numbers = append(h.numbers, number)
	h.intended = append(h.intended, intended)
}
func (h *heard) controlled(op frame.Opcode, payload []byte) {
	h.control = append(h.control, op.String()+" "+string(payload))
}

// Whatever a server makes of a message, and however its bytes are cut, every
// mark of this run is found once, and no other.
func TestScanFindsMarks(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	prefix := newPrefix(0xfa0fa0aa)
	mark := func(n uint32) string { return string(appendMark(nil, prefix, n, 1e14+int64(n))) }
	large := bytes.Repeat([]byte("x"), 70000)
	object, err := json.Marshal(map[string]string{"type": "chat", "content": "~~ " + mark(6)})
	if err != nil {
		t.Fatal(err)
	}
	var wire []byte
	part := func(op frame.Opcode, fin bool, payload string) {
		wire = append(frame.AppendHeader(wire, frame.Header{Opcode: op, Fin: fin, Length: int64(len(payload))}), payload...)
	}
	part(frame.Text, true, "[12:34:56] "+mark(0)+"xxx")
	part(frame.Text, true, "")
	part(frame.Binary, true, mark(1)+string(large))
	part(frame.Ping, true, "are you there?")
	part(frame.Text, true, "[12:34:56] ~"+mark(2)+"~")
	part(frame.Text, false, "[12:34:56] "+mark(3)[:13]) // torn by a fragment, and a ping between
	part(frame.Ping, true, "")
	part(frame.Continuation, false, "")
	part(frame.Continuation, true, mark(3)[13:])
	part(frame.Text, true, string(newPrefix(0xfa0fa0ab)[:])+mark(7)[markHead:])    // another run's
	part(frame.Text, true, mark(7)[:MinSize-1])                                    // not all of it
	part(frame.Text, true, mark(7)[:markHead]+"zzzzzzzzzzzzzzzzzzzz")              // not a number
	part(frame.Text, true, string(large[:40000])+mark(4)[:8]+mark(4)+mark(9)+"xx") // begins twice; the first whole one counts
	part(frame.Text, true, "~fa0fa0"+mark(5))
	part(frame.Text, true, string(object))
	part(frame.Close, true, "\x03\xe8")
	for range 200 {
		var s scanner
		var h heard
		for rest := slices.Clone(wire); len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(1<<random.IntN(18)))
			if err := s.scan(rest[:n], prefix, &h); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if want := []uint32{0, 1, 2, 3, 4, 5, 6}; !slices.Equal(h.numbers, want) {
			t.Fatalf("it found the messages %v, want %v", h.numbers, want)
		}
		for i, at := range h.intended {
			if at != 1e14+int64(i) {
				t.Errorf("message %d was intended at %d, want %d", i, at, int64(1e14)+int64(i))
			}
		}
		if want := []string{"ping are you there?", "ping ", "close \x03\xe8"}; !slices.Equal(h.control, want) {
			t.Fatalf("it found the control frames %q, want %q", h.control, want)
		}
	}
}

func TestScanRefuses(t *testing.T) {
	for name, wire := range map[string]string{
		"a reserved bit":       "\xc1\x00",
		"a mask":               "\x81\x80\x00\x00\x00\x00",
		"a reserved opcode":    "\x83\x00",
		"a large control byte": "\x89\x7e\x00\x80",
	} {
		if err := (&scanner{}).scan([]byte(wire), nil, &heard{}); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// crowdOf is a crowd of n connections without a network.
func crowdOf(n int) *crowd {
	w := newCrowd()
	for i := range n {
		w.conns = append(w.conns, &conn{crowd: w, shard: i % shards})
	}
	return w
}

// Alice, bob and carol hear; each message counts once for each.
func TestCounting(t *testing.T) {
	w := crowdOf(3)
	w.begin(1, 100, 1<<10)
	alice, bob, carol := w.conns[0], w.conns[1], w.conns[2]
	hear := func(c *conn, at int64, numbers ...uint32) {
		for _, n := range numbers {
			c.at = at
			c.marked(n, int64(n)*100) // message 0 is warm-up
		}
	}
	hear(alice, 1000, 0, 1, 2, 3)
	hear(bob, 2000, 0, 2, 1, 1, 2) // 1 late, then two again; 3 never
	hear(carol, 3000, 0, 1, 2, 3)
	got := w.tally()
	if got.deliveries != 11 || got.doubled != 2 || got.disordered != 1 {
		t.Errorf("deliveries, doubled and disordered are %d, %d, %d; want 11, 2, 1", got.deliveries, got.doubled, got.disordered)
	}
	if expected, hopeless := w.missing(4); expected != 1 || hopeless != 0 {
		t.Errorf("%d and %d are missing, want 1 and 0", expected, hopeless)
	}
	bob.ended = io.EOF
	if expected, hopeless := w.missing(4); expected != 0 || hopeless != 1 {
		t.Errorf("after bob has gone %d and %d are missing, want 0 and 1", expected, hopeless)
	}
	if n := w.board.completed(); n != 3 {
		t.Errorf("%d messages came to everybody, want 3", n)
	}
	if n, most := w.latency().TotalCount(), w.latency().Max(); n != 8 || most < 2900-100 || most > 2900+600 {
		t.Errorf("%d latencies, at most %d ns; want 8 without the warm-up, at most 2900", n, most)
	}
	if n := w.board.last.TotalCount(); n != 2 {
		t.Errorf("%d messages have a last receiver, want 2", n)
	}
	// A message far behind counts as come again: who would remember?
	w.begin(2, 0, 1<<10)
	hear(alice, 1000, 0, 1, 70, 200, 70, 1, 0)
	if got := w.tally(); got.doubled != 3 || got.deliveries != 4 {
		t.Errorf("after a leap %d doubled and %d deliveries, want 3 and 4", got.doubled, got.deliveries)
	}
}

// More connections than shards, and one that is not counted.
func TestLastReceiver(t *testing.T) {
	w := crowdOf(40)
	w.begin(1, 0, 1<<10)
	if !w.muteIfSilent(17) {
		t.Fatal("who heard nothing is not taken out of the count")
	}
	w.begin(2, 0, 1<<10)
	for i, c := range w.conns {
		if w.board.completed() != 0 {
			t.Fatalf("complete after %d of 39 receivers", i)
		}
		c.at = int64(1e6 * (40 - i)) // the first one to be told of had it last
		c.marked(5, 0)
	}
	if w.board.completed() != 1 {
		t.Fatal("not complete when all receivers have it")
	}
	if last := w.board.last.Max(); last < 40e6-1e5 || last > 40e6+1e5 {
		t.Errorf("the last receiver had it after %d ns, want 40 ms", last)
	}
}

// What a delivery costs beside the system calls: no allocation.
func TestNoAllocationForAMessage(t *testing.T) {
	w := crowdOf(64)
	prefix := w.begin(1, 0, 1<<10)
	wire := make([]byte, 0, 1<<16)
	number := uint32(0)
	if n := testing.AllocsPerRun(50, func() {
		wire = wire[:0]
		for range 8 {
			wire = frame.AppendHeader(wire, frame.Header{Opcode: frame.Text, Fin: true, Length: 128})
			end := len(wire) + 128
			wire = append(wire, "[12:34:56] "...)
			wire = appendMark(wire, prefix, number, 0)
			wire = append(wire, padding[:end-len(wire)]...)
			number++
		}
		for _, c := range w.conns {
			if err := c.take(wire[:len(wire)-100]); err != nil { // torn
				t.Fatal(err)
			}
			if err := c.take(wire[len(wire)-100:]); err != nil {
				t.Fatal(err)
			}
		}
	}); n > 0 {
		t.Errorf("%v allocations for 8 messages to 64 receivers, want none", n)
	}
	if got := w.tally().deliveries; got != int64(number)*64 {
		t.Errorf("%d deliveries, want %d", got, number*64)
	}
}

var padding [128]byte

// A delivery without the network: what our own part of it costs.
func BenchmarkDelivery(b *testing.B) {
	w := crowdOf(1000)
	prefix := w.begin(1, 0, 1<<10)
	wire := frame.AppendHeader(nil, frame.Header{Opcode: frame.Text, Fin: true, Length: 128})
	at := len(wire) + len("[12:34:56] ")
	wire = append(wire, "[12:34:56] "...)
	wire = append(appendMark(wire, prefix, 0, 0), padding[:128-11-MinSize]...)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		appendMark(wire[:at], prefix, uint32(i/1000), 0)
		if err := w.conns[i%1000].take(wire); err != nil {
			b.Fatal(err)
		}
	}
}

// Marks are found in compressed messages too, however they are cut, and only
// where compression was agreed to.
func TestScanInflates(t *testing.T) {
	prefix := newPrefix(0xfa0fa0aa)
	text := append([]byte("[12:34:56] "), appendMark(nil, prefix, 7, 1e14)...)
	text = append(text, objects(2000)...)
	wire := deflate.AppendFrame(nil, frame.Text, text, 15)
	if wire[0]&0x40 == 0 || len(wire) > len(text)/2 {
		t.Fatalf("%d bytes of %d", len(wire), len(text))
	}
	torn := deflate.Append(nil, text, 15, nil)
	half := len(torn) / 2
	wire = append(frame.AppendHeader(wire, frame.Header{Opcode: frame.Text, Rsv1: true, Length: int64(half)}), torn[:half]...)
	wire = frame.Append(wire, frame.Ping, nil)
	wire = append(frame.AppendHeader(wire, frame.Header{Opcode: frame.Continuation, Fin: true, Length: int64(len(torn) - half)}), torn[half:]...)
	for size := 1; size <= len(wire); size += 7 {
		s, h := scanner{packs: true}, heard{}
		for part := range slices.Chunk(wire, size) {
			if err := s.scan(part, prefix, &h); err != nil {
				t.Fatal(err)
			}
		}
		if !slices.Equal(h.numbers, []uint32{7, 7}) || len(h.control) != 1 {
			t.Fatalf("in parts of %d: %v, %q", size, h.numbers, h.control)
		}
	}
	if err := (&scanner{}).scan(wire, prefix, &heard{}); err == nil {
		t.Error("RSV1 that was not agreed to")
	}
}
