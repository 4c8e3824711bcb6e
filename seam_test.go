package fanfare_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"
	"fanfare/protocol"
)

// A counter is a channel in which somebody counts, a thousand times a second.
type counter struct {
	channel string

	mu   sync.Mutex         // guards the following
	told []fanfare.Position // told[n] is where n was said
}

// newest returns the newest number that was surely said.
func (c *counter) newest() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.told) - 1
}

func (c *counter) at(n int) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.told[n].String()
}

// counts says the next number.
func (c *counter) counts(ctx context.Context, s *stage) error {
	c.mu.Lock()
	n := len(c.told)
	c.mu.Unlock()
	at, err := s.Publish(ctx, &fanfare.Message{Channel: c.channel, Payload: strconv.AppendInt(nil, int64(n), 10)})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.told = append(c.told, at)
	return err
}

// A seamstress subscribes to counters, or to the pattern over them, from anywhere, hears
// what was said and then what is said, and unsubscribes, again and again.
type seamstress struct {
	*person
	rnd      *rand.Rand
	counters []*counter
	heard    *atomic.Int64
}

// sews subscribes once. What it hears must have no hole and nothing twice: not where
// what is kept ends and what is new begins, and not at the subscription's ends.
func (s *seamstress) sews() error {
	name, mine := "seam/*", s.counters
	if n := s.rnd.IntN(len(s.counters) + 1); n < len(s.counters) {
		name, mine = s.counters[n].channel, s.counters[n:n+1]
	}
	since, next := "", make(map[string]int) // what number comes next; 0: nobody knows yet
	from := s.rnd.IntN(len(mine))
	if s.rnd.IntN(5) > 0 {
		n := mine[from].newest() - s.rnd.IntN(250)
		since = fmt.Sprintf(`,"since":%q`, mine[from].at(n))
		next[mine[from].channel] = n + 1
	}
	s.say(fmt.Sprintf(`{"type":"subscribe","id":"s","channel":%q%s}`, name, since))
	ok := s.event()
	if ok.Type != "ok" || ok.ID != "s" {
		return fmt.Errorf("instead of an ok: %s", ok.Append(nil))
	}
	last, err := broker.ParsePosition(ok.Position)
	if err != nil {
		return err
	}
	until := make(map[string]int)
	for _, c := range mine {
		until[c.channel] = c.newest() + 1 + s.rnd.IntN(4)
	}
	take := func(e protocol.Event) error {
		now, err := broker.ParsePosition(e.Position)
		if err != nil || e.Type != "message" || now.Offset <= last.Offset {
			return fmt.Errorf("after %v comes %s", last, e.Append(nil))
		}
		n, err := strconv.Atoi(string(e.Data))
		switch want, known := next[e.Channel]; {
		case err != nil:
			return err
		case known && n != want:
			return fmt.Errorf("%s: instead of %d comes %s", name, want, e.Append(nil))
		case !known: // it comes right after the place where reading begins
			before, _ := broker.ParsePosition(e.Predecessor)
			if begin, _ := broker.ParsePosition(ok.Position); before.Offset > begin.Offset {
				return fmt.Errorf("%s: reading begins at %s, and the first that comes is %s", name, ok.Position, e.Append(nil))
			}
		}
		next[e.Channel], last = n+1, now
		s.heard.Add(1)
		if n >= until[e.Channel] {
			delete(until, e.Channel)
		}
		return nil
	}
	for len(until) > 0 {
		if err := take(s.event()); err != nil {
			return err
		}
	}
	s.say(fmt.Sprintf(`{"type":"unsubscribe","id":"u","channel":%q}`, name))
	for {
		e := s.event()
		if e.Type == "ok" && e.ID == "u" {
			return nil // what comes now is an error of the next subscription
		}
		if err := take(e); err != nil {
			return err
		}
	}
}

// Whoever subscribes while a thousand messages a second are published has no hole
// and nothing twice where history ends and what is new begins: row R7. The long
// form subscribes ten thousand times.
func TestSubscribeInTheMiddle(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		times := 120
		if _, long := resumeRounds(t); long {
			times = 10_000
		}
		seed := seed(t)
		s := perform(t, fanfare.Config{History: 10_000})
		// In "busy" somebody is always there; "lonely" opens anew with whoever comes.
		counters := []*counter{{channel: "seam/busy"}, {channel: "seam/lonely"}}
		stays, err := s.Subscribe(t.Context(), "seam/busy", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer stays.Close()
		for range 300 {
			for _, c := range counters {
				if err := c.counts(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
		}
		var counting, sewing sync.WaitGroup
		over := make(chan struct{})
		begin, before := time.Now(), counters[0].newest()
		for _, c := range counters {
			counting.Go(func() {
				pause := time.NewTicker(time.Millisecond)
				defer pause.Stop()
				for {
					select {
					case <-over:
						return
					case <-pause.C:
					}
					for due := before + int(time.Since(begin).Milliseconds()); c.newest() < due; {
						if err := c.counts(context.Background(), s); err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		var left, heard atomic.Int64
		left.Store(int64(times))
		for i := range 8 {
			p := s.talk("/-/connect")
			sewing.Go(func() {
				n := &seamstress{person: p, rnd: rand.New(rand.NewPCG(seed, uint64(i))), counters: counters, heard: &heard}
				for left.Add(-1) >= 0 && !t.Failed() {
					if err := n.sews(); err != nil {
						t.Errorf("seamstress %d: %v", i, err)
					}
				}
			})
		}
		sewing.Wait()
		took := time.Since(begin)
		close(over)
		counting.Wait()
		t.Logf("%d subscriptions in %v, %d messages heard, %.0f a second published to each channel", times, took.Round(time.Millisecond), heard.Load(), float64(counters[0].newest()-before)/took.Seconds())
	})
}
