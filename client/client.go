package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/protocol"
	"fanfare/websocket"
)

// Options are a client's. Nil or zero gives good defaults.
type Options struct {
	// Token is asked for a token before each connection, which goes along in a header and never
	// in the URL, and whenever the server wants a new one because the old one expires soon.
	// Its error counts as a failed attempt; empty is none. After a token was refused it is asked once
	// more, and if that one is the same or is refused too, that is the client's end. It must return when ctx
	// ends. Nil: none. See [StaticToken].
	Token func(ctx context.Context) (string, error)
	// Name is who says what this client says. A server with authentication knows better.
	Name string
	// WebSocket is how each connection is made: more headers, TLS, a proxy, limits.
	// Its Subprotocols are the client's own affair, and its Limit is by default
	// 16 MiB, because a page of history is one message.
	WebSocket websocket.DialOptions

	// Patient: the first connection is like any later one. Dial returns at once,
	// and what is asked waits until there is a connection.
	Patient bool
	// LeastPause and MostPause bound the pause before connecting again: it is
	// random, below a bound that doubles from one to the other, and begins anew
	// after a connection that lasted for longer than that. Default 250 ms and 20 s.
	LeastPause, MostPause time.Duration

	// Queue and QueueBytes bound the commands without an answer, sent or not;
	// default 1,000, and 4 MiB of data, but one command there may always be.
	Queue, QueueBytes int
	// Buffer and BufferBytes bound what waits in a subscription for its consumer; default 1,000
	// messages and 4 MiB of JSON. A subscription that catches up from history may
	// exceed them by one page.
	Buffer, BufferBytes int

	// RepeatFor is how long after it was first sent a publish without an answer
	// is said again. It must stay below the time for which the server remembers ids, with
	// room for a message's way; default nine tenths of what the server tells.
	RepeatFor time.Duration
	// CloseTimeout is how long Close waits for answers to publishes; default 5 s,
	// negative not at all.
	CloseTimeout time.Duration
}

func (o *Options) withDefaults() Options {
	var set Options
	if o != nil {
		set = *o
	}
	orDefault := func(p *int, n int) {
		if *p <= 0 {
			*p = n
		}
	}
	orTime := func(p *time.Duration, d time.Duration) {
		if *p <= 0 {
			*p = d
		}
	}
	orDefault(&set.Queue, 1000)
	orDefault(&set.QueueBytes, 4<<20)
	orDefault(&set.Buffer, 1000)
	orDefault(&set.BufferBytes, 4<<20)
	orTime(&set.LeastPause, 250*time.Millisecond)
	orTime(&set.MostPause, 20*time.Second)
	if set.CloseTimeout == 0 {
		set.CloseTimeout = 5 * time.Second
	}
	if set.WebSocket.Limit == 0 {
		set.WebSocket.Limit = 16 << 20
	}
	set.WebSocket.Header = set.WebSocket.Header.Clone()
	set.WebSocket.Subprotocols = []string{decoy, protocol.Subprotocol}
	return set
}

// decoy is a subprotocol that nobody speaks. There are servers that agree to
// whatever is offered first, which would leave us waiting for a welcome.
const decoy = "any"

// A Client is one conversation with a server, over as many connections as it
// takes. All its methods may be called from any goroutine.
//
// Its life is one call of run, in a goroutine of its own, which keeps one
// connection after the other. Beside it a connection has three goroutines: one
// writes, one watches the clock, one waits for the end.
type Client struct {
	// static
	url     string // to connect to
	channel string // of the URL
	o       Options
	idBase  string                  // what ids of this client begin with
	life    context.Context         // of run; its cause becomes the client's end
	stop    context.CancelCauseFunc // ends life
	online  chan struct{}           // closed when there was a connection
	ended   chan struct{}           // closed when run has returned
	asleep  atomic.Int64            // how long the machine was suspended, for tests

	refused error // why the last token was refused; nil: it was not, or it proved good first. Owned by run

	mu      sync.Mutex // guards the following, and what is said to be under it elsewhere
	state   State
	changed chan struct{} // closed and replaced when state changes
	closing bool          // nothing is taken any more
	err     error         // why it ended; nil: it has not
	unsure  int           // publishes without an answer when it ended
	subs    map[string]*Subscription
	outbox  outbox
	session *session      // the connection under way; nil: none
	ids     int           // how many were made up
	token   string        // that was said last; empty: none was
	repeat  time.Duration // for how long publishes are repeated, as the server told; 0: it did not
}

// repeatFor is for how long publishes are repeated. The caller holds mu.
func (c *Client) repeatFor() time.Duration {
	return cmp.Or(c.o.RepeatFor, c.repeat, 4*time.Minute+30*time.Second)
}

// Dial connects to a server. The URL's scheme is ws, wss, http or https (or
// ws+unix, see [websocket.Dial]). Its path says which server, and which channel
// is meant by an empty name:
//
//	ws://localhost:8765                the channel lobby, as everywhere
//	ws://localhost:8765/chat/general   the channel chat/general
//	wss://example.com/live/            a server that is mounted below /live/: the slash at the end matters
//
// Dial subscribes to nothing. The query goes along, but for a token, which is the
// [Options.Token] if there is none; name is [Options.Name], and client, by which the server knows a publish that is repeated, is made up if it is not there.
//
// Dial returns when the server has welcomed us. It fails when the first attempt does,
// unless [Options.Patient] says otherwise. The client outlives ctx.
func Dial(ctx context.Context, rawURL string, o *Options) (*Client, error) {
	set := o.withDefaults()
	c := &Client{
		o:       set,
		idBase:  rand.Text()[:8] + "-",
		online:  make(chan struct{}),
		ended:   make(chan struct{}),
		changed: make(chan struct{}),
		subs:    make(map[string]*Subscription),
	}
	var err error
	var token string
	if c.url, c.channel, token, err = address(rawURL, set.Name); err != nil {
		return nil, err
	}
	if c.o.Token == nil && token != "" {
		c.o.Token = StaticToken(token)
	}
	if err := c.begin(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// begin starts the client's life and waits for the first connection.
func (c *Client) begin(ctx context.Context) error {
	c.life, c.stop = context.WithCancelCause(context.Background())
	go c.run()
	if c.o.Patient {
		return nil
	}
	select {
	case <-c.online:
		return nil
	case <-c.ended:
	case <-ctx.Done():
		c.stop(fmt.Errorf("client: no connection came about: %w", context.Cause(ctx)))
		<-c.ended
	}
	return c.State().Err
}

// address takes apart the URL that Dial was given: where to connect to,
// which channel it names, and the token in it.
func address(raw, name string) (connect, channel, token string, err error) {
	u, err := url.Parse(raw)
	if err != nil {
		var bad *url.Error
		if errors.As(err, &bad) {
			err = bad.Err // the URL itself may hold a password
		}
		return "", "", "", fmt.Errorf("client: the URL cannot be understood: %w", err)
	}
	switch scheme, _ := strings.CutSuffix(strings.ToLower(u.Scheme), "+unix"); scheme {
	case "ws", "wss", "http", "https":
	default:
		return "", "", "", fmt.Errorf("client: the URL's scheme is %q; it must be ws, wss, http or https", u.Scheme)
	}
	socket, path := "", u.Path
	if strings.HasSuffix(strings.ToLower(u.Scheme), "+unix") {
		socket, path, _ = strings.Cut(u.Path, ":")
		socket += ":"
	}
	channel = "lobby"
	root, face := strings.CutSuffix(path, "/-/connect")
	if !face && path != "" && !strings.HasSuffix(path, "/") {
		channel, root = strings.TrimPrefix(path, "/"), "/"
	}
	u.Path, u.RawPath = socket+strings.TrimSuffix(root, "/")+"/-/connect", ""
	u.Fragment, u.RawFragment = "", ""
	query := u.Query()
	token = query.Get("token")
	query.Del("token")
	if query.Get("client") == "" {
		query.Set("client", rand.Text())
	}
	if name != "" {
		query.Set("name", name)
	}
	u.RawQuery = query.Encode()
	return u.String(), channel, token, nil
}

// Channel returns the channel of the URL, which an empty name means.
func (c *Client) Channel() string { return c.channel }

func (c *Client) orURLs(channel string) string {
	if channel == "" {
		return c.channel
	}
	return channel
}

// A Phase is what a client is at.
type Phase int

const (
	Connecting Phase = iota
	Connected
	Waiting // before connecting again
	Closed  // for good
)

// String returns the phase in lower case.
func (p Phase) String() string {
	return [...]string{"connecting", "connected", "waiting", "closed"}[p]
}

// A State is how a client is. Fields that do not belong to its phase are zero.
type State struct {
	Phase Phase
	// Connected: the session's name, which is also the member's in presence, who the token says
	// we are (empty: nobody in particular), and the server's limits.
	Session string
	Subject string
	Limits  protocol.Limits
	// Waiting: how long in all.
	Wait time.Duration
	// Waiting and Closed: why. Closed by Close: [ErrClosed].
	Err error
}

// State returns how the client is now.
func (c *Client) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// States yields how the client is now and then each change, until the client is
// closed or ctx ends. A state that was over before it was asked for is left out; Closed never is.
func (c *Client) States(ctx context.Context) iter.Seq[State] {
	return func(yield func(State) bool) {
		for {
			c.mu.Lock()
			state, changed := c.state, c.changed
			c.mu.Unlock()
			if ctx.Err() != nil || !yield(state) || state.Phase == Closed {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	}
}

// become changes the state. The caller holds mu.
func (c *Client) become(s State) {
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
}

// open returns why nothing is taken any more, or nil. The caller holds mu.
func (c *Client) open() error {
	if c.err == nil && c.closing {
		return ErrClosed
	}
	return c.err
}

// Close takes no more commands, waits for the answers to publishes that are
// under way, for [Options.CloseTimeout] at most and also if there is no connection just now,
// and ends the client and all its subscriptions. The error says how many publishes got
// no answer. When Close returns no goroutine of the client's is left.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closing = true
	empty := c.outbox.whenEmpty()
	c.mu.Unlock()
	if c.o.CloseTimeout > 0 {
		timeout := time.NewTimer(c.o.CloseTimeout)
		defer timeout.Stop()
		select {
		case <-empty:
		case <-c.ended:
		case <-timeout.C:
		}
	}
	c.stop(ErrClosed)
	<-c.ended
	c.mu.Lock()
	defer c.mu.Unlock()
	unsure := c.unsure
	c.unsure = 0
	if unsure > 0 {
		return fmt.Errorf("client: closed before %d publishes were acknowledged", unsure)
	}
	return nil
}

// end is the last that happens to a client.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	for _, call := range slices.Clone(c.outbox.calls) {
		if call.command.Type == protocol.Publish {
			c.unsure++
		}
		c.outbox.finish(call, nil, call.unanswered(err))
	}
	for _, sub := range c.subs {
		c.endSubscription(sub, err)
	}
	c.become(State{Phase: Closed, Err: err})
}

// now reads both clocks.
func (c *Client) now() moment {
	t := time.Now()
	return moment{t, t.Round(0).Add(time.Duration(c.asleep.Load()))}
}
