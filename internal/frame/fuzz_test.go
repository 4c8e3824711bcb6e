package frame

import (
	"bytes"
	"testing"
	"unicode/utf8"
)

// fuzzRules turns a byte into rules: bit 0 masked, bit 1 compressed, and a limit.
func fuzzRules(b byte) Rules {
	limits := [...]int64{0, 1, 20, 125, 126, 1000, 8192, 70000}
	return Rules{Masked: b&1 != 0, Compressed: b&2 != 0, Limit: limits[b>>2&7]}
}

// Any bytes in any cut are the same frames and the same breach as in one push,
// and as the model says. Whatever comes, no more is held than twice the limit.
func FuzzParser(f *testing.F) {
	key := [4]byte{0x37, 0xFA, 0x21, 0x3D}
	var client, server []byte
	client = AppendMasked(client, Text, false, key, []byte("gr\xC3"))
	client = AppendMasked(client, Ping, true, key, []byte("beat"))
	client = AppendMasked(client, Continuation, false, key, nil)
	client = AppendMasked(client, Continuation, true, key, []byte("\xBC\xC3\x9Fe"))
	client = AppendMasked(client, Close, true, key, []byte("\x03\xE8bye"))
	server = Append(server, Binary, bytes.Repeat([]byte{7}, 300))
	server = Append(server, Text, []byte("\U0001F600"))
	server = Append(server, Pong, nil)
	deflated := append([]byte{0xC1, 2, 0xFF, 0xFE}, server...)
	f.Add(client, []byte{0}, byte(6<<2|1))
	f.Add(client, []byte{2, 9, 0}, byte(6<<2|1))
	f.Add(server, []byte{0, 200}, byte(6<<2))
	f.Add(deflated, []byte{1}, byte(6<<2|2))
	f.Add(bytes.Repeat([]byte{0x02, 0x00, 0x00, 0x00}, 2), []byte{0}, byte(0))
	f.Add(append([]byte{0x02, 0x00}, bytes.Repeat([]byte{0x00, 0x00}, 200)...), []byte{3}, byte(4<<2))
	f.Add([]byte{0x82, 0x7F, 0x80, 0, 0, 0, 0, 0, 0, 1}, []byte{9}, byte(7<<2))
	f.Fuzz(func(t *testing.T, wire, cuts []byte, how byte) {
		wire = wire[:min(len(wire), 1024)] // the model is slow
		rules := fuzzRules(how)
		wantFrames, wantCode := model(wire, rules)
		for _, c := range [][]byte{nil, cuts} {
			got, p, err := pushCut(wire, rules, c)
			if diff := sameFrames(got.frames, wantFrames); diff != nil {
				t.Fatalf("cuts %v, parser and model differ: %v", c, diff)
			}
			if code := codeOf(t, err); code != wantCode {
				t.Fatalf("cuts %v: parser says %v (%v), model %v", c, code, err, wantCode)
			}
			if err != nil {
				if again := p.Push([]byte{0x89, 0}, &rules, got); again != err || p.Held() != 0 {
					t.Fatalf("after %v a push says %v and %d bytes are held", err, again, p.Held())
				}
			}
			// A control frame comes on top, and small slices are rounded up.
			if most := 2*int(rules.most(rules.Compressed)) + MaxControl + 16; got.held > most {
				t.Fatalf("cuts %v: %d bytes held, limit %d", c, got.held, rules.Limit)
			}
		}
	})
}

// Text in pieces is valid exactly when the whole is, and is refused at the
// first byte that cannot belong to it.
func FuzzUTF8(f *testing.F) {
	for _, s := range []string{"", "plain", "\u03BA\u1F79\u03C3\u03BC\u03B5", "\U0010FFFF\uFFFF\U00010000\u0800\u0080", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC0\xAF", "\xE2\x82", "a\x80"} {
		f.Add([]byte(s), uint8(1), uint8(2))
	}
	f.Fuzz(func(t *testing.T, text []byte, first, step uint8) {
		text = text[:min(len(text), 256)] // the model starts anew for each byte
		var pieces, bytewise UTF8
		ok := true
		for at, n := 0, int(first); ok && at < len(text); at, n = at+n, int(step)+1 {
			n = min(n, len(text)-at)
			ok = pieces.Write(text[at : at+n])
			if may, _ := modelUTF8(text[:at+n]); ok != may {
				t.Fatalf("after %q: Write says %v", text[:at+n], ok)
			}
		}
		if got, want := ok && pieces.Done(), utf8.Valid(text); got != want {
			t.Fatalf("%q: valid %v, want %v", text, got, want)
		}
		for i := range text {
			may, ended := modelUTF8(text[:i+1])
			if got := bytewise.Write(text[i : i+1]); got != may {
				t.Fatalf("%q, byte %d: Write says %v", text, i, got)
			}
			if !may {
				return
			}
			if bytewise.Done() != ended {
				t.Fatalf("%q, byte %d: Done says %v", text, i, !ended)
			}
		}
	})
}

// Masking is XOR with the repeated key, from any position and in any cut.
func FuzzMask(f *testing.F) {
	f.Add([]byte("Hello"), uint32(0x37FA213D), int64(0), uint16(2))
	f.Add(bytes.Repeat([]byte("0123456789"), 10), uint32(1), int64(1<<62+3), uint16(33))
	f.Fuzz(func(t *testing.T, b []byte, k uint32, pos int64, cut uint16) {
		if pos < 0 {
			pos = -(pos + 1)
		}
		pos &^= 1 << 62 // so that pos plus len(b) stays below 2^63
		key := [4]byte{byte(k >> 24), byte(k >> 16), byte(k >> 8), byte(k)}
		want := make([]byte, len(b))
		for i := range b {
			want[i] = b[i] ^ key[(pos+int64(i))%4]
		}
		whole := bytes.Clone(b)
		Mask(whole, key, pos)
		if !bytes.Equal(whole, want) {
			t.Fatalf("at %d: %x, want %x", pos, whole, want)
		}
		torn, at := bytes.Clone(b), min(int(cut), len(b))
		Mask(torn[:at], key, pos)
		Mask(torn[at:], key, pos+int64(at))
		if !bytes.Equal(torn, want) {
			t.Fatalf("cut at %d: %x, want %x", at, torn, want)
		}
		Mask(whole, key, pos)
		if !bytes.Equal(whole, b) {
			t.Fatal("masking twice does not give the original")
		}
	})
}

// A header written is the header read, in the shortest form there is.
func FuzzHeader(f *testing.F) {
	for _, n := range []int64{0, 125, 126, 65535, 65536, 1 << 32, 1<<63 - 1} {
		f.Add(byte(n%3), true, false, n%2 == 0, uint32(n), n)
	}
	f.Fuzz(func(t *testing.T, op byte, fin, rsv1, masked bool, k uint32, length int64) {
		h := Header{Opcode: Opcode(op % 11), Fin: fin, Rsv1: rsv1, Masked: masked, Length: length}
		if length < 0 {
			h.Length = -(length + 1)
		}
		if masked {
			h.Key = [4]byte{byte(k >> 24), byte(k >> 16), byte(k >> 8), byte(k)}
		}
		if !h.Opcode.known() {
			h.Opcode = Binary
		}
		if h.Opcode.Control() {
			h.Fin, h.Rsv1, h.Length = true, false, h.Length%126
		}
		if h.Opcode == Continuation {
			h.Rsv1 = false
		}
		wire := AppendHeader([]byte("before"), h)
		if !bytes.HasPrefix(wire, []byte("before")) {
			t.Fatal("what stood before is changed")
		}
		wire = wire[len("before"):]
		want := 2
		if h.Length > 125 {
			want += 2
		}
		if h.Length > 0xFFFF {
			want += 6
		}
		if masked {
			want += 4
		}
		if len(wire) != want {
			t.Fatalf("%+v is %d bytes, want %d", h, len(wire), want)
		}
		var p Parser
		if h.Opcode == Continuation {
			p.message = Binary
		}
		rules := &Rules{Masked: masked, Compressed: true, Limit: 1<<63 - 1}
		c := &collect{parser: &p}
		if err := p.Push(wire, rules, c); err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		if p.frame != h {
			t.Fatalf("%+v came back as %+v", h, p.frame)
		}
		if whole := h.Length == 0; p.inside == whole || len(c.frames) != map[bool]int{true: 1}[whole] {
			t.Fatalf("%+v: within the payload %v, %d frames", h, p.inside, len(c.frames))
		}
	})
}

// A close payload that is accepted is written again byte for byte; whatever is
// written is accepted and fits a control frame.
func FuzzClose(f *testing.F) {
	f.Add([]byte("\x03\xE8bye"), uint16(1000), "bye")
	f.Add([]byte{}, uint16(1005), "unseen")
	f.Add([]byte("\x03\xE8\xFF"), uint16(1006), "\xFF\xFE")
	f.Add([]byte{3}, uint16(4999), string(bytes.Repeat([]byte("\u00E9"), 70)))
	f.Fuzz(func(t *testing.T, payload []byte, number uint16, words string) {
		code, reason, err := ParseClose(payload)
		if err == nil {
			if back := AppendClose(nil, code, reason); len(payload) <= MaxControl && !bytes.Equal(back, payload) {
				t.Fatalf("%x came back as %x", payload, back)
			}
		} else if c := codeOf(t, err); c != ProtocolError && c != InvalidPayload {
			t.Fatalf("%x: %v", payload, err)
		}
		written := AppendClose([]byte("!"), Code(number), words)[1:]
		if len(written) > MaxControl {
			t.Fatalf("%d bytes", len(written))
		}
		code, reason, err = ParseClose(written)
		if err != nil {
			t.Fatalf("our own close frame %x: %v", written, err)
		}
		want := Code(number)
		if want != NoStatus && !want.Sendable() {
			want = InternalError
		}
		if code != want {
			t.Fatalf("%d became %d", number, code)
		}
		if want != NoStatus && len(words) <= MaxReason && utf8.ValidString(words) && reason != words {
			t.Fatalf("%q became %q", words, reason)
		}
	})
}
