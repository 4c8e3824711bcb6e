package fanfare_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(outpostName); name != "" {
		if err := serveOutpost(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if addr := os.Getenv(campName); addr != "" {
		if err := besiege(addr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a test waits for what should happen at once.
const patience = 20 * time.Second

// A stage is a server for one test, on a real socket.
type stage struct {
	*fanfare.Server
	t    testing.TB
	http *httptest.Server
}

// perform starts a server; the test's end shuts it down and finds every
// connection gone. with are what to set before it begins.
func perform(t testing.TB, cfg fanfare.Config, with ...func(*http.Server)) *stage {
	t.Helper()
	s := &stage{t: t}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if s.Server, err = fanfare.New(cfg); err != nil {
		t.Fatal(err)
	}
	s.http = httptest.NewUnstartedServer(s.Server)
	s.http.Config.ReadHeaderTimeout = 2 * time.Second
	s.http.Config.MaxHeaderBytes = 16 << 10
	s.http.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	for _, set := range with {
		set(s.http.Config)
	}
	s.http.Start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		s.http.Close()
		if n := s.Stats().Sessions; n != 0 {
			t.Errorf("%d sessions after Shutdown", n)
		}
	})
	return s
}

func (s *stage) addr() string { return s.http.Listener.Addr().String() }

// url returns the URL of a path.
func (s *stage) url(path string) string { return s.http.URL + path }

// A person is a WebSocket client made of raw frames, so that a test can say
// everything, right or wrong.
type person struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	head http.Header // of the handshake's response
}

// join connects a person to a path, as in "/chat?name=alice".
func (s *stage) join(path string, headers ...string) *person {
	s.t.Helper()
	p, resp, err := s.tryJoin(path, headers...)
	if err != nil {
		s.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("joining %s: %s: %s", path, resp.Status, body)
	}
	return p
}

func (s *stage) tryJoin(path string, headers ...string) (*person, *http.Response, error) {
	p, resp, err := meet(s.t, s.addr(), path, headers...)
	if err == nil {
		s.t.Cleanup(func() { p.conn.Close() })
	}
	return p, resp, err
}

// meet connects a person to a server. Whoever calls it closes the connection.
func meet(t testing.TB, addr, path string, headers ...string) (*person, *http.Response, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	p := &person{t: t, conn: conn, r: bufio.NewReader(conn)}
	fmt.Fprint(conn, upgrade(addr, path, headers...))
	conn.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	p.head = resp.Header
	return p, resp, nil
}

// upgrade returns a request for a WebSocket.
func upgrade(host, path string, headers ...string) string {
	return fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n",
		path, host, strings.Join(append(headers, ""), "\r\n"))
}

// raw sends bytes as they are.
func (p *person) raw(b []byte) {
	p.t.Helper()
	p.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

var testKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

func (p *person) send(op frame.Opcode, payload []byte) {
	p.t.Helper()
	p.raw(frame.AppendMasked(nil, op, true, testKey, payload))
}

func (p *person) say(text string) { p.t.Helper(); p.send(frame.Text, []byte(text)) }

// next returns the next frame.
func (p *person) next() (frame.Opcode, []byte, error) {
	p.conn.SetReadDeadline(time.Now().Add(patience))
	var h [2]byte
	if _, err := io.ReadFull(p.r, h[:]); err != nil {
		return 0, nil, err
	}
	if h[0]&0x70 != 0 || h[1]&0x80 != 0 {
		return 0, nil, fmt.Errorf("a server's frame begins with %x", h)
	}
	n := uint64(h[1])
	if n > 125 {
		ext := make([]byte, 2+6*(n-126))
		if _, err := io.ReadFull(p.r, ext); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(append(make([]byte, 8-len(ext)), ext...))
	}
	payload := make([]byte, n)
	_, err := io.ReadFull(p.r, payload)
	return frame.Opcode(h[0] & 0xF), payload, err
}

// hear returns the next message; pings are answered, pongs passed over.
func (p *person) hear() string {
	p.t.Helper()
	for {
		op, payload, err := p.next()
		if err != nil {
			p.t.Fatalf("hearing: %v", err)
		}
		switch op {
		case frame.Text, frame.Binary:
			return string(payload)
		case frame.Ping:
			p.send(frame.Pong, payload)
		case frame.Close:
			code, reason, _ := frame.ParseClose(payload)
			p.t.Fatalf("hearing: the server closed with %d %q", code, reason)
		}
	}
}

// said returns what was said in the next message, behind its [HH:MM:SS].
func (p *person) said() string {
	p.t.Helper()
	m := p.hear()
	if len(m) < 11 || m[0] != '[' || m[9:11] != "] " {
		p.t.Fatalf("no stamp: %q", m)
	}
	return m[11:]
}

// closed reads on to the server's close and returns its code and reason, and
// then finds the connection ended.
func (p *person) closed() (frame.Code, string) {
	p.t.Helper()
	for {
		op, payload, err := p.next()
		if err != nil {
			p.t.Fatalf("waiting for a close: %v", err)
		}
		if op != frame.Close {
			continue
		}
		code, reason, err := frame.ParseClose(payload)
		if err != nil {
			p.t.Fatalf("close frame %x: %v", payload, err)
		}
		return code, reason
	}
}

// ended finds that the server ended the connection.
func (p *person) ended() {
	p.t.Helper()
	for {
		if _, _, err := p.next(); err != nil {
			var late net.Error
			if errors.As(err, &late) && late.Timeout() {
				p.t.Fatal("the connection is still there")
			}
			return
		}
	}
}

// leave closes in good order.
func (p *person) leave() {
	p.t.Helper()
	p.send(frame.Close, frame.AppendClose(nil, frame.NormalClosure, ""))
	if code, _ := p.closed(); code != frame.NormalClosure {
		p.t.Fatalf("left with 1000, answered with %d", code)
	}
	p.ended()
	p.conn.Close()
}

// eventually waits until what holds does.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// descriptors counts this process's open files.
func descriptors(t testing.TB) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
