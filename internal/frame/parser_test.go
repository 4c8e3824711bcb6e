package frame

import "testing"

// One conversation, cut at every place, is always the same frames.
func TestParserAnyCut(t *testing.T) {
	key := [4]byte{1, 2, 3, 4}
	var wire []byte
	wire = AppendMasked(wire, Text, true, key, []byte("héllo"))
	wire = AppendMasked(wire, Text, false, key, []byte("\xF0\x9F"))
	wire = AppendMasked(wire, Ping, true, key, nil)
	wire = AppendMasked(wire, Continuation, false, key, nil)
	wire = AppendMasked(wire, Continuation, true, key, []byte("\x98\x80"))
	wire = AppendMasked(wire, Binary, true, key, make([]byte, 70000))
	rules := &Rules{Masked: true, Limit: 1 << 20}
	for step := 1; step < len(wire); step = step*3/2 + 1 {
		var p Parser
		var got collect
		b := append([]byte(nil), wire...)
		for len(b) > 0 {
			n := min(step, len(b))
			if err := p.Push(b[:n], rules, &got); err != nil {
				t.Fatal(step, err)
			}
			b = b[n:]
		}
		if len(got.frames) != 6 || !p.Idle() {
			t.Fatalf("step %d: %d frames, idle %v", step, len(got.frames), p.Idle())
		}
		if string(got.frames[0].Payload) != "héllo" || string(got.frames[4].Payload) != "\x98\x80" || got.frames[4].Opcode != Text || got.frames[4].First {
			t.Fatalf("step %d: %+v", step, got.frames[:5])
		}
	}
}
