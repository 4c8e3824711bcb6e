package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"fanfare/protocol"
)

func TestPublish(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	for _, tt := range []struct {
		data   any
		o      *PublishOptions
		said   string // data on the wire
		binary bool
	}{
		{map[string]any{"type": "chat", "content": "<b>"}, nil, `{"content":"<b>","type":"chat"}`, false},
		{"hello", nil, `"hello"`, false},
		{"42", nil, `"42"`, false},
		{json.RawMessage(`{"a" : 1.0}`), nil, `{"a" : 1.0}`, false},
		{[]byte("hello"), nil, `"hello"`, false},
		{[]byte("{\n\"a\": 1}"), nil, `{ "a": 1}`, false},
		{[]byte{}, nil, `""`, false},
		{[]byte{0, 255}, &PublishOptions{Binary: true, Key: "k", ID: "mine"}, `"AP8="`, true},
		{nil, nil, `null`, false},
	} {
		published := later(t, func() (string, error) { return c.Publish(st.ctx, "", tt.data, tt.o) })
		said := a.hears(protocol.Publish)
		if string(said.Data) != tt.said || (said.Encoding == "base64") != tt.binary || said.Channel != "lobby" {
			t.Errorf("%v: the client said %+v with data %s", tt.data, said, said.Data)
		}
		if tt.o != nil && (said.ID != tt.o.ID || said.Key != tt.o.Key) {
			t.Errorf("%+v", said)
		}
		a.says(`{"type":"ok","id":%q,"channel":"lobby","position":"7-9"}`, said.ID)
		if position, err := published(); position != "7-9" || err != nil {
			t.Error(position, err)
		}
	}
	for _, bad := range []struct {
		data any
		o    *PublishOptions
	}{
		{[]byte{255}, nil}, {"text", &PublishOptions{Binary: true}}, {func() {}, nil}, {json.RawMessage("{"), nil},
		{[]any{json.RawMessage(strings.Repeat("[", 300) + strings.Repeat("]", 300))}, nil},
	} {
		if _, err := c.Publish(st.ctx, "chat", bad.data, bad.o); err == nil {
			t.Errorf("%.20v: no error", bad.data)
		}
	}
	a.hearsNothing()

	big := later(t, func() (string, error) { return c.Publish(st.ctx, "chat", make([]byte, 1<<20+1), nil) })
	var said *Error
	if _, err := big(); !errors.As(err, &said) || said.Code != "too_big" {
		t.Error(err)
	}
	refused := later(t, func() (string, error) { return c.Publish(st.ctx, "no/**", 1, nil) })
	a.says(`{"type":"error","id":%q,"code":"bad_channel","message":"…"}`, a.hears(protocol.Publish).ID)
	if _, err := refused(); !errors.As(err, &said) || said.Code != "bad_channel" {
		t.Error(err)
	}
	for _, code := range []string{"timeout", "internal"} {
		failed := later(t, func() (string, error) { return c.Publish(st.ctx, "chat", 1, nil) })
		id := a.hears(protocol.Publish).ID
		a.says(`{"type":"error","id":%q,"code":%q,"message":"…"}`, id, code)
		var uncertain *UncertainError
		if _, err := failed(); !errors.As(err, &said) || said.Code != code || !errors.As(err, &uncertain) || uncertain.ID != id {
			t.Error(err)
		}
	}
}

// Alice publishes, the answers are lost, the connection is cut, and she goes
// on publishing while there is none.
func TestPublishesSurviveTheConnection(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	var receipts []*Receipt
	send := func(n int) {
		t.Helper()
		r, err := c.Send("chat", n, nil)
		if err != nil {
			t.Fatal(err)
		}
		receipts = append(receipts, r)
	}
	for n := range 4 {
		send(n)
	}
	var ids []string
	for range 4 {
		ids = append(ids, a.hears(protocol.Publish).ID)
	}
	a.says(`{"type":"ok","id":%q,"position":"7-12"}`, ids[1]) // answers may come in any order
	if position, err := receipts[1].Wait(st.ctx); position != "7-12" || err != nil {
		t.Error(position, err)
	}
	st.refuses(refuseWith(503, nil, nil))
	a.cut()
	st.reaches(c, Waiting)
	send(4)
	send(5)
	st.refuses(nil)
	b := st.enter()
	for _, n := range []int{0, 2, 3, 4, 5} {
		said := b.hears(protocol.Publish)
		if string(said.Data) != fmt.Sprint(n) || said.ID != receipts[n].ID() || n < 4 && said.ID != ids[n] {
			t.Errorf("%d is said again as %+v", n, said)
		}
		b.says(`{"type":"ok","id":%q,"position":"7-1%d"}`, said.ID, n+1)
		if position, err := receipts[n].Wait(st.ctx); position != fmt.Sprintf("7-1%d", n+1) || err != nil {
			t.Error(position, err)
		}
	}
	b.hearsNothing()
}

func TestShuttingDown(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	sub := st.subscribe(c, a, "chat", "7-1", nil)
	first, err := c.Send("chat", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	said := a.hears(protocol.Publish)
	a.says(`{"type":"error","id":%q,"code":"shutting_down","message":"…"}`, said.ID)
	a.message("chat", 2)
	st.reads(sub, 2)
	// What is asked from now on waits for the next connection too.
	request := later(t, func() (struct{}, error) { return struct{}{}, c.Request(st.ctx, "time", nil, nil) })
	a.says(`{"type":"bye","code":"shutting_down","message":"…","retry":1}`)
	b := st.enter()
	b.agrees("chat", "7-2", "7-2")
	if again := b.hears(protocol.Publish); again.ID != said.ID {
		t.Errorf("%+v", again)
	}
	asked := b.hears(protocol.Request)
	b.says(`{"type":"error","id":%q,"code":"shutting_down","message":"…"}`, asked.ID)
	var refused *Error
	if _, err := request(); !errors.As(err, &refused) || refused.Code != "shutting_down" {
		t.Error(err)
	}
	b.says(`{"type":"ok","id":%q,"position":"7-1"}`, said.ID)
	if _, err := first.Wait(st.ctx); err != nil {
		t.Error(err)
	}
}

// A server that says it is shutting down and then stays is left.
func TestShuttingDownForEver(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	sent, err := c.Send("chat", 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	a.says(`{"type":"error","id":%q,"code":"shutting_down","message":"…"}`, a.hears(protocol.Publish).ID)
	b := st.enter()
	b.says(`{"type":"ok","id":%q,"position":"7-1"}`, b.hears(protocol.Publish).ID)
	if _, err := sent.Wait(st.ctx); err != nil {
		t.Error(err)
	}
}

func TestTheQueueIsBounded(t *testing.T) {
	c, err := Dial(context.Background(), "ws://127.0.0.1:1", quick(Options{Patient: true, Queue: 3, QueueBytes: 100}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 3 {
		if _, err := c.Send("chat", 1, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Send("chat", 1, nil); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "3 commands") {
		t.Error(err)
	}
	if err := c.Request(context.Background(), "time", nil, nil); !errors.Is(err, ErrFull) {
		t.Error(err)
	}

	d, err := Dial(context.Background(), "ws://127.0.0.1:1", quick(Options{Patient: true, QueueBytes: 100}))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.Send("chat", make([]byte, 200), nil); err != nil {
		t.Error("one command may always be there:", err)
	}
	if _, err := d.Send("chat", 1, nil); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "100 bytes") {
		t.Error(err)
	}
}

func TestFewCommandsAreInFlight(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	var last *Receipt
	for n := range mostInFlight + 10 {
		var err error
		if last, err = c.Send("chat", n, nil); err != nil {
			t.Fatal(err)
		}
	}
	var ids []string
	for range mostInFlight {
		ids = append(ids, a.hears(protocol.Publish).ID)
	}
	a.hearsNothing()
	for _, id := range ids {
		a.says(`{"type":"ok","id":%q,"position":"7-1"}`, id)
	}
	for range 10 {
		a.says(`{"type":"ok","id":%q,"position":"7-1"}`, a.hears(protocol.Publish).ID)
	}
	if _, err := last.Wait(st.ctx); err != nil {
		t.Error(err)
	}
}

// A publish is said again only as long as the server recognises it.
func TestThePublishNobodyRemembers(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{RepeatFor: 50 * time.Millisecond})
	lost := later(t, func() (string, error) { return c.Publish(st.ctx, "chat", 1, nil) })
	id := a.hears(protocol.Publish).ID
	st.refuses(refuseWith(503, nil, nil))
	a.cut()
	st.reaches(c, Waiting)
	unsent := later(t, func() (string, error) { return c.Publish(st.ctx, "chat", 2, nil) })
	var uncertain *UncertainError
	if _, err := lost(); !errors.As(err, &uncertain) || uncertain.ID != id || uncertain.Channel != "chat" || !strings.Contains(err.Error(), "may have been published") {
		t.Error(err)
	}
	st.refuses(nil)
	b := st.enter()
	said := b.hears(protocol.Publish) // what was never sent may wait for any time
	if string(said.Data) != "2" {
		t.Errorf("%+v", said)
	}
	b.says(`{"type":"ok","id":%q,"position":"7-1"}`, said.ID)
	if _, err := unsent(); err != nil {
		t.Error(err)
	}
	// The wall's clock counts, too: the other one stands still in a suspended machine.
	c.mu.Lock()
	c.o.RepeatFor = time.Hour
	c.mu.Unlock()
	lost = later(t, func() (string, error) { return c.Publish(st.ctx, "chat", 3, nil) })
	b.hears(protocol.Publish)
	c.asleep.Add(int64(2 * time.Hour))
	b.cut()
	if _, err := lost(); !errors.As(err, &uncertain) {
		t.Error(err)
	}
}

func TestImpatientPublishers(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})
	ctx, cancel := context.WithCancel(st.ctx)
	sent := later(t, func() (string, error) { return c.Publish(ctx, "chat", 1, nil) })
	said := a.hears(protocol.Publish)
	cancel()
	_, err := sent()
	var uncertain *UncertainError
	if !errors.As(err, &uncertain) || !errors.Is(err, context.Canceled) || uncertain.ID != said.ID {
		t.Fatal(err)
	}
	// It goes on; who repeats it with its id waits for the same answer.
	again := later(t, func() (string, error) { return c.Publish(st.ctx, "chat", 1, &PublishOptions{ID: said.ID}) })
	var other *Error
	if _, err := c.Send("chat", 2, &PublishOptions{ID: said.ID}); !errors.As(err, &other) || other.Code != "id_reused" {
		t.Error(err)
	}
	a.hearsNothing()
	a.cut()
	a = st.enter()
	if s := a.hears(protocol.Publish); s.ID != said.ID {
		t.Errorf("%+v", s)
	}
	a.says(`{"type":"ok","id":%q,"position":"7-1"}`, said.ID)
	if position, err := again(); position != "7-1" || err != nil {
		t.Error(position, err)
	}
	// The answer is there: the same id is said to the server, who knows it.
	again = later(t, func() (string, error) { return c.Publish(st.ctx, "chat", 1, &PublishOptions{ID: said.ID}) })
	a.says(`{"type":"ok","id":%q,"position":"7-1"}`, a.hears(protocol.Publish).ID)
	if position, err := again(); position != "7-1" || err != nil {
		t.Error(position, err)
	}

	st.refuses(refuseWith(503, nil, nil))
	a.cut()
	st.reaches(c, Waiting)
	ctx, cancel = context.WithTimeout(st.ctx, 10*time.Millisecond)
	defer cancel()
	if _, err := c.Publish(ctx, "chat", "never", nil); !errors.Is(err, context.DeadlineExceeded) || errors.As(err, &uncertain) {
		t.Error(err)
	}
	if _, err := c.History(ctx, "chat", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	st.refuses(nil)
	st.enter().hearsNothing()
}

func TestQuestions(t *testing.T) {
	st := newStage(t)
	c, a := st.dial(Options{})

	history := later(t, func() (*Page, error) {
		return c.History(st.ctx, "chat", &HistoryOptions{Since: "7-1", Limit: 2})
	})
	said := a.hears(protocol.History)
	if said.Channel != "chat" || said.Since != "7-1" || said.Limit == nil || *said.Limit != 2 {
		t.Errorf("%+v", said)
	}
	a.cut() // a question changes nothing, so it is asked again
	a = st.enter()
	said = a.hears(protocol.History)
	a.says(`{"type":"ok","id":%q,"channel":"chat","position":"7-3","gap":true,"more":true,"messages":[`+
		`{"type":"message","channel":"chat","position":"7-2","time":"2026-11-22T16:00:00.123Z","sender":"alice","data":"hi"},`+
		`{"type":"message","channel":"chat","position":"7-3","predecessor":"7-2","time":"2026-11-22T16:00:00.123Z","encoding":"base64","data":"AP8="}]}`, said.ID)
	page, err := history()
	if err != nil || len(page.Messages) != 2 || page.Position != "7-3" || !page.Gap || !page.More {
		t.Fatalf("%+v, %v", page, err)
	}
	first, second := page.Messages[0], page.Messages[1]
	if string(first.Bytes()) != "hi" || first.Sender != "alice" || first.Binary() || first.Time.IsZero() {
		t.Errorf("%+v", first)
	}
	if string(second.Bytes()) != "\x00\xff" || !second.Binary() || second.Predecessor != "7-2" {
		t.Errorf("%+v", second)
	}

	presence := later(t, func() (*Presence, error) { return c.Presence(st.ctx, "chat", 0) })
	said = a.hears(protocol.Presence)
	if said.Limit == nil || *said.Limit != 0 {
		t.Errorf("%+v", said)
	}
	a.says(`{"type":"ok","id":%q,"channel":"chat","count":3,"members":[]}`, said.ID)
	if p, err := presence(); err != nil || p.Count != 3 {
		t.Errorf("%+v, %v", p, err)
	}

	var zone struct{ Now string }
	request := func() (struct{}, error) {
		return struct{}{}, c.Request(st.ctx, "time", map[string]string{"zone": "UTC"}, &zone)
	}
	asked := later(t, request)
	said = a.hears(protocol.Request)
	if said.Method != "time" || string(said.Data) != `{"zone":"UTC"}` || said.Channel != "" {
		t.Errorf("%+v", said)
	}
	a.says(`{"type":"response","id":%q,"data":{"now":"noon"}}`, said.ID)
	if _, err := asked(); err != nil || zone.Now != "noon" {
		t.Errorf("%+v, %v", zone, err)
	}
	asked = later(t, request)
	a.says(`{"type":"error","id":%q,"code":"unknown_method","message":"…"}`, a.hears(protocol.Request).ID)
	var refused *Error
	if _, err := asked(); !errors.As(err, &refused) || refused.Code != "unknown_method" {
		t.Error(err)
	}
	asked = later(t, request)
	a.hears(protocol.Request)
	a.cut() // nobody can know whether it was handled, so it is not asked again
	var uncertain *UncertainError
	if _, err := asked(); !errors.As(err, &uncertain) {
		t.Error(err)
	}
	st.enter().hearsNothing()
}
