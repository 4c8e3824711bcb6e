package transporttest

import (
	"bytes"
	"io"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
	"time"

	"fanfare/internal/transport"
)

// Behind the Receive that calls Pause nothing is received until Resume. What the
// peer writes is not taken any more once the network is full, and nothing of it is
// lost or out of order. Writing goes on meanwhile.
func (k *kit) pause() {
	rnd := Random(k)
	tr := k.open(Slow)
	const size = 12 << 20
	s, peers := k.script(tr, bytes.Clone(piece(0, 1000)))
	var got check
	var paused atomic.Bool
	pauses := make(chan func(), 1)
	s.OnReceive = func(b []byte) bool {
		if paused.Load() {
			k.Error("Receive was called while paused")
		}
		if err := got.take(b); err != nil {
			k.Error(err)
		}
		paused.Store(true)
		s.Conn.Pause()
		s.mu.Lock()
		s.received.Reset() // all this need not be kept
		s.mu.Unlock()
		resume := func() { paused.Store(false); s.Conn.Resume() }
		if got.have == size {
			close(pauses)
			return true
		}
		select {
		case pauses <- resume:
		default: // not paused, which was said above
		}
		return true
	}
	s.Start()
	untilPaused := func() func() {
		k.Helper()
		select {
		case resume := <-pauses:
			return resume
		case <-time.After(Patience):
			k.Fatalf("after Resume nothing is received; %d bytes of %d were", got.have, size)
			return nil
		}
	}
	resume := untilPaused() // early bytes can be paused behind, too
	var sent atomic.Int64
	sent.Store(1000)
	go func() {
		for sent.Load() < size {
			n := min(size-sent.Load(), 16<<10)
			if _, err := peers.Write(piece(sent.Load(), int(n))); err != nil {
				k.Error(err)
				return
			}
			sent.Add(n)
		}
	}()
	for range 3 {
		Until(k, "the peer can write no more", quiet(sent.Load))
		if sent.Load() == size {
			k.Fatal("all of it was taken, and reading is paused")
		}
		s.Say([]byte("said while paused"))
		Reads(k, peers, "said while paused")
		resume()
		resume = untilPaused()
	}
	for resume != nil {
		for range rnd.IntN(3) {
			runtime.Gosched()
		}
		resume()
		resume = untilPaused()
	}
	// What is paused when the peer ends notices it later.
	peers.Close()
	select {
	case <-s.gone:
		k.Error("the session is gone while paused")
	case <-time.After(20 * time.Millisecond): // it may be wrong, not flaky
	}
	paused.Store(false)
	s.Conn.Resume()
	if err := s.IsOver(); err != io.EOF {
		k.Errorf("Gone was told %v, want EOF", err)
	}
}

// A connection that is paused can be ended all the same.
func (k *kit) endWhilePaused() {
	tr := k.open(Slow)
	for name, end := range map[string]func(s *Script){
		"by End":       func(s *Script) { s.Conn.End(errTest) },
		"behind early": func(s *Script) { s.Conn.End(errTest) },
		"and resumed":  func(s *Script) { go s.Conn.Resume(); s.Conn.End(errTest) },
	} {
		k.sub(name, func(k *kit) {
			var early []byte
			if name == "behind early" {
				early = []byte("hello")
			}
			s, peers := k.script(tr, early)
			s.OnReceive = func([]byte) bool { s.Conn.Pause(); return true }
			s.OnLastWords = func(error) []byte { return []byte("bye") }
			s.Start()
			if early == nil {
				Write(k, peers, "hello")
			}
			Until(k, "the peer was heard", func() bool { return s.Heard() == "hello" })
			end(s)
			ReadsEnd(k, peers, "bye")
			if err := s.IsOver(); err != errTest {
				k.Errorf("Gone was told %v, want what End was given", err)
			}
			s.Conn.Resume()
		})
	}
}

// Everybody ticks, whatever they do. The clock may stop when nobody is there,
// and goes again with the next.
func (k *kit) tick() {
	rnd := Random(k)
	o := Slow
	o.Tick = 40 * time.Millisecond
	tr := k.open(o)
	for round := range k.times(3) {
		tickers := map[string]*atomic.Int32{}
		var all []*Script
		began := time.Now()
		for _, what := range []string{"idle", "another that is idle", "talking", "listening", "stuck", "paused"} {
			ticks := new(atomic.Int32)
			tickers[what] = ticks
			s, peers := k.script(tr, []byte("early"))
			s.OnTick = func() { ticks.Add(1) }
			all = append(all, s)
			switch what {
			case "talking":
				s.OnReceive = func([]byte) bool {
					s.mu.Lock()
					defer s.mu.Unlock()
					s.received.Reset()
					return true
				}
				go func() {
					for b := piece(0, 32<<10); ; {
						if _, err := peers.Write(b); err != nil {
							return
						}
					}
				}()
			case "listening":
				src := &source{said: 1 << 40, rnd: rand.New(rand.NewPCG(rnd.Uint64(), 0))}
				s.OnNext = src.next
				go io.Copy(io.Discard, peers)
			case "stuck":
				s.Floods(64 << 10)
				s.OnLastWords = nil // over a pipe they would wait for the peer
			case "paused":
				s.OnReceive = func([]byte) bool { s.Conn.Pause(); return true }
			}
			s.Start()
			s.Conn.Wake()
		}
		Until(k, "all have ticked five times", func() bool {
			for _, n := range tickers {
				if n.Load() < 5 {
					return false
				}
			}
			return true
		})
		d := time.Since(began)
		for what, n := range tickers {
			if n := n.Load(); d < time.Duration(n-1)*o.Tick {
				k.Errorf("round %d: one that is %s has ticked %d times in %v, and a tick is %v", round, what, n, d, o.Tick)
			}
		}
		for _, s := range all {
			s.Conn.End(errTest)
			s.IsOver()
		}
	}
}

var _ transport.Session = (*Script)(nil)
