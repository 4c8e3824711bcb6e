package stream_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"fanfare/internal/transport/transporttest"
)

func TestWriterLivesOnlyWhileWriting(t *testing.T) {
	const n = 50
	tr := open(t, transporttest.Slow)
	var all []*transporttest.Script
	var peers []net.Conn
	for range n {
		ours, peer := pipe(t) // which takes nothing that is not read
		s := transporttest.Accept(t, tr, ours, nil)
		s.Start()
		all, peers = append(all, s), append(peers, peer)
	}
	goroutines(t, n, 0, "with all connections idle")
	for round := range 3 {
		for i, s := range all {
			s.Say([]byte("first,"))
			if !s.Flush() {
				t.Errorf("connection %d: Flush does not say that a write is under way", i)
			}
			s.Say([]byte("second"))
		}
		goroutines(t, n, n, "with all connections writing")
		for _, peer := range peers {
			transporttest.Reads(t, peer, "first,second")
		}
		goroutines(t, n, 0, fmt.Sprintf("after round %d", round))
		for i, s := range all {
			if s.Flush() {
				t.Errorf("connection %d: Flush says that a write is under way, and there was nothing to write", i)
			}
		}
		goroutines(t, n, 0, "after waking for nothing")
	}
	tr.Close()
	goroutines(t, 0, 0, "after Close")
}

// Whoever takes TCP's end for the end, and not TLS's, sees it too.
func TestLastOverTLS(t *testing.T) {
	tr := open(t, transporttest.Slow)
	ours, peers := secure(t)
	s := transporttest.Accept(t, tr, ours, nil)
	s.Start()
	s.Finish([]byte("last"))
	transporttest.ReadsEnd(t, peers, "last")
	if n, err := peers.(*tls.Conn).NetConn().Read(make([]byte, 100)); n != 0 || err != io.EOF {
		t.Errorf("TCP goes on: %d bytes, %v", n, err)
	}
	transporttest.Write(t, peers, "I still speak")
	transporttest.Until(t, "the peer was heard", func() bool { return s.Heard() == "I still speak" })
	peers.Close()
	if err := s.IsOver(); err != io.EOF {
		t.Errorf("Gone was told %v, want EOF", err)
	}
}

// A peer that cannot see our end need not wait for CloseTimeout.
func TestLastOverWrapped(t *testing.T) {
	tr := open(t, transporttest.Slow)
	ours, peers := wrapped(t)
	s := transporttest.Accept(t, tr, ours, nil)
	s.Start()
	began := time.Now()
	s.Finish([]byte("bye"))
	transporttest.ReadsEnd(t, peers, "bye")
	s.IsOver()
	if d := time.Since(began); d > transporttest.Slow.CloseTimeout/2 {
		t.Errorf("the connection was closed after %v", d)
	}
}

// A peer that reads, slowly but all the time, is not cut however long a write
// takes. Little is a few bytes, and over TLS 16 KiB.
func TestSlowIsNotStuck(t *testing.T) {
	o := transporttest.Slow
	o.WriteTimeout = time.Second
	for name, tt := range map[string]struct {
		connect    transporttest.Pair
		size, each int
	}{
		"pipe": {pipe, 8 << 10, 256},
		"TLS":  {func(t testing.TB) (net.Conn, net.Conn) { return secureOver(t, pipe) }, 640 << 10, 16 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // a pipe has no descriptors
			tr := open(t, o)
			ours, peers := tt.connect(t)
			s := transporttest.Accept(t, tr, ours, nil)
			s.Start()
			began := time.Now()
			s.Finish(make([]byte, tt.size))
			buf, got := make([]byte, tt.each), 0
			for pace := time.NewTicker(50 * time.Millisecond); got < tt.size; <-pace.C {
				n, err := io.ReadFull(peers, buf)
				if got += n; err != nil {
					t.Fatalf("the peer was cut after %d of %d bytes: %v", got, tt.size, err)
				}
			}
			if d := time.Since(began); d < o.WriteTimeout {
				t.Fatalf("the peer was done after %v: this tests nothing", d)
			}
			peers.Close()
			s.IsOver()
		})
	}
}

// A connection that is idle keeps no big buffer, whatever it read before.
func TestIdleMemory(t *testing.T) {
	const n = 200
	tr := open(t, transporttest.Slow)
	heap := func() int64 {
		runtime.GC()
		runtime.GC() // the second empties pools
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	message := strings.Repeat("m", 5000)
	before := heap()
	for range n {
		ours, peers := transporttest.TCP(t)
		s := transporttest.Accept(t, tr, ours, nil)
		var count int
		done := make(chan struct{})
		s.OnReceive = func(b []byte) bool {
			if count += len(b); count == len(message) {
				close(done)
			}
			return true
		}
		s.Start()
		transporttest.Write(t, peers, message)
		<-done
	}
	per := (heap() - before) / n
	t.Logf("an idle connection and its script hold %d bytes", per)
	if per > 40<<10 {
		t.Errorf("an idle connection and its script hold %d bytes: it keeps the buffer that it borrowed", per)
	}
}
