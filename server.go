package fanfare

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fanfare/broker"
	"fanfare/internal/frame"
	"fanfare/internal/stream"
)

// A Server is a broadcast server. Make it with [New]; mount it as an
// [http.Handler]; end it with [Server.Shutdown]. All methods may be called
// from any goroutine.
type Server struct {
	// Static after New.
	cfg       Config
	log       *slog.Logger
	broker    broker.Broker
	transport *stream.Transport
	rules     frame.Rules
	ticks     ticks

	stats   counters
	closing atomic.Bool  // Shutdown was called
	pending atomic.Int64 // publications that the broker has not answered yet
	// live has the channels by name, for deliveries, which must not wait for mu.
	live sync.Map

	mu       sync.Mutex // guards the following
	channels map[string]*channel
	sessions map[*session]struct{}
	locals   map[*Subscription]struct{}
	janitor  *time.Timer    // runs tidy; nil while there are no channels
	ends     sync.WaitGroup // one for each session admitted; Add under mu, not after closing
}

// ticks are the times that sessions count in ticks of the transport.
type ticks struct {
	heartbeat, answer, close, message int
}

// New returns a server. An error names the setting that makes no sense, or is
// the broker's.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:       cfg,
		log:       cfg.Logger,
		broker:    cfg.Broker,
		transport: stream.New(cfg.stream()),
		rules:     frame.Rules{Masked: true, Limit: int64(cfg.MaxMessage)},
		ticks: ticks{
			heartbeat: cfg.ticks(cfg.Heartbeat),
			answer:    cfg.ticks(cfg.HeartbeatTimeout),
			close:     cfg.ticks(cfg.CloseTimeout),
			message:   cfg.ticks(cfg.MessageTimeout),
		},
		channels: make(map[string]*channel),
		sessions: make(map[*session]struct{}),
		locals:   make(map[*Subscription]struct{}),
	}
	if err := s.broker.Start(s.deliver); err != nil {
		return nil, err
	}
	return s, nil
}

// deliver takes a message from the broker to the channel's feed.
func (s *Server) deliver(m *Message) {
	if c, ok := s.live.Load(m.Channel); ok {
		c.(*channel).deliver(m)
	}
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
		c.refs++
		s.mu.Unlock()
		select {
		case <-c.opened:
		case <-ctx.Done():
			s.release(c)
			return nil, ctx.Err()
		}
		return c, c.err
	}
	name = strings.Clone(name) // it may be a piece of a request line
	c = newChannel(name, s.transport.Loops())
	c.refs = 1
	s.channels[name] = c
	s.live.Store(name, c)
	if s.janitor == nil {
		s.janitor = time.AfterFunc(tidyEvery, s.tidy)
	}
	s.mu.Unlock()
	// Others wait for this, so it must not end with this caller's patience.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), openTimeout)
	defer cancel()
	if err := c.open(ctx, s.broker, s.cfg.retention()); err != nil {
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

// release ends what channel or join began.
func (s *Server) release(c *channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.refs--
	if c.refs > 0 {
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
	s.live.Delete(c.name)
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
		select {
		case <-c.opened:
			if c.err == nil {
				c.feed.Trim(now)
				c.joiner.Reset()
			}
		default:
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

// enter counts in a session that was admitted. If Shutdown began meanwhile and
// may not have seen it, it is told goodbye here.
func (s *Server) enter(sess *session) {
	s.mu.Lock()
	s.sessions[sess] = struct{}{}
	s.mu.Unlock()
	if s.closing.Load() {
		sess.mu.Lock()
		sess.disconnect(goingAway, true)
		sess.mu.Unlock()
	}
}

// gone ends what admit and enter began, when the session's connection is over.
func (s *Server) gone(sess *session, why ending, err error) {
	s.leave(sess.sub, sess)
	s.stats.ended[why].Add(1)
	s.log.Debug("connection ended", "channel", sess.sub.channel.name, "name", sess.name, "reason", why.String(), "error", err)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess)
	s.ends.Done()
}

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

// settle waits until the broker has answered what was published, or ctx is done.
func (s *Server) settle(ctx context.Context) {
	for s.pending.Load() > 0 {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return
		}
	}
}

// Shutdown ends the server: newcomers are refused with 503, what was published
// is delivered, every client is told 1001 and may answer, subscriptions end.
// It waits for the clients; those that are still there when ctx is done are cut
// off, and ctx's error is returned. Then it closes the broker. A server cannot
// be used again.
func (s *Server) Shutdown(ctx context.Context) error {
	first := !s.closing.Swap(true)
	s.settle(ctx)
	s.mu.Lock()
	sessions := make([]*session, 0, len(s.sessions))
	for sess := range s.sessions {
		sessions = append(sessions, sess)
	}
	locals := make([]*Subscription, 0, len(s.locals))
	for sub := range s.locals {
		locals = append(locals, sub)
	}
	s.mu.Unlock()
	for _, sess := range sessions {
		sess.mu.Lock()
		sess.disconnect(goingAway, true)
		sess.mu.Unlock()
	}
	for _, sub := range locals {
		sub.Close()
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
	s.transport.Close()
	<-gone
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
