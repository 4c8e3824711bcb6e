package frame

import (
	"bytes"
	"runtime"
	"slices"
	"testing"
)

// A message of one frame is that frame's payload, and not a copy.
func TestMessagePassesOneFrameThrough(t *testing.T) {
	var m Message
	payload := []byte("whole")
	got, done := m.Add(Frame{Opcode: Text, First: true, Fin: true, Payload: payload})
	if !done || &got[0] != &payload[0] || m.Held() != 0 {
		t.Errorf("%q, %v, %d bytes held", got, done, m.Held())
	}
}

// What Add returned for a joined message stays as it is while the next comes.
func TestMessageJoins(t *testing.T) {
	var m Message
	var messages [][]byte
	for _, f := range []Frame{
		{Opcode: Text, First: true, Payload: []byte("a")},
		{Opcode: Text, Payload: []byte("b")},
		{Opcode: Text, Fin: true, Payload: []byte("c")},
		{Opcode: Binary, First: true},
		{Opcode: Binary, Fin: true},
		{Opcode: Binary, First: true, Payload: []byte("dropped")}, // its connection was lost and the Message reused
		{Opcode: Binary, First: true, Payload: []byte("d")},
		{Opcode: Binary, Fin: true, Payload: []byte("e")},
	} {
		if b, done := m.Add(f); done {
			messages = append(messages, b)
			if m.Held() != 0 {
				t.Errorf("after a message %d bytes are held", m.Held())
			}
		}
	}
	if got := bytes.Join(messages, []byte("|")); string(got) != "abc||de" {
		t.Errorf("got %q", got)
	}
}

// A peer that stops one byte before the end makes us keep at most twice the
// limit, however the message is cut into frames and the frames into pushes;
// and one that only announces makes us keep nothing.
func TestMemoryHeldIsBounded(t *testing.T) {
	const limit = 1 << 20
	rules := Rules{Masked: true, Limit: limit}
	of := func(n int) []int { return slices.Repeat([]int{n}, limit/n) }
	for _, tt := range []struct {
		name   string
		frames []int // bytes of each
		cut    int   // bytes a push
	}{
		{"one frame", []int{limit}, 4096},
		{"one frame, in tiny pushes", []int{limit}, 13},
		{"fragments of 64 bytes", of(64), 1400},
		{"fragments of 128 bytes", of(128), 65536},
		{"fragments of 4 KiB", of(4096), 1000},
		{"fragments of 64 KiB", of(65536), 65536},
		{"two halves", []int{limit / 2, limit / 2}, 16384},
		{"a quarter, then the rest", []int{limit / 4, limit * 3 / 4}, 16384},
		{"nearly all, then the rest", []int{limit - 1000, 1000}, 16384},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var wire []byte
			for i, n := range tt.frames {
				op := Continuation
				if i == 0 {
					op = Binary
				}
				wire = AppendMasked(wire, op, i == len(tt.frames)-1, testKey, make([]byte, n))
			}
			wire = wire[:len(wire)-1]
			p := new(Parser)
			c := &held{parser: p}
			for len(wire) > 0 {
				n := min(tt.cut, len(wire))
				if err := p.Push(wire[:n], &rules, c); err != nil {
					t.Fatal(err)
				}
				c.most = max(c.most, p.Held()+c.message.Held())
				wire = wire[n:]
			}
			if c.most < limit*9/10 || c.most > 2*limit {
				t.Errorf("%d bytes held at most, limit %d", c.most, limit)
			}
			t.Logf("%.2f × limit", float64(c.most)/limit)
		})
	}
	var p Parser
	if err := p.Push(long(Binary, limit), &rules, &held{parser: &p}); err != nil || p.Held() != 0 {
		t.Errorf("a header alone: %d bytes held, %v", p.Held(), err)
	}
	if err := p.Push(make([]byte, 100), &rules, &held{parser: &p}); err != nil || p.Held() > 1024 {
		t.Errorf("a header and 100 bytes: %d bytes held, %v", p.Held(), err)
	}
}

// held joins messages and forgets them, and knows the most that was held.
type held struct {
	parser  *Parser
	message Message
	most    int
}

func (h *held) Frame(f Frame) error {
	if !f.Opcode.Control() {
		h.message.Add(f)
		h.most = max(h.most, len(f.Payload)+h.message.Held())
	}
	return nil
}

// A flood of empty fragments leaves nothing behind in the heap.
func TestEmptyFragmentsKeepNothing(t *testing.T) {
	rules := Rules{Masked: true, Limit: 1 << 30}
	var p Parser
	h := &held{parser: &p}
	flood := bytes.Repeat(masked(Continuation, false, ""), 1000)
	if err := p.Push(masked(Binary, false, ""), &rules, h); err != nil {
		t.Fatal(err)
	}
	scratch := make([]byte, len(flood))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 1000 {
		copy(scratch, flood)
		if err := p.Push(scratch, &rules, h); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 64<<10 || h.message.Held() != 0 {
		t.Errorf("a million empty fragments: heap grew by %d bytes, %d held", grown, h.message.Held())
	}
}
