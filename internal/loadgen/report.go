package loadgen

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A Report is what was measured. As JSON, times are in µs where the name ends
// in us, sizes in bytes, and what is unknown is left out.
type Report struct {
	Scenario    Scenario `json:"scenario"`
	URL         string   `json:"url"` // without a query, which may hold a token
	Connections int      `json:"connections"`
	Rate        float64  `json:"rate,omitempty"` // asked for, messages a second
	Size        int      `json:"size,omitempty"`
	Window      int      `json:"window,omitempty"`

	Handshakes *Handshakes `json:"handshakes"`
	Traffic    *Traffic    `json:"traffic,omitempty"`
	// Unstalled is the run before that of Traffic, with everybody reading; of Stall only.
	Unstalled *Traffic `json:"unstalled,omitempty"`
	Memory    *Memory  `json:"memory,omitempty"`

	Interrupted bool     `json:"interrupted,omitempty"`
	Warnings    []string `json:"warnings"` // for people: what makes the figures doubtful
}

// Handshakes are how the connections came about.
type Handshakes struct {
	Connections int     `json:"connections"`
	Failed      int     `json:"failed"`
	Failure     string  `json:"failure,omitempty"` // the first
	Seconds     float64 `json:"seconds"`
	PerSecond   float64 `json:"per_second"`
	Latency     Latency `json:"latency_us"` // from the first byte of TCP's handshake to the 101
	// ServerCPU is for each connection; nil without a PID.
	ServerCPU *float64  `json:"server_cpu_us,omitempty"`
	Generator Generator `json:"generator"`
}

// Traffic is one run of messages.
type Traffic struct {
	Stalled int `json:"stalled"` // connections that never read

	Seconds    float64 `json:"seconds"`
	Messages   float64 `json:"messages_per_second"`
	Deliveries float64 `json:"deliveries_per_second"`
	Latency    Latency `json:"latency_us"`      // of each delivery
	Last       Latency `json:"last_latency_us"` // of each message, until the last receiver had it

	Lost       int64  `json:"lost"`         // deliveries that never came
	Doubled    int64  `json:"doubled"`      // that came again
	Disordered int64  `json:"out_of_order"` // that came after a later message
	Unsent     int64  `json:"unsent"`       // messages that the server did not take
	Closed     int    `json:"closed"`       // connections that ended meanwhile
	Why        string `json:"why,omitempty"`

	Server    *Server   `json:"server,omitempty"` // nil without a PID
	Generator Generator `json:"generator"`
}

// Server is what the server's process used during a run.
type Server struct {
	CPU   float64 `json:"cpu_us_per_delivery"`
	Cores float64 `json:"cores"` // busy on average
	// RSS is when nothing had been sent, and Growth how much larger it was at most.
	RSS    int64 `json:"rss"`
	Growth int64 `json:"rss_growth"`
}

// Memory is what connections cost that say nothing.
type Memory struct {
	Connections int     `json:"connections"` // of the first figure and of the second
	Few         int     `json:"few"`
	RSSFew      int64   `json:"rss_few"`
	RSS         int64   `json:"rss"`
	Each        float64 `json:"each"` // bytes for each connection, between the two
	IdleCores   float64 `json:"idle_cores"`
}

// Generator is what we used ourselves, and how late we were.
type Generator struct {
	CPU   float64 `json:"cpu_us"` // for each delivery, or handshake
	Cores float64 `json:"cores"`  // busy on average
	Of    int     `json:"of_cores"`
	// Late is how long after it was due, and could go out, a message went out.
	Late *Latency `json:"late_us,omitempty"`
	// Limited says that the generator and not the server may have been the limit.
	Limited bool `json:"limited"`
}

// Latency is a distribution, in µs.
type Latency struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99_9"`
	Max   float64 `json:"max"`

	all *hdrhistogram.Histogram
}

func newLatency(h *hdrhistogram.Histogram) Latency {
	at := func(percentile float64) float64 { return float64(h.ValueAtPercentile(percentile)) / 1e3 }
	return Latency{
		Count: h.TotalCount(), Mean: h.Mean() / 1e3,
		P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: at(100), all: h,
	}
}

// Title says in a line what was measured.
func (r *Report) Title() string {
	title := fmt.Sprintf("%s · %s connections", r.Scenario, Count(float64(r.Connections)))
	if r.Connections == 1 {
		title = strings.TrimSuffix(title, "s")
	}
	if r.Rate > 0 {
		title += fmt.Sprintf(" · %s messages/s", Count(r.Rate))
	}
	if r.Size > 0 {
		title += fmt.Sprintf(" · %s bytes", Count(float64(r.Size)))
	}
	switch {
	case r.Scenario == Connect:
		title += fmt.Sprintf(" · %d at once", r.Window)
	case r.Window > 0:
		title += fmt.Sprintf(" · %d in flight", r.Window)
	}
	return title
}

// Count writes a number for people: with commas, and with a fraction only where it matters.
func Count(v float64) string {
	text := strconv.FormatFloat(v, 'f', 0, 64)
	if v < 100 && v != math.Trunc(v) {
		text = strconv.FormatFloat(v, 'f', 1, 64)
	}
	for i := len(text) - 3; i > 0 && v >= 1000; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// Err is an error where the server did not do what it should: messages were lost,
// doubled, disordered or not taken, or connections refused. It is also one where
// nothing was measured.
func (r *Report) Err() error {
	var wrong []string
	say := func(n int64, what string) {
		if n > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s", n, what))
		}
	}
	if h := r.Handshakes; h != nil && h.Failed > 0 {
		say(int64(h.Failed), "connections failed, the first because: "+h.Failure)
	}
	for _, t := range []*Traffic{r.Unstalled, r.Traffic} {
		if t != nil {
			say(t.Lost, "deliveries were lost")
			say(t.Doubled, "deliveries came twice")
			say(t.Disordered, "deliveries came out of order")
			say(t.Unsent, "messages were due and not taken by the server")
		}
	}
	switch {
	case len(wrong) > 0:
		return errors.New(strings.Join(wrong, ", "))
	case r.Traffic == nil && r.Unstalled == nil && r.Memory == nil && (r.Scenario != Connect || r.Handshakes == nil || r.Handshakes.Connections == 0):
		if r.Interrupted {
			return errors.New("it was interrupted before anything was measured")
		}
		return errors.New("nothing was measured")
	}
	return nil
}

// report says what happened between two snapshots.
func (t *traffic) report(first, last snapshot, s schedule, rss, peak int64) *Traffic {
	seconds := float64(last.at-first.at) / 1e9
	deliveries := float64(last.deliveries - first.deliveries)
	got := t.crowd.tally()
	expected, hopeless := t.crowd.missing(s.sent)
	b := t.crowd.board
	b.mu.Lock()
	everybody := newLatency(b.last)
	b.mu.Unlock()
	r := &Traffic{
		Stalled: len(t.deaf),
		Seconds: seconds, Messages: float64(last.sent-first.sent) / seconds, Deliveries: deliveries / seconds,
		Latency: newLatency(t.crowd.latency()), Last: everybody,
		Lost: expected + hopeless, Doubled: got.doubled, Disordered: got.disordered, Unsent: s.unsent, Closed: got.closed,
		Generator: generator(first.own, last.own, seconds, deliveries),
	}
	if got.why != nil {
		r.Why = describe(got.why)
	} else if s.err != nil {
		r.Why = describe(s.err)
	}
	if s.late.TotalCount() > 0 {
		late := newLatency(s.late)
		r.Generator.Late = &late
	}
	if t.config.PID != 0 {
		cpu := max(last.server.cpu-first.server.cpu, 0) // none of a process that is gone
		r.Server = &Server{CPU: each(cpu, deliveries), Cores: cpu.Seconds() / seconds, RSS: rss, Growth: peak - rss}
	}
	return r
}

// each is µs for each of n.
func each(d time.Duration, n float64) float64 {
	if n <= 0 {
		return 0
	}
	return float64(d.Nanoseconds()) / 1e3 / n
}

func generator(before, after time.Duration, seconds, n float64) Generator {
	g := Generator{CPU: each(after-before, n), Of: runtime.GOMAXPROCS(0)}
	if seconds > 0 {
		g.Cores = (after - before).Seconds() / seconds
	}
	return g
}

const (
	// busy is the share of our cores from which on we count as the limit: what
	// comes then waits for us.
	busy = 0.9
	// lateLeast is a lateness that is never worth a word.
	lateLeast = 1000.0 // µs
	// lateShare is the share of a latency that may be our own lateness.
	lateShare = 0.1
)

// judge says whether the generator was the limit, and why. server is how many
// of our own cores the server had busy, 0 where it is not known.
func (g *Generator) judge(p99, server float64) (warnings []string) {
	switch of := float64(g.Of); {
	case g.Cores > busy*of:
		warnings = append(warnings, fmt.Sprintf("the load generator was the limit, not the server: it used %.1f of its %d cores; take fewer connections or messages, or another machine for it", g.Cores, g.Of))
	case server > 0 && g.Cores+server > busy*float64(runtime.NumCPU()) && g.Cores > 0.1*of:
		warnings = append(warnings, fmt.Sprintf("server and load generator together had the %d cores that they share busy (%.1f and %.1f): the server could do more with the generator elsewhere", runtime.NumCPU(), server, g.Cores))
	}
	if l := g.Late; l != nil && l.P99 > lateLeast && l.P99 > lateShare*p99 {
		warnings = append(warnings, fmt.Sprintf("the load generator sent late: 1%% of the messages %s or more after they were due, and that is in the latencies", Duration(l.P99)))
	}
	g.Limited = len(warnings) > 0
	return warnings
}

// Duration writes µs for people.
func Duration(us float64) string {
	switch {
	case us < 1000:
		return fmt.Sprintf("%.0f µs", us)
	case us < 10e3:
		return fmt.Sprintf("%.2f ms", us/1e3)
	case us < 100e3:
		return fmt.Sprintf("%.1f ms", us/1e3)
	case us < 1e6:
		return fmt.Sprintf("%.0f ms", us/1e3)
	}
	return fmt.Sprintf("%.2f s", us/1e6)
}
