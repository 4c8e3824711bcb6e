package fanfare_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
)

func masked(op frame.Opcode, fin bool, payload string) []byte {
	return frame.AppendMasked(nil, op, fin, testKey, []byte(payload))
}

// What breaks RFC 6455 ends with the RFC's code and a reason, and those who
// keep to it notice nothing.
func TestBreaches(t *testing.T) {
	s := perform(t, fanfare.Config{MaxMessage: 64 << 10})
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	honest := s.join("/room")
	length := func(b0 byte, n uint64) []byte {
		b := []byte{b0, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 0}
		for i := range 8 {
			b[2+i] = byte(n >> (56 - 8*i))
		}
		return b
	}
	for _, c := range []struct {
		name string
		raw  []byte
		code frame.Code
	}{
		{"unmasked", []byte{0x81, 0x02, 'h', 'i'}, 1002},
		{"RSV1", []byte{0xC1, 0x80, 1, 2, 3, 4}, 1002},
		{"RSV2", []byte{0xA1, 0x80, 1, 2, 3, 4}, 1002},
		{"RSV3", []byte{0x91, 0x80, 1, 2, 3, 4}, 1002},
		{"opcode 3", []byte{0x83, 0x80, 1, 2, 3, 4}, 1002},
		{"opcode 7", []byte{0x87, 0x80, 1, 2, 3, 4}, 1002},
		{"opcode 11", []byte{0x8B, 0x80, 1, 2, 3, 4}, 1002},
		{"opcode 15", []byte{0x8F, 0x80, 1, 2, 3, 4}, 1002},
		{"2^63", length(0x82, 1<<63), 1002},
		{"2^63+1", length(0x82, 1<<63+1), 1002},
		{"2^64-1", length(0x82, 1<<64-1), 1002},
		{"2^62", length(0x82, 1<<62), 1009},
		{"2^32", length(0x82, 1<<32), 1009},
		{"limit+1", length(0x82, 64<<10+1), 1009},
		{"limit+1 in fragments", append(masked(frame.Binary, false, strings.Repeat("x", 64<<10)), masked(frame.Continuation, true, "x")...), 1009},
		{"length not shortest", []byte{0x82, 0xFE, 0, 5}, 1002},
		{"ping of 126", []byte{0x89, 0xFE, 0, 126}, 1002},
		{"fragmented ping", []byte{0x09, 0x80, 1, 2, 3, 4}, 1002},
		{"continuation of nothing", masked(frame.Continuation, true, "x"), 1002},
		{"message within a message", append(masked(frame.Text, false, "a"), masked(frame.Text, true, "b")...), 1002},
		{"text not UTF-8", masked(frame.Text, true, "a\xffb"), 1007},
		{"torn UTF-8", masked(frame.Text, true, "caf\xc3"), 1007},
		{"UTF-8 torn for good", append(masked(frame.Text, false, "\xf0\x9f"), masked(frame.Continuation, true, "x")...), 1007},
		{"surrogate", masked(frame.Text, true, "\xed\xa0\x80"), 1007},
		{"close of one byte", masked(frame.Close, true, "x"), 1002},
		{"close 1005", masked(frame.Close, true, "\x03\xed"), 1002},
		{"close 999", masked(frame.Close, true, "\x03\xe7"), 1002},
		{"close reason not UTF-8", masked(frame.Close, true, "\x03\xe8\xff"), 1007},
		{"HTTP", []byte("GET / HTTP/1.1\r\n\r\n"), 1002},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := s.join("/room")
			p.raw(c.raw)
			code, reason := p.closed()
			if code != c.code || reason == "" {
				t.Errorf("closed with %d %q, want %d and a reason", code, reason, c.code)
			}
			p.conn.Close()
		})
	}
	honest.say("all is well")
	if got := honest.said(); got != "all is well" {
		t.Fatalf("heard %q: somebody's half message came through", got)
	}
	eventually(t, "the others are gone", func() bool {
		return s.Stats().Sessions == 1 && runtime.NumGoroutine() <= goroutines+4 && descriptors(t) <= files+4
	})
}

// Fragments without end, tiny or empty, are ended within 16,384 of them, and
// what is held for them is no more than twice the limit.
func TestEndlessFragments(t *testing.T) {
	s := perform(t, fanfare.Config{Limits: fanfare.Limits{Messages: -1}})
	for _, payload := range []string{"x", ""} {
		p := s.join("/")
		var wg sync.WaitGroup
		sent := 0
		wg.Go(func() {
			begin, more := masked(frame.Text, false, payload), bytes.Repeat(masked(frame.Continuation, false, payload), 64)
			p.conn.SetWriteDeadline(time.Now().Add(patience))
			p.conn.Write(begin)
			for sent = 1; sent < 1<<20; sent += 64 {
				if _, err := p.conn.Write(more); err != nil {
					return
				}
			}
		})
		code, reason := p.closed()
		p.conn.Close()
		wg.Wait()
		if code != frame.MessageTooBig || !strings.Contains(reason, "16384 fragments") {
			t.Errorf("fragments of %d bytes: closed with %d %q", len(payload), code, reason)
		}
	}
}

// Pings from one who never reads cost next to nothing: many of them get one
// pong, so it may take hours until there is no room for more (that one who takes
// nothing is cut then, TestStuckPeer shows).
func TestPingFlood(t *testing.T) {
	s := perform(t, fanfare.Config{WriteTimeout: 300 * time.Millisecond, Limits: fanfare.Limits{Messages: -1}})
	honest := s.join("/")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p := s.join("/")
	flood := bytes.Repeat(masked(frame.Ping, true, strings.Repeat("p", 125)), 500)
	p.conn.SetWriteDeadline(time.Now().Add(patience))
	for range 4000 { // 2 million
		_, err := p.conn.Write(flood)
		if err != nil || s.Stats().Ended["stuck"] > 0 {
			break
		}
	}
	// What other tests left behind comes and goes; what a flood made would stay.
	eventually(t, "the heap is what it was, within a mebibyte", func() bool {
		runtime.GC()
		runtime.ReadMemStats(&after)
		return int64(after.HeapAlloc)-int64(before.HeapAlloc) < 1<<20
	})
	honest.say("dry")
	if got := honest.said(); got != "dry" {
		t.Fatal(got)
	}
}

// Huge and odd requests are refused by HTTP, quickly, and hurt nobody.
func TestHostileRequests(t *testing.T) {
	s := perform(t, fanfare.Config{})
	upgrade := "GET / HTTP/1.1\r\nHost: " + s.addr() + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, c := range []struct{ name, raw, status string }{
		{"1 MB header", upgrade + "X: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", "431"},
		{"2,000 headers", upgrade + strings.Repeat("X: yyyyyyyyyyyy\r\n", 2000) + "\r\n", "431"},
		{"many subprotocols", upgrade + "Sec-WebSocket-Protocol: " + strings.Repeat("a,", 7000) + "a\r\n\r\n", "101"},
		{"spaces in subprotocols", upgrade + "Sec-WebSocket-Protocol: b" + strings.Repeat(" ", 14000) + "x\r\n\r\n", "101"},
		{"odd extensions", upgrade + "Sec-WebSocket-Extensions: constructor, permessage-deflate; server_max_window_bits=99999; server_max_window_bits=\"x\"\r\n\r\n", "101"},
		{"wrong version", strings.Replace(upgrade, "13", "12", 1) + "\r\n", "426"},
		{"short key", strings.Replace(upgrade, "dGhlIHNhbXBsZSBub25jZQ==", "dGhl", 1) + "\r\n", "400"},
		{"two keys", upgrade + "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "400"},
		{"POST", strings.Replace(upgrade, "GET", "POST", 1) + "Content-Length: 0\r\n\r\n", "405"},
		{"another site", upgrade + "Origin: https://evil.example\r\n\r\n", "403"},
		{"a look-alike site", upgrade + "Origin: http://" + s.addr() + ".evil.example\r\n\r\n", "403"},
		{"nowhere", upgrade + "Origin: null\r\n\r\n", "403"},
		{"other port", upgrade + "Origin: http://127.0.0.1:1\r\n\r\n", "403"},
		{"own page", upgrade + "Origin: http://" + s.addr() + "\r\n\r\n", "101"},
		{"no HTTP at all", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "400"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", s.addr())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			start := time.Now()
			go io.WriteString(conn, c.raw) // the answer may come before all of it is read
			head := make([]byte, 12)
			if _, err := io.ReadFull(conn, head); err != nil {
				t.Fatal(err)
			}
			if got := string(head[9:]); got != c.status {
				t.Errorf("answered with %s, want %s", head, c.status)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
	s.join("/").leave()
}

// What is kept of a request is what counts against the limits of history, not
// the long request line that name, key and channel are pieces of.
func TestHistoryKeepsNoRequests(t *testing.T) {
	s := perform(t, fanfare.Config{})
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // what pools had is gone only now
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	padding := strings.Repeat("x", 12<<10)
	kept := []*person{s.join("/warm?name=up")}
	before := heap()
	for i := range 128 {
		if resp, body := s.fetch("POST", fmt.Sprintf("/post/%d?name=a&key=k&pad=%s", i%8, padding), "z"); resp.StatusCode != 200 {
			t.Fatal(resp.Status, body)
		}
		p := s.join(fmt.Sprintf("/socket/%d?name=a&pad=%s", i, padding))
		p.say("z")
		if got := p.said(); got != "a: z" {
			t.Fatal(got)
		}
		if i%2 == 0 {
			p.leave()
		} else {
			kept = append(kept, p)
		}
	}
	// A connection costs both of its ends here about 15 KB.
	if grown := heap() - before; grown > 2<<20 {
		t.Errorf("the heap grew by %d bytes for 256 messages of one byte and %d connections", grown, len(kept))
	}
	runtime.KeepAlive(kept)
}

// Random bytes, torn and cut off at random: the server lives, and an honest
// conversation goes on unharmed.
func TestNoise(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	s := perform(t, fanfare.Config{MaxMessage: 4 << 10})
	alice, bob := s.join("/den"), s.join("/den")
	for round := range 200 {
		conn := s.join("/noise").conn
		var b []byte
		for range rnd.IntN(8) {
			switch rnd.IntN(3) {
			case 0:
				junk := make([]byte, rnd.IntN(300))
				for i := range junk {
					junk[i] = byte(rnd.Uint32())
				}
				b = append(b, junk...)
			case 1:
				b = frame.AppendMasked(b, frame.Opcode(rnd.IntN(16)), rnd.IntN(2) == 0, testKey, make([]byte, rnd.IntN(5000)))
			case 2:
				b = append(b, masked(frame.Text, true, "hello")...)
			}
		}
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(b); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				t.Fatal("the server stopped reading")
			}
		}
		if rnd.IntN(2) == 0 {
			conn.(*net.TCPConn).SetLinger(0)
		}
		conn.Close()
		text := fmt.Sprint("round ", round)
		alice.say(text)
		if got := bob.said(); got != text {
			t.Fatalf("bob heard %q, alice said %q", got, text)
		}
		alice.said()
	}
	eventually(t, "the noise is gone", func() bool { return s.Stats().Sessions == 2 })
}
