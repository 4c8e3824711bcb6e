package fanfare

import (
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"fanfare/broker"
	"fanfare/internal/limit"
)

// Limits bound what clients can cost. Zero is the default that each says, a negative
// number is no limit. Rates are what comes a second; besides it as much as in one second
// may come at once, of handshakes as in five.
//
// An address is one of IPv4, or a network of 64 bits of IPv6. The defaults of
// limits by address do not count for this machine's own addresses, where a proxy may be that
// [Config.Proxies] does not name; a limit that is set does.
type Limits struct {
	// Handshakes is how many connections that stay an address may begin: WebSockets, and
	// live readers over HTTP. Refused is 429. Default 100. Many people can share
	// one address, and all come back at once after a restart.
	Handshakes float64
	// Connections is how many of them an address may have. Refused is 429. Default
	// 1,000. A connection costs half a KiB of memory, a descriptor, and what the system keeps for it.
	Connections int
	// Requests is how many requests over HTTP an address may make, of pages and of the
	// operators' too, whoever it is. Refused is 429. Default 1,000: each costs as much as some ten messages
	// over a connection, or its token as much as fifty.
	Requests float64

	// Messages is how many messages a client may send: commands and pings too, and
	// pieces of messages, and each 4 KiB of a page of history or another long answer. What comes over a connection beyond that waits, and the
	// client with it: nothing is lost. The same counts for what an anonymous address
	// asks over HTTP, where it is answered 429; lines of a body wait. Default 5,000: a
	// program that publishes for others may need more, and a client at full speed
	// then costs a part of a processor. Less bounds it further.
	Messages float64
	// Bytes is the same for bytes as they come. Default 32 MiB.
	Bytes float64

	// SubjectMessages, SubjectBytes and SubjectConnections bound all that one
	// subject does, over whatever connections and requests. Default: no limit, so
	// that somebody with a token can do as much as all addresses together that he comes from.
	SubjectMessages    float64
	SubjectBytes       float64
	SubjectConnections int

	// ChannelMessages is how many messages clients may publish to a channel,
	// together. What is more is refused. Default: no limit. What readers cost is
	// theirs times this. [ChannelConfig.Messages] is the same for some channels.
	ChannelMessages float64

	// ChannelName is the longest name of a channel or a pattern in bytes. Default 255, which is
	// also the most there can be.
	ChannelName int
	// ChannelSegments is how many segments a name may have. Default 32. Each may make a
	// message with many patterns dearer to match.
	ChannelSegments int

	// DryRun counts and logs what would be refused or wait because of what is here, and refuses nothing:
	// to find out what limits would do. What keeps the server's memory is
	// refused all the same: MaxMessage, MaxSubscriptions, and names of more than 255 bytes.
	DryRun bool
}

// A limited is one of the limits, as counters, the log and metrics name it.
type limited uint8

const (
	byHandshakes limited = iota
	byConnections
	byRequests
	byMessages
	byBytes
	bySubjectMessages
	bySubjectBytes
	bySubjectConnections
	byChannelMessages
	byChannelName
	byChannelSegments
	byMessageSize
	bySubscriptions
	limitCount // how many there are
)

func (l limited) String() string {
	return [...]string{"handshakes", "connections", "requests", "messages", "bytes", "subject_messages", "subject_bytes", "subject_connections",
		"channel_messages", "channel_name", "channel_segments", "message_size", "subscriptions"}[l]
}

const (
	// handshakeBurst is for how many seconds' handshakes may come at once.
	handshakeBurst = 5
	// leastBytes may always come at once: it is what one read can bring, so less
	// would not be a finer limit.
	leastBytes = 16 << 10
	// maxBuckets is how many addresses, subjects and channels are known at once
	// that did something lately: some 10 MiB of each at most.
	maxBuckets = 1 << 16
)

// bounds are the limits of the moment, as they are asked for all the time.
type bounds struct {
	handshakes, ownHandshakes     limit.Rate // the second is this machine's
	connections, ownConnections   int        // 0: no limit
	requests, ownRequests         limit.Rate
	messages, bytes               limit.Rate // of a connection, and of an address
	ownMessages, ownBytes         limit.Rate // of this machine's addresses
	subjectMessages, subjectBytes limit.Rate
	subjectConnections            int
	channels                      bool // there is a limit for some channel
	channelName, channelSegments  int
	dry                           bool
}

// bounds resolves what the settings leave out.
func (c *Config) bounds() *bounds {
	l := &c.Limits
	given := func(value, standard float64, own bool) float64 {
		switch {
		case value != 0:
			return max(0, value)
		case own:
			return 0
		}
		return standard
	}
	b := &bounds{
		handshakes: rateOf(given(l.Handshakes, defaultHandshakes, false), handshakeBurst, 1), ownHandshakes: rateOf(given(l.Handshakes, 0, true), handshakeBurst, 1),
		connections: int(given(float64(l.Connections), defaultConnections, false)), ownConnections: int(given(float64(l.Connections), 0, true)),
		requests: rateOf(given(l.Requests, defaultRequests, false), 1, 1), ownRequests: rateOf(given(l.Requests, 0, true), 1, 1),
		messages: rateOf(given(l.Messages, defaultMessages, false), 1, 1), ownMessages: rateOf(given(l.Messages, 0, true), 1, 1),
		bytes: rateOf(given(l.Bytes, defaultBytes, false), 1, leastBytes), ownBytes: rateOf(given(l.Bytes, 0, true), 1, leastBytes),
		subjectMessages: rateOf(l.SubjectMessages, 1, 1), subjectBytes: rateOf(l.SubjectBytes, 1, leastBytes),
		subjectConnections: max(0, l.SubjectConnections),
		channels:           l.ChannelMessages > 0,
		channelName:        int(given(float64(l.ChannelName), broker.MaxName, false)), channelSegments: int(given(float64(l.ChannelSegments), defaultSegments, false)),
		dry: l.DryRun,
	}
	for i := range c.Channels {
		b.channels = b.channels || c.Channels[i].Messages > 0
	}
	return b
}

const (
	defaultHandshakes  = 100
	defaultConnections = 1000
	defaultRequests    = 1000
	defaultMessages    = 5_000
	defaultBytes       = 32 << 20
	defaultSegments    = 32
)

// rateOf is so much a second, and of seconds at once, but for least.
func rateOf(second, seconds float64, least int) limit.Rate {
	if second <= 0 {
		return limit.Rate{}
	}
	return limit.Rate{Second: second, Burst: max(least, int(math.Ceil(second*seconds)))}
}

// check returns an error that names the field that makes no sense.
func (l *Limits) check() error {
	for _, n := range []struct {
		name  string
		value float64
	}{
		{"Handshakes", l.Handshakes}, {"Requests", l.Requests}, {"Messages", l.Messages}, {"Bytes", l.Bytes},
		{"SubjectMessages", l.SubjectMessages}, {"SubjectBytes", l.SubjectBytes}, {"ChannelMessages", l.ChannelMessages},
	} {
		if math.IsNaN(n.value) || n.value > 1e9 {
			return fmt.Errorf("fanfare: Config.Limits.%s is %v; it must be a number a second of a billion at most, zero for the default, or negative for no limit", n.name, n.value)
		}
	}
	if l.ChannelName > broker.MaxName {
		return fmt.Errorf("fanfare: Config.Limits.ChannelName is %d; it must be %d at most, which is also the default for zero", l.ChannelName, broker.MaxName)
	}
	return nil
}

// A limiter holds clients to the limits. What is here is the server's.
type limiter struct {
	now atomic.Pointer[bounds] // what counts; Reload replaces it

	arrivals *limit.Buckets[netip.Addr] // handshakes, by address
	requests *limit.Buckets[netip.Addr] // by address
	subjects *limit.Buckets[string]     // messages, by subject or, for requests, by address
	uploads  *limit.Buckets[string]     // and bytes
	channels *limit.Buckets[string]     // messages

	addresses limit.Counts[netip.Addr] // connections by address
	people    limit.Counts[string]     // and by subject

	held atomic.Int32 // refusals that are being kept waiting
	hits [limitCount]atomic.Int64
	said [limitCount]atomic.Int64 // when the log was last told: nanoseconds since the epoch
}

func newLimiter() *limiter {
	return &limiter{
		arrivals: limit.NewBuckets[netip.Addr](maxBuckets),
		requests: limit.NewBuckets[netip.Addr](maxBuckets),
		subjects: limit.NewBuckets[string](maxBuckets), uploads: limit.NewBuckets[string](maxBuckets),
		channels: limit.NewBuckets[string](maxBuckets),
	}
}

// sayEvery is how often the log is told of a limit, however often it is reached.
const sayEvery = 10 * time.Second

// reached counts that a limit was reached, of which the log is told now and then, and
// reports whether it counts.
func (s *Server) reached(l limited, who ...any) bool {
	n := s.limits.hits[l].Add(1)
	dry := s.limits.now.Load().dry
	now, last := time.Now().UnixNano(), s.limits.said[l].Load()
	if now-last > int64(sayEvery) && s.limits.said[l].CompareAndSwap(last, now) {
		s.log.Warn("a limit was reached", append([]any{"limit", l.String(), "so_far", n, "dry_run", dry}, who...)...)
	}
	return !dry
}

// own reports whether an address is this machine's own, or none.
func own(a netip.Addr) bool { return !a.IsValid() || a.IsLoopback() }

// A guest is a connection as it counts against the limits by address and by subject.
// Nil counts against none.
type guest struct {
	address *limit.Count[netip.Addr]
	subject *limit.Count[string]
}

// arrive returns a guest, or an error if there are too many from where the request
// comes. Leave ends it. It may wait a moment before it refuses: see [Server.keepWaiting].
func (s *Server) arrive(r *http.Request) (*guest, error) {
	b := s.limits.now.Load()
	from := clientAddress(r, s.now.Load().Proxies)
	rate, most := b.handshakes, b.connections
	if own(from) {
		rate, most = b.ownHandshakes, b.ownConnections
	}
	from = limit.Neighbours(from)
	if !rate.None() {
		if wait := s.limits.arrivals.Allow(time.Now(), from, 1, rate); wait > 0 && s.reached(byHandshakes, "address", from) {
			s.keepWaiting(r)
			e := errorf("rate_limited", "your address opens more than %v connections a second; come back more slowly", rate.Second)
			e.retry = max(wait, time.Second)
			return nil, e
		}
	}
	if most == 0 {
		return nil, nil
	}
	n := s.limits.addresses.Enter(from, most)
	if n == nil {
		if s.reached(byConnections, "address", from) {
			s.keepWaiting(r)
			return nil, crowded("your address has", most)
		}
		n = s.limits.addresses.Enter(from, 0)
	}
	return &guest{address: n}, nil
}

// mayAsk returns an error if there were too many requests from where this one
// comes. It may wait a moment before it refuses: see [Server.keepWaiting].
func (s *Server) mayAsk(r *http.Request) error {
	b := s.limits.now.Load()
	from := clientAddress(r, s.now.Load().Proxies)
	rate := b.requests
	if own(from) {
		rate = b.ownRequests
	}
	if rate.None() {
		return nil
	}
	from = limit.Neighbours(from)
	wait := s.limits.requests.Allow(time.Now(), from, 1, rate)
	if wait == 0 || !s.reached(byRequests, "address", from) {
		return nil
	}
	s.keepWaiting(r)
	e := errorf("rate_limited", "your address makes more than %v requests a second; wait, and go on more slowly, or use a WebSocket", rate.Second)
	e.retry = max(wait, time.Second)
	return e
}

// tooMany reports whether it refused a request because there were too many.
func (s *Server) tooMany(w http.ResponseWriter, r *http.Request) bool {
	err := s.mayAsk(r)
	if err != nil {
		s.refuse(w, err)
	}
	return err != nil
}

// seat has a guest, who may be nil, count as one of somebody's too. The guest returned
// is in its place, also with the error that there are too many.
func (s *Server) seat(g *guest, who *speaker) (*guest, error) {
	subject := who.subject()
	if subject == "" || g != nil && g.subject != nil {
		return g, nil
	}
	most := who.id.Limits.Connections
	if most == 0 {
		most = s.limits.now.Load().subjectConnections
	}
	if most <= 0 {
		return g, nil
	}
	n := s.limits.people.Enter(subject, most)
	if n == nil {
		if s.reached(bySubjectConnections, "subject", subject) {
			return g, crowded("you have", most)
		}
		n = s.limits.people.Enter(subject, 0)
	}
	if g == nil {
		g = new(guest)
	}
	g.subject = n
	return g, nil
}

// crowded is what is told to who has so many connections.
func crowded(whose string, most int) *Error {
	e := errorf("too_many_connections", "%s %d connections, and may not have more; close one, or come back later", whose, most)
	e.retry = 10 * time.Second
	return e
}

// leaves ends what arrive began.
func (s *Server) leaves(g *guest) {
	if g != nil {
		s.limits.addresses.Leave(g.address)
		s.limits.people.Leave(g.subject)
	}
}

// maxHeld is how many refusals are kept waiting at once.
const maxHeld = 1024

// keepWaiting waits for a second before a request is refused, so that who asks again
// as soon as he is refused costs next to nothing. When too many wait already, it does not.
func (s *Server) keepWaiting(r *http.Request) {
	if s.limits.held.Add(1) <= maxHeld {
		t := time.NewTimer(time.Second)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
		case <-s.life.Done():
		}
	}
	s.limits.held.Add(-1)
}

// An asker is who asks by requests, as it is held to the limits: a subject, or else an
// address.
type asker struct {
	server          *Server
	key             string // of the buckets of subjects
	subject         bool
	messages, bytes limit.Rate
}

// asker returns who asks; who may be nil, if it is not known.
func (s *Server) asker(r *http.Request, who *speaker) *asker {
	b := s.limits.now.Load()
	from := clientAddress(r, s.now.Load().Proxies)
	a := &asker{server: s, messages: b.messages, bytes: b.bytes}
	if own(from) {
		a.messages, a.bytes = b.ownMessages, b.ownBytes
	}
	if who != nil {
		a.key = who.subject()
	}
	if a.subject = a.key != ""; a.subject {
		messages, bytes := who.ownRates(b)
		a.messages, a.bytes = or(messages, a.messages), or(bytes, a.bytes)
	} else {
		a.key = "\x00" + limit.Neighbours(from).String() // no subject's: those have no control characters
	}
	return a
}

// ownRates are those of all that somebody's subject does.
func (who *speaker) ownRates(b *bounds) (messages, bytes limit.Rate) {
	if who.subject() == "" {
		return limit.Rate{}, limit.Rate{}
	}
	l := &who.id.Limits
	return or(rateOf(l.Messages, 1, 1), b.subjectMessages), or(rateOf(l.Bytes, 1, leastBytes), b.subjectBytes)
}

// or returns a, if it bounds something, and else b.
func or(a, b limit.Rate) limit.Rate {
	if a.None() {
		return b
	}
	return a
}

// may takes a message, or returns an error if there were too many, or too many
// bytes. It may wait a moment before it refuses.
func (a *asker) may(r *http.Request) error {
	now := time.Now()
	var wait time.Duration
	what, unit, rate := byMessages, "messages", a.messages
	if !rate.None() {
		wait = a.server.limits.subjects.Allow(now, a.key, 1, rate)
	}
	if wait == 0 && !a.bytes.None() {
		what, unit, rate = byBytes, "bytes", a.bytes
		wait = a.server.limits.uploads.Allow(now, a.key, 0, rate) // what it will be is known when it is there
	}
	if wait == 0 || !a.reached(what) {
		return nil
	}
	a.server.keepWaiting(r)
	e := errorf("rate_limited", "you send more than %v %s a second; wait, and go on more slowly", rate.Second, unit)
	e.retry = max(wait, time.Second)
	return e
}

// spend takes what came, and returns how long it takes until more may.
func (a *asker) spend(messages, bytes int) (wait time.Duration) {
	now := time.Now()
	if messages > 0 && !a.messages.None() {
		if wait = a.server.limits.subjects.Spend(now, a.key, messages, a.messages); wait > 0 && !a.reached(byMessages) {
			wait = 0
		}
	}
	if bytes > 0 && !a.bytes.None() {
		if more := a.server.limits.uploads.Spend(now, a.key, bytes, a.bytes); more > wait && a.reached(byBytes) {
			wait = more
		}
	}
	return wait
}

func (a *asker) reached(l limited) bool {
	switch {
	case !a.subject:
		return a.server.reached(l, "address", a.key[1:])
	case l == byMessages:
		l = bySubjectMessages
	default:
		l = bySubjectBytes
	}
	return a.server.reached(l, "subject", a.key)
}

// mayReach returns an error if too much is published to a channel already.
func (s *Server) mayReach(channel string) error {
	if !s.limits.now.Load().channels {
		return nil
	}
	settings := s.now.Load().channel(channel)
	rate := rateOf(settings.Messages, 1, 1)
	if rate.None() {
		return nil
	}
	wait := s.limits.channels.Allow(time.Now(), channel, 1, rate)
	if wait == 0 || !s.reached(byChannelMessages, "channel", channel) {
		return nil
	}
	e := errorf("rate_limited", "more than %v messages a second are published to %.80q; this one was not: try again later", rate.Second, channel)
	e.retry = wait
	return e
}

// modest returns nil if the name of a channel or a pattern is not too long for us,
// or an error that says how it is.
func (s *Server) modest(name string) error {
	b := s.limits.now.Load()
	if b.channelName > 0 && len(name) > b.channelName && s.reached(byChannelName, "bytes", len(name)) {
		return errorf("bad_channel", "the name has %d bytes, and this server permits %d", len(name), b.channelName)
	}
	if n := 1 + strings.Count(name, "/"); b.channelSegments > 0 && n > b.channelSegments && s.reached(byChannelSegments, "segments", n) {
		return errorf("bad_channel", "the name has %d segments, and this server permits %d", n, b.channelSegments)
	}
	return nil
}

// readable returns nil if one may subscribe to what has this name here.
func (s *Server) readable(name string) error {
	if err := checkReadable(name); err != nil {
		return err
	}
	return s.modest(name)
}
