package fanfare_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"
	"fanfare/internal/frame"
)

// A slowBroker is the memory broker behind a network: it answers and delivers
// later, in order, on a goroutine of its own, and its Subscribe can fail.
type slowBroker struct {
	*broker.Memory
	queue   chan func()
	refused atomic.Bool
}

func newSlowBroker(delay time.Duration) *slowBroker {
	b := &slowBroker{Memory: broker.NewMemory(nil), queue: make(chan func(), 10_000)}
	go func() {
		for work := range b.queue {
			time.Sleep(delay)
			work()
		}
	}()
	return b
}

func (b *slowBroker) Publish(m *fanfare.Message, done func(fanfare.Position, error)) {
	b.queue <- func() { b.Memory.Publish(m, done) }
}

func (b *slowBroker) Subscribe(ctx context.Context, channel string) (fanfare.Position, error) {
	if b.refused.Load() {
		return fanfare.Position{}, errors.New("the engine is away")
	}
	return b.Memory.Subscribe(ctx, channel)
}

func (b *slowBroker) Close() error {
	close(b.queue)
	return b.Memory.Close()
}

// What a client said comes back to it before its close is answered, also when
// the broker takes its time.
func TestCloseWaitsForTheBroker(t *testing.T) {
	s := perform(t, fanfare.Config{Broker: newSlowBroker(20 * time.Millisecond)})
	p := s.join("/")
	var burst []byte
	for n := range 3 {
		burst = frame.AppendMasked(burst, frame.Text, true, testKey, fmt.Append(nil, n))
	}
	p.raw(frame.AppendMasked(burst, frame.Close, true, testKey, nil))
	for n := range 3 {
		if got := p.said(); got != fmt.Sprint(n) {
			t.Fatalf("heard %q, want %d", got, n)
		}
	}
	p.closed()
}

// But no longer than CloseTimeout.
func TestCloseDoesNotWaitForEver(t *testing.T) {
	s := perform(t, fanfare.Config{Broker: newSlowBroker(time.Second), CloseTimeout: 100 * time.Millisecond})
	p := s.join("/")
	p.raw(frame.AppendMasked(masked(frame.Text, true, "slow"), frame.Close, true, testKey, nil))
	begin := time.Now()
	p.closed()
	if took := time.Since(begin); took > 900*time.Millisecond {
		t.Errorf("the close was answered after %v", took)
	}
}

// What was taken before Shutdown is delivered before everyone is told goodbye.
func TestShutdownWaitsForTheBroker(t *testing.T) {
	s := perform(t, fanfare.Config{Broker: newSlowBroker(20 * time.Millisecond)})
	alice, bob := s.join("/"), s.join("/")
	alice.say("farewell")
	eventually(t, "it is taken", func() bool { return s.Stats().Published == 1 })
	done := make(chan error)
	go func() { done <- s.Shutdown(t.Context()) }()
	for _, p := range []*person{alice, bob} {
		if got := p.said(); got != "farewell" {
			t.Fatal(got)
		}
		if code, _ := p.closed(); code != frame.GoingAway {
			t.Fatal(code)
		}
		p.send(frame.Close, nil)
		p.ended()
		p.conn.Close()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// A channel that could not be opened is tried anew by who comes next.
func TestOpenFails(t *testing.T) {
	b := newSlowBroker(0)
	s := perform(t, fanfare.Config{Broker: b})
	b.refused.Store(true)
	for range 2 {
		if _, resp, err := s.tryJoin("/room"); err != nil || resp.StatusCode != 500 {
			t.Fatalf("%v %v", resp, err)
		}
	}
	b.refused.Store(false)
	p := s.join("/room")
	p.say("back")
	if got := p.said(); got != "back" {
		t.Fatal(got)
	}
	p.leave()
	eventually(t, "nothing is left", func() bool { return s.Stats().Channels == 0 })
}
