package fanfare_test

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"
)

// A chronicle is what was published and acknowledged: what readers heard is judged
// by it. A publication is called "publisher-number": each publisher counts
// its own, and has them in that order in every channel.
type chronicle struct {
	mu     sync.Mutex // guards the following
	acked  map[string]publication
	order  []publication // by position, once sort was called
	before map[string]fanfare.Position
}

type publication struct {
	id, channel string
	position    fanfare.Position
}

// dataOf is what is published. It is a JSON object, so that it comes byte for byte
// on every face.
func dataOf(id string, padding int) string {
	return fmt.Sprintf(`{"id":%q,"at":%d,"pad":"%s"}`, id, time.Now().UnixNano(), strings.Repeat("x", padding))
}

// dataIn returns what dataOf was given, and when it was called, in nanoseconds.
func dataIn(data []byte) (id string, at int64, err error) {
	head, pad, _ := strings.Cut(string(data), `,"pad":"`)
	if _, err = fmt.Sscanf(head, `{"id":%q,"at":%d`, &id, &at); err != nil || strings.Trim(pad, "x") != `"}` {
		return "", 0, fmt.Errorf("this was not published: %.100q", data)
	}
	return id, at, nil
}

func newChronicle() *chronicle { return &chronicle{acked: make(map[string]publication)} }

// ack notes that a publication was acknowledged. However often that happens, it
// is one message, so it must have one position.
func (c *chronicle) ack(id, channel, position string) error {
	at, err := broker.ParsePosition(position)
	if err != nil {
		return fmt.Errorf("%s is acknowledged with a strange position: %v", id, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := publication{id, channel, at}
	if was, again := c.acked[id]; again && was != now {
		return fmt.Errorf("doubled: %v is acknowledged anew as %v", was, now)
	}
	c.acked[id] = now
	return nil
}

// sort ends the publishing.
func (c *chronicle) sort(t testing.TB) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order, c.before = nil, make(map[string]fanfare.Position)
	for _, p := range c.acked {
		c.order = append(c.order, p)
	}
	slices.SortFunc(c.order, func(a, b publication) int { return cmp.Compare(a.position.Offset, b.position.Offset) })
	newest := make(map[string]fanfare.Position)
	said := make(map[string]int)
	for i, p := range c.order {
		who, number, _ := strings.Cut(p.id, "-")
		n, err := strconv.Atoi(number)
		if err != nil || n <= said[p.channel+" "+who] {
			t.Errorf("reordered: %v comes after number %d", p, said[p.channel+" "+who])
		}
		said[p.channel+" "+who] = n
		if i > 0 && c.order[i-1].position == p.position || p.position.Epoch != c.order[0].position.Epoch {
			t.Errorf("%v and %v cannot both be", c.order[max(0, i-1)], p)
		}
		c.before[p.id] = newest[p.channel]
		newest[p.channel] = p.position
	}
}

// in returns what was published to a channel, or to those that fit a pattern.
func (c *chronicle) in(name string) (in []publication) {
	for _, p := range c.order {
		if fits(name, p.channel) {
			in = append(in, p)
		}
	}
	return in
}

func fits(name, channel string) bool {
	return name == channel || broker.IsPattern(name) && broker.Fits(name, channel)
}

// A journal is what a reader heard of one subscription, over all its connections.
type journal struct {
	who   string
	name  string           // a channel, or a pattern
	begin fanfare.Position // what comes after this is to be heard
	at    fanfare.Position // to resume from
	heard []entry
}

// An entry is a message, or, without an id, a gap: then position is where reading
// goes on.
type entry struct {
	publication
	predecessor string // as told; "?" where nobody tells
	reason      string // of a gap
	missed      int64  // in a gap, where it is known; otherwise 0
	vague       bool   // a gap does not say where reading goes on: with the next message
}

// hear notes a message.
func (j *journal) hear(id, channel, position, predecessor string) error {
	return j.note(entry{publication: publication{id: id, channel: channel}, predecessor: predecessor}, position)
}

// gap notes that messages are said to be missing; position is empty if that is
// all that is said.
func (j *journal) gap(reason string, missed int64, position string) error {
	e := entry{reason: reason, missed: missed}
	if position != "" {
		return j.note(e, position)
	}
	e.vague, e.position = true, j.at
	if n := len(j.heard); n > 0 && j.heard[n-1].vague {
		was := j.heard[n-1]
		j.heard = j.heard[:n-1]
		if e.missed += was.missed; was.missed == 0 || missed == 0 {
			e.missed = 0
		}
	}
	j.heard = append(j.heard, e)
	return nil
}

// resume says that the journal goes on over another connection: a gap that does
// not say where reading goes on will be told again.
func (j *journal) resume() string {
	if n := len(j.heard); n > 0 && j.heard[n-1].vague {
		j.heard = j.heard[:n-1]
	}
	return j.at.String()
}

func (j *journal) note(e entry, position string) (err error) {
	if e.position, err = broker.ParsePosition(position); err != nil {
		return fmt.Errorf("%s, %s: %v", j.who, j.name, err)
	}
	j.at = e.position
	j.heard = append(j.heard, e)
	return nil
}

// A verdict is what is wrong with a journal, by what was published.
type verdict struct {
	heard, gaps, missed              int // missed: where a gap says so
	lost, doubled, reordered, untrue int // untrue: told, and not so
	examples                         []string
}

func (v *verdict) add(w verdict) {
	v.heard += w.heard
	v.gaps += w.gaps
	v.missed += w.missed
	v.lost += w.lost
	v.doubled += w.doubled
	v.reordered += w.reordered
	v.untrue += w.untrue
	v.examples = append(v.examples, w.examples...)
}

func (v *verdict) String() string {
	s := fmt.Sprintf("%d heard, %d lost, %d doubled, %d reordered, %d untrue; %d gaps with %d missed", v.heard, v.lost, v.doubled, v.reordered, v.untrue, v.gaps, v.missed)
	if len(v.examples) > 0 {
		s += "; such as:\n" + strings.Join(v.examples[:min(len(v.examples), 20)], "\n")
	}
	return s
}

// good reports whether nothing is wrong.
func (v *verdict) good() bool { return v.lost+v.doubled+v.reordered+v.untrue == 0 }

func (v *verdict) wrong(count *int, j *journal, format string, a ...any) {
	*count++
	v.examples = append(v.examples, fmt.Sprintf("%s, %s: ", j.who, j.name)+fmt.Sprintf(format, a...))
}

// judge finds out what is wrong with a journal. Everything after its begin must
// be there once and in order, or be missing where a gap says so and as many as it says.
func (c *chronicle) judge(j *journal) (v verdict) {
	there := make(map[string]bool)
	last := j.begin
	for _, e := range j.heard {
		if e.id == "" {
			v.gaps++
			if e.position.Offset < last.Offset {
				v.wrong(&v.untrue, j, "a gap after %v goes on at %v", last, e.position)
			}
			last = e.position
			continue
		}
		v.heard++
		p, known := c.acked[e.id]
		switch {
		case there[e.id]:
			v.wrong(&v.doubled, j, "%v comes again after %v", e.publication, last)
			continue
		case !known || p != e.publication || !fits(j.name, e.channel):
			v.wrong(&v.untrue, j, "heard %v, published was %v", e.publication, p)
		case e.predecessor != "?" && e.predecessor != positionText(c.before[e.id]):
			v.wrong(&v.untrue, j, "%v follows %q, it says, but that was %v", e.publication, e.predecessor, c.before[e.id])
		}
		there[e.id] = true
		if e.position.Offset <= last.Offset {
			v.wrong(&v.reordered, j, "%v comes after %v", e.publication, last)
		}
		last = e.position
	}
	// What is missing must be at a gap.
	at := 0
	surely, maybe := make([]int, len(j.heard)), make([]int, len(j.heard)) // missing at a gap
	for _, p := range c.in(j.name) {
		if p.position.Offset <= j.begin.Offset || there[p.id] {
			continue
		}
		for at < len(j.heard) && j.heard[at].position.Offset < p.position.Offset {
			at++
		}
		here, before := j.gapAt(at), j.hole(at, p.channel)
		switch {
		case here < 0 && before < 0:
			v.wrong(&v.lost, j, "%v did not come", p)
			continue
		case here < 0:
			maybe[before]++
		case before < 0:
			surely[here]++
		default:
			maybe[here]++
		}
		v.missed++
	}
	for i, e := range j.heard {
		switch {
		case e.id != "":
		case e.missed > 0 && (int(e.missed) < surely[i] || int(e.missed) > surely[i]+maybe[i]):
			v.wrong(&v.untrue, j, "%d messages are missing at %v (%s), it says, but it is %d, or up to %d more", e.missed, e.position, e.reason, surely[i], maybe[i])
		case surely[i] == 0 && !broker.IsPattern(j.name):
			v.wrong(&v.untrue, j, "something is missing at %v (%s), it says, but nothing is", e.position, e.reason)
		}
	}
	return v
}

// gapAt returns the gap in which something is missing that would have been heard
// right before an entry, or -1.
func (j *journal) gapAt(at int) int {
	switch {
	case at < len(j.heard) && j.heard[at].id == "":
		return at
	case at > 0 && j.heard[at-1].vague:
		return at - 1
	}
	return -1
}

// hole returns the gap before an entry that may have made a hole in a channel, or
// -1: of the channels of a pattern, some may be kept shorter than others, and
// then a hole is up to the first message that comes from such a one.
func (j *journal) hole(at int, channel string) int {
	if !broker.IsPattern(j.name) {
		return -1
	}
	for i := at - 1; i >= 0; i-- {
		if e := j.heard[i]; e.id == "" && (e.reason == "expired" || e.reason == "lost") {
			return i
		} else if e.channel == channel {
			return -1
		}
	}
	return -1
}

// positionText is a position as a predecessor has it.
func positionText(p fanfare.Position) string {
	if p.IsZero() {
		return ""
	}
	return p.String()
}
