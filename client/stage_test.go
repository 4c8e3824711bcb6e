package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"fanfare/protocol"
	"fanfare/websocket"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds what should take no time at all.
const patience = 30 * time.Second

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// A stage is a server without a mind: a test plays it.
type stage struct {
	t    *testing.T
	url  string
	ctx  context.Context
	came chan *actor // connections, as they come

	mu      sync.Mutex
	refuse  func(http.ResponseWriter, *http.Request) bool // answers a handshake instead; nil: never
	welcome string
	conns   []*websocket.Conn
}

// An actor is the server's end of one connection.
type actor struct {
	stage   *stage
	conn    *websocket.Conn
	tcp     *net.TCPConn
	request *http.Request
	said    chan []byte // by the client; closed at the connection's end
}

type tcpKey struct{}

// newStage returns a stage for a test, which runs beside others from then on:
// most of its time it waits.
func newStage(t *testing.T) *stage {
	t.Parallel()
	st := &stage{
		t: t, ctx: testContext(t), came: make(chan *actor, 100),
		welcome: `{"type":"welcome","protocol":"fanfare.v1","session":"s1","heartbeat":25000,"limits":{"message":1048576,"subscriptions":1000}}`,
	}
	var handlers sync.WaitGroup // the server does not wait for those that took over their connection
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handlers.Add(1)
		defer handlers.Done()
		st.serve(w, r)
	}))
	srv.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, tcpKey{}, c)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Close()
		st.mu.Lock()
		for _, conn := range st.conns {
			_ = conn.CloseNow()
		}
		st.mu.Unlock()
		handlers.Wait()
	})
	st.url = srv.URL
	return st
}

func (st *stage) serve(w http.ResponseWriter, r *http.Request) {
	st.mu.Lock()
	refuse, welcome := st.refuse, st.welcome
	st.mu.Unlock()
	if refuse != nil && refuse(w, r) {
		return
	}
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{protocol.Subprotocol}, Limit: 4 << 20})
	if err != nil {
		return
	}
	st.mu.Lock()
	st.conns = append(st.conns, conn)
	st.mu.Unlock()
	tcp, _ := r.Context().Value(tcpKey{}).(*net.TCPConn)
	a := &actor{st, conn, tcp, r, make(chan []byte, 2000)}
	if welcome != "" {
		a.says("%s", welcome)
	}
	st.came <- a
	for m, err := range conn.Messages(context.Background()) {
		if err == nil {
			a.said <- m.Data
		}
	}
	close(a.said)
}

// refuses sets what answers handshakes from now on; nil: they succeed.
func (st *stage) refuses(f func(http.ResponseWriter, *http.Request) bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.refuse = f
}

// welcomes sets what connections hear first from now on.
func (st *stage) welcomes(text string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.welcome = text
}

// enter waits for the next connection.
func (st *stage) enter() *actor {
	st.t.Helper()
	select {
	case a := <-st.came:
		return a
	case <-st.ctx.Done():
		st.t.Fatal("no connection came")
		return nil
	}
}

// says says something to the client: JSON, with %s and the like in it.
func (a *actor) says(format string, args ...any) {
	a.stage.t.Helper()
	if err := a.conn.Write(a.stage.ctx, websocket.Text, fmt.Appendf(nil, format, args...)); err != nil {
		a.stage.t.Errorf("the server cannot say %s: %v", format, err)
	}
}

// hears waits for the next command, which must be of a type.
func (a *actor) hears(kind string) protocol.Command {
	a.stage.t.Helper()
	var text []byte
	select {
	case text = <-a.said:
	case <-a.stage.ctx.Done():
	}
	if text == nil {
		a.stage.t.Fatalf("the server waited for %s, and the connection's state is %v", kind, a.conn.Err())
	}
	command, refusal := protocol.ParseCommand(text)
	if refusal != nil {
		a.stage.t.Fatalf("the client said %s: %v", text, refusal)
	}
	if command.Type != kind {
		a.stage.t.Fatalf("the client said %s, expected %s", text, kind)
	}
	return command
}

// hearsNothing holds that the client has nothing to say: what it says to a
// question of the server's WebSocket comes first.
func (a *actor) hearsNothing() {
	a.stage.t.Helper()
	if _, err := a.conn.Ping(a.stage.ctx); err != nil {
		a.stage.t.Fatal(err)
	}
	select {
	case text := <-a.said:
		a.stage.t.Fatalf("the client said %s, expected nothing", text)
	case <-time.After(20 * time.Millisecond):
	}
}

// agrees hears a subscribe and answers it.
func (a *actor) agrees(channel, since, position string) {
	a.stage.t.Helper()
	command := a.hears(protocol.Subscribe)
	if command.Channel != channel || command.Since != since {
		a.stage.t.Fatalf("subscribe to %q since %q, expected %q since %q", command.Channel, command.Since, channel, since)
	}
	a.says(`{"type":"ok","id":%q,"channel":%q,"position":%q}`, command.ID, channel, position)
}

// message says a message with its offset as data.
func (a *actor) message(channel string, offset int) {
	a.stage.t.Helper()
	a.says(`{"type":"message","channel":%q,"position":"7-%d","time":"2026-11-22T16:00:00.123Z","data":%d}`, channel, offset, offset)
}

// cut resets the connection, in the middle of a frame that promised 256 bytes.
func (a *actor) cut() {
	_, _ = a.tcp.Write([]byte{0x81, 126, 1, 0, '{', '"', 't'})
	_ = a.tcp.SetLinger(0)
	_ = a.tcp.Close()
	_ = a.conn.CloseNow()
}

// quick makes a client of the test come back without delay.
func quick(o Options) *Options {
	if o.LeastPause == 0 {
		o.LeastPause, o.MostPause = time.Millisecond, 20*time.Millisecond
	}
	if o.CloseTimeout == 0 {
		o.CloseTimeout = -1
	}
	return &o
}

// dial returns a client that is connected to the stage, and its first connection.
func (st *stage) dial(o Options) (*Client, *actor) {
	st.t.Helper()
	c, err := Dial(st.ctx, st.url, quick(o))
	if err != nil {
		st.t.Fatal(err)
	}
	st.t.Cleanup(func() { _ = c.Close() })
	return c, st.enter()
}

// later runs what waits for the server in a goroutine of its own. The function
// returned waits for it.
func later[T any](t *testing.T, f func() (T, error)) func() (T, error) {
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f()
		done <- result{v, err}
	}()
	return func() (T, error) {
		t.Helper()
		select {
		case r := <-done:
			return r.value, r.err
		case <-time.After(patience):
			t.Fatal("it does not return")
			panic("unreachable")
		}
	}
}

// subscribe returns a subscription to which the server has agreed at a position.
func (st *stage) subscribe(c *Client, a *actor, channel, position string, o *SubscribeOptions) *Subscription {
	st.t.Helper()
	wait := later(st.t, func() (*Subscription, error) { return c.Subscribe(st.ctx, channel, o) })
	since := ""
	if o != nil {
		since = o.Since
	}
	a.agrees(channel, since, position)
	sub, err := wait()
	if err != nil {
		st.t.Fatal(err)
	}
	return sub
}

// reads reads messages whose data are these offsets.
func (st *stage) reads(sub *Subscription, offsets ...int) {
	st.t.Helper()
	for _, want := range offsets {
		m, err := sub.Next(st.ctx)
		if err != nil {
			st.t.Fatalf("waiting for %d: %v", want, err)
		}
		var got int
		if err := m.Decode(&got); err != nil || got != want {
			st.t.Fatalf("read %s, expected %d", m.Data, want)
		}
	}
}

// settled waits until the client has taken in all that was said before.
func (st *stage) settled(c *Client, a *actor) {
	st.t.Helper()
	asked := later(st.t, func() (*Presence, error) { return c.Presence(st.ctx, "settled", 0) })
	a.says(`{"type":"ok","id":%q,"channel":"settled","count":0,"members":[]}`, a.hears(protocol.Presence).ID)
	if _, err := asked(); err != nil {
		st.t.Fatal(err)
	}
}

func (st *stage) readsGap(sub *Subscription, reason string) *GapError {
	st.t.Helper()
	m, err := sub.Next(st.ctx)
	var gap *GapError
	if !errors.As(err, &gap) || gap.Reason != reason {
		st.t.Fatalf("read %v, %v, expected a gap: %s", m, err, reason)
	}
	return gap
}

// reaches waits for a phase of the client.
func (st *stage) reaches(c *Client, phase Phase) State {
	st.t.Helper()
	for state := range c.States(st.ctx) {
		if state.Phase == phase {
			return state
		}
	}
	st.t.Fatalf("the client never was %v, and is %+v", phase, c.State())
	panic("unreachable")
}

// refuseWith answers handshakes with a status and a body.
func refuseWith(status int, header http.Header, body any) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		for name := range header {
			w.Header()[name] = header[name]
		}
		var b bytes.Buffer
		_ = json.NewEncoder(&b).Encode(body)
		w.WriteHeader(status)
		_, _ = w.Write(b.Bytes())
		return true
	}
}
