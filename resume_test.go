package fanfare_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
)

// FANFARE_RESUME is how many rounds there are of the tests in this file, and then
// they have their full length. make test has one, a short one; ci/soak.sh 200.
func resumeRounds(t testing.TB) (rounds int, long bool) {
	v := os.Getenv("FANFARE_RESUME")
	if v == "" {
		return 1, false
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("FANFARE_RESUME is %q; it must be a number of rounds, as in 200", v)
	}
	return n, true
}

// seed returns a seed, that of FANFARE_SEED if it is set, and prints it.
func seed(t testing.TB) uint64 {
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("FANFARE_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("FANFARE_SEED is %q; it must be a number", v)
		}
	}
	t.Logf("seed %d", seed)
	return seed
}

// resumeConfig has short times, so that who is frozen is cut soon, and room for
// everything that is published.
var resumeConfig = fanfare.Config{
	History: 1 << 20, HistoryBytes: 64 << 20, MaxLag: 64 << 10,
	Heartbeat: 300 * time.Millisecond, HeartbeatTimeout: 900 * time.Millisecond, WriteTimeout: time.Second,
	CloseTimeout: time.Second, MessageTimeout: late,
}

// A face is a way to read.
type face struct {
	how   string
	names func(*rand.Rand, []string) []string
	begin func(*reader, *call) error
}

var faces = []face{
	{"v1, one channel", one, (*reader).v1},
	{"v1, some channels", some, (*reader).v1},
	{"v1, a pattern", pattern, (*reader).v1},
	{"v1, a pattern and a channel of it", both, (*reader).v1},
	{"plain", one, (*reader).plain},
	{"plain, a pattern", pattern, (*reader).plain},
	{"SSE", one, (*reader).events},
	{"SSE, a pattern", pattern, (*reader).events},
	{"NDJSON", one, (*reader).lines},
	{"NDJSON, a pattern", pattern, (*reader).lines},
}

func one(rnd *rand.Rand, channels []string) []string {
	return []string{channels[rnd.IntN(len(channels))]}
}

func some(rnd *rand.Rand, channels []string) (names []string) {
	for _, i := range rnd.Perm(len(channels))[:2+rnd.IntN(3)] {
		names = append(names, channels[i])
	}
	return names
}

func pattern(rnd *rand.Rand, _ []string) []string {
	return []string{[]string{"room/**", "room/*", "*/red", "**"}[rnd.IntN(4)]}
}

func both(rnd *rand.Rand, channels []string) []string {
	return append(one(rnd, channels), "**")
}

// rooms are the channels of a round.
var resumeRooms = []string{"room/red", "room/blue", "hall/red", "room/green", "attic"}

// narrow has half of a server's connections hold little, so that what is written
// to them is cut everywhere, and who does not read is noticed soon.
func narrow(rnd *rand.Rand) func(*http.Server) {
	var mu sync.Mutex
	return func(h *http.Server) {
		h.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
			mu.Lock()
			defer mu.Unlock()
			if rnd.IntN(2) == 0 {
				conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
			}
			return ctx
		}
	}
}

// A round is publishers and readers who are cut all the time.
type round struct {
	faces                     []face
	channels                  []string
	readers, publishers, each int // each publisher publishes so much
	pause                     time.Duration
	enough                    func() bool // nil: when all is published
	cuts                      cutting
	story                     *chronicle

	publisherCuts, lostAcks, published atomic.Int64
	resumed                            []time.Duration
}

// run plays a round on a server and judges it.
func (r *round) run(t *testing.T, s *stage, seed uint64) (sum verdict) {
	r.story = newChronicle()
	defer r.cuts.fillHoles()
	// Everybody begins here, however late he comes: what he misses then is a gap.
	begin, err := s.Publish(t.Context(), &fanfare.Message{Channel: "elsewhere", Payload: []byte(dataOf("0-1", 0))})
	if err != nil {
		t.Fatal(err)
	}
	var publishing, reading sync.WaitGroup
	all := make([]*reader, r.readers)
	for i := range all {
		rnd := rand.New(rand.NewPCG(seed, 1<<32|uint64(i)))
		face := r.faces[i%len(r.faces)]
		reader := &reader{t: t, addr: s.addr(), who: fmt.Sprintf("reader %d (%s)", i, face.how), rnd: rnd, begin: face.begin,
			names: face.names(rnd, r.channels), journals: make(map[string]*journal), cuts: &r.cuts}
		for _, name := range reader.names {
			reader.journals[name] = &journal{who: reader.who, name: name, begin: begin, at: begin}
			for _, room := range r.channels {
				if fits(name, room) {
					reader.ends++
				}
			}
		}
		all[i] = reader
		reading.Go(func() {
			if err := reader.read(); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range r.publishers {
		p := &publisher{t: t, addr: s.addr(), number: i + 1, rnd: rand.New(rand.NewPCG(seed, 2<<32|uint64(i))), story: r.story,
			channels: r.channels, pause: r.pause, enough: r.enough, how: (*publisher).speaks, cuts: &r.publisherCuts, lost: &r.lostAcks, published: &r.published}
		switch i % 5 {
		case 3:
			p.how = (*publisher).posts
		case 4:
			p.how = (*publisher).postsMany
		}
		publishing.Go(func() {
			if err := p.publish(r.each); err != nil {
				t.Error(err)
			}
		})
	}
	publishing.Wait()
	for i, room := range r.channels {
		id := fmt.Sprint(curtainID, i+1)
		position, err := s.Publish(t.Context(), &fanfare.Message{Channel: room, Payload: []byte(dataOf(id, 0))})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.story.ack(id, room, position.String()); err != nil {
			t.Error(err)
		}
	}
	r.cuts.over.Store(true)
	reading.Wait()
	r.story.sort(t)
	for _, reader := range all {
		for _, j := range reader.journals {
			sum.add(r.story.judge(j))
		}
		r.resumed = append(r.resumed, reader.resumed...)
	}
	slices.Sort(r.resumed)
	return sum
}

func (r *round) String() string {
	return fmt.Sprintf("%d publications, %d acknowledgements lost and %d publishers' connections cut; %d readers cut: %v; %s",
		r.published.Load(), r.lostAcks.Load(), r.publisherCuts.Load(), r.cuts.total(), &r.cuts, quantiles(r.resumed))
}

// quantiles says how long resuming took.
func quantiles(sorted []time.Duration) string {
	if len(sorted) == 0 {
		return "nobody resumed"
	}
	at := func(q float64) time.Duration {
		return sorted[int(q*float64(len(sorted)-1))].Round(10 * time.Microsecond)
	}
	return fmt.Sprintf("%d resumed, in p50 %v, p99 %v, at most %v", len(sorted), at(0.5), at(0.99), at(1))
}

// play plays the rounds of a test, over each transport. A round that failed is played
// again by FANFARE_SEED, with the seed that it printed.
func play(t *testing.T, cfg func() fanfare.Config, gaps bool, round func(long bool) *round) {
	bothTransports(t, func(t *testing.T) {
		rounds, long := resumeRounds(t)
		seed := seed(t)
		for n := range rounds {
			t.Run(fmt.Sprint("round ", n), func(t *testing.T) {
				seed := seed + uint64(n)
				s := perform(t, cfg(), narrow(rand.New(rand.NewPCG(seed, 3))))
				r := round(long)
				v := r.run(t, s, seed)
				t.Logf("%v\n%v", &v, r)
				if !v.good() || gaps != (v.gaps > 0) || gaps != (v.missed > 0) {
					t.Errorf("seed %d is bad; ended unasked:\n%s", seed, strings.Join(r.cuts.strays[:min(len(r.cuts.strays), 10)], "\n"))
				}
			})
			if t.Failed() {
				return
			}
		}
	})
}

// Two hundred readers are cut in all the ways there are, at random moments, while
// twenty publishers, who are cut as well, repeat everything until it is
// acknowledged. Every reader has every message once, in order.
func TestResume(t *testing.T) {
	play(t, func() fanfare.Config { return resumeConfig }, false, func(long bool) *round {
		each := 12
		if long {
			each = 40
		}
		return &round{faces: faces, channels: resumeRooms, readers: 200, publishers: 20, each: each, pause: 400 * time.Millisecond,
			cuts: cutting{mean: 500 * time.Millisecond, away: 100 * time.Millisecond, narrow: true}}
	})
}

// Where history is too short for those who were away, they are told so, where it
// is, and, if that is known, how many messages are missing: no more and no fewer.
func TestResumeWithGaps(t *testing.T) {
	cfg := resumeConfig
	cfg.History, cfg.MaxLag = 12, 16<<10
	cfg.Channels = []fanfare.ChannelConfig{{Pattern: "attic", History: 3}, {Pattern: "hall/*", History: 100, HistoryBytes: 20 << 10}}
	play(t, func() fanfare.Config { return cfg }, true, func(bool) *round {
		return &round{faces: faces, channels: resumeRooms, readers: 60, publishers: 10, each: 50, pause: 200 * time.Millisecond,
			cuts: cutting{mean: 200 * time.Millisecond, away: 500 * time.Millisecond, narrow: true}}
	})
}

// A broker may answer late, deliver later than it answers, and know of messages in
// its history that are yet to be delivered: nothing is lost or doubled by it.
func TestResumeWithALateBroker(t *testing.T) {
	late := func() fanfare.Config {
		cfg := resumeConfig
		cfg.Broker = newLateBroker(30 * time.Millisecond)
		return cfg
	}
	play(t, late, false, func(bool) *round {
		return &round{faces: faces, channels: resumeRooms, readers: 60, publishers: 10, each: 20, pause: 100 * time.Millisecond,
			cuts: cutting{ways: []cut{resets, hangsUp, finishes, closes, vanishes}, mean: 100 * time.Millisecond, away: 30 * time.Millisecond}}
	})
}

// A hundred readers are cut and come back, again and again, while a thousand
// messages a second are published: row R6. The long form has ten thousand cuts.
func TestResumeInTime(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		_, long := resumeRounds(t)
		seed := seed(t)
		cfg := resumeConfig
		cfg.MaxLag, cfg.HistoryBytes = 1<<20, 256<<20
		each := 40
		if long {
			each = 100_000 // as many as it takes
		}
		var rooms []string
		for n := range 10 {
			rooms = append(rooms, fmt.Sprint("room/", n))
		}
		s := perform(t, cfg)
		var single []face
		for _, f := range faces {
			if !strings.Contains(f.how, "pattern") {
				single = append(single, f)
			}
		}
		r := &round{faces: single, channels: rooms, readers: 100, publishers: 20, each: each, pause: 180 * time.Millisecond,
			cuts: cutting{ways: []cut{resets, hangsUp, finishes, closes, vanishes}, mean: 400 * time.Millisecond}}
		if long {
			r.enough = func() bool { return r.cuts.total() > 10_000 }
		}
		begin := time.Now()
		v := r.run(t, s, seed)
		t.Logf("%v: %v\n%v", time.Since(begin).Round(time.Millisecond), &v, r)
		if !v.good() || v.gaps > 0 {
			t.Errorf("seed %d is bad", seed)
		}
	})
}

// Eight publish to a channel at once, in all ways there are: whoever reads it, or
// a pattern over it, has the same in the same order. Row R14.
func TestOneOrderOnEveryFace(t *testing.T) {
	bothTransports(t, func(t *testing.T) {
		seed := seed(t)
		s := perform(t, resumeConfig)
		sub, err := s.Subscribe(t.Context(), "room/*", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer sub.Close()
		wholes := []face{
			{"v1", only("room/red"), (*reader).v1}, {"plain", only("room/red"), (*reader).plain},
			{"SSE", only("room/red"), (*reader).events}, {"NDJSON", only("room/red"), (*reader).lines},
			{"v1, a pattern", only("room/*"), (*reader).v1}, {"plain, a pattern", only("room/*"), (*reader).plain},
			{"SSE, a pattern", only("room/*"), (*reader).events}, {"NDJSON, a pattern", only("room/*"), (*reader).lines},
		}
		r := &round{faces: wholes, channels: []string{"room/red"}, readers: 2 * len(wholes), publishers: 8, each: 60}
		r.cuts.over.Store(true) // nobody is cut
		v := r.run(t, s, seed)
		t.Logf("%v\n%v", &v, r)
		if !v.good() || v.gaps > 0 || v.heard != 2*len(wholes)*(8*60+1) {
			t.Errorf("seed %d is bad", seed)
		}
		for _, p := range r.story.in("room/red") {
			m, err := sub.Next(t.Context())
			if err != nil || m.Position != p.position {
				t.Fatalf("the program hears %v %v, want %v", m, err, p)
			}
		}
	})
}

func only(name string) func(*rand.Rand, []string) []string {
	return func(*rand.Rand, []string) []string { return []string{name} }
}
