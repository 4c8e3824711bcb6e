package fanfare_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
)

// A client that has its 101 is one that Shutdown waits for and tells goodbye,
// though the server has not yet come to know of it.
func TestShutdownDuringAHandshake(t *testing.T) {
	s := &stage{t: t}
	var err error
	if s.Server, err = fanfare.New(fanfare.Config{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	answered, goOn := make(chan struct{}), make(chan struct{})
	s.http = httptest.NewUnstartedServer(s.Server)
	s.http.Listener = &haltingListener{s.http.Listener, func() {
		close(answered)
		<-goOn
	}}
	s.http.Start()
	defer s.http.Close()

	alice := s.join("/hall")
	<-answered
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done <- s.Shutdown(ctx)
	}()
	eventually(t, "newcomers are refused", func() bool {
		resp, _ := s.fetch("GET", "/-/readyz", "")
		return resp.StatusCode == http.StatusServiceUnavailable
	})
	select {
	case err := <-done:
		t.Errorf("Shutdown did not wait: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(goOn)
	if code, _ := alice.closed(); code != frame.GoingAway {
		t.Errorf("told %d, want 1001", code)
	}
	alice.send(frame.Close, frame.AppendClose(nil, frame.GoingAway, ""))
	alice.ended()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A haltingListener's connections call halt when a 101 is on its way to the
// client.
type haltingListener struct {
	net.Listener
	halt func()
}

func (l *haltingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return &haltingConn{conn, l.halt}, err
}

type haltingConn struct {
	net.Conn
	halt func()
}

func (c *haltingConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if bytes.HasPrefix(b, []byte("HTTP/1.1 101 ")) {
		c.halt()
	}
	return n, err
}

// A client that goes on speaking until it hears the close is heard when it
// answers, however much of what it said was refused.
func TestShutdownHearsTheAnswerBehindWhatItRefuses(t *testing.T) {
	s := perform(t, fanfare.Config{CloseTimeout: time.Hour})
	alice := s.join("/hall")
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done <- s.Shutdown(ctx)
	}()
	if code, _ := alice.closed(); code != frame.GoingAway {
		t.Errorf("told %d, want 1001", code)
	}
	for range 200 { // more than one read brings
		alice.say(strings.Repeat("still here ", 100))
	}
	alice.send(frame.Close, frame.AppendClose(nil, frame.GoingAway, ""))
	alice.ended()
	alice.conn.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
