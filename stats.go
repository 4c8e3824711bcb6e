package fanfare

import (
	"sync/atomic"

	"fanfare/internal/feed"
)

// Stats are a server's counters. Those that count events only grow.
type Stats struct {
	Sessions  int   // clients connected now
	Channels  int   // channels with subscribers now
	Published int64 // messages taken from clients, HTTP and the program
	// Missed are the messages that readers did not get, by reason: "skipped"
	// and "superseded" (the policy Skip or Latest applied), "outrun" (history
	// did not reach back to a slow reader), "expired" (nor to a resuming one), "lost"
	// (a resuming one was of another epoch: the history itself was lost), "forbidden" (it may not read history).
	// Where the number is not known, the gap counts as one.
	Missed map[string]int64
	// Ended are the connections that ended, by reason: "client", "lost",
	// "shutdown", "silent", "slow", "stuck", "protocol", "timeout", "unauthenticated",
	// "expired", "revoked", "forbidden", "auth_unavailable", "too_many_connections", "internal".
	Ended map[string]int64
	// Limited is how often each limit of [Limits] was reached, and those of message
	// size ("message_size") and subscriptions: each refusal, each time that a connection had to wait, and
	// what would have been either without DryRun.
	Limited map[string]int64
}

// counters are what Stats is read from.
type counters struct {
	published  [faces]volume
	missed     [feed.Forbidden + 1]atomic.Int64
	gaps       [feed.Forbidden + 1]atomic.Int64
	ended      [endings]atomic.Int64
	subscribed atomic.Int64 // subscriptions now
}

func (c *counters) miss(g feed.Gap) {
	c.gaps[g.Reason].Add(1)
	c.missed[g.Reason].Add(max(1, g.Missed))
}

// Stats returns the counters. It may be called from any goroutine.
func (s *Server) Stats() Stats {
	st := Stats{Missed: make(map[string]int64), Ended: make(map[string]int64), Limited: make(map[string]int64)}
	for i := range s.stats.published {
		st.Published += s.stats.published[i].messages.Load()
	}
	st.Sessions = int(s.present.Load())
	s.mu.Lock()
	st.Channels = len(s.channels)
	s.mu.Unlock()
	for i := range s.stats.missed {
		st.Missed[feed.Reason(i).String()] = s.stats.missed[i].Load()
	}
	for i := range s.stats.ended {
		st.Ended[ending(i).String()] = s.stats.ended[i].Load()
	}
	for i := range s.limits.hits {
		st.Limited[limited(i).String()] = s.limits.hits[i].Load()
	}
	return st
}
