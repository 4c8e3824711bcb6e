package fanfare_test

import (
	"context"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"fanfare"
)

// Whoever is gone keeps none of the channel's messages in memory, however long
// the program's hook, or the program itself, holds on to what is left of it.
func TestTheGoneKeepNothing(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	const each, messages, most = 512 << 10, 100, 10 << 20
	flood := func(t *testing.T, s *stage, what string) {
		t.Helper()
		before := heap()
		for range messages {
			if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "c", Payload: make([]byte, each), Binary: true}); err != nil {
				t.Fatal(err)
			}
		}
		if grown := heap() - before; grown > most {
			t.Errorf("%s: the heap grew by %d bytes while %d were published, of which four messages of %d are history", what, grown, each*messages, each)
		}
	}
	bothTransports(t, func(t *testing.T) {
		asked, answer := make(chan struct{}, 1), make(chan struct{})
		s := perform(t, fanfare.Config{History: 4, HistoryBytes: 4 * each, MaxLag: each, Hooks: fanfare.Hooks{
			Publish: func(context.Context, *fanfare.Message) error { asked <- struct{}{}; <-answer; return nil },
		}})
		defer close(answer)
		stays, err := s.Subscribe(t.Context(), "c", nil) // so that the channel does
		if err != nil {
			t.Fatal(err)
		}
		defer stays.Close()
		alice := s.join("/c")
		alice.say("hello")
		<-asked
		alice.conn.(*net.TCPConn).SetLinger(0)
		// Nothing is read while the hook is asked, so a write must find out.
		alice.conn.Close()
		for end := time.Now().Add(patience); s.Stats().Sessions > 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
			if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "c", Payload: []byte("x")}); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.Stats().Sessions; n != 0 {
			t.Fatalf("%d sessions", n)
		}
		sub, err := s.Subscribe(t.Context(), "c", nil)
		if err != nil {
			t.Fatal(err)
		}
		sub.Close()
		flood(t, s, "a session whose hook is asked, and a closed subscription")
		if _, err := sub.Next(t.Context()); err != fanfare.ErrUnsubscribed {
			t.Errorf("Next after Close: %v", err)
		}
	})
}

// Subscribing and shutting down meet everywhere.
func TestSubscribeWhileShuttingDown(t *testing.T) {
	for range 20 {
		s, err := fanfare.New(fanfare.Config{})
		if err != nil {
			t.Fatal(err)
		}
		var subscribing sync.WaitGroup
		for range 4 {
			subscribing.Go(func() {
				for {
					sub, err := s.Subscribe(t.Context(), "c", nil)
					if err == fanfare.ErrServerClosed {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					sub.Close()
				}
			})
		}
		eventually(t, "somebody subscribes", func() bool { return s.Stats().Channels > 0 })
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		subscribing.Wait()
	}
}
