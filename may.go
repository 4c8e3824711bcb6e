package fanfare

import (
	"sync/atomic"

	"fanfare/auth"
	"fanfare/broker"
	"fanfare/internal/feed"
)

// Every face of the server asks here whether a client may do what it is about to,
// before it does anything else with a channel. So what is answered to who may not
// does not depend on what there is.

// may returns nil if somebody may do something in all of a channel or a pattern.
// Nil is the program, which may do everything.
func (who *speaker) may(right auth.Right, channel string) error {
	if who == nil || who.grants.May(right, channel) {
		return nil
	}
	return who.refused(right, channel)
}

// mayRead returns nil if somebody may do something in a channel, or in some of the
// channels that fit a pattern: what of it he sees is a matter of sees.
func (who *speaker) mayRead(right auth.Right, channel string) error {
	if who == nil || who.grants.May(right, channel) || broker.IsPattern(channel) && who.grants.Meets(right, channel) {
		return nil
	}
	return who.refused(right, channel)
}

// refused is what somebody is told who may not.
func (who *speaker) refused(right auth.Right, channel string) error {
	what := map[auth.Right]string{
		auth.Publish: "publish to", auth.Subscribe: "read", auth.Presence: "see who is in", auth.History: "read the history of",
	}[right]
	if who.id == nil {
		return errorf("unauthenticated", "who does not say who he is may not %s %.80q here: come with a token, as in Authorization: Bearer TOKEN", what, channel)
	}
	return errorf("forbidden", "you may not %s %.80q; whoever runs this server can grant it", what, channel)
}

// admits reports how somebody comes in over a WebSocket at a URL whose channel this
// is, or has none: reading it; or, if he may do nothing at all as long as nobody
// knows who he is, waiting to say so. Else he comes to publish, or to ask for
// other channels.
func (who *speaker) admits(channel string) (reads, waits bool, err error) {
	if channel == "" {
		return false, who.id == nil && who.grants.Nothing(), nil
	}
	err = who.mayRead(auth.Subscribe, channel)
	switch {
	case err == nil:
		return true, false, nil
	case who.may(auth.Publish, channel) == nil:
		return false, false, nil
	case who.id == nil:
		return false, true, nil
	}
	return false, false, err
}

// subscriptions is how many he may have over one connection.
func (who *speaker) subscriptions(c *Config) int {
	if who.id == nil || who.id.Limits.Subscriptions == 0 {
		return c.MaxSubscriptions
	}
	return who.id.Limits.Subscriptions
}

// keeps reports whether a place in a channel or a pattern is still its reader's to
// have. Who saw all of a pattern is not shown less of it by the same cursor.
func (who *speaker) keeps(right auth.Right, channel string, c *feed.Cursor) bool {
	return who.grants.May(right, channel) || c.Picks() && who.grants.Meets(right, channel)
}

// sees returns what of a pattern the client sees who is at who at the moment; nil:
// everything. What was there before the place from, it sees where it may read history.
func sees(who *atomic.Pointer[speaker], pattern string, resumes bool, from Position) func(m *Message) bool {
	g := who.Load().grants
	if !broker.IsPattern(pattern) || g.May(auth.Subscribe, pattern) && (!resumes || g.May(auth.History, pattern)) {
		return nil
	}
	return func(m *Message) bool {
		g := who.Load().grants
		return g.May(auth.Subscribe, m.Channel) && (!reached(m.Position, from) || g.May(auth.History, m.Channel))
	}
}
