package stream_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/internal/stream"
)

func TestConversation(t *testing.T) {
	for name, connect := range pairs {
		t.Run(name, func(t *testing.T) {
			tr := newTransport(t, slow)
			ours, peers := connect(t)
			s := accept(t, tr, ours, []byte("early "))
			s.say([]byte("before the start, ")) // and not lost
			s.conn.Start(s)
			reads(t, peers, "before the start, ")
			write(t, peers, "and late")
			until(t, "all was received", func() bool { return s.heard() == "early and late" })
			s.say([]byte("and after"))
			reads(t, peers, "and after")
			peers.Close()
			if err := s.isOver(); err != io.EOF {
				t.Errorf("Gone was told %v, want EOF", err)
			}
			if s.conn.Wake() {
				t.Error("when all is over, Wake says that a write is under way")
			}
		})
	}
}

// Nothing of the session is called before Start, whatever happens until then.
func TestStartComesLater(t *testing.T) {
	o := slow
	o.Tick = time.Millisecond
	tr := newTransport(t, o)
	ours, peers := tcp(t)
	other, _ := tcp(t)
	ticked := make(chan struct{}, 1)
	clock := accept(t, tr, other, nil)
	clock.tick = func() {
		select {
		case ticked <- struct{}{}:
		default:
		}
	}
	clock.conn.Start(clock)

	s := accept(t, tr, ours, nil)
	var started atomic.Bool
	s.receive = func([]byte) bool {
		if !started.Load() {
			t.Error("Receive was called before Start")
		}
		return true
	}
	s.tick = func() {
		if !started.Load() {
			t.Error("Tick was called before Start")
		}
	}
	s.lastWords = func(error) []byte { return []byte("bye") }
	if s.conn.Wake() {
		t.Error("before the start, Wake says that a write is under way")
	}
	write(t, peers, "hello")
	s.conn.End(errTest)
	for range 3 {
		<-ticked
	}
	started.Store(true)
	s.conn.Start(s)
	if err := s.isOver(); err != errTest {
		t.Errorf("Gone was told %v, want what End was given", err)
	}
}

// Bytes arrive as they were sent, both ways, however they are cut.
func TestOrder(t *testing.T) {
	rnd := random(t)
	for name, connect := range pairs {
		t.Run(name, func(t *testing.T) {
			tr := newTransport(t, slow)
			ours, peers := connect(t)
			there, back := make([]byte, 3<<20), make([]byte, 3<<20)
			for i := 0; i < len(there); i += 8 {
				binary.LittleEndian.PutUint64(there[i:], rnd.Uint64())
				binary.LittleEndian.PutUint64(back[i:], rnd.Uint64())
			}
			s := accept(t, tr, ours, there[:1000:1000])
			want := string(there) // a copy: what is received may be changed
			s.conn.Start(s)
			cut := func(b []byte, seed uint64, f func([]byte)) {
				rnd := rand.New(rand.NewPCG(seed, 0))
				for len(b) > 0 {
					n := min(len(b), 1+rnd.IntN(1<<rnd.IntN(18)))
					f(b[:n:n])
					b = b[n:]
				}
			}
			seeds := [2]uint64{rnd.Uint64(), rnd.Uint64()}
			go cut(back, seeds[0], s.say)
			go cut([]byte(want[1000:]), seeds[1], func(b []byte) { peers.Write(b) })
			got := make([]byte, len(back))
			if _, err := io.ReadFull(peers, got); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, back) {
				t.Error("what the peer reads is not what was written")
			}
			until(t, "everything was received", func() bool { return len(s.heard()) == len(want) })
			if s.heard() != want {
				t.Error("what was received is not what the peer wrote")
			}
		})
	}
}

func TestWriterLivesOnlyWhileWriting(t *testing.T) {
	const n = 50
	tr := newTransport(t, slow)
	var all []*script
	var peers []net.Conn
	for range n {
		ours, peer := pipe(t) // which takes nothing that is not read
		s := accept(t, tr, ours, nil)
		s.conn.Start(s)
		all, peers = append(all, s), append(peers, peer)
	}
	goroutines(t, n, 0, "with all connections idle")
	for round := range 3 {
		for i, s := range all {
			s.say([]byte("first,"))
			if !s.conn.Wake() {
				t.Errorf("connection %d: Wake does not say that a write is under way", i)
			}
			s.say([]byte("second"))
		}
		goroutines(t, n, n, "with all connections writing")
		for _, peer := range peers {
			reads(t, peer, "first,second")
		}
		goroutines(t, n, 0, fmt.Sprintf("after round %d", round))
		for i, s := range all {
			if s.conn.Wake() {
				t.Errorf("connection %d: Wake says that a write is under way, and there was nothing to write", i)
			}
		}
		goroutines(t, n, 0, "after waking for nothing")
	}
}

// Every Wake is followed by a Next that sees what was there before the Wake:
// many wake, and the connection falls quiet in between as often as possible.
func TestWakeIsNeverLost(t *testing.T) {
	rnd := random(t)
	for name, connect := range pairs {
		t.Run(name, func(t *testing.T) {
			tr := newTransport(t, slow)
			ours, peers := connect(t)
			s := accept(t, tr, ours, nil)
			var said atomic.Uint32 // the highest number there is
			var written uint32     // Next's
			s.next = func() ([]byte, bool) {
				if written == said.Load() {
					return nil, false
				}
				written++
				return binary.BigEndian.AppendUint32(nil, written), false
			}
			s.conn.Start(s)

			const wakers = 3
			for range 2000 {
				pauses := [wakers]int{rnd.IntN(50), rnd.IntN(50), rnd.IntN(50)}
				var wg sync.WaitGroup
				for _, pause := range pauses {
					wg.Go(func() {
						for range pause {
							runtime.Gosched()
						}
						said.Add(1)
						s.conn.Wake()
					})
				}
				wg.Wait()
				// No further Wake until all has arrived: a lost one is lost for good.
				var b [4 * wakers]byte
				if _, err := io.ReadFull(peers, b[:]); err != nil {
					t.Fatalf("after %d a Wake was lost: %v", said.Load()-wakers, err)
				}
				for i := range uint32(wakers) {
					if got, want := binary.BigEndian.Uint32(b[4*i:]), said.Load()-wakers+1+i; got != want {
						t.Fatalf("%d arrives in the place of %d", got, want)
					}
				}
			}
		})
	}
}

// After the last bytes our direction is ended; the peer's goes on until the
// peer ends it.
func TestLast(t *testing.T) {
	sockets := map[string]pair{"TCP": tcp, "Unix": unix}
	for name, connect := range sockets {
		t.Run(name, func(t *testing.T) {
			tr := newTransport(t, slow)
			ours, peers := connect(t)
			s := accept(t, tr, ours, nil)
			s.receive = func(b []byte) bool { return !strings.Contains(s.heard(), "stop") }
			s.lastWords = func(error) []byte { return []byte("words after the last") }
			s.conn.Start(s)
			long := strings.Repeat("long ", 200_000)
			s.say([]byte(long))
			s.finish([]byte("and last"))
			for range 3 {
				s.conn.Wake()
			}
			readsEnd(t, peers, long+"and last")
			write(t, peers, "I still speak; stop")
			until(t, "the peer was heard", func() bool { return s.heard() == "I still speak; stop" })
			// What follows is read, and thrown away.
			write(t, peers, strings.Repeat("noise ", 1_000_000))
			peers.(interface{ CloseWrite() error }).CloseWrite()
			if err := s.isOver(); err != io.EOF {
				t.Errorf("Gone was told %v, want EOF", err)
			}
			if got := s.heard(); got != "I still speak; stop" {
				t.Errorf("after Receive wanted no more it got %d bytes", len(got)-len("I still speak; stop"))
			}
		})
	}
	// Whoever takes TCP's end for the end, and not TLS's, sees it too.
	t.Run("TLS", func(t *testing.T) {
		tr := newTransport(t, slow)
		ours, peers := secure(t)
		s := accept(t, tr, ours, nil)
		s.conn.Start(s)
		s.finish([]byte("last"))
		readsEnd(t, peers, "last")
		if n, err := peers.(*tls.Conn).NetConn().Read(make([]byte, 100)); n != 0 || err != io.EOF {
			t.Errorf("TCP goes on: %d bytes, %v", n, err)
		}
		write(t, peers, "I still speak")
		until(t, "the peer was heard", func() bool { return s.heard() == "I still speak" })
		peers.Close()
		if err := s.isOver(); err != io.EOF {
			t.Errorf("Gone was told %v, want EOF", err)
		}
	})
	t.Run("nothing but the end", func(t *testing.T) {
		tr := newTransport(t, slow)
		ours, peers := tcp(t)
		s := accept(t, tr, ours, nil)
		s.conn.Start(s)
		s.finish(nil)
		readsEnd(t, peers, "")
	})
}

func unix(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	// Not t.TempDir: the name of a Unix socket has 108 bytes at most.
	dir, err := os.MkdirTemp("", "stream")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dialed(t, new(net.ListenConfig), "unix", filepath.Join(dir, "socket"))
}

// hidden is a connection as listeners wrap them: without CloseWrite.
type hidden struct{ net.Conn }

func TestCloseTimeout(t *testing.T) {
	o := slow
	o.CloseTimeout = 200 * time.Millisecond
	t.Run("a peer that says nothing", func(t *testing.T) {
		tr := newTransport(t, o)
		ours, peers := tcp(t)
		s := accept(t, tr, ours, nil)
		s.conn.Start(s)
		began := time.Now()
		s.finish([]byte("bye"))
		readsEnd(t, peers, "bye")
		if err := s.isOver(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Gone was told %v, want a timeout", err)
		}
		if d := time.Since(began); d < o.CloseTimeout {
			t.Errorf("the peer had %v for closing, want %v", d, o.CloseTimeout)
		}
	})
	t.Run("a peer that never stops talking", func(t *testing.T) {
		tr := newTransport(t, o)
		ours, peers := tcp(t)
		s := accept(t, tr, ours, nil)
		s.receive = func([]byte) bool { return false }
		s.conn.Start(s)
		talked := make(chan struct{})
		go func() {
			defer close(talked)
			for noise := make([]byte, 32<<10); ; {
				if _, err := peers.Write(noise); err != nil {
					return
				}
			}
		}()
		s.finish([]byte("bye"))
		if err := s.isOver(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Gone was told %v, want a timeout", err)
		}
		<-talked
	})
	t.Run("a peer that cannot see our end", func(t *testing.T) {
		tr := newTransport(t, slow) // whose CloseTimeout nobody wants to wait for
		ours, peers := tcp(t)
		s := accept(t, tr, hidden{ours}, nil)
		s.conn.Start(s)
		began := time.Now()
		s.finish([]byte("bye"))
		readsEnd(t, peers, "bye")
		s.isOver()
		if d := time.Since(began); d > slow.CloseTimeout/2 {
			t.Errorf("the connection was closed after %v", d)
		}
	})
}

// Where the peer's end comes first, what is to be said as last words is said.
func TestPeerEndsFirst(t *testing.T) {
	tr := newTransport(t, slow)
	ours, peers := tcp(t)
	s := accept(t, tr, ours, nil)
	s.lastWords = func(err error) []byte { return fmt.Appendf(nil, "because of %v", err) }
	s.conn.Start(s)
	peers.(*net.TCPConn).CloseWrite()
	readsEnd(t, peers, "because of EOF")
	if err := s.isOver(); err != io.EOF {
		t.Errorf("Gone was told %v, want EOF", err)
	}
}

func TestEnd(t *testing.T) {
	o := slow
	o.Tick = time.Millisecond
	from := map[string]func(t *testing.T, s *script, peers net.Conn){
		"another goroutine": func(t *testing.T, s *script, _ net.Conn) {
			s.conn.Start(s)
			s.conn.End(errTest)
		},
		"Receive": func(t *testing.T, s *script, peers net.Conn) {
			s.receive = func([]byte) bool { s.conn.End(errTest); return true }
			s.conn.Start(s)
			write(t, peers, "end it")
		},
		"Next": func(t *testing.T, s *script, _ net.Conn) {
			s.next = func() ([]byte, bool) { s.conn.End(errTest); return nil, false }
			s.conn.Start(s)
			s.conn.Wake()
		},
		"Tick": func(t *testing.T, s *script, _ net.Conn) {
			s.tick = func() { s.conn.End(errTest) }
			s.conn.Start(s)
		},
		"LastWords": func(t *testing.T, s *script, _ net.Conn) {
			s.lastWords = func(error) []byte { s.conn.End(io.ErrNoProgress); return []byte("bye") }
			s.conn.Start(s)
			s.conn.End(errTest)
		},
		"before the start": func(t *testing.T, s *script, _ net.Conn) {
			s.conn.End(errTest)
			s.conn.Start(s)
		},
	}
	for name, end := range from {
		for kind, connect := range map[string]pair{"TCP": tcp, "Unix": unix, "TLS": secure} {
			t.Run(name+" over "+kind, func(t *testing.T) {
				tr := newTransport(t, o)
				ours, peers := connect(t)
				s := accept(t, tr, ours, nil)
				s.lastWords = func(error) []byte { return []byte("bye") }
				end(t, s, peers)
				readsEnd(t, peers, "bye")
				if err := s.isOver(); err != errTest {
					t.Errorf("Gone was told %v, want what End was given", err)
				}
				s.conn.End(io.ErrUnexpectedEOF) // changes nothing
				if len(s.spoken) != 1 || s.spoken[0] != errTest {
					t.Errorf("LastWords was told %v, want once what End was given", s.spoken)
				}
			})
		}
	}
}

// secure connects by TLS, over TCP.
func secure(t *testing.T) (net.Conn, net.Conn) { return secureOver(tcp)(t) }

func secureOver(connect pair) pair {
	return func(t *testing.T) (net.Conn, net.Conn) { return shake(t, connect) }
}

func shake(t *testing.T, connect pair) (net.Conn, net.Conn) {
	t.Helper()
	house := httptest.NewUnstartedServer(nil) // for its certificate
	house.StartTLS()
	defer house.Close()
	ours, peers := connect(t)
	server := tls.Server(ours, &tls.Config{Certificates: house.TLS.Certificates})
	client := tls.Client(peers, &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	return server, client
}

// A writer that End cuts short is told End's reason, not that the peer is slow.
func TestEndWhileWriting(t *testing.T) {
	for name, connect := range map[string]pair{"TCP": tcp, "pipe": pipe, "TLS": secure} {
		t.Run(name, func(t *testing.T) {
			tr := newTransport(t, slow)
			ours, _ := connect(t)
			s := accept(t, tr, ours, nil)
			stalled := s.floods(64 << 10)
			s.conn.Start(s)
			s.conn.Wake()
			stalled()
			began := time.Now()
			s.conn.End(errTest)
			if err := s.isOver(); err != errTest {
				t.Errorf("Gone was told %v, want what End was given", err)
			}
			if d := time.Since(began); d > 2*time.Second {
				t.Errorf("the end took %v: it waited for the peer", d)
			}
			if len(s.spoken) != 1 || s.spoken[0] != errTest {
				t.Errorf("LastWords was told %v, want once what End was given", s.spoken)
			}
		})
	}
}

// floods has Next return slices of this size for ever, and bye as last words. The
// function returned waits until the peer, which does not read, can take no more.
func (s *script) floods(size int) (stalled func()) {
	slice := bytes.Repeat([]byte("s"), size)
	var count atomic.Int64
	s.next = func() ([]byte, bool) {
		count.Add(1)
		return slice, false
	}
	s.lastWords = func(error) []byte { return []byte("bye") }
	return func() {
		s.t.Helper()
		quiet, last := 0, int64(0)
		until(s.t, "the peer takes no more", func() bool {
			if now := count.Load(); now == 0 || now != last {
				quiet, last = 0, now
			} else {
				quiet++
			}
			return quiet > 50
		})
	}
}

// A peer that takes nothing has WriteTimeout, and then it is over. TLS by itself
// would wait for five seconds more, to say that it closes.
func TestWriteTimeout(t *testing.T) {
	o := slow
	o.WriteTimeout = 200 * time.Millisecond
	for name, connect := range map[string]pair{"TCP": tcp, "pipe": pipe, "TLS": secure, "Unix": unix} {
		t.Run(name, func(t *testing.T) {
			tr := newTransport(t, o)
			ours, _ := connect(t)
			s := accept(t, tr, ours, nil)
			s.floods(64 << 10)
			s.conn.Start(s)
			began := time.Now()
			s.conn.Wake()
			if err := s.isOver(); err != stream.ErrWriteTimeout {
				t.Errorf("Gone was told %v, want ErrWriteTimeout", err)
			}
			if d := time.Since(began); d < o.WriteTimeout || d > o.WriteTimeout+3*time.Second {
				t.Errorf("the peer had %v, want %v and little more", d, o.WriteTimeout)
			}
			if len(s.spoken) != 1 || s.spoken[0] != stream.ErrWriteTimeout {
				t.Errorf("LastWords was told %v, want ErrWriteTimeout once", s.spoken)
			}
		})
	}
}

// A peer that reads, slowly but all the time, is not cut however long a write
// takes. Little is a few bytes, and over TLS 16 KiB.
func TestSlowIsNotStuck(t *testing.T) {
	o := slow
	o.WriteTimeout = time.Second
	for name, tt := range map[string]struct {
		connect    pair
		size, each int
	}{
		"pipe": {pipe, 8 << 10, 256},
		"TLS":  {secureOver(pipe), 640 << 10, 16 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTransport(t, o)
			ours, peers := tt.connect(t)
			s := accept(t, tr, ours, nil)
			s.conn.Start(s)
			began := time.Now()
			s.finish(make([]byte, tt.size))
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
			s.isOver()
		})
	}
}

func TestClose(t *testing.T) {
	const n = 1000
	tr := newTransport(t, slow)
	var all []*script
	var idle []net.Conn
	for i := range n {
		ours, peers := tcp(t)
		s := accept(t, tr, ours, nil)
		s.lastWords = func(error) []byte { return []byte("bye") }
		switch i % 10 {
		case 0: // one that does not read
			s.floods(64 << 10)
		case 1: // one that has been told the last, and does not close
			s.finish([]byte("last"))
		default:
			idle = append(idle, peers)
		}
		s.conn.Start(s)
		s.conn.Wake()
		all = append(all, s)
	}
	began := time.Now()
	var closers sync.WaitGroup
	for range 2 { // as good as one
		closers.Go(tr.Close)
	}
	closers.Wait()
	t.Logf("closing %d connections took %v", n, time.Since(began))
	for _, s := range all {
		select {
		case err := <-s.gone:
			if err != stream.ErrClosed {
				t.Errorf("Gone was told %v, want ErrClosed", err)
			}
		default:
			t.Fatal("Close returned before a session was told Gone")
		}
	}
	for _, peers := range idle {
		readsEnd(t, peers, "bye")
	}
	goroutines(t, 0, 0, "after Close")

	ours, peers := pipe(t)
	if _, err := tr.Accept(ours, nil); err != stream.ErrClosed {
		t.Errorf("Accept after Close: %v, want ErrClosed", err)
	}
	go ours.Write([]byte("still open"))
	reads(t, peers, "still open")
	ours.Close()
}

// Gone is the last call, and comes once, whatever happens at the same time;
// the script sees to it.
func TestGoneIsLast(t *testing.T) {
	rnd := random(t)
	o := slow
	o.Tick, o.CloseTimeout, o.WriteTimeout = time.Millisecond, 20*time.Millisecond, 20*time.Millisecond
	tr := newTransport(t, o)
	for range 4 {
		var wg sync.WaitGroup
		var all []*script
		for range 150 {
			connect := tcp
			if rnd.IntN(2) == 0 {
				connect = pipe
			}
			ours, peers := connect(t)
			s := accept(t, tr, ours, []byte("early")[:rnd.IntN(6)])
			all = append(all, s)
			if rnd.IntN(8) == 0 { // on a pipe they take their time
				s.lastWords = func(error) []byte { return []byte("bye") }
			}
			s.tick = func() { s.conn.Wake() }
			s.say(make([]byte, rnd.IntN(100_000)))
			things := []func(){
				func() { s.conn.End(errTest) },
				func() { s.conn.Wake() },
				func() { s.finish(make([]byte, 100)) },
				func() { peers.Close() },
				func() { io.Copy(io.Discard, peers) },
				func() { peers.Write(make([]byte, 3000)) },
				func() {
					if c, ok := peers.(*net.TCPConn); ok {
						c.SetLinger(0) // its Close is a reset
						c.Close()
					}
				},
			}
			rnd.Shuffle(len(things), func(i, j int) { things[i], things[j] = things[j], things[i] })
			s.conn.Start(s)
			for _, thing := range things[:1+rnd.IntN(len(things))] {
				pause := rnd.IntN(100)
				wg.Go(func() {
					for range pause {
						runtime.Gosched()
					}
					thing()
				})
			}
		}
		// What nobody ended by chance.
		for _, s := range all {
			s.conn.End(errTest)
		}
		for _, s := range all {
			s.isOver()
		}
		wg.Wait()
	}
}

func TestTick(t *testing.T) {
	o := slow
	o.Tick = 20 * time.Millisecond
	tr := newTransport(t, o)
	for round := range 3 { // the clock stops without connections, and goes again with the next
		var ticks [3]atomic.Int32
		var all []*script
		began := time.Now()
		for i := range ticks {
			ours, _ := pipe(t)
			s := accept(t, tr, ours, nil)
			s.tick = func() { ticks[i].Add(1) }
			s.conn.Start(s)
			all = append(all, s)
		}
		until(t, "all have ticked five times", func() bool {
			return ticks[0].Load() >= 5 && ticks[1].Load() >= 5 && ticks[2].Load() >= 5
		})
		if d := time.Since(began); d < 4*o.Tick {
			t.Errorf("round %d: five ticks of %v took %v", round, o.Tick, d)
		}
		for _, s := range all {
			s.conn.End(errTest)
			s.isOver()
		}
	}
	goroutines(t, 0, 0, "with all connections gone")
}

type task func()

func (t task) Run() { t() }

func TestLoops(t *testing.T) {
	o := slow
	o.Loops = 3
	tr := newTransport(t, o)
	if n := len(tr.Loops()); n != 3 {
		t.Fatalf("there are %d loops, want 3", n)
	}
	home := map[*stream.Loop]int{}
	for range 9 {
		ours, _ := pipe(t)
		s := accept(t, tr, ours, nil)
		s.conn.Start(s)
		home[s.conn.Loop()]++
	}
	for i, l := range tr.Loops() {
		if home[l] != 3 {
			t.Errorf("loop %d has %d of 9 connections, want 3", i, home[l])
		}
	}

	// Tasks run in the order in which they were posted, one at a time, also
	// those that are posted by tasks; and another loop's do not wait for them.
	l, other := tr.Loops()[0], tr.Loops()[1]
	const posters, each = 4, 500
	var running atomic.Bool
	var order [posters][]int // only tasks of l touch it
	var left sync.WaitGroup
	left.Add(2 * posters * each)
	for p := range posters {
		go func() {
			for i := range each {
				l.Post(task(func() {
					if running.Swap(true) {
						t.Error("two tasks of a loop run at once")
					}
					order[p] = append(order[p], i)
					l.Post(task(left.Done))
					running.Store(false)
					left.Done()
				}))
			}
		}()
	}
	left.Wait()
	for p := range order {
		for i, got := range order[p] {
			if got != i {
				t.Fatalf("task %d of poster %d ran as its number %d", got, p, i)
			}
		}
	}
	hold, held := make(chan struct{}), make(chan struct{})
	l.Post(task(func() { close(held); <-hold }))
	<-held
	ran := make(chan struct{})
	other.Post(task(func() { close(ran) }))
	<-ran
	close(hold)
}

// A connection that is idle keeps no big buffer, whatever it read before.
func TestIdleMemory(t *testing.T) {
	const n = 200
	tr := newTransport(t, slow)
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
		ours, peers := tcp(t)
		s := accept(t, tr, ours, nil)
		var count int
		done := make(chan struct{})
		s.receive = func(b []byte) bool {
			if count += len(b); count == len(message) {
				close(done)
			}
			return true
		}
		s.conn.Start(s)
		write(t, peers, message)
		<-done
	}
	per := (heap() - before) / n
	t.Logf("an idle connection and its script hold %d bytes", per)
	if per > 40<<10 {
		t.Errorf("an idle connection and its script hold %d bytes: it keeps the buffer that it borrowed", per)
	}
}
