// Package fanfaretest runs a Fanfare server in the tests of programs that
// speak with one: with a network that the test can disturb.
//
//	func TestReconnects(t *testing.T) {
//		srv := fanfaretest.NewServer(t)
//		program := start(srv.WebSocketURL("chat/general"))
//		srv.WaitForReaders("chat/general", 1)
//		srv.CutConnections()
//		srv.Publish("chat/general", "did you miss me?")
//		...
//
// The server is a real one, with the settings of a [fanfare.Config], on a port
// of its own of 127.0.0.1. Nothing of it is left when the test ends.
package fanfaretest

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"fanfare"
)

// patience is how long the methods of a [Server] wait for what should happen
// at once, before they fail the test.
const patience = 10 * time.Second

// A Server is a server for one test. Publish and the methods that wait fail the
// test if it comes to nothing within ten seconds, so they must be called from the
// test's own goroutine, as t.Fatal must; all others from any.
type Server struct {
	// URL is where clients find it, as in http://127.0.0.1:41234.
	URL string
	// Fanfare is the server itself, for whatever else a test wants of it.
	Fanfare *fanfare.Server

	t    testing.TB
	http *httptest.Server
	net  *network // between clients and http
}

// NewServer starts a server, which is shut down when the test ends. There may
// be one Config; its Logger is by default the test's log, warnings and worse.
func NewServer(t testing.TB, config ...fanfare.Config) *Server {
	t.Helper()
	var cfg fanfare.Config
	switch len(config) {
	case 0:
	case 1:
		cfg = config[0]
	default:
		t.Fatalf("fanfaretest: NewServer was given %d configs; it takes one, or none for the defaults", len(config))
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	server, err := fanfare.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Fanfare: server, t: t, http: httptest.NewUnstartedServer(server)}
	s.http.Config.ErrorLog = slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelWarn)
	s.http.Start()
	if s.net, err = newNetwork(s.http.Listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	s.URL = "http://" + s.net.Addr().String()
	return s
}

// close ends everything. Clients are told goodbye; who does not go then is cut off.
func (s *Server) close() {
	close(s.net.hurry)
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.Fanfare.Shutdown(ctx); err != nil && ctx.Err() == nil {
		s.t.Errorf("fanfaretest: shutting the server down: %v", err)
	}
	s.net.close()
	s.http.Close()
}

// HTTPURL returns the URL of a channel or a pattern, for POST, history,
// server-sent events, NDJSON and the page. A query may be appended.
func (s *Server) HTTPURL(channel string) string {
	return s.URL + (&url.URL{Path: "/" + channel}).EscapedPath()
}

// WebSocketURL is the same for a WebSocket: ws://….
func (s *Server) WebSocketURL(channel string) string {
	return "ws" + strings.TrimPrefix(s.HTTPURL(channel), "http")
}

// Publish publishes a text and returns its position. Whoever wants a name, a
// key or a binary message has s.Fanfare.Publish.
func (s *Server) Publish(channel, text string) fanfare.Position {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	pos, err := s.Fanfare.Publish(ctx, &fanfare.Message{Channel: channel, Payload: []byte(text)})
	if err != nil {
		s.t.Fatalf("fanfaretest: publishing to %q: %v", channel, err)
	}
	return pos
}

// WaitForMessages waits until a channel, or the channels that fit a pattern,
// have had n messages, and returns the first n that are kept, oldest first.
func (s *Server) WaitForMessages(channel string, n int) []*fanfare.Message {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	sub, err := s.Fanfare.Subscribe(ctx, channel, &fanfare.SubscribeOptions{Since: &fanfare.Position{}})
	if err != nil {
		s.t.Fatalf("fanfaretest: waiting for messages of %q: %v", channel, err)
	}
	defer sub.Close()
	var messages []*fanfare.Message
	for len(messages) < n {
		m, err := sub.Next(ctx)
		if err != nil {
			s.t.Fatalf("fanfaretest: %q has had %d messages, and not %d: %v", channel, len(messages), n, err)
		}
		messages = append(messages, m)
	}
	return messages
}

// WaitForReaders waits until exactly n clients read a channel, over whatever
// they came: what is published after that reaches them. Who reads a pattern is
// not counted.
func (s *Server) WaitForReaders(channel string, n int) {
	s.t.Helper()
	ctx, cancel := s.context()
	defer cancel()
	for {
		there, _, err := s.Fanfare.Presence(ctx, channel, 0)
		switch {
		case err != nil:
			s.t.Fatalf("fanfaretest: waiting for readers of %q: %v", channel, err)
		case there == n:
			return
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			s.t.Fatalf("fanfaretest: %q has %d readers after %v, and not %d", channel, there, patience, n)
		}
	}
}

func (s *Server) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

// CutConnections cuts all connections as a reset does: without a goodbye, and
// what is under way is lost. Clients can connect again at once.
func (s *Server) CutConnections() { s.net.cut(false) }

// GoOffline does what CutConnections does, also to whoever connects later, until
// GoOnline.
func (s *Server) GoOffline() { s.net.cut(true) }

// GoOnline ends what GoOffline began.
func (s *Server) GoOnline() { s.net.mend() }

// SetDelay makes everything that is read from a connection from now on, in
// either direction, arrive so much later.
func (s *Server) SetDelay(delay time.Duration) { s.net.delay.Store(int64(delay)) }
