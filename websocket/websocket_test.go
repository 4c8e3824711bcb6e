package websocket

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what should take no time at all.
const patience = 30 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// serve runs handle for each connection that a server with the options
// accepts, and returns its ws:// URL. The test waits for the handlers at its end.
func serve(t testing.TB, o *AcceptOptions, handle func(*Conn)) string {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, o)
		if err != nil {
			return
		}
		defer c.CloseNow()
		handle(c)
	}))
	t.Cleanup(srv.Close)
	return "ws" + strings.TrimPrefix(srv.URL, "http")
}

func dial(t testing.TB, url string, o *DialOptions) *Conn {
	t.Helper()
	c, _, err := Dial(testContext(t), url, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

// pair returns both ends of a connection over a real socket.
func pair(t testing.TB, ao *AcceptOptions, do *DialOptions) (server, client *Conn) {
	t.Helper()
	accepted := make(chan *Conn, 1)
	over := make(chan struct{})
	url := serve(t, ao, func(c *Conn) {
		accepted <- c
		<-over
	})
	t.Cleanup(func() { close(over) })
	client = dial(t, url, do)
	return <-accepted, client
}

// bothWays runs the story twice: alice at the client's end, then at the server's.
func bothWays(t *testing.T, ao *AcceptOptions, story func(t *testing.T, alice, bob *Conn)) {
	do := &DialOptions{}
	if ao != nil {
		do = &DialOptions{Limit: ao.Limit, Queue: ao.Queue, PingInterval: ao.PingInterval, PingTimeout: ao.PingTimeout,
			MessageTimeout: ao.MessageTimeout, WriteTimeout: ao.WriteTimeout, CloseTimeout: ao.CloseTimeout, Compression: ao.Compression, CompressOver: ao.CompressOver}
	}
	t.Run("client", func(t *testing.T) {
		server, client := pair(t, ao, do)
		story(t, client, server)
	})
	t.Run("server", func(t *testing.T) {
		server, client := pair(t, ao, do)
		story(t, server, client)
	})
}

func wantMessage(t testing.TB, c *Conn, kind MessageType, data string) {
	t.Helper()
	k, got, err := c.Read(testContext(t))
	if err != nil {
		t.Fatalf("want %v %.40q: %v", kind, data, err)
	}
	if k != kind || string(got) != data {
		t.Fatalf("%v %.40q (%d bytes), want %v %.40q (%d bytes)", k, got, len(got), kind, data, len(data))
	}
}

func send(t testing.TB, c *Conn, kind MessageType, data string) {
	t.Helper()
	if err := c.Write(testContext(t), kind, []byte(data)); err != nil {
		t.Fatal(err)
	}
}

// wantEnd waits until the connection is gone and returns why, as a read sees it.
func wantEnd(t testing.TB, c *Conn, code Code, local bool) *CloseError {
	t.Helper()
	var closed *CloseError
	_, _, err := c.Read(testContext(t))
	if !errors.As(err, &closed) || closed.Code != code || closed.Local != local {
		t.Fatalf("read: %v, want code %d, local %v", err, code, local)
	}
	select {
	case <-c.Done():
	case <-time.After(patience):
		t.Fatal("the connection does not end")
	}
	return closed
}

func TestMessagesOfAllSizes(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
		for _, n := range []int{0, 1, 125, 126, 127, 4096, 65535, 65536, 70000, 1 << 20} {
			data := bytes.Repeat([]byte("é"), n/2+1)[:n/2*2]
			go func() { _ = alice.Write(testContext(t), Text, data) }()
			wantMessage(t, bob, Text, string(data))
			raw := bytes.Repeat([]byte{0xFF}, n)
			go func() { _ = bob.Write(testContext(t), Binary, raw) }()
			wantMessage(t, alice, Binary, string(raw))
		}
		if err := alice.Close(testContext(t), NormalClosure, "that was all"); err != nil {
			t.Error(err)
		}
		wantEnd(t, alice, NormalClosure, true)
		if closed := wantEnd(t, bob, NormalClosure, false); closed.Reason != "that was all" {
			t.Error(closed)
		}
	})
}

func TestCloseNow(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
		if err := alice.CloseNow(); err != nil {
			t.Error(err)
		}
		err := wantEnd(t, alice, Abnormal, true)
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		wantEnd(t, bob, Abnormal, false)
	})
}

func TestPing(t *testing.T) {
	bothWays(t, nil, func(t *testing.T, alice, bob *Conn) {
		rtt, err := alice.Ping(testContext(t)) // bob does not read
		if err != nil || rtt <= 0 || rtt > patience {
			t.Error(rtt, err)
		}
	})
}
