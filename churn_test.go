package fanfare_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare"
	"fanfare/broker"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

// Hundreds of visitors come, freeze, break the rules, vanish in the middle of
// everything and come again, while a few steady readers check that they get
// every message, once, in order and in time. When all have left, the server holds
// as many descriptors and goroutines as before, and no more heap.
//
// FANFARE_CHURN is how long: twenty seconds if it is not set; make test sets two
// minutes, ci/soak.sh half an hour.
func TestChurn(t *testing.T) {
	long := 20 * time.Second
	if v := os.Getenv("FANFARE_CHURN"); v != "" {
		var err error
		if long, err = time.ParseDuration(v); err != nil || long <= 0 {
			t.Fatalf("FANFARE_CHURN is %q; it must be a duration, as in 30m", v)
		}
	}
	for _, transport := range transports {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			seed := uint64(time.Now().UnixNano())
			t.Logf("%v, seed %d", long, seed)
			c := &churn{t: t, outpost: open(t, transport, "churn"), seed: seed, come: make([]atomic.Int64, len(visits)),
				web: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}, Timeout: patience}}
			c.act(5 * time.Second) // what is made once and kept is there after this
			c.forgotten()
			before := c.settled()
			c.act(long)
			c.forgotten()
			c.deserted(before, churnTolerance)

			ended := c.holds().Ended
			for _, how := range []string{"client", "lost", "silent", "slow", "stuck", "protocol", "timeout"} {
				if ended[how] == 0 {
					t.Errorf("no connection ended as %q: %v", how, ended)
				}
			}
		})
	}
}

// churnConfig has short times, so that all of it happens often, and is over and
// forgotten soon; but not shorter than a busy machine may keep an honest client waiting.
var churnConfig = fanfare.Config{
	History: 64, HistoryAge: 2 * time.Second, HistoryBytes: 256 << 10,
	Heartbeat: time.Second, HeartbeatTimeout: late, WriteTimeout: 1500 * time.Millisecond, MessageTimeout: late,
	MaxMessage: 64 << 10, MaxLag: 128 << 10,
	Hooks: fanfare.Hooks{Publish: func(_ context.Context, m *fanfare.Message) error {
		if strings.HasPrefix(m.Channel, "passing/") {
			time.Sleep(rand.N(10 * time.Millisecond)) // meanwhile its client does whatever it does
		}
		return nil
	}},
}

// churnTolerance is how many bytes the heap may have grown, however long the
// churn was: maps keep the size that they had when most were here.
const churnTolerance = 128 << 10

// crowd is how many visitors there are at once.
const crowd = 300

// A churn is one server and those who come to it.
//
// Its channels: in "flow" one steady speaker counts, and others only listen; in
// "plaza" everybody talks; "own/…" and "passing/…" come into being and vanish.
type churn struct {
	*outpost
	t    *testing.T
	seed uint64
	web  *http.Client

	come   []atomic.Int64 // by visit
	spoken atomic.Int64   // what the speaker has said, in all acts
	heard  atomic.Int64   // by steady readers
	worst  atomic.Int64   // delay of a message to a steady reader, in nanoseconds
	acts   uint64
}

// act lets everybody come and go for d, and returns when all have left.
func (c *churn) act(d time.Duration) {
	begin := time.Now()
	c.acts++
	over := make(chan struct{})
	var steady, visitors, others sync.WaitGroup
	stay := func(path string, listen func(*person)) *person {
		p, resp, err := meet(c.t, c.addr, path, "Fanfare-Position: pong")
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			c.t.Fatalf("a steady reader is not let in: %v %v", resp, err)
		}
		steady.Go(func() {
			defer p.conn.Close()
			listen(p)
			p.leave()
		})
		return p
	}
	speaker := stay("/flow", c.follows)
	for range 3 {
		stay("/flow", c.follows)
	}
	var seen [2][]broker.Position // in the plaza, by each witness
	for i := range seen {
		stay("/plaza", func(p *person) { seen[i] = c.witnesses(p) })
	}
	for i := range crowd {
		visitors.Go(func() {
			v := &visitor{churn: c, id: i, rnd: rand.New(rand.NewPCG(c.seed, c.acts<<32|uint64(i)))}
			for !c.t.Failed() {
				select {
				case <-over:
					return
				case <-time.After(time.Duration(v.rnd.IntN(300)) * time.Millisecond):
				}
				n := v.rnd.IntN(len(visits))
				c.come[n].Add(1)
				visits[n].pay(v)
			}
		})
	}
	silence := make(chan struct{})
	others.Go(func() {
		rnd := rand.New(rand.NewPCG(c.seed, c.acts<<32|1<<31))
		pause := time.NewTicker(20 * time.Millisecond)
		defer pause.Stop()
		for {
			select {
			case <-silence:
				speaker.say(curtain)
				return
			case <-pause.C:
			}
			size := 200
			if rnd.IntN(4) == 0 {
				size = 8 << 10
			}
			speaker.say(fmt.Sprintf("%d %d %s", c.spoken.Add(1), time.Now().UnixNano(), strings.Repeat("~", size)))
		}
	})
	others.Go(func() {
		report := time.NewTicker(10 * time.Second)
		defer report.Stop()
		for {
			select {
			case <-silence:
				return
			case <-report.C:
			}
			h := c.holds()
			c.t.Logf("%4.0fs: %d visits, %d messages to steady readers, at most %.0f ms late; %v", time.Since(begin).Seconds(), c.visits(), c.heard.Load(), float64(c.worst.Load())/1e6, h)
		}
	})
	timer := time.AfterFunc(d, func() { close(over) })
	visitors.Wait()
	timer.Stop()
	close(silence)
	others.Wait()
	c.post("plaza", curtain)
	steady.Wait()
	if !slices.Equal(seen[0], seen[1]) {
		c.t.Errorf("one witness of the plaza saw %d messages, the other %d, or not the same", len(seen[0]), len(seen[1]))
	}
	c.web.CloseIdleConnections()
	if c.t.Failed() {
		c.t.Fatalf("what is left: %s", c.left())
	}
	for n, v := range visits {
		if c.come[n].Load() == 0 {
			c.t.Errorf("nobody %s", v.how)
		}
	}
	c.t.Logf("%d visits in %v, %d messages to steady readers, at most %.0f ms late", c.visits(), time.Since(begin).Round(time.Millisecond), c.heard.Load(), float64(c.worst.Load())/1e6)
}

func (c *churn) visits() (all int64) {
	for i := range c.come {
		all += c.come[i].Load()
	}
	return all
}

// curtain is the last message of an act.
const curtain = "curtain"

func (c *churn) post(channel, text string) {
	resp, err := c.web.Post("http://"+c.addr+"/"+channel, "text/plain", strings.NewReader(text))
	if err != nil {
		c.t.Errorf("POST: %v", err)
		return
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		c.t.Errorf("POST: %s %s %v", resp.Status, body, err)
	}
}

// forgotten waits until the broker has forgotten what was said in the channels:
// then it has nothing of the act any more.
func (c *churn) forgotten() {
	c.t.Helper()
	eventually(c.t, "the channels are forgotten", func() bool {
		defer c.web.CloseIdleConnections()
		for _, channel := range []string{"flow", "plaza"} { // the last that were published to
			resp, err := c.web.Get("http://" + c.addr + "/" + channel)
			if err != nil {
				c.t.Fatal(err)
			}
			page, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || !bytes.Contains(page, []byte(`"messages":[]`)) {
				return false
			}
		}
		return true
	})
}

// late is how late a message may be to a steady reader, on a machine whose
// processors have much else to do.
const late = 5 * time.Second

// follows is a steady reader of the flow.
func (c *churn) follows(p *person) {
	f := follower{next: c.spoken.Load() + 1}
	for {
		text := p.said()
		if text == curtain {
			break
		}
		at, err := f.take(text)
		if err != nil {
			c.t.Fatalf("a steady reader of the flow: %v", err)
		}
		if f.missed > 0 {
			c.t.Fatalf("a steady reader is told: %s", text)
		}
		delay := time.Since(at)
		for worst := c.worst.Load(); int64(delay) > worst && !c.worst.CompareAndSwap(worst, int64(delay)); worst = c.worst.Load() {
		}
		if delay > late {
			c.t.Fatalf("a message took %v to a steady reader", delay)
		}
		c.heard.Add(1)
	}
	if f.next != c.spoken.Load()+1 {
		c.t.Fatalf("the act is over, and a steady reader waits for message %d of %d", f.next, c.spoken.Load())
	}
}

// witnesses is a steady reader of the plaza: what came through is whole, and in
// order. It returns the positions.
func (c *churn) witnesses(p *person) (seen []broker.Position) {
	at, err := broker.ParsePosition(p.head.Get("Fanfare-Position"))
	if err != nil {
		c.t.Fatal(err)
	}
	for text := ""; text != curtain; c.heard.Add(1) {
		text = p.said()
		if text != curtain && !isWord(text) {
			c.t.Fatalf("half a message came through: %.100q", text)
		}
		op, payload, err := p.next()
		now, bad := broker.ParsePosition(string(payload))
		if err != nil || op != frame.Pong || bad != nil {
			c.t.Fatalf("behind a message comes %v %.100q %v, want its position", op, payload, err)
		}
		if now.Epoch != at.Epoch || now.Offset <= at.Offset {
			c.t.Fatalf("after %v comes %v", at, now)
		}
		at = now
		seen = append(seen, now)
	}
	return seen
}

// A follower checks that the flow comes in order and each message once, or that
// it is said how many are missing.
type follower struct {
	next   int64 // number of the message expected next; 0: any
	missed int64
}

// take returns when a message of the flow was sent. A notice of a gap has no time.
func (f *follower) take(text string) (time.Time, error) {
	var n, nanos int64
	if _, err := fmt.Sscanf(text, "* %d message", &n); err == nil {
		f.missed += n
		if f.next > 0 {
			f.next += n
		}
		return time.Time{}, nil
	}
	if strings.HasPrefix(text, "* history does not reach back") { // how many is not known
		f.missed++
		f.next = 0
		return time.Time{}, nil
	}
	head, _, _ := strings.Cut(text, " ~")
	if _, err := fmt.Sscanf(head, "%d %d", &n, &nanos); err != nil {
		return time.Time{}, fmt.Errorf("this is no message of the flow: %.100q", text)
	}
	if f.next > 0 && n != f.next {
		return time.Time{}, fmt.Errorf("message %d comes, expected was %d", n, f.next)
	}
	f.next = n + 1
	return time.Unix(0, nanos), nil
}

// A visitor pays one visit after the other.
type visitor struct {
	*churn
	id    int
	rnd   *rand.Rand
	words int
}

// visits are the ways of coming and going. Some last as long as it takes the
// server to lose its patience.
var visits = []struct {
	how string
	pay func(*visitor)
}{
	{"says something, hears it and leaves in good order", func(v *visitor) {
		p := v.join(v.somewhere())
		v.talks(p, v.rnd.IntN(2000))
		v.leaves(p)
	}},
	{"says something long in fragments, pings between them, and leaves", func(v *visitor) {
		p := v.join(v.somewhere())
		text := v.word(1 + v.rnd.IntN(60_000))
		p.raw(torn(text, 1+v.rnd.IntN(5), true))
		v.hears(p, text)
		v.leaves(p)
	}},
	{"looks into a channel that nobody else is in", func(v *visitor) {
		p := v.join(fmt.Sprintf("/own/%d/%d", v.id, v.rnd.Uint32()))
		v.talks(p, 10)
		v.leaves(p)
	}},
	{"looks into a channel that others are leaving", func(v *visitor) {
		p := v.join(fmt.Sprintf("/passing/%d", v.rnd.IntN(10)))
		v.talks(p, 10)
		v.leaves(p)
	}},
	{"ends its direction without a close", func(v *visitor) {
		p := v.join(v.somewhere())
		v.talks(p, 10)
		p.conn.(*net.TCPConn).CloseWrite()
		p.ended()
		p.conn.Close()
	}},
	{"hangs up without a close", func(v *visitor) {
		v.join(v.somewhere()).conn.Close()
	}},
	{"is reset while nothing happens", func(v *visitor) {
		p := v.join(v.somewhere())
		v.talks(p, 10)
		reset(p.conn)
	}},
	{"is reset within a frame's header", func(v *visitor) {
		p := v.join(v.somewhere())
		v.begins(p, masked(frame.Text, true, v.word(1000))[:1+v.rnd.IntN(7)])
		reset(p.conn)
	}},
	{"is reset within a payload", func(v *visitor) {
		p := v.join(v.somewhere())
		b := masked(frame.Text, true, v.word(1+v.rnd.IntN(60_000)))
		v.begins(p, b[:9+v.rnd.IntN(len(b)-9)])
		reset(p.conn)
	}},
	{"is reset within a message of fragments", func(v *visitor) {
		p := v.join(v.somewhere())
		b := torn(v.word(1000+v.rnd.IntN(50_000)), 2+v.rnd.IntN(3), false)
		v.begins(p, b[:len(b)-1-v.rnd.IntN(300)])
		reset(p.conn)
	}},
	{"hangs up within a message", func(v *visitor) {
		p := v.join(v.somewhere())
		p.raw(torn(v.word(1000), 2, false)[:500])
		p.conn.Close()
	}},
	{"does not finish its message", func(v *visitor) {
		p := v.join(v.nowhere())
		p.raw(masked(frame.Text, true, v.word(1000))[:1+v.rnd.IntN(900)])
		v.closed(p, frame.PolicyViolation)
	}},
	{"connects and says nothing", func(v *visitor) {
		v.ends(v.dial(""))
	}},
	{"vanishes within its request", func(v *visitor) {
		request := upgrade(v.addr, v.somewhere())
		v.ends(v.dial(request[:1+v.rnd.IntN(len(request)-1)]))
	}},
	{"vanishes behind its request, before it reads the answer", func(v *visitor) {
		v.ends(v.dial(upgrade(v.addr, v.somewhere())))
	}},
	{"vanishes behind its request and its first message", func(v *visitor) {
		v.ends(v.dial(upgrade(v.addr, v.somewhere()) + string(masked(frame.Text, true, v.word(3000))[:3000])))
	}},
	{"freezes, thaws, and leaves when it has heard enough", func(v *visitor) {
		p := v.freezes(2 * time.Second)
		defer p.conn.Close()
		var f follower
		// If it was cut meanwhile, its answers to old pings reset the connection.
		switch code, err := v.flows(p, &f, 10+v.rnd.IntN(50)); {
		case err != nil || code == frame.TryAgainLater || code == frame.InternalError:
		case code != 0:
			v.t.Errorf("a reader who thaws is closed with %v", code)
		default:
			p.conn.Write(masked(frame.Close, true, ""))
			v.flows(p, &f, 1<<30)
		}
	}},
	{"freezes, and hangs up", func(v *visitor) {
		v.freezes(3 * time.Second).conn.Close()
	}},
	{"freezes, and is reset", func(v *visitor) {
		reset(v.freezes(3 * time.Second).conn)
	}},
	{"freezes, and closes without reading", func(v *visitor) {
		p := v.freezes(time.Second)
		p.conn.Write(masked(frame.Close, true, ""))
		v.passes(3 * time.Second)
		p.conn.Close()
	}},
	{"freezes until it is cut off", func(v *visitor) {
		p := v.freezes(6 * time.Second)
		v.closed(p, frame.TryAgainLater, frame.InternalError)
	}},
	{"reads, and answers no ping", func(v *visitor) {
		v.closed(v.join(v.nowhere()), frame.InternalError)
	}},
	{"breaks the protocol", func(v *visitor) {
		p := v.join(v.somewhere())
		breach := []struct {
			raw  []byte
			code frame.Code
		}{
			{[]byte{0x81, 0x02, 'h', 'i'}, frame.ProtocolError},
			{[]byte{0x83, 0x80, 1, 2, 3, 4}, frame.ProtocolError},
			{[]byte("GET / HTTP/1.1\r\n\r\n"), frame.ProtocolError},
			{[]byte{0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0, 1}, frame.MessageTooBig},
			{torn(strings.Repeat("x", 64<<10+1), 3, false), frame.MessageTooBig},
			{masked(frame.Text, true, "a\xffb"), frame.InvalidPayload},
		}[v.rnd.IntN(6)]
		p.raw(breach.raw)
		v.closed(p, breach.code)
	}},
	{"pings and pings, and vanishes", func(v *visitor) {
		p := v.join(v.somewhere())
		p.conn.Write(bytes.Repeat(masked(frame.Ping, true, strings.Repeat("p", 125)), 1+v.rnd.IntN(500)))
		v.ends(p.conn)
	}},
	{"pings and pings, and reads on", func(v *visitor) {
		p := v.join(v.nowhere())
		p.raw(append(bytes.Repeat(masked(frame.Ping, true, "p"), 500), masked(frame.Ping, true, "last")...))
		v.pinged(p, "last")
		v.leaves(p)
	}},
	{"says something and closes at once", func(v *visitor) {
		p := v.join(v.somewhere())
		text := v.word(v.rnd.IntN(3000))
		p.raw(append(masked(frame.Text, true, text), masked(frame.Close, true, "\x03\xe8")...))
		v.hears(p, text)
		v.closed(p, frame.NormalClosure)
	}},
	{"says something and is reset at once", func(v *visitor) {
		p := v.join(v.somewhere())
		p.raw(masked(frame.Text, true, v.word(v.rnd.IntN(3000))))
		reset(p.conn)
	}},
	{"loses its connection and resumes", func(v *visitor) {
		var f follower
		since := ""
		for range 3 {
			p := v.join("/flow?since="+since, "Fanfare-Position: pong")
			if code, err := v.flows(p, &f, 1+v.rnd.IntN(20)); code != 0 || err != nil {
				v.t.Errorf("who resumes is closed: %v %v", code, err)
			}
			op, position, err := p.next()
			if op != frame.Pong || err != nil {
				v.t.Errorf("behind a message comes %v %.100q %v", op, position, err)
			}
			since = string(position)
			reset(p.conn)
			v.passes(time.Second)
		}
	}},
	{"listens over HTTP, and is gone", func(v *visitor) {
		path := v.somewhere()
		if v.rnd.IntN(3) == 0 {
			path = "/passing/*"
		}
		l := v.listens(path)
		if path == "/plaza" {
			for range v.rnd.IntN(5) {
				l.event()
			}
		}
		switch v.rnd.IntN(3) {
		case 0:
			l.conn.Close()
		case 1:
			reset(l.conn)
		case 2:
			l.conn.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, l.r)
			l.conn.Close()
		}
	}},
	{"listens over HTTP, and freezes", func(v *visitor) {
		l := v.listens("/flow?slow=" + []string{"catch-up", "skip", "latest", "close"}[v.rnd.IntN(4)])
		l.conn.(*net.TCPConn).SetReadBuffer(32 << 10)
		v.passes(6 * time.Second)
		defer reset(l.conn)
		if v.rnd.IntN(4) == 0 {
			return
		}
		var f follower
		if e, err := v.streams(l, &f, 1+v.rnd.IntN(10)); err == nil && e.Type == "bye" && e.Code != "too_slow" && e.Code != "stuck" {
			v.t.Errorf("a listener who thaws is told %s", e.Append(nil))
		}
	}},
	{"listens over HTTP, loses its connection and resumes", func(v *visitor) {
		var f follower
		since := ""
		for range 3 {
			l := v.listens("/flow?since=" + since)
			if e, err := v.streams(l, &f, 1+v.rnd.IntN(20)); e.Type == "bye" || err != nil {
				v.t.Errorf("who resumes is told %s %v", e.Append(nil), err)
			}
			since = l.at
			reset(l.conn)
			v.passes(time.Second)
		}
	}},
	{"publishes many in one POST, and vanishes", func(v *visitor) {
		var lines []byte
		for range 1 + v.rnd.IntN(8) { // more at once would outrun those who listen
			lines = fmt.Appendf(lines, "{\"data\":%q}\n", v.word(v.rnd.IntN(500)))
		}
		whole := fmt.Sprintf("POST /plaza HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n%s", len(lines), lines)
		v.ends(v.dial(whole[:len(whole)-v.rnd.IntN(len(lines))]))
	}},
	{"publishes by POST", func(v *visitor) {
		v.post("plaza", v.word(v.rnd.IntN(3000)))
	}},
	{"vanishes within a POST", func(v *visitor) {
		v.ends(v.dial("POST /plaza HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n" + v.word(1000)))
	}},
	{"reads history", func(v *visitor) {
		resp, err := v.web.Get("http://" + v.addr + "/flow")
		if err != nil {
			v.t.Errorf("history: %v", err)
			return
		}
		defer resp.Body.Close()
		if page, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(page, []byte(`"gap":false`)) {
			v.t.Errorf("history: %s %.200q %v", resp.Status, page, err)
		}
	}},
}

// somewhere returns a channel in which much is said, or little, or nothing.
func (v *visitor) somewhere() string {
	switch v.rnd.IntN(3) {
	case 0:
		return "/plaza"
	case 1:
		return fmt.Sprintf("/passing/%d", v.rnd.IntN(10))
	}
	return v.nowhere()
}

// nowhere returns a channel of this visitor's own.
func (v *visitor) nowhere() string { return fmt.Sprintf("/own/%d", v.id) }

func (v *visitor) join(path string, headers ...string) *person {
	p, resp, err := meet(v.t, v.addr, path, headers...)
	if err != nil {
		v.t.Fatalf("joining %s: %v", path, err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		v.t.Fatalf("joining %s: %s: %s", path, resp.Status, body)
	}
	return p
}

// dial connects and sends what may be a request.
func (v *visitor) dial(request string) net.Conn {
	conn, err := net.Dial("tcp", v.addr)
	if err != nil {
		v.t.Fatal(err)
	}
	io.WriteString(conn, request)
	return conn
}

// ends ends a connection this way or another, of which one is to wait until the
// server does, if it will.
func (v *visitor) ends(conn net.Conn) {
	switch v.rnd.IntN(4) {
	case 0:
		conn.Close()
	case 1:
		v.passes(100 * time.Millisecond)
		reset(conn)
	case 2:
		reset(conn)
	case 3:
		conn.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			v.t.Errorf("the server keeps a connection of which it heard nothing for %v", patience)
		}
		conn.Close()
	}
}

// reset ends a connection by a TCP reset.
func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}

// passes lets up to d pass.
func (v *visitor) passes(d time.Duration) { time.Sleep(time.Duration(v.rnd.Int64N(int64(d)))) }

// word returns a text that shows whether it is whole, which nobody else says.
func (v *visitor) word(length int) string {
	v.words++
	return fmt.Sprintf("%d %s %d/%d.", length, strings.Repeat("w", length), v.id, v.words)
}

func isWord(text string) bool {
	length, rest, _ := strings.Cut(text, " ")
	word, name, _ := strings.Cut(rest, " ")
	return length == fmt.Sprint(len(word)) && strings.HasSuffix(name, ".")
}

// torn returns a text as a message of fragments.
func torn(text string, fragments int, pings bool) (b []byte) {
	op := frame.Text
	for i := range fragments {
		n := len(text) / (fragments - i)
		b = frame.AppendMasked(b, op, i == fragments-1, testKey, []byte(text[:n]))
		text, op = text[n:], frame.Continuation
		if pings {
			b = frame.AppendMasked(b, frame.Ping, true, testKey, nil)
		}
	}
	return b
}

// hears reads until a text comes.
func (v *visitor) hears(p *person, text string) {
	for p.said() != text {
	}
}

// talks says something and hears it.
func (v *visitor) talks(p *person, length int) {
	text := v.word(length)
	p.say(text)
	v.hears(p, text)
}

// begins sends the beginning of something, and a ping before it: when that is
// answered the server has the beginning, too.
func (v *visitor) begins(p *person, b []byte) {
	p.raw(append(masked(frame.Ping, true, "begins"), b...))
	v.pinged(p, "begins")
}

// pinged reads until a pong comes.
func (v *visitor) pinged(p *person, payload string) {
	for {
		op, got, err := p.next()
		if err != nil {
			v.t.Fatalf("waiting for a pong: %v", err)
		}
		if op == frame.Pong && string(got) == payload {
			return
		}
	}
}

// leaves closes in good order.
func (v *visitor) leaves(p *person) {
	p.send(frame.Close, frame.AppendClose(nil, frame.NormalClosure, ""))
	v.closed(p, frame.NormalClosure)
}

// closed finds that the server closes with one of the codes, and answers.
func (v *visitor) closed(p *person, codes ...frame.Code) {
	defer p.conn.Close()
	code, reason := p.closed()
	for _, c := range codes {
		if c == code {
			p.conn.Write(masked(frame.Close, true, ""))
			p.ended()
			return
		}
	}
	v.t.Errorf("closed with %d %q, want %v", code, reason, codes)
}

// freezes listens to the flow with little room for what it does not read, and
// reads nothing for up to d.
func (v *visitor) freezes(d time.Duration) *person {
	p := v.join("/flow?slow=" + []string{"catch-up", "skip", "latest", "close"}[v.rnd.IntN(4)])
	p.conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	v.passes(d)
	return p
}

// listens begins to read over HTTP, in either form.
func (v *visitor) listens(path string) *listener {
	l, err := listenOn(v.t, v.dial(""), path, []string{asEvents, asLines}[v.rnd.IntN(2)])
	if err != nil {
		v.t.Fatalf("listening to %s: %v", path, err)
	}
	return l
}

// streams reads n messages of the flow, unless the server says bye before, which
// it returns.
func (v *visitor) streams(l *listener, f *follower, n int) (protocol.Event, error) {
	for n > 0 {
		e, err := l.next()
		if err != nil {
			return e, err
		}
		text := ""
		switch e.Type {
		case "bye":
			return e, nil
		case "heartbeat":
			continue
		case "gap":
			if text = "* history does not reach back"; e.Missed > 0 {
				text = fmt.Sprintf("* %d messages", e.Missed)
			}
		default:
			if err := json.Unmarshal(e.Data, &text); err != nil {
				return e, err
			}
			n--
		}
		if _, err := f.take(text); err != nil {
			v.t.Errorf("a listener to the flow: %v", err)
			return e, err
		}
	}
	return protocol.Event{}, nil
}

// flows reads n messages of the flow, unless the server closes before.
func (v *visitor) flows(p *person, f *follower, n int) (frame.Code, error) {
	for n > 0 {
		op, payload, err := p.next()
		if err != nil {
			return 0, err
		}
		switch op {
		case frame.Ping:
			p.conn.Write(masked(frame.Pong, true, string(payload)))
		case frame.Close:
			code, _, err := frame.ParseClose(payload)
			return code, err
		case frame.Text:
			at, err := f.take(string(payload[11:]))
			if err != nil {
				v.t.Errorf("a visitor of the flow: %v", err)
				return 0, err
			}
			if !at.IsZero() {
				n--
			}
		}
	}
	return 0, nil
}
