package fanfare

import (
	"reflect"

	"fanfare/broker"
	"fanfare/internal/feed"
)

// Reload has the server go on with other settings, for everybody who is there
// already too: History, HistoryAge, HistoryBytes, SlowReaders, MaxLag, Channels,
// MaxSubscriptions, Origins, Auth (unless there was none, or is none now), Limits,
// Proxies and AdminHosts. What becomes of slow readers counts for whoever
// subscribes from now on.
//
// The rest takes effect at the next start: a warning in the log names what of it
// is other now. Hooks and Logger are not looked at, and nor is a nil Broker. After an
// error everything is as it was.
func (s *Server) Reload(cfg Config) error {
	other := cfg.Broker != nil && !(reflect.ValueOf(cfg.Broker).Comparable() && cfg.Broker == s.broker)
	cfg.Broker, cfg.Hooks, cfg.Logger = s.broker, s.cfg.Hooks, s.log
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	if s.closing.Load() {
		return ErrServerClosed
	}
	was := &s.cfg
	if (cfg.Auth == nil) != (was.Auth == nil) {
		s.log.Warn("a setting takes effect at the next start", "setting", "Config.Auth")
		cfg.Auth = s.trust()
	}
	for name, changed := range map[string]bool{
		"Broker":           other,
		"MaxMessage":       cfg.MaxMessage != was.MaxMessage,
		"IDWindow":         cfg.IDWindow != was.IDWindow,
		"Heartbeat":        cfg.Heartbeat != was.Heartbeat,
		"HeartbeatTimeout": cfg.HeartbeatTimeout != was.HeartbeatTimeout,
		"WriteTimeout":     cfg.WriteTimeout != was.WriteTimeout,
		"CloseTimeout":     cfg.CloseTimeout != was.CloseTimeout,
		"Compression":      cfg.Compression != was.Compression,
		"MessageTimeout":   cfg.MessageTimeout != was.MessageTimeout,
	} {
		if changed {
			s.log.Warn("a setting takes effect at the next start", "setting", "Config."+name)
		}
	}
	next := s.cfg // with what cannot change
	next.History, next.HistoryAge, next.HistoryBytes = cfg.History, cfg.HistoryAge, cfg.HistoryBytes
	next.SlowReaders, next.MaxLag = cfg.SlowReaders, cfg.MaxLag
	next.Channels, next.Origins, next.MaxSubscriptions = cfg.Channels, cfg.Origins, cfg.MaxSubscriptions
	next.Auth = cfg.Auth
	next.Limits, next.Proxies, next.AdminHosts = cfg.Limits, cfg.Proxies, cfg.AdminHosts
	s.now.Store(&next)
	s.limits.now.Store(next.bounds())
	s.reconsider()
	s.retain()
	s.mu.Lock()
	open := make([]*channel, 0, len(s.channels))
	for _, c := range s.channels {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.retain(s.retention)
	}
	return nil
}

// retain has a broker that can keep the channels' history as the settings of the
// moment say.
func (s *Server) retain() {
	if b, ok := s.broker.(broker.Retainer); ok {
		b.Retain(func(channel string) broker.Retention {
			settings := s.now.Load().channel(channel)
			return broker.Retention{Messages: settings.History, Age: settings.HistoryAge, Bytes: settings.HistoryBytes}
		})
	}
}

// retention is what the feed of a channel keeps by the settings of the moment.
func (s *Server) retention(channel string) feed.Retention {
	settings := s.now.Load().channel(channel)
	return settings.retention()
}

// retain has the feed keep what the settings of the moment say. A channel that is
// about to open will ask for itself, under mu as this does.
func (c *channel) retain(retention func(channel string) feed.Retention) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live != nil {
		c.live.Retain(retention(c.name))
	}
}
