package transporttest

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"fanfare/internal/transport"
)

// Each reaches those that were started and are not gone, once.
func (k *kit) each() {
	tr := k.open(Slow)
	const n = 60
	var all [n]*Script
	for i := range all {
		all[i], _ = k.script(tr, nil)
		if i%3 == 1 {
			continue // to be started later
		}
		all[i].Start()
		if i%3 == 2 {
			all[i].Conn.End(errTest)
			all[i].IsOver()
		}
	}
	var mu sync.Mutex
	met := map[transport.Session]int{}
	tr.Each(func(s transport.Session) {
		if s.(*Script).IsGone() {
			k.Error("Each meets one that is gone")
		}
		s.(*Script).Conn.End(errTest) // which is a thing to do
		mu.Lock()
		defer mu.Unlock()
		met[s]++
	})
	Until(k, "Each has met everybody", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(met) >= n/3
	})
	for i, s := range all {
		switch i % 3 {
		case 0:
			if err := s.IsOver(); err != errTest {
				k.Errorf("Gone was told %v, want what End was given", err)
			}
		case 1:
			s.Start()
		}
	}
	tr.Close()
	tr.Each(func(transport.Session) { k.Error("Each meets somebody after Close") })
	mu.Lock()
	defer mu.Unlock()
	for i, s := range all {
		want := 0
		if i%3 == 0 {
			want = 1
		}
		if met[s] != want {
			k.Errorf("connection %d was met %d times, want %d (0: started, 1: not yet, 2: gone: %d)", i, met[s], want, i%3)
		}
	}
}

// The loops share the connections, and each belongs to its own for good.
func (k *kit) loops() {
	o := Slow
	o.Loops = 3
	tr := k.open(o)
	if n := len(tr.Loops()); n != 3 {
		k.Fatalf("there are %d loops, want 3", n)
	}
	if !slices.Equal(tr.Loops(), tr.Loops()) {
		k.Error("Loops returns other loops each time")
	}
	home := map[transport.Loop]int{}
	for range 9 {
		s, _ := k.script(tr, nil)
		before := s.Conn.Loop()
		s.Start()
		s.Flush()
		if s.Conn.Loop() != before {
			k.Error("a connection has changed its loop")
		}
		home[before]++
	}
	for i, l := range tr.Loops() {
		if home[l] != 3 {
			k.Errorf("loop %d has %d of 9 connections, want 3", i, home[l])
		}
	}
}

// Tasks of a loop run in the order in which they were posted, one at a time, also
// those that are posted by tasks; and another loop's do not wait for them.
func (k *kit) tasks() {
	tr := k.open(Slow)
	l, other := tr.Loops()[0], tr.Loops()[1]
	const posters, each = 4, 500
	var running atomic.Bool
	var order [posters][]int // only tasks of l touch it
	var left sync.WaitGroup
	left.Add(2 * posters * each)
	for p := range posters {
		go func() {
			for i := range each {
				l.Post(transport.Do(func() {
					if running.Swap(true) {
						k.Error("two tasks of a loop run at once")
					}
					order[p] = append(order[p], i)
					l.Post(transport.Do(left.Done))
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
				k.Fatalf("task %d of poster %d ran as its number %d", got, p, i)
			}
		}
	}
	hold, held := make(chan struct{}), make(chan struct{})
	l.Post(transport.Do(func() { close(held); <-hold }))
	<-held
	ran := make(chan struct{})
	other.Post(transport.Do(func() { close(ran) }))
	<-ran
	close(hold)

	// One that has more to do is called again, after the others.
	var log strings.Builder
	done := make(chan struct{})
	l.Post(transport.Do(func() { // so that all three are posted at once
		for _, who := range []string{"a", "b", "c"} {
			n := 0
			l.Post(again(func() bool {
				n++
				fmt.Fprint(&log, who)
				return n < 100
			}))
		}
		n := 0
		l.Post(again(func() bool { // and one that looks on until they are done
			if n++; n <= 100 {
				return true
			}
			close(done)
			return false
		}))
	}))
	<-done
	if got, want := log.String(), strings.Repeat("abc", 100); got != want {
		k.Errorf("three tasks that have more to do ran in the order %.30q… (%d runs), want %.30q… (%d)", got, len(got), want, len(want))
	}
}

// again is a task that may have more to do.
type again func() bool

func (f again) Run() bool { return f() }

// A task that has more to do for ever, and a connection that always has more to write
// or to read, keep nobody waiting.
func (k *kit) turns() {
	o := Slow
	o.Loops = 1
	tr := k.open(o)
	var stop atomic.Bool
	defer stop.Store(true)
	tr.Loops()[0].Post(again(func() bool { return !stop.Load() }))
	for range 3 {
		flood, peers := k.script(tr, nil)
		flood.OnReceive = func([]byte) bool { return !stop.Load() }
		flood.OnNext = func() ([]byte, transport.Then) { return piece(0, 64<<10), transport.More }
		flood.Start()
		flood.Conn.Wake()
		go func() { // an echo, of everything
			for b := make([]byte, 64<<10); ; {
				n, err := peers.Read(b)
				if err != nil {
					return
				}
				if _, err := peers.Write(b[:n]); err != nil {
					return
				}
			}
		}()
	}
	s, peers := k.script(tr, nil)
	s.OnReceive = func([]byte) bool { s.Say([]byte("pong")); return true }
	s.Start()
	for range 15 {
		Write(k, peers, "ping")
		Reads(k, peers, "pong")
		s.Flush()
	}
}
