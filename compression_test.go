package fanfare_test

import (
	"bytes"
	"compress/flate"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
)

// An ear hears frames that may be compressed.
type ear struct {
	*person
	parser frame.Parser
	heard  []said
}

// said is a frame as it came, and what it says.
type said struct {
	op     frame.Opcode
	packed bool
	text   string
}

func (e *ear) Frame(f frame.Frame) error {
	text := string(f.Payload)
	if f.Rsv1 {
		b, err := io.ReadAll(flate.NewReader(strings.NewReader(text + "\x00\x00\xff\xff\x01\x00\x00\xff\xff")))
		if err != nil {
			return err
		}
		text = string(b)
	}
	e.heard = append(e.heard, said{f.Opcode, f.Rsv1, text})
	return nil
}

// next returns the next frame that is no ping.
func (e *ear) next() said {
	e.t.Helper()
	buf := make([]byte, 64<<10)
	for {
		for len(e.heard) > 0 {
			s := e.heard[0]
			if e.heard = e.heard[1:]; s.op != frame.Ping {
				return s
			}
		}
		e.conn.SetReadDeadline(time.Now().Add(patience))
		n, err := e.r.Read(buf)
		if err == nil {
			err = e.parser.Push(buf[:n], &frame.Rules{Limit: 64 << 20, Compressed: true}, e)
		}
		if err != nil {
			e.t.Fatal(err)
		}
	}
}

// closes reads on to the server's close.
func (e *ear) closes(code frame.Code, says string) {
	e.t.Helper()
	for {
		s := e.next()
		if s.op != frame.Close {
			continue
		}
		if got, reason, _ := frame.ParseClose([]byte(s.text)); got != code || !strings.Contains(reason, says) {
			e.t.Errorf("closed with %d %q, want %d with word of %q", got, reason, code, says)
		}
		return
	}
}

// press deflates as a stranger does.
func press(p []byte) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	w.Write(p)
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff"))
}

// pressedZeros is n of them, deflated at about 1,000:1.
func pressedZeros(n int) []byte {
	const part = 1 << 20
	var b []byte
	for mega := press(make([]byte, part)); n >= part; n -= part {
		b = append(append(b, mega...), "\x00\x00\xff\xff"...) // each part begins at a byte
	}
	return append(b, press(make([]byte, n))...)
}

// says sends a compressed message in so many fragments.
func (e *ear) says(op frame.Opcode, pressed []byte, fragments int) {
	var wire []byte
	for i := range fragments {
		from, to := i*len(pressed)/fragments, (i+1)*len(pressed)/fragments
		h := frame.Header{Opcode: op, Fin: i == fragments-1, Rsv1: i == 0, Masked: true, Key: testKey, Length: int64(to - from)}
		if i > 0 {
			h.Opcode = frame.Continuation
		}
		wire = append(frame.AppendHeader(wire, h), pressed[from:to]...)
		frame.Mask(wire[len(wire)-(to-from):], testKey, 0)
	}
	e.conn.SetWriteDeadline(time.Now().Add(patience))
	_, _ = e.conn.Write(wire) // the server may have had enough before
}

const offers = "Sec-WebSocket-Extensions: permessage-deflate"

func onBothTransports(t *testing.T, story func(t *testing.T)) {
	for _, transport := range []string{"reactor", "stream"} {
		if transport == "reactor" && runtime.GOOS != "linux" {
			continue
		}
		t.Run(transport, func(t *testing.T) {
			t.Setenv("FANFARE_TRANSPORT", transport)
			story(t)
		})
	}
}

// What a client offers is agreed to in our own words, or declined; what is no
// list of extensions is refused.
func TestCompressionIsNegotiated(t *testing.T) {
	s := perform(t, fanfare.Config{})
	const alone = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	for offer, want := range map[string]string{
		"permessage-deflate":                                                     alone,
		"permessage-deflate; client_max_window_bits":                             alone,
		"permessage-deflate; server_max_window_bits=15":                          alone + "; server_max_window_bits=15",
		"permessage-deflate; server_max_window_bits=14":                          alone + "; server_max_window_bits=12",
		"permessage-deflate; server_max_window_bits=12":                          alone + "; server_max_window_bits=12",
		"permessage-deflate; server_max_window_bits=9; client_max_window_bits=9": alone + "; server_max_window_bits=9",
		"permessage-deflate; server_max_window_bits=8":                           alone + "; server_max_window_bits=8",
		"permessage-deflate; server_max_window_bits=7, permessage-deflate":       alone,
		"permessage-deflate; server_max_window_bits=99999":                       "",
		"permessage-deflate; evil":                                               "",
		"x-webkit-deflate-frame":                                                 "",
	} {
		p := s.join("/n", "Sec-WebSocket-Extensions: "+offer)
		if got := p.head.Get("Sec-WebSocket-Extensions"); got != want {
			t.Errorf("%s: %q, want %q", offer, got, want)
		}
	}
	_, resp, err := s.tryJoin("/n", "Sec-WebSocket-Extensions: permessage-deflate; =")
	if err != nil || resp.StatusCode != http.StatusBadRequest {
		t.Errorf("what is malformed: %v, %v", resp, err)
	}
	off := perform(t, fanfare.Config{Compression: fanfare.Compression{Off: true}})
	if got := off.join("/n", offers).head.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Errorf("switched off, the answer is %q", got)
	}
	p := off.join("/n")
	p.raw(frame.AppendHeader(nil, frame.Header{Opcode: frame.Text, Fin: true, Rsv1: true, Masked: true}))
	if code, _ := p.closed(); code != frame.ProtocolError {
		t.Errorf("RSV1 that nobody agreed to ends with %d", code)
	}
}

// Readers with and without compression, with windows of any size, on both conversations,
// hear the same; small messages go out as they are.
func TestCompressedBroadcast(t *testing.T) {
	onBothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{Compression: fanfare.Compression{Over: 100}})
		var ears []*ear
		for _, how := range [][]string{
			{}, {offers}, {offers + "; server_max_window_bits=8"}, {offers + "; server_max_window_bits=10"}, {offers + "; server_max_window_bits=12"},
			{offers, "Sec-WebSocket-Protocol: fanfare.v1"}, {"Sec-WebSocket-Protocol: fanfare.v1"}, {offers, "Fanfare-Position: pong"},
		} {
			ears = append(ears, &ear{person: s.join("/news", how...)})
		}
		var pattern = &ear{person: s.join("/*", offers)}
		for _, e := range append(ears, pattern) {
			if e.head.Get("Sec-WebSocket-Protocol") != "" {
				if welcome := e.next(); !strings.Contains(welcome.text, "welcome") {
					t.Fatalf("%+v", welcome)
				}
			}
		}
		long := `{"text":"` + strings.Repeat("Grüße und Küsse, ", 2000) + `"}`
		// One sends as it hears, compressed.
		ears[1].says(frame.Text, press([]byte(long)), 3)
		for i, e := range append(ears, pattern) {
			m := e.next()
			if !strings.Contains(m.text, "Küsse, Grüße und Küsse, ") || len(m.text) < len(long) {
				t.Errorf("reader %d hears %.100q", i, m.text)
			}
			if agreed := e.head.Get("Sec-WebSocket-Extensions") != ""; agreed != m.packed {
				t.Errorf("reader %d agreed to compress: %v, and it was: %v", i, agreed, m.packed)
			}
			if i == 7 {
				if pong := e.next(); pong.op != frame.Pong || !strings.Contains(pong.text, "-") {
					t.Errorf("behind the message comes %+v", pong)
				}
			}
		}
		ears[0].say("hi")
		for i, e := range ears {
			if m := e.next(); m.packed != (i == 5) || !strings.Contains(m.text, "hi") { // in JSON it is long enough
				t.Errorf("reader %d hears %+v", i, m)
			}
		}
	})
}

// Bombs, over both conversations and transports, whole and in fragments. What is
// within the limit is published; what is over it ends the connection, and costs
// no more memory than the limit allows.
func TestBombsAtTheServer(t *testing.T) {
	const limit = 1 << 20
	bombs := []struct {
		name      string
		n         int
		fragments int
		tooBig    bool
	}{
		{"limit-1", limit - 1, 1, false}, {"limit", limit, 1, false}, {"limit in fragments", limit, 50, false},
		{"limit+1", limit + 1, 1, true}, {"limit+1 in fragments", limit + 1, 50, true},
		{"32 MiB", 32 << 20, 1, true}, {"32 MiB in fragments", 32 << 20, 1000, true},
		{"256 MiB", 256 << 20, 1, true}, {"256 MiB in fragments", 256 << 20, 1000, true},
	}
	pressed := map[int][]byte{}
	for _, b := range bombs {
		if pressed[b.n] == nil {
			pressed[b.n] = pressedZeros(b.n)
		}
	}
	onBothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{MaxMessage: limit, History: -1})
		for _, b := range bombs {
			t.Run(b.name, func(t *testing.T) {
				e := &ear{person: s.join("/bombs", offers)}
				e.t = t
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				e.says(frame.Binary, pressed[b.n], b.fragments)
				if b.tooBig {
					e.closes(frame.MessageTooBig, "1048576 bytes")
				} else if m := e.next(); len(m.text) != b.n {
					t.Errorf("%d bytes", len(m.text))
				}
				runtime.ReadMemStats(&after)
				if grown := int64(after.Sys) - int64(before.Sys); b.tooBig && grown > 16*limit {
					t.Errorf("%d bytes more of the system's memory", grown)
				}
			})
		}
		t.Run("fanfare.v1", func(t *testing.T) {
			e := &ear{person: s.join("/bombs", offers, "Sec-WebSocket-Protocol: fanfare.v1")}
			e.next()
			e.says(frame.Text, pressed[256<<20], 1)
			e.closes(frame.MessageTooBig, fmt.Sprint(6*limit+4096))
		})
		t.Run("not deflate", func(t *testing.T) {
			e := &ear{person: s.join("/bombs", offers)}
			e.says(frame.Text, []byte("\xff\xff"), 1)
			e.closes(frame.InvalidPayload, "inflated")
		})
		t.Run("not UTF-8", func(t *testing.T) {
			e := &ear{person: s.join("/bombs", offers)}
			e.says(frame.Text, press(append(bytes.Repeat([]byte("x"), 100<<10), 0xff)), 1) // inflated behind the loop's back
			e.closes(frame.InvalidPayload, "UTF-8")
		})
	})
}

// What is said compressed is heard in its order with what is not, the large with the small.
func TestCompressedSpeechKeepsItsOrder(t *testing.T) {
	onBothTransports(t, func(t *testing.T) {
		s := perform(t, fanfare.Config{})
		alice, bob := &ear{person: s.join("/order", offers)}, &ear{person: s.join("/order")}
		const n = 60
		for i := range n {
			text := fmt.Sprintf(`{"n":%d,"fill":"%s"}`, i, strings.Repeat("x", []int{1, 300, 30000}[i%3]))
			if i%4 == 0 {
				alice.say(text)
			} else {
				alice.says(frame.Text, press([]byte(text)), 1+i%2)
			}
		}
		for i := range n {
			if m := bob.next(); !strings.HasPrefix(m.text, fmt.Sprintf(`{"n":%d,`, i)) {
				t.Fatalf("message %d is %.40q", i, m.text)
			}
		}
	})
}

// An idle session that may compress holds what one holds that may not.
func TestIdleSessionsHoldNoCompressor(t *testing.T) {
	const n = 300
	onBothTransports(t, func(t *testing.T) {
		held := map[bool]int64{}
		for _, compressed := range []bool{false, true, false, true} { // first, what is made once
			s := perform(t, fanfare.Config{History: -1})
			var headers []string
			if compressed {
				headers = []string{offers}
			}
			heap := func() int64 {
				var m runtime.MemStats
				for range 3 {
					runtime.GC()
				}
				runtime.ReadMemStats(&m)
				return int64(m.HeapAlloc + m.StackInuse)
			}
			before := heap()
			ears := make([]*ear, n)
			for i := range ears {
				ears[i] = &ear{person: s.join("/idle", headers...)}
			}
			ears[0].say(strings.Repeat("to and fro ", 100))
			for _, e := range ears {
				if m := e.next(); m.packed != compressed {
					t.Fatalf("%+v", m)
				}
				e.parser = frame.Parser{}
			}
			held[compressed] = heap() - before
			for _, e := range ears {
				e.conn.Close()
			}
			eventually(t, "all are gone", func() bool { return s.Stats().Sessions == 0 })
		}
		if plain, packed := held[false], held[true]; packed > plain+n*4<<10 { // one that inflates alone has 32 KiB
			t.Errorf("%d idle sessions and their readers hold %d bytes, with compression %d", n, plain, packed)
		} else {
			t.Logf("%d and %d bytes for each", plain/n, packed/n)
		}
	})
}
