package websocket

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"fanfare/internal/handshake"
)

// A wire is the other end of a connection under test, frame by frame and as
// rude as the test likes. It shares no code with what it tests but the handshake's hash.
type wire struct {
	t testing.TB
	net.Conn
	r      *bufio.Reader
	client bool // the wire is the client: it masks
}

// A raw is one frame, or what pretends to be one.
type raw struct {
	b0      byte // FIN, RSV1–3, opcode
	payload string
	length  int64 // when not 0, what the header claims instead of the payload's length
}

const fin = 0x80

func whole(op byte, payload string) raw { return raw{b0: fin | op, payload: payload} }
func part(op byte, payload string) raw  { return raw{b0: op, payload: payload} }

func closing(code uint16, reason string) raw {
	return whole(8, string(binary.BigEndian.AppendUint16(nil, code))+reason)
}

func (w *wire) encode(f raw) []byte {
	b := []byte{f.b0}
	n := int64(len(f.payload))
	if f.length != 0 {
		n = f.length
	}
	mask := byte(0)
	if w.client {
		mask = 0x80
	}
	switch {
	case n >= 0 && n < 126:
		b = append(b, mask|byte(n))
	case n >= 0 && n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if !w.client {
		return append(b, f.payload...)
	}
	var key [4]byte
	_, _ = rand.Read(key[:])
	b = append(b, key[:]...)
	for i := range len(f.payload) {
		b = append(b, f.payload[i]^key[i%4])
	}
	return b
}

// send writes the frames, all at once or, when chop is not 0, in pieces of so many bytes.
func (w *wire) send(chop int, frames ...raw) {
	var b []byte
	for _, f := range frames {
		b = append(b, w.encode(f)...)
	}
	if chop == 0 {
		chop = len(b)
	}
	for len(b) > 0 {
		n := min(chop, len(b))
		if _, err := w.Write(b[:n]); err != nil {
			return // the end under test has had enough; what it said will be read
		}
		b = b[n:]
	}
}

// read returns the next frame, or an error at the end.
func (w *wire) read() (b0 byte, payload string, err error) {
	var h [2]byte
	if _, err := io.ReadFull(w.r, h[:]); err != nil {
		return 0, "", err
	}
	if masked := h[1]&0x80 != 0; masked == w.client {
		return 0, "", fmt.Errorf("masked %v from the wrong side", masked)
	}
	n := int64(h[1] & 0x7F)
	if ext := map[int64]int{126: 2, 127: 8}[n]; ext > 0 {
		b := make([]byte, 8)
		if _, err := io.ReadFull(w.r, b[8-ext:]); err != nil {
			return 0, "", err
		}
		n = int64(binary.BigEndian.Uint64(b))
		if ext == 2 && n < 126 || ext == 8 && n < 1<<16 {
			return 0, "", fmt.Errorf("length %d not in its shortest form", n)
		}
	}
	var key [4]byte
	if !w.client {
		if _, err := io.ReadFull(w.r, key[:]); err != nil {
			return 0, "", err
		}
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(w.r, p); err != nil {
		return 0, "", err
	}
	for i := range p {
		p[i] ^= key[i%4]
	}
	return h[0], string(p), nil
}

// want reads the frames and fails the test on any other. A close frame's reason is free.
func (w *wire) want(frames ...raw) {
	w.t.Helper()
	for i, f := range frames {
		b0, payload, err := w.read()
		if err != nil {
			w.t.Fatalf("frame %d of %d: want %#x %.40q: %v", i+1, len(frames), f.b0, f.payload, err)
		}
		if b0 == fin|8 && b0 == f.b0 && len(f.payload) == 2 && len(payload) > 2 {
			payload = payload[:2]
		}
		if b0 != f.b0 || payload != f.payload {
			w.t.Fatalf("frame %d of %d: %#x %.40q (%d bytes), want %#x %.40q (%d bytes)",
				i+1, len(frames), b0, payload, len(payload), f.b0, f.payload, len(f.payload))
		}
	}
}

// wantEOF expects nothing but the end. A client under test waits for the
// server to end it (RFC 6455, section 7.1.1), so the wire does its part first.
func (w *wire) wantEOF() {
	w.t.Helper()
	if !w.client {
		_ = w.Conn.(*net.TCPConn).CloseWrite()
	}
	if b0, payload, err := w.read(); err != io.EOF {
		w.t.Fatalf("after the close frame: %#x %.40q, %v", b0, payload, err)
	}
}

// toAccept returns the wire to a server's Conn. The server runs handle.
func toAccept(t testing.TB, url string) *wire {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "ws://"), "/"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "+base64.StdEncoding.EncodeToString(make([]byte, 16))+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatal(resp, err)
	}
	return &wire{t, conn, r, true}
}

// listen accepts one connection after another and runs the handler for each,
// in the raw. The test waits for them at its end.
func listen(t testing.TB, handle func(net.Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		running := 0
		ended := make(chan struct{})
		for {
			conn, err := l.Accept()
			if err != nil {
				break
			}
			_ = conn.SetDeadline(time.Now().Add(patience))
			running++
			go func() {
				handle(conn)
				_ = conn.Close()
				ended <- struct{}{}
			}()
		}
		for ; running > 0; running-- {
			<-ended
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-over
	})
	return l.Addr().String()
}

// answer plays the server's side of the handshake with the extra header
// lines, each with its CR LF, and returns the wire.
func answer(t testing.TB, conn net.Conn, extra string) *wire {
	r := bufio.NewReader(conn)
	req, err := http.ReadRequest(r)
	if err != nil {
		return &wire{t, conn, r, false}
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "+
		handshake.AcceptKey(req.Header.Get("Sec-WebSocket-Key"))+"\r\n"+extra+"\r\n")
	return &wire{t, conn, r, false}
}

// toDial returns the wire to a client's Conn, and that Conn.
func toDial(t testing.TB, o *DialOptions) (*wire, *Conn) {
	t.Helper()
	wires := make(chan *wire, 1)
	over := make(chan struct{})
	addr := listen(t, func(conn net.Conn) {
		wires <- answer(t, conn, "")
		<-over
	})
	t.Cleanup(func() { close(over) })
	c := dial(t, "ws://"+addr, o)
	return <-wires, c
}

func echo(c *Conn) {
	for m, err := range c.Messages(context.Background()) {
		if err != nil || c.Write(context.Background(), m.Type, m.Data) != nil {
			return
		}
	}
}
