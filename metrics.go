package fanfare

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"fanfare/auth"
	"fanfare/broker"
	"fanfare/internal/feed"
	"fanfare/internal/tally"
	"fanfare/internal/transport"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// What /-/metrics tells. What happens with every message is counted by the loop
// that does it, in memory of its own, and added up when somebody asks; no session
// and no channel is looked at for that. Labels have values from the lists below:
// nothing that a client says becomes one.

// A face is a way to speak with the server, as counters know it.
type face uint8

const (
	plainFace face = iota
	v1Face
	sseFace
	linesFace
	postFace
	programFace // Server.Publish and Server.Subscribe
	crowdFace   // joins and leaves, over fanfare.v1
	faces       // how many there are
)

func (f face) String() string {
	return [...]string{"plain", "fanfare.v1", "sse", "ndjson", "post", "program", "presence"}[f]
}

// Which faces have what.
var (
	connected  = []face{plainFace, v1Face, sseFace, linesFace}
	publishing = []face{plainFace, v1Face, postFace, programFace}
	listening  = []face{plainFace, v1Face, sseFace, linesFace, programFace, crowdFace}
)

// A volume is messages, and their bytes.
type volume struct{ messages, bytes atomic.Int64 }

// add counts a message, and returns how many there are.
func (v *volume) add(bytes int) int64 {
	v.bytes.Add(int64(bytes))
	return v.messages.Add(1)
}

// loopCounts is what a loop counts, or, for the stream transport, what is counted
// of the connections of one.
type loopCounts struct {
	delivered  [faces]atomic.Int64 // messages
	came, went [faces]atomic.Int64 // connections
	lag        *tally.Histogram    // of readers that could not be written to, in bytes
}

func newLoopCounts() *loopCounts { return &loopCounts{lag: tally.NewHistogram(lags...)} }

// delivered counts the messages that a reader was given.
func (sub *subscription) delivered(as face, batch *feed.Batch) {
	if len(batch.Bytes) > 0 {
		sub.audience.counts.delivered[as].Add(int64(batch.Count))
	}
}

// lags counts how far behind a reader is that has more to read, and still has not
// taken what was written before. The owner's mu is held.
func (sub *subscription) lags() { sub.audience.counts.lag.Observe(sub.cursor.Lag()) }

// An operation is what a broker is asked for.
type operation uint8

const (
	publishOperation operation = iota
	historyOperation
	subscribeOperation
	operations // how many there are
)

func (o operation) String() string { return [...]string{"publish", "history", "subscribe"}[o] }

// sampled is of how many publications one is timed.
const sampled = 8

// A request is what an HTTP request is for.
type request uint8

const (
	webSocketRequest request = iota
	sseRequest
	linesRequest
	historyRequest
	pageRequest
	postRequest
	requests // how many there are
)

func (r request) String() string {
	return [...]string{"websocket", "sse", "ndjson", "history", "page", "post"}[r]
}

// metrics are a server's, but for what counters and loopCounts have.
type metrics struct {
	registry *prometheus.Registry

	latency  [operations]prometheus.Observer
	failures [operations]prometheus.Counter
	requests [requests]prometheus.Counter
	refusals map[string]prometheus.Counter // by code; "other" for all that are not ours
	logins   map[string]prometheus.Counter // by code, "ok" among them
}

// codes are what refusals are counted by. Hooks may have codes of their own,
// which are counted as "other".
var codes = []string{
	"already_subscribed", "bad_body", "busy", "bad_channel", "bad_client", "bad_config", "bad_data", "bad_extensions", "bad_host", "bad_http", "bad_id", "bad_json", "bad_key", "bad_limit", "bad_media",
	"bad_method", "bad_name", "bad_origin", "bad_presence", "bad_revocation", "bad_since", "bad_slow", "bad_subprotocol", "bad_text", "bad_version",
	"forbidden", "full", "id_reused", "internal", "no_authentication", "no_hijack", "no_patterns", "no_stream", "no_upgrade", "not_acceptable", "not_found",
	"not_ready", "not_subscribed", "rate_limited", "shutting_down", "timeout", "too_big", "too_many_connections", "too_many_subscriptions",
	"unknown_method", "unknown_type",
	"auth_unavailable", "bad_token", "other_subject", "token_expired", "token_not_yet", "token_revoked", "unauthenticated",
	otherCode,
}

const otherCode = "other"

// logins are what came of tokens.
var logins = []string{"ok", "auth_unavailable", "bad_token", "other_subject", "token_expired", "token_not_yet", "token_revoked", "unauthenticated", otherCode}

// latencies are the bounds of the broker's answers, in seconds: one in memory
// takes microseconds, a disk milliseconds, and a network with trouble seconds.
var latencies = []float64{10e-6, 25e-6, 100e-6, 250e-6, 1e-3, 2.5e-3, 10e-3, 25e-3, .1, .25, 1, 2.5, 10, 30}

// lags are the bounds of readers' lags, in bytes.
var lags = []int64{1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20}

// count makes what the server counts with.
func (s *Server) count() {
	s.counts = make(map[transport.Loop]*loopCounts)
	for _, t := range s.transports {
		for _, l := range t.Loops() {
			s.counts[l] = newLoopCounts()
		}
	}
	m := &metrics{registry: prometheus.NewRegistry()}
	s.metrics = m
	latency := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "fanfare_broker_seconds", Help: "How long the broker took to answer; of publications every eighth of each source is timed.", Buckets: latencies,
	}, []string{"operation"})
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fanfare_broker_failures_total", Help: "What the broker could not do.",
	}, []string{"operation"})
	for o := range operations {
		m.latency[o], m.failures[o] = latency.WithLabelValues(o.String()), failures.WithLabelValues(o.String())
	}
	asked := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fanfare_requests_total", Help: "HTTP requests about channels, refused ones too, by what they are for; websocket: handshakes.",
	}, []string{"for"})
	for r := range requests {
		m.requests[r] = asked.WithLabelValues(r.String())
	}
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fanfare_refusals_total", Help: "What was refused, over whatever face, by the code of the error; other: a hook's.",
	}, []string{"code"})
	m.refusals = each(refused, codes)
	authenticated := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fanfare_authentications_total", Help: "Tokens that were looked at, by what came of it: ok, or the code of the error.",
	}, []string{"result"})
	m.logins = each(authenticated, logins)
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		latency, failures, asked, refused, authenticated, collector{s},
	)
}

// each returns the counters for all values of the one label.
func each(of *prometheus.CounterVec, values []string) map[string]prometheus.Counter {
	counters := make(map[string]prometheus.Counter, len(values))
	for _, value := range values {
		counters[value] = of.WithLabelValues(value)
	}
	return counters
}

// timed has it measured when the broker answers a publication that is made now.
func (m *metrics) timed(done func(Position, error)) func(Position, error) {
	began := time.Now()
	return func(pos Position, err error) {
		m.latency[publishOperation].Observe(time.Since(began).Seconds())
		done(pos, err)
	}
}

// answered counts what the broker was asked at a time and answered now.
func (m *metrics) answered(o operation, began time.Time, err error) {
	m.latency[o].Observe(time.Since(began).Seconds())
	if err != nil {
		m.failed(o, err)
	}
}

// failed counts a broker's error, if that is what it is.
func (m *metrics) failed(o operation, err error) {
	switch {
	case errors.Is(err, broker.ErrIDReused), errors.Is(err, broker.ErrNoPatterns), errors.Is(err, broker.ErrClosed), errors.Is(err, context.Canceled):
	default:
		m.failures[o].Inc()
	}
}

// refused counts what was refused with a code.
func (m *metrics) refused(code string) { one(m.refusals, code).Inc() }

// authenticated counts what came of a token.
func (m *metrics) authenticated(err error) {
	result := "ok"
	var by *auth.Error
	var ours *Error
	switch {
	case errors.As(err, &by):
		result = by.Code
	case errors.As(err, &ours):
		result = ours.Code
	}
	one(m.logins, result).Inc()
}

func one(of map[string]prometheus.Counter, value string) prometheus.Counter {
	if c := of[value]; c != nil {
		return c
	}
	return of[otherCode]
}

// A collector adds up what a server's loops counted.
type collector struct{ *Server }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("fanfare_"+name, help, labels, nil)
}

var (
	connectionsDesc = describe("connections", "Clients connected now.", "transport", "face")
	openedDesc      = describe("connections_opened_total", "Connections that began.", "transport", "face")
	endedDesc       = describe("connections_ended_total", "Connections that ended, by why.", "reason")
	receivedDesc    = describe("received_bytes_total", "Bytes read from live connections, behind the handshake and within TLS.", "transport")
	sentDesc        = describe("sent_bytes_total", "Bytes written to live connections, behind the handshake and within TLS.", "transport")
	publishedDesc   = describe("published_messages_total", "Messages given to the broker, by who said them.", "source")
	publishedBytes  = describe("published_bytes_total", "Bytes of their payloads.", "source")
	limitedDesc     = describe("limited_total", "How often a limit was reached, in a dry run too.", "limit")
	waitingDesc     = describe("publications_waiting", "Publications that the broker has not answered yet.")
	deliveredDesc   = describe("delivered_messages_total", "Messages written to readers; presence: joins and leaves.", "face")
	gapsDesc        = describe("gaps_total", "How often a reader was told that messages are missing, by why.", "reason")
	missedDesc      = describe("missed_messages_total", "Messages that readers did not get, by why; where the number is unknown, one for the gap.", "reason")
	lagDesc         = describe("reader_lag_bytes", "How far behind a reader was, each time that there was more for one that had not taken what was written before.")
	channelsDesc    = describe("channels", "Channels that somebody reads now.")
	patternsDesc    = describe("patterns", "Patterns that somebody reads now.")
	subscribedDesc  = describe("subscriptions", "Readers of channels and patterns now; a connection may be several, and the program is among them.")
	turnsDesc       = describe("loop_turn_seconds", "How long event loops took for a turn: for what the sockets had, and what was to be done.")
	busyDesc        = describe("loop_busy_seconds_total", "How long an event loop was at work.", "loop")
	queueDesc       = describe("loop_queue", "Tasks and connections that wait for an event loop's turn.", "loop")
)

// Describe implements [prometheus.Collector].
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		connectionsDesc, openedDesc, endedDesc, receivedDesc, sentDesc, publishedDesc, publishedBytes, limitedDesc, waitingDesc, deliveredDesc,
		gapsDesc, missedDesc, lagDesc, channelsDesc, patternsDesc, subscribedDesc, turnsDesc, busyDesc, queueDesc,
	} {
		to <- d
	}
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(to chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, n int64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, kind, float64(n), labels...)
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	var delivered [faces]int64
	var lag, turns tally.Count
	loop := 0
	for _, t := range c.transports {
		load := t.Load()
		put(receivedDesc, counter, load.Read, t.Name())
		put(sentDesc, counter, load.Written, t.Name())
		var came, went [faces]int64
		for _, l := range t.Loops() {
			counts := c.counts[l]
			for f := range faces {
				went[f] += counts.went[f].Load() // first: nobody goes before he came
				came[f] += counts.came[f].Load()
				delivered[f] += counts.delivered[f].Load()
			}
			lag.Add(counts.lag)
		}
		for _, f := range connected {
			put(connectionsDesc, gauge, came[f]-went[f], t.Name(), f.String())
			put(openedDesc, counter, came[f], t.Name(), f.String())
		}
		for _, l := range load.Loops {
			var own tally.Count
			own.Add(l.Turns)
			turns.Add(l.Turns)
			name := strconv.Itoa(loop)
			loop++
			to <- prometheus.MustNewConstMetric(busyDesc, counter, time.Duration(own.Sum).Seconds(), name)
			put(queueDesc, gauge, int64(l.Queue), name)
		}
	}
	for _, f := range listening {
		put(deliveredDesc, counter, delivered[f], f.String())
	}
	for _, f := range publishing {
		v := &c.stats.published[f]
		put(publishedDesc, counter, v.messages.Load(), f.String())
		put(publishedBytes, counter, v.bytes.Load(), f.String())
	}
	for l := range limitCount {
		put(limitedDesc, counter, c.limits.hits[l].Load(), l.String())
	}
	put(waitingDesc, gauge, c.pending.Load())
	for why := range endings {
		put(endedDesc, counter, c.stats.ended[why].Load(), why.String())
	}
	for why := range feed.Forbidden + 1 {
		put(gapsDesc, counter, c.stats.gaps[why].Load(), why.String())
		put(missedDesc, counter, c.stats.missed[why].Load(), why.String())
	}
	to <- histogram(lagDesc, lag, 1)
	to <- histogram(turnsDesc, turns, time.Second)
	patterns := c.wild.count()
	c.mu.Lock()
	channels := len(c.channels) - patterns
	c.mu.Unlock()
	put(channelsDesc, gauge, int64(max(0, channels)))
	put(patternsDesc, gauge, int64(patterns))
	put(subscribedDesc, gauge, c.stats.subscribed.Load())
}

// histogram returns what histograms counted, in units of so many of theirs.
func histogram(d *prometheus.Desc, c tally.Count, unit time.Duration) prometheus.Metric {
	upTo := make(map[float64]uint64, len(c.UpTo))
	for bound, n := range c.UpTo {
		upTo[float64(bound)/float64(unit)] = n
	}
	return prometheus.MustNewConstHistogram(d, c.Total, float64(c.Sum)/float64(unit), upTo)
}
