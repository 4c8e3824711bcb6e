package transporttest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/internal/transport"
)

// After the last bytes our direction is ended; the peer's goes on until the
// peer ends it.
func (k *kit) last() {
	k.sub("half", func(k *kit) {
		tr := k.open(Slow)
		s, peers := k.script(tr, nil)
		s.OnReceive = func([]byte) bool { return !strings.Contains(s.Heard(), "stop") }
		s.Start()
		long := strings.Repeat("long ", 200_000)
		s.Say([]byte(long))
		s.Finish([]byte("and last"))
		for range 3 {
			s.Conn.Wake()
		}
		ReadsEnd(k, peers, long+"and last")
		Write(k, peers, "I still speak; stop")
		Until(k, "the peer was heard", func() bool { return s.Heard() == "I still speak; stop" })
		s.Flush() // finds nothing to do, and does not ask
		// What follows is read, and thrown away.
		Write(k, peers, strings.Repeat("noise ", 1_000_000))
		closeWrite(peers)
		if err := s.IsOver(); err != io.EOF {
			k.Errorf("Gone was told %v, want EOF", err)
		}
		if got := s.Heard(); got != "I still speak; stop" {
			k.Errorf("after Receive wanted no more it got %d bytes", len(got)-len("I still speak; stop"))
		}
		if told := s.Told(); len(told) != 0 {
			k.Errorf("LastWords was called after Last, with %v", told)
		}
	})
	k.sub("behind a peer that was slow", func(k *kit) {
		tr := k.open(Slow)
		s, peers := k.script(tr, nil)
		stalled := s.Floods(64 << 10)
		flood := s.OnNext
		var enough atomic.Bool
		s.OnNext = func() ([]byte, transport.Then) {
			b, then := flood()
			if enough.Load() {
				return []byte("last"), transport.Last
			}
			return b, then
		}
		s.Start()
		s.Conn.Wake()
		stalled()
		enough.Store(true)
		got, err := io.ReadAll(peers)
		if n := len(got); err != nil || n%(64<<10) != len("last") || string(got[n-4:]) != "last" {
			k.Errorf("the peer reads %d bytes and then %v, want whole slices, the last and the end", n, err)
		}
		peers.Close()
		if err := s.IsOver(); err != io.EOF {
			k.Errorf("Gone was told %v, want EOF", err)
		}
	})
	k.sub("nothing but the end", func(k *kit) {
		tr := k.open(Slow)
		s, peers := k.script(tr, nil)
		s.Start()
		s.Finish(nil)
		ReadsEnd(k, peers, "")
	})
}

// A peer that does not end its direction after ours has CloseTimeout.
func (k *kit) closeTimeout() {
	o := Slow
	o.Tick, o.CloseTimeout = 20*time.Millisecond, 200*time.Millisecond
	for name, prepare := range map[string]func(k *kit, s *Script, peers net.Conn){
		"that says nothing": func(*kit, *Script, net.Conn) {},
		"that never stops talking": func(k *kit, s *Script, peers net.Conn) {
			s.OnReceive = func([]byte) bool { return false }
			go func() {
				for noise := make([]byte, 32<<10); ; {
					if _, err := peers.Write(noise); err != nil {
						return
					}
				}
			}()
		},
		"of which nothing is read": func(k *kit, s *Script, peers net.Conn) {
			s.OnReceive = func([]byte) bool { s.Conn.Pause(); return true }
			Write(k, peers, "hello")
		},
	} {
		k.sub("a peer "+name, func(k *kit) {
			tr := k.open(o)
			s, peers := k.script(tr, nil)
			prepare(k, s, peers)
			s.Start()
			if name == "of which nothing is read" {
				Until(k, "the reading is paused", func() bool { return s.Heard() != "" })
			}
			began := time.Now()
			s.Finish([]byte("bye"))
			Reads(k, peers, "bye")
			if err := s.IsOver(); !errors.Is(err, os.ErrDeadlineExceeded) {
				k.Errorf("Gone was told %v, want a timeout", err)
			}
			if d := time.Since(began); d < o.CloseTimeout {
				k.Errorf("the peer had %v for closing, want %v", d, o.CloseTimeout)
			}
		})
	}
}

// Where the peer's end comes first, what it said is received, and what is to be
// said as last words is said.
func (k *kit) peerEndsFirst() {
	tr := k.open(Slow)
	for _, size := range []int{0, 1, 100, 1_000_000} {
		k.sub(fmt.Sprintf("after %d bytes", size), func(k *kit) {
			s, peers := k.script(tr, nil)
			s.OnLastWords = func(err error) []byte { return fmt.Appendf(nil, "because of %v", err) }
			s.Start()
			Write(k, peers, string(piece(0, min(size, 512<<10))))
			Write(k, peers, string(piece(int64(min(size, 512<<10)), size-min(size, 512<<10))))
			closeWrite(peers)
			ReadsEnd(k, peers, "because of EOF")
			if err := s.IsOver(); err != io.EOF {
				k.Errorf("Gone was told %v, want EOF", err)
			}
			var got check
			if err := got.take([]byte(s.Heard())); err != nil || got.have != int64(size) {
				k.Errorf("%d bytes of %d were received, %v", got.have, size, err)
			}
		})
	}
}

// A reset ends a connection whatever it is at, except that what is paused or not
// started notices it later.
func (k *kit) reset() {
	tr := k.open(Slow)
	for name, reset := range map[string]func(k *kit, s *Script, peers net.Conn){
		"idle": func(k *kit, s *Script, peers net.Conn) {
			s.Start()
			Write(k, peers, "hello")
			Until(k, "the peer was heard", func() bool { return s.Heard() != "" })
			abort(peers)
		},
		"before the start": func(_ *kit, s *Script, peers net.Conn) {
			abort(peers)
			s.Conn.Wake()
			s.Start()
		},
		"stuck": func(_ *kit, s *Script, peers net.Conn) {
			stalled := s.Floods(64 << 10)
			s.Start()
			s.Conn.Wake()
			stalled()
			abort(peers)
		},
		"behind bytes": func(k *kit, s *Script, peers net.Conn) {
			s.Start()
			Write(k, peers, strings.Repeat("noise ", 20_000))
			abort(peers)
		},
		"after our last": func(k *kit, s *Script, peers net.Conn) {
			s.Start()
			s.Finish([]byte("bye"))
			ReadsEnd(k, peers, "bye")
			abort(peers)
		},
		"paused": func(k *kit, s *Script, peers net.Conn) {
			s.OnReceive = func([]byte) bool { s.Conn.Pause(); return true }
			s.Start()
			Write(k, peers, "hello")
			Until(k, "the peer was heard", func() bool { return s.Heard() != "" })
			abort(peers)
			s.Conn.Resume()
		},
	} {
		k.sub(name, func(k *kit) {
			s, peers := k.script(tr, nil)
			reset(k, s, peers)
			// EOF, too: where a write learns of the reset, a read finds no more than the end.
			if err := s.IsOver(); errors.Is(err, os.ErrDeadlineExceeded) || err == transport.ErrWriteTimeout {
				k.Errorf("Gone was told %v, want that of the reset", err)
			}
		})
	}
}

// End ends a connection from anywhere, and the first one counts.
func (k *kit) end() {
	o := Slow
	o.Tick = 8 * time.Millisecond
	for name, end := range map[string]func(k *kit, s *Script, peers net.Conn){
		"another goroutine": func(_ *kit, s *Script, _ net.Conn) {
			s.Start()
			s.Conn.End(errTest)
		},
		"Receive": func(k *kit, s *Script, peers net.Conn) {
			s.OnReceive = func([]byte) bool { s.Conn.End(errTest); return true }
			s.Start()
			Write(k, peers, "end it")
		},
		"Next": func(_ *kit, s *Script, _ net.Conn) {
			s.OnNext = func() ([]byte, transport.Then) { s.Conn.End(errTest); return nil, transport.Wait }
			s.Start()
			s.Conn.Wake()
		},
		"Tick": func(_ *kit, s *Script, _ net.Conn) {
			s.OnTick = func() { s.Conn.End(errTest) }
			s.Start()
		},
		"LastWords": func(_ *kit, s *Script, _ net.Conn) {
			s.OnLastWords = func(error) []byte { s.Conn.End(io.ErrNoProgress); return []byte("bye") }
			s.Start()
			s.Conn.End(errTest)
		},
		"a task": func(_ *kit, s *Script, _ net.Conn) {
			s.Start()
			s.Conn.Loop().Post(transport.Do(func() { s.Conn.End(errTest); s.Conn.Flush() }))
		},
		"many at once": func(_ *kit, s *Script, _ net.Conn) {
			s.Start()
			for range 4 {
				go s.Conn.End(errTest)
			}
		},
	} {
		k.sub(name, func(k *kit) {
			tr := k.open(o)
			s, peers := k.script(tr, nil)
			s.OnLastWords = func(error) []byte { return []byte("bye") }
			end(k, s, peers)
			ReadsEnd(k, peers, "bye")
			if err := s.IsOver(); err != errTest {
				k.Errorf("Gone was told %v, want what End was given", err)
			}
			s.Conn.End(io.ErrUnexpectedEOF) // changes nothing
			s.Conn.Wake()
			s.Conn.Pause()
			s.Conn.Resume()
			if told := s.Told(); len(told) != 1 || told[0] != errTest {
				k.Errorf("LastWords was told %v, want once what End was given", told)
			}
		})
	}
}

// A write that End cuts short is told End's reason, not that the peer is slow.
func (k *kit) endWhileWriting() {
	tr := k.open(Slow)
	s, _ := k.script(tr, nil)
	stalled := s.Floods(64 << 10)
	s.Start()
	s.Conn.Wake()
	stalled()
	began := time.Now()
	s.Conn.End(errTest)
	if err := s.IsOver(); err != errTest {
		k.Errorf("Gone was told %v, want what End was given", err)
	}
	if d := time.Since(began); d > 2*time.Second {
		k.Errorf("the end took %v: it waited for the peer", d)
	}
	if told := s.Told(); len(told) != 1 || told[0] != errTest {
		k.Errorf("LastWords was told %v, want once what End was given", told)
	}
}

// A peer that takes nothing has WriteTimeout, and then it is over.
func (k *kit) writeTimeout() {
	o := Slow
	o.Tick, o.WriteTimeout = 20*time.Millisecond, 200*time.Millisecond
	tr := k.open(o)
	idle, _ := k.script(tr, nil) // which owes nothing
	idle.Start()
	s, _ := k.script(tr, nil)
	s.Floods(64 << 10)
	s.Start()
	began := time.Now()
	s.Conn.Wake()
	if err := s.IsOver(); err != transport.ErrWriteTimeout {
		k.Errorf("Gone was told %v, want ErrWriteTimeout", err)
	}
	if d := time.Since(began); d < o.WriteTimeout || d > o.WriteTimeout+3*time.Second {
		k.Errorf("the peer had %v, want %v and little more", d, o.WriteTimeout)
	}
	if told := s.Told(); len(told) != 1 || told[0] != transport.ErrWriteTimeout {
		k.Errorf("LastWords was told %v, want ErrWriteTimeout once", told)
	}
	if idle.IsGone() {
		k.Error("a connection that was idle is gone, too")
	}
}

// Close ends everybody, and returns when all were told.
func (k *kit) close() {
	const n = 500
	tr := k.open(Slow)
	var all, late []*Script
	var idle []net.Conn
	for i := range n {
		s, peers := k.script(tr, nil)
		s.OnLastWords = func(error) []byte { return []byte("bye") }
		all = append(all, s)
		switch i % 10 {
		case 0: // one that does not read
			s.Floods(64 << 10)
		case 1: // one that has been told the last, and does not close
			s.Finish([]byte("last"))
		case 2: // one that nothing is read of
			s.OnReceive = func([]byte) bool { s.Conn.Pause(); return true }
			Write(k, peers, "hello")
		case 3: // one that starts while we close
			late = append(late, s)
			continue
		default:
			idle = append(idle, peers)
		}
		s.Start()
		s.Conn.Wake()
	}
	began := time.Now()
	var closers sync.WaitGroup
	for range 2 { // as good as one
		closers.Go(tr.Close)
	}
	for _, s := range late {
		s.Start()
	}
	closers.Wait()
	k.Logf("closing %d connections took %v", n, time.Since(began))
	for _, s := range all {
		select {
		case err := <-s.gone:
			if err != transport.ErrClosed {
				k.Errorf("Gone was told %v, want ErrClosed", err)
			}
		default:
			k.Fatal("Close returned before a session was told Gone")
		}
	}
	for _, peers := range idle {
		ReadsEnd(k, peers, "bye")
	}

	ours, peers := k.connect(k)
	if _, err := tr.Accept(ours, nil); err != transport.ErrClosed {
		k.Errorf("Accept after Close: %v, want ErrClosed", err)
	}
	go ours.Write([]byte("still open"))
	Reads(k, peers, "still open")
	ours.Close()
}

// Whoever comes while the transport closes is served until it is gone, or refused.
func (k *kit) closeWhileAccepting() {
	rnd := Random(k)
	for range 20 {
		tr := k.open(Slow)
		var wg sync.WaitGroup
		for range 4 {
			var ends []net.Conn
			for range 10 {
				ours, _ := k.connect(k)
				ends = append(ends, ours)
			}
			wg.Go(func() {
				for _, ours := range ends {
					c, err := tr.Accept(ours, []byte("early"))
					switch err {
					case nil:
						s := &Script{t: k, Conn: c, gone: make(chan error, 2)}
						c.Wake()
						s.Start()
						if err := s.IsOver(); err != transport.ErrClosed {
							k.Errorf("Gone was told %v, want ErrClosed", err)
						}
					case transport.ErrClosed:
						ours.Close()
					default:
						k.Errorf("Accept while closing: %v", err)
					}
				}
			})
		}
		time.Sleep(time.Duration(rnd.IntN(1000)) * time.Microsecond) // the moment is what is random
		tr.Close()
		wg.Wait()
	}
}
