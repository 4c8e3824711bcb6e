package client

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"fanfare/protocol"
)

func TestAddress(t *testing.T) {
	for _, tt := range []struct{ url, connect, channel string }{
		{"ws://h:1", "ws://h:1/-/connect", "lobby"},
		{"http://h:1/", "http://h:1/-/connect", "lobby"},
		{"wss://h/chat/general", "wss://h/-/connect", "chat/general"},
		{"https://h/live/", "https://h/live/-/connect", "lobby"},
		{"ws://h/live/-/connect", "ws://h/live/-/connect", "lobby"},
		{"ws://h/caf%C3%A9%20x", "ws://h/-/connect", "café x"},
		{"ws+unix:///run/f.sock:/chat", "ws+unix:///run/f.sock:/-/connect", "chat"},
		{"ws+unix:///run/f.sock", "ws+unix:///run/f.sock:/-/connect", "lobby"},
	} {
		connect, channel, _, err := address(tt.url, "")
		connect, query, _ := strings.Cut(connect, "?")
		if err != nil || connect != tt.connect || channel != tt.channel {
			t.Errorf("%s: %s, %q, %v", tt.url, connect, channel, err)
		}
		if key, ok := strings.CutPrefix(query, "client="); !ok || len(key) < 16 || len(key) > 64 {
			t.Errorf("%s: the query is %q", tt.url, query)
		}
	}
	for _, bad := range []string{"", "localhost:8765", "ftp://h/", "ws://h/%zz", "/chat"} {
		if c, err := Dial(context.Background(), bad, nil); err == nil || c != nil {
			t.Errorf("%q: no error", bad)
		}
	}
	if _, err := Dial(context.Background(), "http://user:secret@[::1", nil); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}

func TestHowItConnects(t *testing.T) {
	st := newStage(t)
	tokens := 0
	c, a := st.dial(Options{Name: "alice", Token: func(context.Context) (string, error) {
		tokens++
		return strings.Repeat("t", tokens), nil
	}})
	if s := c.State(); s.Phase != Connected || s.Session != "s1" || s.Limits != (protocol.Limits{Message: 1 << 20, Subscriptions: 1000}) {
		t.Errorf("%+v", s)
	}
	a.cut()
	b := st.enter()
	for i, r := range []*http.Request{a.request, b.request} {
		if r.URL.Path != "/-/connect" || r.URL.Query().Get("name") != "alice" {
			t.Errorf("asked for %v", r.URL)
		}
		if got, want := r.Header.Get("Authorization"), "Bearer "+strings.Repeat("t", i+1); got != want {
			t.Errorf("connection %d: %q, expected %q", i, got, want)
		}
	}
	if key := a.request.URL.Query().Get("client"); key == "" || key != b.request.URL.Query().Get("client") {
		t.Errorf("the key was %q and then %q", key, b.request.URL.Query().Get("client"))
	}
	other, third := st.dial(Options{})
	if third.request.URL.Query().Get("client") == a.request.URL.Query().Get("client") {
		t.Error("two clients have the same key")
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	t.Run("for good", func(t *testing.T) {
		st := newStage(t)
		st.refuses(refuseWith(403, nil, map[string]any{"error": Error{Code: "forbidden", Message: "not you"}}))
		for _, patient := range []bool{false, true} {
			c, err := Dial(st.ctx, st.url, quick(Options{Patient: patient}))
			if patient {
				_, err = c.Publish(st.ctx, "chat", 1, nil)
				defer c.Close()
			}
			var refused *RefusedError
			var said *Error
			if !errors.As(err, &refused) || refused.Status != 403 || !errors.As(err, &said) || said.Code != "forbidden" {
				t.Errorf("patient %v: %v", patient, err)
			}
		}
	})
	t.Run("for now", func(t *testing.T) {
		st := newStage(t)
		came := make(chan time.Time, 10)
		st.refuses(func(w http.ResponseWriter, r *http.Request) bool {
			came <- time.Now()
			if len(came) == 1 {
				return refuseWith(503, http.Header{"Retry-After": {"1"}}, nil)(w, r)
			}
			return false
		})
		c, err := Dial(st.ctx, st.url, quick(Options{Patient: true}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if s := st.reaches(c, Waiting); s.Wait < time.Second || s.Err == nil {
			t.Errorf("%+v", s)
		}
		st.enter()
		first, second := <-came, <-came
		if waited := second.Sub(first); waited < time.Second {
			t.Errorf("it came back after %v, and Retry-After said 1 s", waited)
		}
	})
	t.Run("for longer than there is time", func(t *testing.T) {
		st := newStage(t)
		st.refuses(refuseWith(503, http.Header{"Retry-After": {"10000000000"}}, nil))
		c, err := Dial(st.ctx, st.url, quick(Options{Patient: true}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if s := st.reaches(c, Waiting); s.Wait < mostRetry || s.Wait > mostRetry+time.Minute {
			t.Errorf("it waits %v, expected about %v", s.Wait, mostRetry)
		}
	})
	t.Run("impatient", func(t *testing.T) {
		st := newStage(t)
		st.refuses(refuseWith(503, nil, nil))
		var refused *RefusedError
		if _, err := Dial(st.ctx, st.url, quick(Options{})); !errors.As(err, &refused) || refused.Status != 503 {
			t.Error(err)
		}
	})
	t.Run("another protocol", func(t *testing.T) {
		st := newStage(t)
		st.welcomes(`{"type":"hello"}`)
		if _, err := Dial(st.ctx, st.url, quick(Options{})); err == nil {
			t.Error("no error")
		}
	})
	t.Run("no welcome before ctx ends", func(t *testing.T) {
		st := newStage(t)
		st.welcomes("")
		ctx, cancel := context.WithCancel(st.ctx)
		dialed := later(t, func() (*Client, error) { return Dial(ctx, st.url, quick(Options{})) })
		st.enter()
		cancel()
		if c, err := dialed(); c != nil || !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Run("no token", func(t *testing.T) {
		st := newStage(t)
		none := errors.New("the vault is closed")
		_, err := Dial(st.ctx, st.url, quick(Options{Token: func(context.Context) (string, error) { return "", none }}))
		if !errors.Is(err, none) {
			t.Error(err)
		}
	})
}

func TestFarewells(t *testing.T) {
	t.Run("come back", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{})
		sub := st.subscribe(c, a, "chat", "7-1", nil)
		a.message("chat", 2)
		began := time.Now()
		a.says(`{"type":"bye","code":"shutting_down","message":"back soon","retry":300}`)
		b := st.enter()
		if waited := time.Since(began); waited < 300*time.Millisecond {
			t.Errorf("it came back after %v", waited)
		}
		b.agrees("chat", "7-2", "7-2")
		b.message("chat", 3)
		st.reads(sub, 2, 3)
	})
	t.Run("for good", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{})
		sub := st.subscribe(c, a, "chat", "7-1", nil)
		a.message("chat", 2)
		unsent := later(t, func() (string, error) { return c.Publish(st.ctx, "chat", 1, nil) })
		a.hears(protocol.Publish)
		a.says(`{"type":"bye","code":"too_slow","message":"enough"}`)
		var said *Error
		var uncertain *UncertainError
		if _, err := unsent(); !errors.As(err, &said) || said.Code != "too_slow" || !errors.As(err, &uncertain) || uncertain.Channel != "chat" {
			t.Error(err)
		}
		if s := st.reaches(c, Closed); !errors.As(s.Err, &said) {
			t.Errorf("%+v", s)
		}
		st.reads(sub, 2)
		for range 2 {
			if _, err := sub.Next(st.ctx); !errors.As(err, &said) || said.Code != "too_slow" {
				t.Error(err)
			}
		}
		if _, err := c.Publish(st.ctx, "chat", 1, nil); !errors.As(err, &said) || errors.As(err, &uncertain) {
			t.Error(err)
		}
		if _, err := c.Subscribe(st.ctx, "chat", nil); !errors.As(err, &said) {
			t.Error(err)
		}
		if err := c.Close(); err == nil {
			t.Error("Close keeps silent about the publish without an answer")
		}
	})
}

func TestSilence(t *testing.T) {
	st := newStage(t)
	st.welcomes(`{"type":"welcome","session":"s1","heartbeat":1000}`)
	c, a := st.dial(Options{})
	ended := time.Now()
	for range 3 { // longer than 1.5 times the heartbeat's time in all
		a.says(`{"type":"heartbeat"}`)
		ended = time.Now()
		select {
		case <-a.conn.Done():
			t.Fatal("a connection with heartbeats was cut")
		case <-time.After(700 * time.Millisecond):
		}
	}
	st.enter() // now there were none
	if silent := time.Since(ended); silent < 1500*time.Millisecond {
		t.Errorf("the connection was cut after %v without a sign of life", silent)
	}
	if s := st.reaches(c, Connected); s.Session != "s1" {
		t.Errorf("%+v", s)
	}
}

// A machine that was suspended knows it by the two clocks.
func TestSuspended(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	c.asleep.Add(int64(time.Hour))
	a.hears(protocol.Ping) // is anybody there?
	a.says(`{"type":"ok","time":"2026-11-22T16:00:00Z"}`)
	select {
	case <-a.conn.Done():
		t.Fatal("a connection that showed a sign of life was cut")
	case <-time.After(probeWait + 2*tick):
	}
	c.asleep.Add(int64(time.Hour))
	a.hears(protocol.Ping)
	began := time.Now()
	st.enter() // nobody was
	if took := time.Since(began); took > probeWait+3*tick {
		t.Errorf("it took %v to give up the connection", took)
	}
}

func TestClose(t *testing.T) {
	t.Run("waits for answers", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{CloseTimeout: patience})
		published := later(t, func() (string, error) { return c.Publish(st.ctx, "chat", 1, nil) })
		first := a.hears(protocol.Publish)
		closed := later(t, func() (struct{}, error) { return struct{}{}, c.Close() })
		for {
			if _, err := c.Send("chat", 2, nil); errors.Is(err, ErrClosed) {
				break
			}
			second := a.hears(protocol.Publish)
			a.says(`{"type":"ok","id":%q,"position":"7-2"}`, second.ID)
		}
		a.cut()
		b := st.enter() // it even comes back for that
		if again := b.hears(protocol.Publish); again.ID != first.ID {
			t.Errorf("%+v", again)
		}
		b.says(`{"type":"ok","id":%q,"position":"7-1"}`, first.ID)
		if position, err := published(); position != "7-1" || err != nil {
			t.Error(position, err)
		}
		if _, err := closed(); err != nil {
			t.Error(err)
		}
		if s := c.State(); s.Phase != Closed || s.Err != ErrClosed {
			t.Errorf("%+v", s)
		}
	})
	t.Run("does not wait for ever", func(t *testing.T) {
		st := newStage(t)
		c, a := st.dial(Options{CloseTimeout: 10 * time.Millisecond})
		sub := st.subscribe(c, a, "chat", "7-1", nil)
		sent, err := c.Send("chat", 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.hears(protocol.Publish)
		if err := c.Close(); err == nil || !strings.Contains(err.Error(), "1 publish") {
			t.Error(err)
		}
		var uncertain *UncertainError
		if _, err := sent.Wait(st.ctx); !errors.Is(err, ErrClosed) || !errors.As(err, &uncertain) {
			t.Error(err)
		}
		for m, err := range sub.Messages(st.ctx) {
			t.Error(m, err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("while away", func(t *testing.T) {
		c, err := Dial(context.Background(), "ws://127.0.0.1:1", &Options{Patient: true, CloseTimeout: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		sent, err := c.Send("chat", 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err == nil {
			t.Error("no error")
		}
		var uncertain *UncertainError
		if _, err := sent.Wait(testContext(t)); err != ErrClosed || errors.As(err, &uncertain) {
			t.Error(err)
		}
	})
}

func TestNonsenseFromTheServer(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	sub := st.subscribe(c, a, "chat", "7-1", nil)
	for _, harmless := range []string{
		`{"type":"brand-new","channel":7}`, `{"type":"welcome","session":"again"}`, `{"type":"ok","id":"nobody's"}`,
		`{"type":"error","code":"x","message":"without an id"}`, `{"type":"message","channel":"elsewhere","position":"7-9","time":"2026-11-22T16:00:00Z","data":1}`,
	} {
		a.says("%s", harmless)
	}
	a.message("chat", 2)
	st.reads(sub, 2)
	for _, harmful := range []string{`{"type":`, `[]`, `{"type":"message","channel":7}`} {
		a.says("%s", harmful)
		a = st.enter()
		a.agrees("chat", "7-2", "7-2")
	}
	a.message("chat", 3)
	st.reads(sub, 3)
	if err := a.conn.Write(st.ctx, 1, make([]byte, 17<<20)); err == nil {
		t.Log("the whole message was taken") // or not: the client need not read it
	}
	if s := st.reaches(c, Closed); s.Err == nil || !strings.Contains(s.Err.Error(), "Options.WebSocket.Limit") {
		t.Errorf("%+v", s)
	}
}

func TestBackoff(t *testing.T) {
	b := backoff{first: 100 * time.Millisecond, most: time.Second}
	for _, bound := range []int{100, 200, 400, 800, 1000, 1000} {
		least, most := time.Hour, time.Duration(0)
		for range 1000 {
			again := b
			wait := again.next()
			least, most = min(least, wait), max(most, wait)
		}
		bound := time.Duration(bound) * time.Millisecond
		if most > bound || most < bound*9/10 || least < 10*time.Millisecond || least > 10*time.Millisecond+bound/10 {
			t.Errorf("after %d failures it waits %v to %v, expected all times from 10 ms to %v", b.failures, least, most, bound)
		}
		b.next()
	}
	for range 100 {
		if wait := b.next(); wait > b.most {
			t.Errorf("it waits %v", wait)
		}
	}
	b.reset()
	if wait := b.next(); wait > b.first {
		t.Errorf("after a success it waits %v", wait)
	}
}

// The pause grows while connections fail, and begins anew after one that lasted.
func TestPauses(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{LeastPause: time.Millisecond, MostPause: 200 * time.Millisecond})
	pauses := func(n int) (longest time.Duration) {
		st.refuses(refuseWith(503, nil, nil))
		a.cut()
		for state := range c.States(st.ctx) {
			if state.Phase == Waiting {
				if longest = max(longest, state.Wait); n == 0 {
					break
				}
				n--
			}
		}
		st.refuses(nil)
		a = st.enter()
		return longest
	}
	if longest := pauses(15); longest < 20*time.Millisecond {
		t.Errorf("of many pauses the longest was %v", longest)
	}
	select {
	case <-a.conn.Done():
	case <-time.After(250 * time.Millisecond):
	}
	a.cut()
	first := time.Duration(-1)
	for state := range c.States(st.ctx) {
		if state.Phase == Waiting {
			first = state.Wait
			break
		}
		if state.Phase == Connecting { // it was over before it could be seen, so it was short
			break
		}
	}
	if first > time.Millisecond {
		t.Errorf("after a good connection the first pause was %v", first)
	}
}

// Times that are too large to count in nanoseconds are as good as very long ones.
func TestTimesThatOverflow(t *testing.T) {
	const most = "9223372036854775807"
	st := newStage(t)
	st.welcomes(`{"type":"welcome","protocol":"fanfare.v1","session":"s1","heartbeat":` + most + `,"limits":{"repeat":` + most + `}}`)
	c, a := st.dial(Options{})
	if silence, repeat := c.told(); silence != mostTime*3/2 || repeat != mostTime*9/10 {
		t.Errorf("it bears %v of silence, and repeats for %v", silence, repeat)
	}
	a.says(`{"type":"bye","code":"shutting_down","message":"…","retry":%s}`, most)
	if s := st.reaches(c, Waiting); s.Wait < mostRetry || s.Wait > 2*mostRetry {
		t.Errorf("it waits %v, expected %v to %v", s.Wait, mostRetry, 2*mostRetry)
	}
}

func (c *Client) told() (silence, repeat time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session.silence, c.repeatFor()
}
