package fanfare

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/broker"
	"fanfare/internal/descriptors"
	"fanfare/internal/reactor"
	"fanfare/internal/stream"
	"fanfare/internal/transport"
)

// A Server is a broadcast server. Make it with [New]; mount it as an
// [http.Handler]; end it with [Server.Shutdown]. All methods may be called
// from any goroutine.
type Server struct {
	// Static after New.
	cfg        Config // for what cannot change; what can is in now
	log        *slog.Logger
	broker     broker.Broker
	transports []transport.Transport // the first that takes a connection has it
	counts     map[transport.Loop]*loopCounts
	metrics    *metrics
	plainRules frameRules
	v1Rules    frameRules
	packings   map[packing]*wire
	born       time.Time
	ticks      ticks
	life       context.Context // ends when Shutdown is called
	die        context.CancelCauseFunc

	now      atomic.Pointer[Config] // what counts; Reload replaces it
	stats    counters
	health   health
	limits   *limiter      // static
	closing  atomic.Bool   // Shutdown was called
	pending  atomic.Int64  // publications that the broker has not answered yet
	speakers atomic.Int64  // goroutines in session.speak
	present  atomic.Int64  // sessions
	methods  sync.Map      // of Handle, by name
	loops    atomic.Uint32 // how often anyLoop was asked
	revoked  revocations

	unavailable atomic.Int64 // when the log was last told that nobody can tell who clients are: nanoseconds since the epoch
	// live has the channels by name, for deliveries, which must not wait for mu,
	// and wild the patterns.
	live sync.Map
	wild wilds

	mu       sync.Mutex // guards the following
	channels map[string]*channel
	locals   map[*Subscription]struct{}
	janitor  *time.Timer    // runs tidy; nil while there are no channels
	ends     sync.WaitGroup // one for each session admitted; Add under mu, not after closing
}

// ticks are the times that sessions count in ticks of the transport.
type ticks struct {
	heartbeat, answer, close, message int
	farewell                          int // of who is expelled, to answer our close
}

// New returns a server, whose goroutines run until Shutdown: on Linux an event loop
// for each processor, with two descriptors. An error names the setting that makes
// no sense, or is the broker's or the system's.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	descriptors.Open() // while there surely is one left
	transports, err := cfg.transports(os.Getenv("FANFARE_TRANSPORT"))
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:        cfg,
		log:        cfg.Logger,
		broker:     cfg.Broker,
		transports: transports,
		plainRules: newRules(int64(cfg.MaxMessage)),
		// In JSON a byte of a text may be six: \u0000.
		v1Rules:  newRules(6*int64(cfg.MaxMessage) + 4096),
		packings: cfg.Compression.packings(),
		born:     time.Now(),
		ticks: ticks{
			heartbeat: cfg.ticks(cfg.Heartbeat),
			answer:    cfg.ticks(cfg.HeartbeatTimeout),
			close:     cfg.ticks(cfg.CloseTimeout),
			message:   cfg.ticks(cfg.MessageTimeout),
			farewell:  cfg.ticks(min(time.Second, cfg.CloseTimeout)),
		},
		limits:   newLimiter(),
		channels: make(map[string]*channel),
		locals:   make(map[*Subscription]struct{}),
	}
	s.now.Store(&cfg)
	s.limits.now.Store(cfg.bounds())
	s.count()
	s.life, s.die = context.WithCancelCause(context.Background())
	s.retain()
	if err := s.broker.Start(s.deliver); err != nil {
		s.closeTransports()
		return nil, err
	}
	return s, nil
}

// transports returns the transports, the one to be preferred first. choice is
// what FANFARE_TRANSPORT says, which is for finding out whether one of them is to blame for something.
func (c *Config) transports(choice string) ([]transport.Transport, error) {
	o := transport.Options{Tick: c.tick(), WriteTimeout: c.WriteTimeout, CloseTimeout: c.CloseTimeout, Loops: runtime.GOMAXPROCS(0)}
	portable := stream.New(o)
	switch choice {
	case "stream":
		return []transport.Transport{portable}, nil
	case "", "reactor":
	default:
		return nil, fmt.Errorf("fanfare: FANFARE_TRANSPORT is %q; it must be reactor or stream, or nothing for the best there is", choice)
	}
	r, err := reactor.New(o)
	switch {
	case err == nil:
		return []transport.Transport{r, portable}, nil
	case choice == "":
		if !errors.Is(err, errors.ErrUnsupported) {
			c.Logger.Warn("no event loops; every connection gets goroutines of its own", "error", err)
		}
		return []transport.Transport{portable}, nil
	}
	return nil, fmt.Errorf("fanfare: FANFARE_TRANSPORT is reactor, and that is not to be had: %w", err)
}

func (s *Server) closeTransports() {
	for _, t := range s.transports {
		t.Close()
	}
}

// accept hands a connection to the first transport that takes it.
func (s *Server) accept(nc net.Conn, early []byte) (c transport.Conn, err error) {
	for _, t := range s.transports {
		c, err = t.Accept(nc, early)
		if err == nil || errors.Is(err, transport.ErrClosed) {
			break
		}
		if !errors.Is(err, reactor.ErrNotTCP) {
			s.log.Warn("a connection is served without an event loop", "error", err)
		}
	}
	return c, err
}

// anyLoop returns the loops in turn, for those who belong to none.
func (s *Server) anyLoop() transport.Loop {
	loops := s.transports[0].Loops()
	return loops[int(s.loops.Add(1))%len(loops)]
}

// deliver takes a message from the broker to the feeds: the channel's, and those
// of patterns that it fits.
func (s *Server) deliver(m *Message) {
	if c, ok := s.live.Load(m.Channel); ok {
		c.(*channel).deliver(m)
	}
	s.wild.deliver(m)
}

// wilds are the patterns that somebody subscribes to.
type wilds struct {
	any atomic.Bool

	mu       sync.RWMutex // guards the following
	patterns broker.Patterns[*channel]
}

func (w *wilds) add(c *channel) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.patterns.Add(c.name, c)
	w.any.Store(true)
}

func (w *wilds) remove(c *channel) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.patterns.Remove(c.name)
	w.any.Store(w.patterns.Len() > 0)
}

func (w *wilds) count() int {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.patterns.Len()
}

func (w *wilds) deliver(m *Message) {
	if !w.any.Load() {
		return
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	w.patterns.Match(m.Channel, func(c *channel) { c.deliver(m) })
}

// channel returns a channel that is open, and counts the caller as one who
// uses it, until release.
func (s *Server) channel(ctx context.Context, name string) (*channel, error) {
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		return nil, ErrServerClosed
	}
	c := s.channels[name]
	if c != nil {
		c.refs.Add(1)
		s.mu.Unlock()
		if !c.isOpen() {
			select {
			case <-c.opened:
			case <-ctx.Done():
				s.release(c)
				return nil, ctx.Err()
			}
		}
		return c, c.err
	}
	name = strings.Clone(name) // it may be a piece of a request line
	c = s.newChannel(name)
	c.refs.Store(1)
	s.channels[name] = c
	if broker.IsPattern(name) {
		s.wild.add(c)
	} else {
		s.live.Store(name, c)
	}
	if s.janitor == nil {
		s.janitor = time.AfterFunc(tidyEvery, s.tidy)
	}
	s.mu.Unlock()
	// Others wait for this, so it must not end with this caller's patience.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer cancel()
	if err := c.open(ctx, s.broker, s.retention); err != nil {
		c.err = err
		close(c.opened)
		s.mu.Lock()
		s.forget(c) // who comes now tries anew
		s.mu.Unlock()
		return nil, err
	}
	close(c.opened)
	return c, nil
}

// release ends what channel or watch began.
func (s *Server) release(c *channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.refs.Add(-1) > 0 {
		return
	}
	// Under mu, so that nobody subscribes anew before.
	if s.forget(c) {
		s.broker.Unsubscribe(c.name)
	}
}

// forget takes a channel out of those there are, and reports whether it was one
// of them. The caller holds mu.
func (s *Server) forget(c *channel) bool {
	if s.channels[c.name] != c {
		return false
	}
	delete(s.channels, c.name)
	if broker.IsPattern(c.name) {
		s.wild.remove(c)
	} else {
		s.live.Delete(c.name)
	}
	return true
}

// openTimeout is how long the broker may take to open a channel.
const openTimeout = 10 * time.Second

// tidyEvery is how long old history and joined bytes may outlive their use in
// channels that have fallen quiet.
const tidyEvery = time.Second

func (s *Server) tidy() {
	s.mu.Lock()
	if len(s.channels) == 0 || s.closing.Load() {
		s.janitor = nil
		s.mu.Unlock()
		return
	}
	open := make([]*channel, 0, len(s.channels))
	for _, c := range s.channels {
		open = append(open, c)
	}
	s.janitor.Reset(tidyEvery)
	s.mu.Unlock()
	now := time.Now()
	for _, c := range open {
		if c.isOpen() && c.err == nil {
			c.feed.Trim(now)
			c.joiner.Reset()
			if crowd := c.crowd.Load(); crowd != nil {
				crowd.channel.joiner.Reset()
			}
		}
	}
}

// admit makes Shutdown wait for one more session, which may only be about to
// begin, unless the server is closing already.
func (s *Server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.ends.Add(1)
	return true
}

// A client is one that Shutdown says goodbye to.
type client interface {
	transport.Session
	goAway()
	// speaks returns who it is.
	speaks() *speaker
	// revoke ends it at once, since its access was revoked, and reports false if that
	// had happened.
	revoke() bool
	// reconsider looks at what it may do, by other rules.
	reconsider()
	// face is what it counts as.
	face() face
	// counted is how it counts against limits; nil: not at all.
	counted() *guest
}

// enter counts in a client that was admitted, and serves it. If Shutdown began
// meanwhile and may not have seen it, it is told goodbye here.
func (s *Server) enter(c client, id uint64, conn transport.Conn) {
	s.register(c, id)
	s.present.Add(1)
	s.counts[conn.Loop()].came[c.face()].Add(1)
	conn.Start(c)
	if s.closing.Load() {
		c.goAway()
	}
}

// left ends what admit and enter began, when a client's connection is over.
func (s *Server) left(c client, conn transport.Conn, id uint64, why ending, err error) {
	who := c.speaks()
	s.present.Add(-1)
	s.counts[conn.Loop()].went[c.face()].Add(1)
	s.stats.ended[why].Add(1)
	if s.log.Enabled(context.Background(), slog.LevelDebug) {
		about := []any{"session", idText(id), "reason", why.String(), "face", c.face().String(), "channel", who.home}
		if subject := who.subject(); subject != "" {
			about = append(about, "subject", subject)
		}
		if who.name != "" {
			about = append(about, "name", who.name)
		}
		if g := c.counted(); g != nil && g.address != nil {
			about = append(about, "address", g.address.Key)
		}
		if err != nil {
			about = append(about, "error", err)
		}
		s.log.Debug("connection ended", about...)
	}
	s.ends.Done()
}

// newID returns a new session's id, which no other has, as far as chance can
// tell, also of other servers.
func (s *Server) newID() uint64 { return rand.Uint64() } // #nosec G404: presence tells it to everybody; it is no secret

// idText is an id as clients see it.
func idText(id uint64) string { return strconv.FormatUint(id, 36) }

func (s *Server) addLocal(sub *Subscription) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.locals[sub] = struct{}{}
	return true
}

func (s *Server) removeLocal(sub *Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.locals, sub)
}

// settle waits until n is zero, or ctx is done.
func settle(ctx context.Context, n *atomic.Int64) error {
	for n.Load() > 0 {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Shutdown ends the server: newcomers are refused with 503, what was published
// is delivered, every client is told 1001 and may answer, subscriptions end. It
// waits for the clients, of which those that are still there when ctx is done
// are cut off, and then for the hooks that were called about what they said and
// their end; if ctx was
// done before all of that, its error is returned. Then it closes the broker. A server cannot be used again.
func (s *Server) Shutdown(ctx context.Context) error {
	first := !s.closing.Swap(true)
	s.die(ErrServerClosed)
	_ = settle(ctx, &s.pending) // ctx is looked at again below
	s.mu.Lock()
	locals := make([]*Subscription, 0, len(s.locals))
	for sub := range s.locals {
		locals = append(locals, sub)
	}
	s.mu.Unlock()
	for _, t := range s.transports {
		t.Each(func(sess transport.Session) { sess.(client).goAway() })
	}
	for _, sub := range locals {
		sub.end()
	}
	gone := make(chan struct{})
	go func() {
		s.ends.Wait()
		close(gone)
	}()
	var err error
	select {
	case <-gone:
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.closeTransports()
	<-gone
	// The broker's answers first: they may lead to hooks.
	err = cmp.Or(err, settle(ctx, &s.pending), settle(ctx, &s.speakers))
	if !first {
		return err
	}
	s.mu.Lock()
	if s.janitor != nil {
		s.janitor.Stop()
	}
	s.mu.Unlock()
	return errors.Join(err, s.broker.Close())
}
