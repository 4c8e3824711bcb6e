package websocket

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// A peer that answers pings is alive, however long it says nothing: many times
// the interval, and longer than the timeout.
func TestKeepaliveOfTheQuiet(t *testing.T) {
	const interval, timeout = 50 * time.Millisecond, 2 * time.Second
	server, client := pair(t, &AcceptOptions{PingInterval: interval, PingTimeout: timeout}, &DialOptions{PingInterval: interval, PingTimeout: timeout})
	select {
	case <-server.Done():
		t.Error(server.Err())
	case <-client.Done():
		t.Error(client.Err())
	case <-time.After(timeout + time.Second): // the timeout under test runs out
	}
	send(t, client, Text, "still here")
	wantMessage(t, server, Text, "still here")
}

// One that does not answer is gone after interval and timeout.
func TestKeepalive(t *testing.T) {
	quick := &AcceptOptions{PingInterval: 50 * time.Millisecond, PingTimeout: 300 * time.Millisecond}
	check := func(t *testing.T, w *wire, c *Conn) {
		start := time.Now()
		end := wantEnd(t, c, Abnormal, true)
		if d := time.Since(start); d < 300*time.Millisecond || d > patience/2 || !strings.Contains(end.Reason, "ping") {
			t.Error(d, end)
		}
		w.want(whole(9, ""), closing(1011, "")) // it was asked, and told
	}
	t.Run("silent client", func(t *testing.T) {
		conns := make(chan *Conn, 1)
		url := serve(t, quick, func(c *Conn) {
			conns <- c
			<-c.Done()
		})
		w := toAccept(t, url)
		check(t, w, <-conns)
	})
	t.Run("silent server", func(t *testing.T) {
		w, c := toDial(t, &DialOptions{PingInterval: 50 * time.Millisecond, PingTimeout: 300 * time.Millisecond})
		check(t, w, c)
	})
	t.Run("half a frame, then silence", func(t *testing.T) {
		w, c := toDial(t, &DialOptions{PingInterval: 50 * time.Millisecond, PingTimeout: 300 * time.Millisecond})
		_, _ = w.Write([]byte{fin | 2, 100, 'x'})
		check(t, w, c)
	})
}

// It is not the peer's fault when we do not read.
func TestKeepaliveWhileNobodyReads(t *testing.T) {
	w, c := toDial(t, &DialOptions{PingInterval: 50 * time.Millisecond, PingTimeout: 100 * time.Millisecond, Queue: 1})
	go w.send(0, whole(1, "one"), whole(1, "two"), whole(1, "three"))
	select {
	case <-c.Done():
		t.Fatal(c.Err())
	case <-time.After(time.Second):
	}
	for _, s := range []string{"one", "two", "three"} {
		wantMessage(t, c, Text, s)
	}
}

// Pings go on when PingTimeout is off, and never end the connection; with a
// negative interval there are none.
func TestKeepaliveOff(t *testing.T) {
	w, _ := toDial(t, &DialOptions{PingInterval: 20 * time.Millisecond, PingTimeout: -1})
	for range 5 {
		w.want(whole(9, ""))
	}
	w, c := toDial(t, &DialOptions{PingInterval: -1, PingTimeout: 20 * time.Millisecond})
	_ = w.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	var timeout net.Error
	if _, _, err := w.read(); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Error("a ping, though there are to be none:", err)
	}
	if c.Err() != nil {
		t.Error(c.Err())
	}
}

// The write timeout counts from the last byte of progress: a peer that takes
// nothing is cut off, one that takes little is not.
func TestFrozenPeer(t *testing.T) {
	bothEndsWith(t, 300*time.Millisecond, func(t *testing.T, w *wire, c *Conn) {
		var err error
		start := time.Now()
		for err == nil {
			err = c.Write(context.Background(), Binary, make([]byte, 1<<20))
		}
		var closed *CloseError
		if !errors.As(err, &closed) || !closed.Local || !strings.Contains(closed.Reason, "no byte") {
			t.Error(err)
		}
		if d := time.Since(start); d > 10*time.Second {
			t.Error(d)
		}
		<-c.Done()
	})
}

func TestSlowPeerIsNotFrozen(t *testing.T) {
	bothEndsWith(t, 400*time.Millisecond, func(t *testing.T, w *wire, c *Conn) {
		const size = 16 << 20
		sent := make(chan error, 1)
		go func() { sent <- c.Write(context.Background(), Binary, make([]byte, size)) }()
		buf := make([]byte, 128<<10)
		start := time.Now()
		for got := 0; got < size; { // the whole takes longer than the timeout
			n, err := w.r.Read(buf)
			if err != nil {
				t.Fatal(got, err)
			}
			if got += n; time.Since(start) < time.Second {
				time.Sleep(10 * time.Millisecond) // this is what slow means
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
	})
}

// bothEndsWith runs the story at both kinds of Conn, with the write timeout and no keepalive.
func bothEndsWith(t *testing.T, writeTimeout time.Duration, story func(*testing.T, *wire, *Conn)) {
	t.Run("accept", func(t *testing.T) {
		conns := make(chan *Conn, 1)
		over := make(chan struct{})
		url := serve(t, &AcceptOptions{WriteTimeout: writeTimeout, PingInterval: -1}, func(c *Conn) {
			conns <- c
			<-over
		})
		t.Cleanup(func() { close(over) })
		w := toAccept(t, url)
		story(t, w, <-conns)
	})
	t.Run("dial", func(t *testing.T) {
		w, c := toDial(t, &DialOptions{WriteTimeout: writeTimeout, PingInterval: -1})
		story(t, w, c)
	})
}
