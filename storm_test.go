package fanfare_test

import (
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"fanfare"
)

// While a thousand come to a channel within a second, those who are told of it get
// the messages of other channels as fast as before. The bound is a wide one, for a busy machine;
// bench/run.sh has the exact one, for ten thousand.
func TestStormOfMembers(t *testing.T) {
	const many, told, rate = 1000, 10, 200
	s := perform(t, fanfare.Config{})
	watchers := make([]*watcher, told)
	for i := range watchers {
		watchers[i] = s.watch("hall", "w")
		watchers[i].say(`{"type":"subscribe","id":"n","channel":"news"}`)
		for watchers[i].notice().ID != "n" {
		}
	}
	members := make([]*person, many)
	for i := range members {
		members[i] = s.talk("/-/connect")
	}
	began := time.Now()
	// second publishes for a second, while somebody has something to do each
	// millisecond, and returns how long all messages took to all watchers, in order.
	second := func(do func(ms int)) []time.Duration {
		took := make([][]time.Duration, told)
		var hearing sync.WaitGroup
		for i, w := range watchers {
			hearing.Go(func() {
				for len(took[i]) < rate {
					if e := w.notice(); e.Type == "message" {
						sent, err := strconv.ParseInt(string(e.Data), 10, 64)
						if err != nil {
							t.Error(err)
							return
						}
						took[i] = append(took[i], time.Since(began)-time.Duration(sent))
					}
				}
			})
		}
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for ms := range 1000 {
			<-pace.C
			do(ms)
			if ms%(1000/rate) == 0 {
				m := &fanfare.Message{Channel: "news", Payload: strconv.AppendInt(nil, int64(time.Since(began)), 10)}
				if _, err := s.Publish(t.Context(), m); err != nil {
					t.Fatal(err)
				}
			}
		}
		hearing.Wait()
		all := slices.Concat(took...)
		slices.Sort(all)
		return all
	}
	p99 := func(all []time.Duration) time.Duration { return all[len(all)*99/100] }
	calm := p99(second(func(int) {}))
	storm := p99(second(func(ms int) {
		for _, m := range members[ms*many/1000 : (ms+1)*many/1000] {
			m.say(`{"type":"subscribe","channel":"hall"}`)
		}
	}))
	t.Logf("p99 was %v, and %v while %d came", calm, storm, many)
	if most := 10*calm + 100*time.Millisecond; storm > most {
		t.Errorf("p99 of messages was %v, and %v while %d came to another channel; %v was meant at most", calm, storm, many, most)
	}
	for _, w := range watchers {
		for w.count != told+many {
			w.notice()
		}
	}
}
