package websocket

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
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

	"fanfare/internal/frame"
)

// pairs of what two ends want of compression, by what they come to.
var compressions = map[string][2]Compression{
	"alone":        {CompressionOn, CompressionOn},
	"client wants": {CompressionOn, CompressionTakeover},
	"server wants": {CompressionTakeover, CompressionOn},
	"takeover":     {CompressionTakeover, CompressionTakeover},
	"client off":   {CompressionTakeover, CompressionOff},
	"server off":   {CompressionOff, CompressionTakeover},
}

// Messages of all sizes, whole and in pieces, by several goroutines, come as
// they were and in order, whatever the two ends agreed on.
func TestCompressedConversations(t *testing.T) {
	for name, both := range compressions {
		t.Run(name, func(t *testing.T) {
			server, client := pair(t, &AcceptOptions{Compression: both[0], CompressOver: 50}, &DialOptions{Compression: both[1], CompressOver: 50})
			for _, ends := range [][2]*Conn{{server, client}, {client, server}} {
				t.Run(map[bool]string{true: "from server", false: "from client"}[ends[0] == server], func(t *testing.T) {
					converse(t, ends[0], ends[1])
				})
			}
		})
	}
}

func converse(t *testing.T, alice, bob *Conn) {
	const writers, each = 4, 12
	text := func(w, i int) string {
		rng := rand.New(rand.NewPCG(uint64(w), uint64(i)))
		return fmt.Sprintf("%d/%d ", w, i) + strings.Repeat(fmt.Sprintf("Grüße %d, ", rng.IntN(1000)), []int{0, 3, 30, 300, 3000, 7000}[i%6])
	}
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range each {
				if i%3 > 0 {
					if err := alice.Write(testContext(t), Text, []byte(text(w, i))); err != nil {
						t.Error(err)
					}
					continue
				}
				m, err := alice.Writer(testContext(t), Text)
				if err != nil {
					t.Error(err)
					return
				}
				for rest := text(w, i); rest != ""; {
					n := min(len(rest), 5000)
					if _, err := io.WriteString(m, rest[:n]); err != nil {
						t.Error(err)
					}
					rest = rest[n:]
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	next := make([]int, writers)
	for range writers * each {
		_, data, err := bob.Read(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		var w, i int
		if _, err := fmt.Sscanf(string(data), "%d/%d", &w, &i); err != nil {
			t.Fatal(err)
		}
		if i != next[w] || string(data) != text(w, i) {
			t.Fatalf("writer %d: message %d of %d bytes, want %d", w, i, len(data), next[w])
		}
		next[w]++
	}
	all.Wait()
}

// With context takeover a cancelled Write may not leave a hole that later
// messages refer to.
func TestCancelledWriteKeepsTheContext(t *testing.T) {
	server, client := pair(t, &AcceptOptions{Compression: CompressionTakeover, Queue: 1}, &DialOptions{Compression: CompressionTakeover, Queue: 1})
	narrow(server, client)
	// What does not get smaller, so that writes block.
	rng := rand.New(rand.NewPCG(5, 5))
	noise := make([]byte, 1<<18)
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	cancelled := 0
	for range 30 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		if err := server.Write(ctx, Binary, noise); err != nil {
			cancelled++
		}
		cancel()
		noise = append(noise[1:], noise[0])
	}
	if cancelled == 0 {
		t.Fatal("no write was cancelled: the test shows nothing")
	}
	last := make(chan error, 1)
	go func() { last <- server.Write(testContext(t), Text, []byte("last")) }()
	for {
		kind, data, err := client.Read(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if kind == Text {
			if string(data) != "last" {
				t.Fatalf("%q", data)
			}
			break
		}
	}
	if err := <-last; err != nil {
		t.Fatal(err)
	}
}

// askRaw asks addr for a WebSocket with an offer, and returns the connection and the answer's header.
func askRaw(t *testing.T, addr, offer string) (net.Conn, *bufio.Reader, string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(addr, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: %s\r\n\r\n", offer)
	r := bufio.NewReader(conn)
	var head strings.Builder
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		line, err := r.ReadString('\n')
		head.WriteString(line)
		if err != nil {
			t.Fatalf("%q, %v", head.String(), err)
		}
	}
	return conn, r, head.String()
}

// What is said of extensions is an answer in our own words, or nothing, or 400.
func TestAcceptExtensions(t *testing.T) {
	addr := serve(t, &AcceptOptions{PingInterval: -1}, func(*Conn) {})
	for offer, want := range map[string]string{
		"permessage-deflate; client_max_window_bits":                          "permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n",
		`permessage-deflate; server_max_window_bits="1\0"`:                    "server_max_window_bits=10\r\n",
		"permessage-deflate; server_max_window_bits=99999":                    "",
		"permessage-deflate; evil=1":                                          "",
		"constructor, __proto__":                                              "",
		"permessage-deflate; evil, permessage-deflate":                        "client_no_context_takeover\r\n",
		"b" + strings.Repeat(" ", 2000) + "x":                                 "400",
		"permessage-deflate;;":                                                "400",
		"permessage-deflate; server_max_window_bits=\"10":                     "400",
		strings.Repeat("permessage-deflate; server_max_window_bits=16, ", 20): "",
	} {
		_, _, head := askRaw(t, addr, offer)
		switch {
		case want == "400":
			if !strings.HasPrefix(head, "HTTP/1.1 400") {
				t.Errorf("%.80q: %q", offer, head)
			}
		case !strings.HasPrefix(head, "HTTP/1.1 101"), (want != "") != strings.Contains(head, "Sec-Websocket-Extensions:"), !strings.Contains(head, want), strings.Contains(head, "evil"):
			t.Errorf("%.80q: %q", offer, head)
		}
	}
}

// pack deflates as a stranger does.
func pack(p []byte) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestCompression)
	_, _ = w.Write(p)
	_ = w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte("\x00\x00\xff\xff"))
}

// zeros is n of them, deflated at about 1,000:1.
func zeros(n int) []byte {
	const part = 1 << 20
	var b []byte
	for mega := pack(make([]byte, part)); n >= part; n -= part {
		b = append(append(b, mega...), "\x00\x00\xff\xff"...) // each part begins at a byte
	}
	return append(b, pack(make([]byte, n))...)
}

// sendRaw writes a message in so many fragments.
func sendRaw(conn net.Conn, masked bool, op frame.Opcode, payload []byte, fragments int) {
	var wire []byte
	for i := range fragments {
		from, to := i*len(payload)/fragments, (i+1)*len(payload)/fragments
		h := frame.Header{Opcode: op, Fin: i == fragments-1, Rsv1: i == 0, Masked: masked, Key: [4]byte{1, 2, 3, 4}, Length: int64(to - from)}
		if i > 0 {
			h.Opcode = frame.Continuation
		}
		wire = frame.AppendHeader(wire, h)
		at := len(wire)
		wire = append(wire, payload[from:to]...)
		if masked {
			frame.Mask(wire[at:], h.Key, 0)
		}
	}
	_, _ = conn.Write(wire) // the other end may have had enough before
}

// Bombs, at a server and at a client, whole and in fragments: what is within the
// limit is read, what is over it ends the connection, and neither costs more
// memory than the limit allows.
func TestBombs(t *testing.T) {
	const limit = 1 << 20
	for _, tt := range []struct {
		name      string
		payload   []byte
		op        frame.Opcode
		fragments int
		code      Code // 0: it is read
		says      string
	}{
		{"limit-1", zeros(limit - 1), frame.Binary, 1, 0, ""},
		{"limit", zeros(limit), frame.Binary, 1, 0, ""},
		{"limit in fragments", zeros(limit), frame.Text, 100, 0, ""},
		{"limit+1", zeros(limit + 1), frame.Binary, 1, MessageTooBig, "1048576 bytes"},
		{"limit+1 in fragments", zeros(limit + 1), frame.Text, 100, MessageTooBig, "1048576 bytes"},
		{"32 MiB", zeros(32 << 20), frame.Binary, 1, MessageTooBig, "1048576 bytes"},
		{"32 MiB in fragments", zeros(32 << 20), frame.Binary, 1000, MessageTooBig, "1048576 bytes"},
		{"256 MiB", zeros(256 << 20), frame.Binary, 1, MessageTooBig, "1048576 bytes"},
		{"256 MiB in fragments", zeros(256 << 20), frame.Text, 1000, MessageTooBig, "1048576 bytes"},
		{"not deflate", []byte("\xff\xff\xff"), frame.Binary, 1, InvalidPayload, "cannot be inflated"},
		{"not UTF-8", pack([]byte("gr\xfc\xdfe")), frame.Text, 1, InvalidPayload, "UTF-8"},
		{"half a character at the end", pack([]byte("gr\xc3")), frame.Text, 3, InvalidPayload, "UTF-8"},
		{"a Latin-1 that is binary", pack([]byte("gr\xfc\xdfe")), frame.Binary, 2, 0, ""},
	} {
		check := func(t *testing.T, c *Conn) {
			t.Helper()
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			_, _, err := c.Read(testContext(t))
			runtime.ReadMemStats(&after)
			var closed *CloseError
			switch {
			case tt.code == 0 && err != nil:
				t.Errorf("%v", err)
			case tt.code != 0 && (!errors.As(err, &closed) || closed.Code != tt.code || !closed.Local || !strings.Contains(closed.Reason, tt.says)):
				t.Errorf("%v, want %d with word of %q", err, tt.code, tt.says)
			}
			if grown := int64(after.Sys) - int64(before.Sys); grown > 16*limit {
				t.Errorf("%d bytes more of the system's memory", grown)
			}
			_ = c.CloseNow()
		}
		t.Run("server, "+tt.name, func(t *testing.T) {
			conns := make(chan *Conn, 1)
			addr := serve(t, &AcceptOptions{PingInterval: -1}, func(c *Conn) { conns <- c; <-c.Done() })
			conn, _, _ := askRaw(t, addr, "permessage-deflate")
			sendRaw(conn, true, tt.op, tt.payload, tt.fragments)
			check(t, <-conns)
		})
		t.Run("client, "+tt.name, func(t *testing.T) {
			addr := listen(t, func(conn net.Conn) {
				answer(t, conn, "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n")
				sendRaw(conn, false, tt.op, tt.payload, tt.fragments)
				_, _ = io.Copy(io.Discard, conn)
			})
			c, _, err := Dial(testContext(t), "ws://"+addr, &DialOptions{PingInterval: -1})
			if err != nil {
				t.Fatal(err)
			}
			check(t, c)
		})
	}
}

// An idle connection that may compress holds no more than one that may not.
func TestIdleMemory(t *testing.T) {
	const conns = 100
	held := map[Compression]int64{}
	for _, compression := range []Compression{CompressionOff, CompressionOn} {
		server, client := make([]*Conn, conns), make([]*Conn, conns)
		var before, after runtime.MemStats
		heap := func(m *runtime.MemStats) { runtime.GC(); runtime.GC(); runtime.GC(); runtime.ReadMemStats(m) }
		heap(&before)
		for i := range conns {
			server[i], client[i] = pair(t, &AcceptOptions{Compression: compression}, &DialOptions{Compression: compression})
			send(t, client[i], Text, strings.Repeat("to and fro, ", 100))
			wantMessage(t, server[i], Text, strings.Repeat("to and fro, ", 100))
			send(t, server[i], Text, strings.Repeat("to and fro, ", 100))
			wantMessage(t, client[i], Text, strings.Repeat("to and fro, ", 100))
		}
		heap(&after)
		held[compression] = int64(after.HeapAlloc) - int64(before.HeapAlloc)
		for i := range conns {
			_ = server[i].CloseNow()
			_ = client[i].CloseNow()
		}
	}
	if off, on := held[CompressionOff], held[CompressionOn]; on > off+off/20+conns*512 {
		t.Errorf("%d idle pairs hold %d bytes, and %d with compression", conns, off, on)
	}
}
