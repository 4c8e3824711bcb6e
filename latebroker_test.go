package fanfare_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"
)

// A lateBroker is the memory broker behind a network of moods: it answers late, it
// delivers later still, in order, and what is asked of it can be told to fail.
type lateBroker struct {
	*broker.Memory
	late    time.Duration // at most; for each answer and each delivery. Zero: what is published is delivered before that is acknowledged
	publish chan func()
	deliver chan func()
	looked  atomic.Pointer[func(name string) error] // see onHistory
	fail    atomic.Pointer[func() (published bool, err error)]
}

func newLateBroker(late time.Duration) *lateBroker {
	b := &lateBroker{Memory: broker.NewMemory(&broker.MemoryOptions{History: 1 << 20, HistoryBytes: 64 << 20}), late: late, publish: make(chan func(), 100_000), deliver: make(chan func(), 100_000)}
	for _, queue := range []chan func(){b.publish, b.deliver} {
		go func() {
			for work := range queue {
				b.wait()
				work()
			}
		}()
	}
	return b
}

func (b *lateBroker) wait() {
	if b.late > 0 && rand.IntN(10) == 0 {
		time.Sleep(rand.N(b.late))
	}
}

func (b *lateBroker) Start(deliver func(*fanfare.Message)) error {
	if b.late == 0 {
		return b.Memory.Start(deliver)
	}
	return b.Memory.Start(func(m *fanfare.Message) { b.deliver <- func() { deliver(m) } })
}

func (b *lateBroker) Publish(m *fanfare.Message, done func(fanfare.Position, error)) {
	b.publish <- func() {
		if fail := b.fail.Load(); fail != nil {
			if published, err := (*fail)(); err != nil {
				if published {
					b.Memory.Publish(m, func(fanfare.Position, error) {})
				}
				done(fanfare.Position{}, err)
				return
			}
		}
		b.Memory.Publish(m, done)
	}
}

func (b *lateBroker) Subscribe(ctx context.Context, name string) (fanfare.Position, error) {
	defer b.wait()
	return b.Memory.Subscribe(ctx, name)
}

func (b *lateBroker) History(ctx context.Context, name string, q broker.Query) (broker.Page, error) {
	defer b.wait()
	page, err := b.Memory.History(ctx, name, q)
	if looked := b.looked.Load(); looked != nil && err == nil {
		err = (*looked)(name)
	}
	return page, err
}

// onHistory has f called behind each look into history; nil: nothing.
func (b *lateBroker) onHistory(f func(name string) error) {
	if f == nil {
		b.looked.Store(nil)
	} else {
		b.looked.Store(&f)
	}
}

func (b *lateBroker) Close() error {
	idle := make(chan struct{})
	b.publish <- func() { close(idle) }
	<-idle
	close(b.publish)
	close(b.deliver)
	return b.Memory.Close()
}

// What is published while somebody subscribes comes once, wherever in the course of
// that it was published, and whether or not it is kept.
func TestSeamAtEveryStep(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		for _, history := range []int{0, -1} {
			for _, name := range []string{"c", "*"} {
				for _, since := range []bool{false, true} {
					b := newLateBroker(0)
					s := perform(t, fanfare.Config{Broker: b, History: history})
					said := []string{s.publishes("c", "0")}
					var mu sync.Mutex
					b.onHistory(func(string) error {
						mu.Lock()
						defer mu.Unlock()
						said = append(said, s.publishes("c", fmt.Sprint(len(said))))
						return nil
					})
					p := s.talk("/-/connect")
					from := ""
					if since {
						from = fmt.Sprintf(`,"since":%q`, said[0])
					}
					at := wants(t, p.ask(`{"type":"subscribe","id":"1","channel":%q%s}`, name, from), "ok", "1", "").Position
					b.onHistory(nil)
					mu.Lock()
					defer mu.Unlock()
					if len(said) < 2 {
						t.Error("the broker was not asked")
					}
					s.publishes("c", "-1")
					var want, heard []string
					for n, position := range said {
						if n > 0 && offset(position) > offset(at) {
							want = append(want, fmt.Sprint(n))
						}
					}
					for {
						e := p.event()
						if string(e.Data) == "-1" {
							break
						}
						if e.Type == "gap" { // what is not kept may have come and gone meanwhile
							for len(want) > 0 && offset(said[len(said)-len(want)]) <= offset(e.Position) {
								want = want[1:]
							}
							continue
						}
						heard = append(heard, string(e.Data))
					}
					if !slices.Equal(heard, want) {
						t.Errorf("history %d, %s, since %v: of %v reading begins at %s, and heard is %v", history, name, since, said, at, heard)
					}
				}
			}
		}
	})
}

// offset is that of a position.
func offset(position string) uint64 {
	p, _ := broker.ParsePosition(position)
	return p.Offset
}

// A broker that fails is told of, in words that give nothing away, and the
// conversation goes on; what it did all the same is known again by its id.
func TestV1BrokerFails(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		b := newLateBroker(time.Millisecond)
		s := perform(t, fanfare.Config{Broker: b})
		p := s.talk("/-/connect")
		fail := func(published bool, err error) {
			how := func() (bool, error) { return published, err }
			b.fail.Store(&how)
		}
		const publish = `{"type":"publish","id":"p","channel":"c","data":1}`
		fail(false, errors.New("secret"))
		if e := wants(t, p.ask(publish), "error", "p", "internal"); e.Channel != "c" || e.Message == "" || e.Message == "secret" {
			t.Errorf("%s", e.Append(nil))
		}
		fail(true, context.DeadlineExceeded)
		wants(t, p.ask(publish), "error", "p", "timeout")
		b.fail.Store(nil)
		once := wants(t, p.ask(publish), "ok", "p", "").Position
		wants(t, p.ask(`{"type":"publish","id":"q","channel":"c","data":2}`), "ok", "q", "")
		b.onHistory(func(string) error { return errors.New("secret") })
		for _, what := range []string{
			`{"type":"subscribe","id":"1","channel":"c"}`, `{"type":"subscribe","id":"1","channel":"*","since":"0"}`,
			`{"type":"subscribe","id":"1","channel":"c","presence":true}`, `{"type":"history","id":"1","channel":"c"}`,
		} {
			wants(t, p.ask("%s", what), "error", "1", "internal")
		}
		b.onHistory(nil)
		wants(t, p.ask(`{"type":"subscribe","id":"1","channel":"c","since":"0","presence":true}`), "ok", "1", "")
		var heard []string
		for len(heard) < 3 {
			switch e := p.event(); e.Type {
			case "message":
				heard = append(heard, e.Position)
			case "join":
				heard = append(heard, "join")
			}
		}
		if heard[0] != once && heard[1] != once {
			t.Errorf("published once it was at %s, heard is %v", once, heard)
		}
		wants(t, p.ask(`{"type":"unsubscribe","id":"1","channel":"c"}`), "ok", "1", "")
		eventually(t, "no channel is left", func() bool { return s.Stats().Channels == 0 })
	})
}

// Who waits for the broker waits alone, is answered in the end or at Shutdown, and
// what it says meanwhile is done in the order in which it was said.
func TestV1BrokerHangs(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		b := newLateBroker(0)
		s := perform(t, fanfare.Config{Broker: b})
		asked, answer := make(chan struct{}, 10), make(chan struct{})
		b.onHistory(func(name string) error {
			if name == "stuck" {
				asked <- struct{}{}
				<-answer
			}
			return nil
		})
		p := s.talk("/-/connect")
		p.say(`{"type":"subscribe","id":"1","channel":"stuck"}`)
		<-asked
		for _, what := range []string{
			`{"type":"publish","id":"2","channel":"stuck","data":"now"}`, `{"type":"unsubscribe","id":"3","channel":"stuck"}`,
			`{"type":"publish","id":"4","channel":"stuck","data":"too late"}`, `{"type":"ping","id":"5"}`,
		} {
			p.say(what)
		}
		other := s.talk("/-/connect")
		wants(t, other.ask(`{"type":"subscribe","id":"1","channel":"free"}`), "ok", "1", "")
		wants(t, other.ask(`{"type":"publish","id":"2","channel":"elsewhere","data":1}`), "ok", "2", "")
		close(answer)
		said := make(map[string]int)
		for n := 0; len(said) < 5; n++ {
			e := p.event()
			switch {
			case e.Type == "ok":
				said[e.ID] = n
			case e.Type != "message" || string(e.Data) != `"now"`:
				t.Errorf("%s", e.Append(nil))
			case said["3"] != 0:
				t.Error("a message behind unsubscribe's ok")
			}
		}
		if said["1"] != 0 {
			t.Errorf("answered in the order %v", said)
		}
	})
}
