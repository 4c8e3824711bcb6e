package fanfare_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"
)

// A record is what a logger said.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

// taken returns what was said since the last call.
func (r *record) taken() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.b.Reset()
	return r.b.String()
}

// say publishes n messages to a channel.
func (s *stage) say(channel string, n int) {
	s.t.Helper()
	for i := range n {
		if _, err := s.Publish(s.t.Context(), &fanfare.Message{Channel: channel, Payload: fmt.Appendf(nil, "%s %d", channel, i)}); err != nil {
			s.t.Fatal(err)
		}
	}
}

// kept is how many messages of a channel history has.
func (s *stage) kept(channel string) int {
	s.t.Helper()
	resp, err := http.Get(s.url("/" + channel + "?since=0&limit=1000"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var page struct{ Messages []json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("history of %s: %s %v", channel, resp.Status, err)
	}
	return len(page.Messages)
}

// replayed is how many messages a subscription from the beginning gets at once.
func (s *stage) replayed(channel string, last int) (n int) {
	s.t.Helper()
	sub, err := s.Subscribe(s.t.Context(), channel, &fanfare.SubscribeOptions{Since: new(broker.Position)})
	if err != nil {
		s.t.Fatal(err)
	}
	defer sub.Close()
	end := fmt.Sprintf("%s %d", channel, last)
	for m, err := range sub.Messages(s.t.Context()) {
		if err != nil {
			s.t.Fatal(err)
		}
		n++
		if string(m.Payload) == end {
			break
		}
	}
	return n
}

var historyChannels = []fanfare.ChannelConfig{
	{Pattern: "chat/quiet", History: -1},
	{Pattern: "chat/**", History: 30},
	{Pattern: "*/small", HistoryBytes: 5 * (128 + len("x/small 1"))},
	{Pattern: "chat/**", History: 1, HistoryAge: time.Nanosecond}, // the first that says it counts
	{Pattern: "brief/*", HistoryAge: time.Nanosecond},
}

// How much is kept of which channel: what the first pattern says that fits and
// says it, setting by setting; in the broker and in the feed of a channel that is open.
func TestHistoryByChannel(t *testing.T) {
	s := perform(t, fanfare.Config{History: 10, Channels: historyChannels})
	for _, c := range []struct {
		channel string
		want    int
	}{
		{"chat", 10}, {"chat/a", 0}, {"chat/quiet", 0}, {"x/small", 5}, {"brief/a", 0}, {"brief/a/b", 10},
	} {
		watcher, err := s.Subscribe(t.Context(), c.channel, nil)
		if err != nil {
			t.Fatal(err)
		}
		s.say(c.channel, 9)
		s.say(c.channel, 9)
		if n := s.kept(c.channel); n != min(c.want, 18) {
			t.Errorf("of %s the history has %d, want %d", c.channel, n, c.want)
		}
		watcher.Close()
	}
}

func TestBadHistoryOfChannels(t *testing.T) {
	for _, bad := range []fanfare.ChannelConfig{{Pattern: "a", HistoryAge: -1}, {Pattern: "a", HistoryBytes: -1}} {
		if _, err := fanfare.New(fanfare.Config{Channels: []fanfare.ChannelConfig{bad}}); err == nil || !strings.Contains(err.Error(), "Config.Channels[0] has HistoryAge") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, err := fanfare.New(fanfare.Config{MaxSubscriptions: -1}); err == nil || !strings.Contains(err.Error(), "Config.MaxSubscriptions is -1") {
		t.Error(err)
	}
	if _, err := fanfare.New(fanfare.Config{IDWindow: -1}); err == nil || !strings.Contains(err.Error(), "Config.IDWindow is -1ns") {
		t.Error(err)
	}
}

// A channel that is open when the settings change has the new ones: what is too
// much goes at once, and what comes is kept by the new measure.
func TestReloadHistory(t *testing.T) {
	s := perform(t, fanfare.Config{History: 100})
	watcher, err := s.Subscribe(t.Context(), "open", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	s.say("open", 50)
	if n := s.replayed("open", 49); n != 50 {
		t.Fatalf("before, %d were replayed", n)
	}
	settings := []fanfare.ChannelConfig{{Pattern: "op*n", History: 1}, {Pattern: "*", History: 20}}
	if err := s.Reload(fanfare.Config{History: 5, Channels: settings[1:]}); err != nil {
		t.Fatal(err)
	}
	if n, kept := s.replayed("open", 49), s.kept("open"); n != 20 || kept != 20 {
		t.Errorf("after Reload to 20, %d are replayed and %d kept", n, kept)
	}
	if err := s.Reload(fanfare.Config{History: 40}); err != nil {
		t.Fatal(err)
	}
	s.say("open", 50)
	if n, kept := s.replayed("open", 49), s.kept("open"); n != 40 || kept != 40 {
		t.Errorf("after Reload to 40 and 50 messages more, %d are replayed and %d kept", n, kept)
	}
	settings[1].History = 7 // the server has a copy: nothing changes
	if n := s.replayed("open", 49); n != 40 {
		t.Errorf("the caller's slice reaches into the server: %d are replayed", n)
	}
}

// What becomes of slow readers counts for those who subscribe afterwards, also to
// a channel that was open.
func TestReloadSlowReaders(t *testing.T) {
	s := perform(t, fanfare.Config{SlowReaders: fanfare.Close, MaxLag: 1 << 10})
	lags := func(sub *fanfare.Subscription) error {
		s.t.Helper()
		for range 5 {
			if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: "a", Payload: make([]byte, 1<<10)}); err != nil {
				t.Fatal(err)
			}
		}
		_, err := sub.Next(t.Context())
		return err
	}
	before, err := s.Subscribe(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if err := s.Reload(fanfare.Config{Channels: []fanfare.ChannelConfig{{Pattern: "a", SlowReaders: fanfare.CatchUp}}}); err != nil {
		t.Fatal(err)
	}
	after, err := s.Subscribe(t.Context(), "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	if err := lags(before); err != fanfare.ErrTooSlow {
		t.Errorf("who was there has Close, and was told %v", err)
	}
	if err := lags(after); err != nil {
		t.Errorf("who came later has CatchUp, and was told %v", err)
	}
}

func TestReloadOrigins(t *testing.T) {
	s := perform(t, fanfare.Config{})
	for _, c := range []struct {
		origins []string
		want    int
	}{{nil, http.StatusForbidden}, {[]string{"https://app.example.com"}, http.StatusSwitchingProtocols}, {nil, http.StatusForbidden}} {
		if err := s.Reload(fanfare.Config{Origins: c.origins}); err != nil {
			t.Fatal(err)
		}
		_, resp, err := s.tryJoin("/a", "Origin: https://app.example.com")
		if err != nil || resp.StatusCode != c.want {
			t.Errorf("with %q: %v %v", c.origins, resp, err)
		}
	}
}

func TestReloadSaysWhatItCannot(t *testing.T) {
	said := new(record)
	memory := broker.NewMemory(nil)
	cfg := fanfare.Config{Broker: memory, Logger: slog.New(slog.NewTextHandler(said, nil)), History: 10}
	s := perform(t, cfg)
	said.taken()
	cfg.Logger = nil
	if err := s.Reload(cfg); err != nil || said.taken() != "" {
		t.Errorf("the same settings: %v", err)
	}
	cfg.Broker = nil
	if err := s.Reload(cfg); err != nil || said.taken() != "" {
		t.Errorf("no broker is the same broker: %v", err)
	}
	for name, other := range map[string]fanfare.Config{
		"Broker":           {Broker: broker.NewMemory(nil)},
		"MaxMessage":       {MaxMessage: 1000},
		"IDWindow":         {IDWindow: time.Hour},
		"Heartbeat":        {Heartbeat: time.Hour},
		"HeartbeatTimeout": {HeartbeatTimeout: time.Hour},
		"WriteTimeout":     {WriteTimeout: time.Hour},
		"CloseTimeout":     {CloseTimeout: time.Hour},
		"Compression":      {Compression: fanfare.Compression{Off: true}},
		"MessageTimeout":   {MessageTimeout: time.Hour},
	} {
		other.History = 20
		if err := s.Reload(other); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if log := said.taken(); strings.Count(log, "\n") != 1 || !strings.Contains(log, `msg="a setting takes effect at the next start" setting=Config.`+name+"\n") {
			t.Errorf("%s: the log says %q", name, log)
		}
	}
	s.say("a", 30)
	if n := s.kept("a"); n != 20 {
		t.Errorf("beside what cannot change, History must change to 20: %d are kept", n)
	}
}

func TestReloadRefuses(t *testing.T) {
	s := perform(t, fanfare.Config{History: 10})
	for _, bad := range []fanfare.Config{
		{MaxLag: -1}, {History: 3, Channels: []fanfare.ChannelConfig{{Pattern: "**/x"}}}, {History: 3, Origins: []string{""}}, {History: 3, Heartbeat: -1},
	} {
		if err := s.Reload(bad); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	s.say("a", 20)
	if n := s.kept("a"); n != 10 {
		t.Errorf("after refusals %d are kept, want 10 as before", n)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(fanfare.Config{}); err != fanfare.ErrServerClosed {
		t.Errorf("after Shutdown: %v", err)
	}
}

// Settings change while channels open, fill and end; at the end the last ones count.
func TestReloadAmidTraffic(t *testing.T) {
	s := perform(t, fanfare.Config{History: 50})
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for n := range 50 {
				channel := fmt.Sprintf("x/%d", (i+n)%8)
				sub, err := s.Subscribe(t.Context(), channel, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := s.Publish(t.Context(), &fanfare.Message{Channel: channel, Payload: []byte("x")}); err != nil {
					t.Error(err)
				}
				sub.Close()
			}
		})
	}
	for i := range 2 {
		all.Go(func() {
			for n := range 100 {
				if err := s.Reload(fanfare.Config{Channels: []fanfare.ChannelConfig{{Pattern: "x/*", History: 1 + i + n}}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if err := s.Reload(fanfare.Config{History: 3}); err != nil {
		t.Fatal(err)
	}
	for i := range 8 {
		channel := fmt.Sprintf("x/%d", i)
		s.say(channel, 10)
		if n, kept := s.replayed(channel, 9), s.kept(channel); n != 3 || kept != 3 {
			t.Errorf("%s: %d are replayed, %d kept", channel, n, kept)
		}
	}
}
