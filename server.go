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
	"fanfare/internal/feed"
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

	joiner  feed.Joiner // all sessions'
	stats   counters
	closing atomic.Bool // Shutdown was called
	// live has the channels by name, for deliveries, which must not wait for mu.
	live sync.Map

	mu       sync.Mutex // guards the following
	channels map[string]*channel
	sessions map[*session]struct{}
	locals   map[*Subscription]struct{}
	janitor  *time.Timer    // runs tidy; nil while there are no channels
	ends     sync.WaitGroup // one for each session; Add under mu, not after closing
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

// join returns a channel, opened if need be, and a reader of it that resumes
// after since, or begins now if that is nil. The caller releases the channel.
func (s *Server) join(ctx context.Context, name string, since *Position) (*channel, *feed.Cursor, error) {
	c, err := s.channel(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	reader := c.feed.Live(plainForm, feed.Policy(s.cfg.SlowReaders), int64(s.cfg.MaxLag))
	if since != nil && !reader.Resume(*since) {
		page, err := s.broker.History(ctx, name, broker.Query{Since: *since})
		if err != nil {
			s.release(c)
			return nil, nil, err
		}
		reader.Rewind(page)
	}
	return c, reader, nil
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
		if c.err != nil {
			s.release(c)
			return nil, c.err
		}
		return c, nil
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
	c.err = c.open(context.WithoutCancel(ctx), s.broker, s.cfg.retention())
	close(c.opened)
	if c.err != nil {
		s.release(c)
		return nil, c.err
	}
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
	delete(s.channels, c.name)
	s.live.Delete(c.name)
	if c.feed != nil {
		// Under mu, so that nobody subscribes anew before.
		s.broker.Unsubscribe(c.name)
	}
}

// tidyEvery is how long old history and joined bytes may outlive their use in
// channels that have fallen quiet.
const tidyEvery = time.Second

func (s *Server) tidy() {
	s.mu.Lock()
	if len(s.channels) == 0 || s.closing.Load() {
		s.janitor = nil
		s.mu.Unlock()
		s.joiner.Reset()
		return
	}
	open := make([]*channel, 0, len(s.channels))
	for _, c := range s.channels {
		open = append(open, c)
	}
	s.janitor.Reset(tidyEvery)
	s.mu.Unlock()
	s.joiner.Reset()
	now := time.Now()
	for _, c := range open {
		select {
		case <-c.opened:
			if c.err == nil {
				c.feed.Trim(now)
			}
		default:
		}
	}
}

// enter counts a session in, unless the server is closing.
func (s *Server) enter(sess *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.sessions[sess] = struct{}{}
	s.ends.Add(1)
	return true
}

// leave ends what enter began, when the session's connection is over.
func (s *Server) leave(sess *session, why ending, err error) {
	s.mu.Lock()
	delete(s.sessions, sess)
	s.mu.Unlock()
	s.release(sess.channel)
	s.stats.ended[why].Add(1)
	s.log.Debug("connection ended", "channel", sess.channel.name, "name", sess.name, "reason", why.String(), "error", err)
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

// Shutdown ends the server: newcomers are refused with 503, what was published
// is delivered, every client is told 1001 and may answer, subscriptions end.
// It waits for the clients; those that are still there when ctx is done are cut
// off, and ctx's error is returned. Then it closes the broker. A server cannot
// be used again.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	first := !s.closing.Swap(true)
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
