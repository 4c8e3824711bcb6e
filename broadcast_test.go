package fanfare_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/internal/frame"
)

// Many speak at once; everybody hears everything, in one order.
func TestOneOrderForAll(t *testing.T) {
	const speakers, each, listeners = 8, 200, 5
	s := perform(t, fanfare.Config{History: speakers * each})
	sub, err := s.Subscribe(t.Context(), "busy", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	var everyone []*person
	for range speakers + listeners {
		everyone = append(everyone, s.join("/busy"))
	}
	heard := make([][]string, len(everyone))
	var wg sync.WaitGroup
	for i, p := range everyone {
		if i < speakers {
			wg.Go(func() {
				for n := range each {
					p.say(fmt.Sprintf("%d-%d", i, n))
				}
			})
		}
		wg.Go(func() {
			for range speakers * each {
				heard[i] = append(heard[i], p.said())
			}
		})
	}
	wg.Wait()
	for i, order := range heard {
		last := make(map[string]int)
		for k, text := range order {
			if text != heard[0][k] {
				t.Fatalf("message %d is %q to one and %q to another", k, heard[0][k], text)
			}
			var who, n int
			fmt.Sscanf(text, "%d-%d", &who, &n)
			if n != last[fmt.Sprint(who)] {
				t.Fatalf("listener %d hears %q, expected number %d", i, text, last[fmt.Sprint(who)])
			}
			last[fmt.Sprint(who)]++
		}
	}
	for k := range heard[0] {
		m, err := sub.Next(t.Context())
		if err != nil || string(m.Payload) != heard[0][k] {
			t.Fatalf("the program's own subscription reads %v %v, want %q", m, err, heard[0][k])
		}
	}
}

// 500 clients, 20 of them frozen: the others hear every message as soon as
// without the frozen ones, memory stays bounded, and the frozen ones, when they
// thaw, get what history still has and are told what they missed.
func TestFrozenReadersDisturbNobody(t *testing.T) {
	const clients, frozen, messages, size = 500, 20, 160, 16 << 10
	s := perform(t, fanfare.Config{History: 16, MaxLag: 128 << 10, WriteTimeout: time.Minute, Heartbeat: time.Minute})
	everyone := make([]*person, clients)
	for i := range everyone {
		everyone[i] = s.join("/crowd")
	}
	ice, water := everyone[:frozen], everyone[frozen:]
	padding := strings.Repeat("x", size)

	// Everyone in group hears messages from..to; the last one's delays, sorted, are returned.
	round := func(group []*person, from, to int) []time.Duration {
		var delays []time.Duration
		for n := from; n < to; n++ {
			start := time.Now()
			if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "crowd", Payload: fmt.Appendf(nil, "%d %s", n, padding)}); err != nil {
				t.Fatal(err)
			}
			for _, p := range group {
				if m := p.said(); !strings.HasPrefix(m, fmt.Sprintf("%d ", n)) {
					t.Fatalf("heard %.20q, want message %d", m, n)
				}
			}
			delays = append(delays, time.Since(start))
		}
		slices.Sort(delays)
		return delays
	}
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	quiet := round(everyone, 0, messages/4)
	disturbed := round(water, messages/4, messages)
	grown := heap() - before
	median := func(d []time.Duration) time.Duration { return d[len(d)/2] }
	t.Logf("a message to all: median %v before, %v beside %d frozen, at most %v; the heap grew by %d bytes", median(quiet), median(disturbed), frozen, disturbed[len(disturbed)-1], grown)
	// Whoever waits for a frozen reader waits for its whole WriteTimeout; the
	// factor leaves room for a busy machine.
	if median(disturbed) > 3*median(quiet)+50*time.Millisecond || disturbed[len(disturbed)-1] > 10*time.Second {
		t.Errorf("frozen readers slow the others down: %v beside them, %v without", median(disturbed), median(quiet))
	}
	if grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes while %d were published beside %d frozen readers", grown, messages*size, frozen)
	}

	for _, p := range ice {
		next, skipped := messages/4, 0
		for next < messages {
			said := p.said()
			var n int
			if _, err := fmt.Sscanf(said, "* %d messages skipped", &n); err == nil {
				next += n
				skipped += n
				continue
			}
			if fmt.Sscanf(said, "%d ", &n); n != next {
				t.Fatalf("a thawed reader hears message %d, expected %d", n, next)
			}
			next++
		}
		if skipped == 0 {
			t.Error("a reader frozen for most of the time missed nothing: it was not frozen")
		}
	}
	if n := s.Stats().Missed["outrun"]; n == 0 {
		t.Error("nothing counted as outrun")
	}
}

// A client that vanishes in the middle of a message is gone from the channel,
// and nobody hears half a message.
func TestVanishing(t *testing.T) {
	s := perform(t, fanfare.Config{})
	bob := s.join("/")
	for _, how := range []string{"reset", "end"} {
		for _, part := range []int{1, 3, 7, 12} {
			alice := s.join("/")
			eventually(t, "alice is here", func() bool { return s.Stats().Sessions == 2 })
			alice.raw(frame.AppendMasked(nil, frame.Text, true, testKey, []byte("never heard"))[:part])
			if how == "reset" {
				alice.conn.(*net.TCPConn).SetLinger(0)
			}
			alice.conn.Close()
			eventually(t, "alice is gone", func() bool { return s.Stats().Sessions == 1 })
		}
	}
	bob.say("hello?")
	if got := bob.said(); got != "hello?" {
		t.Fatal(got)
	}
	if n := s.Stats().Ended["lost"]; n != 8 {
		t.Errorf("%d connections counted as lost, want 8", n)
	}
}

// Sessions and channels come and go without leaving anything.
func TestNothingIsLeft(t *testing.T) {
	s := perform(t, fanfare.Config{})
	s.join("/warm").leave()
	eventually(t, "the first is gone", func() bool { return s.Stats().Sessions == 0 })
	goroutines, files := runtime.NumGoroutine(), descriptors(t)
	var wg sync.WaitGroup
	for i := range 200 {
		p := s.join(fmt.Sprintf("/room/%d", i%20))
		wg.Go(func() {
			switch i % 4 {
			case 0:
				p.leave()
			case 1:
				p.say("bye")
				p.conn.Close()
			case 2:
				p.conn.(*net.TCPConn).SetLinger(0)
				p.conn.Close()
			case 3:
				p.raw([]byte{0x81, 0x05})
				p.closed()
				p.conn.Close()
			}
		})
	}
	wg.Wait()
	eventually(t, "all are gone", func() bool {
		st := s.Stats()
		return st.Sessions == 0 && st.Channels == 0 && runtime.NumGoroutine() <= goroutines+5 && descriptors(t) <= files+5
	})
}

// Subscribing while others publish misses and doubles nothing, whatever the
// position.
func TestSeam(t *testing.T) {
	s := perform(t, fanfare.Config{History: 1 << 20, HistoryBytes: 1 << 30})
	ctx, stop := context.WithCancel(t.Context())
	var publisher, listeners sync.WaitGroup
	publisher.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			s.Publish(t.Context(), &fanfare.Message{Channel: "seam", Payload: fmt.Append(nil, n)})
			if n%64 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	})
	for range 100 {
		listeners.Go(func() {
			p := s.join("/seam?since=0")
			for n := range 200 {
				if got := p.said(); got != fmt.Sprint(n) {
					t.Errorf("heard %q, want %d", got, n)
					break
				}
			}
			p.conn.Close()
		})
		time.Sleep(time.Millisecond)
	}
	listeners.Wait()
	stop()
	publisher.Wait()
}
