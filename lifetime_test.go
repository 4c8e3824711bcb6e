package fanfare_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
)

// A silent client is pinged, with its position, and stays as long as it answers.
func TestHeartbeat(t *testing.T) {
	s := perform(t, fanfare.Config{Heartbeat: 100 * time.Millisecond, HeartbeatTimeout: 5 * time.Second})
	p := s.join("/quiet")
	pos := s.post("/quiet", "hello")
	if got := p.said(); got != "hello" {
		t.Fatal(got)
	}
	for range 5 {
		op, payload, err := p.next()
		if err != nil || op != frame.Ping || string(payload) != pos {
			t.Fatalf("%v %q %v, want a ping with %s", op, payload, err, pos)
		}
		p.send(frame.Pong, payload)
	}
	p.leave()
}

// A client that answers nothing, frozen or behind a cut cable, is told why and
// dropped, and all it had is free again.
func TestDeadPeer(t *testing.T) {
	s := perform(t, fanfare.Config{Heartbeat: 100 * time.Millisecond, HeartbeatTimeout: 100 * time.Millisecond})
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	var dead []*person
	for range 20 {
		dead = append(dead, s.join("/grave"))
	}
	eventually(t, "the dead are dropped", func() bool { return s.Stats().Sessions == 0 })
	if n := s.Stats().Ended["silent"]; n != 20 {
		t.Errorf("%d counted as silent, want 20", n)
	}
	for _, p := range dead {
		code, reason := p.closed()
		if code != frame.InternalError || !strings.Contains(reason, "nothing was heard for 100ms") {
			t.Fatalf("closed with %d %q", code, reason)
		}
		p.conn.Close()
	}
	eventually(t, "nothing is left", func() bool {
		return runtime.NumGoroutine() <= goroutines+2 && descriptors(t) <= files+2 && s.Stats().Channels == 0
	})
}

// A client on a slow line is not taken for dead while a large message is on its
// way to it: it cannot answer a ping that has not gone out.
func TestSlowLine(t *testing.T) {
	s := perform(t, fanfare.Config{Heartbeat: 100 * time.Millisecond, HeartbeatTimeout: time.Second})
	p := s.join("/far")
	p.conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	long := strings.Repeat("x", 1<<20)
	s.post("/far", long)
	// Slowly, as long as the rest is more than kernels hold on its way.
	first := make([]byte, 600<<10)
	p.conn.SetReadDeadline(time.Now().Add(patience))
	for rest := first; len(rest) > 0; time.Sleep(20 * time.Millisecond) {
		n, err := p.conn.Read(rest[:min(len(rest), 8<<10)])
		if err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	p.r.Reset(io.MultiReader(bytes.NewReader(first), p.conn))
	if got := p.said(); got != long {
		t.Fatalf("%d bytes arrived, want %d", len(got), len(long))
	}
	p.say("still here")
	if got := p.said(); got != "still here" {
		t.Fatal(got)
	}
}

// A client that takes nothing any more is cut off, and when it thaws it finds
// what was begun, and why it was closed.
func TestStuckPeer(t *testing.T) {
	s := perform(t, fanfare.Config{WriteTimeout: 300 * time.Millisecond, MaxLag: 64 << 10})
	stuck := s.join("/")
	for end := time.Now().Add(patience); s.Stats().Ended["stuck"] == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a client that never reads is still served")
		}
		if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "lobby", Payload: make([]byte, 16<<10), Binary: true}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "it is gone", func() bool { return s.Stats().Sessions == 0 })
	if runtime.GOOS == "linux" { // elsewhere the kernel has no room for last words
		if code, reason := stuck.closed(); code != frame.TryAgainLater || reason != "you read nothing for 300ms" {
			t.Errorf("closed with %d %q", code, reason)
		}
	}
}

// A message must not take for ever, however lively its sender is otherwise.
func TestUnfinishedMessage(t *testing.T) {
	s := perform(t, fanfare.Config{MessageTimeout: 200 * time.Millisecond})
	for name, begin := range map[string][]byte{
		"half a frame":   frame.AppendMasked(nil, frame.Text, true, testKey, []byte("hello"))[:8],
		"half a header":  {0x81},
		"half a message": frame.AppendMasked(nil, frame.Text, false, testKey, []byte("hello")),
	} {
		t.Run(name, func(t *testing.T) {
			p := s.join("/")
			p.raw(begin)
			if name == "half a message" {
				go func() { // lively
					for range 1000 {
						p.conn.SetWriteDeadline(time.Now().Add(time.Second))
						if _, err := p.conn.Write(frame.AppendMasked(nil, frame.Continuation, false, testKey, nil)); err != nil {
							return
						}
						time.Sleep(20 * time.Millisecond)
					}
				}()
			}
			if code, reason := p.closed(); code != frame.PolicyViolation || !strings.Contains(reason, "200ms") {
				t.Fatalf("closed with %d %q", code, reason)
			}
			p.conn.Close()
			eventually(t, "it is gone", func() bool { return s.Stats().Sessions == 0 })
		})
	}
}

// A handshake must not take for ever either; meanwhile others connect.
func TestSlowHandshake(t *testing.T) {
	s := perform(t, fanfare.Config{})
	var slow []net.Conn
	for range 50 {
		conn, err := net.Dial("tcp", s.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		slow = append(slow, conn)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // a byte a time to each
		for _, b := range []byte("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX: " + strings.Repeat("x", 1000)) {
			for _, conn := range slow {
				conn.Write([]byte{b})
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	start := time.Now()
	s.join("/").leave()
	if took := time.Since(start); took > time.Second {
		t.Errorf("an honest client needed %v beside 50 slow handshakes", took)
	}
	for _, conn := range slow {
		conn.SetReadDeadline(time.Now().Add(patience))
		b := make([]byte, 100)
		for {
			if _, err := conn.Read(b); err != nil {
				var late net.Error
				if errors.As(err, &late) && late.Timeout() {
					t.Error("a slow handshake is still waited for")
				}
				break
			}
		}
	}
	close(stop)
	wg.Wait()
}

// Nor must the body of a POST, whose connection is then not kept.
func TestSlowBody(t *testing.T) {
	s := perform(t, fanfare.Config{MessageTimeout: 200 * time.Millisecond})
	conn, err := net.Dial("tcp", s.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
	answer, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") || !strings.Contains(string(answer), "200ms") {
		t.Fatalf("%q %v", answer, err)
	}
	if _, body := s.fetch("GET", "/slow", ""); len(body["messages"].([]any)) != 0 {
		t.Fatal("half a body was published")
	}
}

// Nor the body of a request that is not asked for one: nobody reads it, but
// net/http would wait for it before it answers.
func TestSlowBodyThatNobodyWants(t *testing.T) {
	s := perform(t, fanfare.Config{MessageTimeout: 200 * time.Millisecond})
	upgrade := "GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for _, head := range []string{
		"GET / HTTP/1.1\r\nContent-Length: 5\r\n",
		"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n",
		"GET /-/healthz HTTP/1.1\r\nContent-Length: 5\r\n",
		"PUT / HTTP/1.1\r\nContent-Length: 5\r\n",
		"POST / HTTP/1.1\r\nOrigin: https://evil.example\r\nContent-Length: 5\r\n",
		upgrade + "Content-Length: 5\r\n",
	} {
		conn, err := net.Dial("tcp", s.addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, head+"Host: x\r\n\r\n")
		if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 ") {
			t.Errorf("%q: %q %v", head, answer, err)
		}
	}
}

// Shutdown: what was acknowledged is delivered, everyone is told 1001,
// newcomers get 503, the program's own subscriptions end.
func TestShutdown(t *testing.T) {
	s := perform(t, fanfare.Config{})
	sub, err := s.Subscribe(t.Context(), "hall", nil)
	if err != nil {
		t.Fatal(err)
	}
	var crowd []*person
	for range 50 {
		crowd = append(crowd, s.join("/hall"))
	}
	s.post("/hall", "last words")
	done := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done <- s.Shutdown(ctx)
	}()
	for _, p := range crowd {
		if got := p.said(); got != "last words" {
			t.Fatal(got)
		}
	}
	// A client that has not answered yet keeps Shutdown waiting.
	waiting := crowd[0]
	for _, p := range crowd[1:] {
		code, reason := p.closed()
		if code != frame.GoingAway || reason == "" {
			t.Fatalf("closed with %d %q", code, reason)
		}
		p.send(frame.Close, frame.AppendClose(nil, frame.GoingAway, ""))
		p.ended()
		p.conn.Close()
	}
	if resp, body := s.fetch("GET", "/hall", ""); resp.StatusCode != 503 || errorCode(body) != "shutting_down" || resp.Header.Get("Retry-After") == "" {
		t.Errorf("%d %v", resp.StatusCode, body)
	}
	if resp, _ := s.fetch("POST", "/hall", "x"); resp.StatusCode != 503 {
		t.Errorf("POST: %d", resp.StatusCode)
	}
	if resp, _ := s.fetch("GET", "/-/readyz", ""); resp.StatusCode != 503 {
		t.Errorf("readyz: %d", resp.StatusCode)
	}
	if resp, _ := s.fetch("GET", "/-/healthz", ""); resp.StatusCode != 200 {
		t.Errorf("healthz: %d", resp.StatusCode)
	}
	if _, resp, err := s.tryJoin("/hall"); err != nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a newcomer: %v %v", resp, err)
	}
	if m, err := sub.Next(t.Context()); err == nil && string(m.Payload) == "last words" {
		_, err = sub.Next(t.Context())
		if !errors.Is(err, fanfare.ErrServerClosed) {
			t.Errorf("the subscription ends with %v", err)
		}
	} else {
		t.Errorf("the subscription reads %v %v", m, err)
	}
	if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "hall"}); !errors.Is(err, fanfare.ErrServerClosed) {
		t.Errorf("Publish: %v", err)
	}
	if _, err := s.Subscribe(t.Context(), "hall", nil); !errors.Is(err, fanfare.ErrServerClosed) {
		t.Errorf("Subscribe: %v", err)
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown did not wait for the last client: %v", err)
	default:
	}
	waiting.closed()
	waiting.send(frame.Close, nil)
	waiting.ended()
	waiting.conn.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// What was acknowledged before a shutdown reaches the program's own
// subscriptions too, however soon the shutdown comes.
func TestShutdownRightBehindPublish(t *testing.T) {
	for range 100 {
		s := perform(t, fanfare.Config{})
		sub, err := s.Subscribe(t.Context(), "hall", nil)
		if err != nil {
			t.Fatal(err)
		}
		heard := make(chan error, 1)
		go func() {
			m, err := sub.Next(t.Context())
			if err == nil && string(m.Payload) != "last words" {
				err = fmt.Errorf("heard %q", m.Payload)
			}
			heard <- err
		}()
		runtime.Gosched() // so that it mostly waits already
		if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "hall", Payload: []byte("last words")}); err != nil {
			t.Fatal(err)
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-heard; err != nil {
			t.Fatal(err)
		}
	}
}

// Shutdown does not wait longer than it is told to.
func TestShutdownCutsOff(t *testing.T) {
	s := perform(t, fanfare.Config{CloseTimeout: time.Minute})
	for range 20 {
		s.join("/")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if n := s.Stats().Sessions; n != 0 {
		t.Fatalf("%d sessions left", n)
	}
}

// A client that does not answer our close is not waited for longer than CloseTimeout.
func TestCloseTimeout(t *testing.T) {
	s := perform(t, fanfare.Config{CloseTimeout: 100 * time.Millisecond})
	p := s.join("/")
	p.raw([]byte{0xFF, 0xFF}) // a breach
	p.closed()
	eventually(t, "it is gone", func() bool { return s.Stats().Sessions == 0 })
}

func TestBadConfig(t *testing.T) {
	for _, c := range []fanfare.Config{
		{Heartbeat: -1}, {HistoryAge: -1}, {MaxMessage: -1}, {MaxLag: -5}, {SlowReaders: 9}, {Origins: []string{"[bad"}},
	} {
		if s, err := fanfare.New(c); err == nil || !strings.Contains(err.Error(), "Config.") {
			t.Errorf("New(%+v) = %v, %v", c, s, err)
		}
	}
}
