package fanfare_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/broker"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

// A reader reads channels, or patterns, until it has all of them to the end. Its
// connections are cut; each time it comes back and goes on where it was.
type reader struct {
	t        testing.TB
	addr     string
	who      string
	rnd      *rand.Rand
	begin    func(*reader, *call) error // one of faces
	names    []string                   // what it reads
	journals map[string]*journal        // by name
	ends     int                        // how many curtains there are yet to come
	cuts     *cutting

	resumed []time.Duration // how long it took until it had what is new again
}

// cutting is how the readers of a test are cut. All of it is shared.
type cutting struct {
	ways   []cut         // how connections end; nil: all ways there are
	mean   time.Duration // for how long a connection lasts
	away   time.Duration // for how long a reader stays away, at most
	narrow bool          // half of the readers take little at a time
	over   atomic.Bool   // nobody is cut any more
	count  [len(cutNames)]atomic.Int64
	ended  atomic.Int64 // by the server, unasked

	mu     sync.Mutex // guards the following
	holes  []net.Conn // black ones
	strays []string   // how connections ended that nobody cut
}

// A cut is how a connection ends.
type cut int

const (
	uncut    cut = iota
	resets       // by a reset, most often within a frame
	hangsUp      // by a close of the socket, unread bytes or not
	finishes     // our direction ends, and the server sees it
	closes       // in good order
	breaks       // the rules: the server closes
	freezes      // nothing is read until the server has lost its patience
	vanishes     // nothing is read or said any more, and nobody ends it
)

var cutNames = [...]string{"not cut", "reset", "hung up", "finished", "closed", "broke the rules", "froze", "vanished"}

func (c *cutting) String() string {
	var s []string
	for i := range c.count {
		s = append(s, fmt.Sprintf("%d %s", c.count[i].Load(), cutNames[i]))
	}
	return strings.Join(s, ", ") + fmt.Sprintf("; %d ended by the server", c.ended.Load())
}

// total is how many connections were cut.
func (c *cutting) total() (n int64) {
	for i := range c.count {
		if cut(i) != uncut {
			n += c.count[i].Load()
		}
	}
	return n
}

// fillHoles ends what vanished.
func (c *cutting) fillHoles() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.holes {
		conn.Close()
	}
	c.holes = nil
}

// A call is one connection of a reader's.
type call struct {
	*person
	wire  *fuse
	how   cut
	began time.Time
	live  bool         // it has something that is newer than the connection
	next  func() error // takes the next of what comes
	last  func() error // finds that nothing more comes
}

// A fuse is a connection from which so many bytes can be read, and then something
// happens.
type fuse struct {
	net.Conn
	left int
	blow func() error
}

func (f *fuse) Read(b []byte) (int, error) {
	if f.left == 0 && f.blow != nil {
		if err := f.blow(); err != nil {
			return 0, err
		}
		f.blow = nil
	}
	if f.blow != nil {
		b = b[:min(len(b), f.left)]
	}
	n, err := f.Conn.Read(b)
	f.left -= n
	return n, err
}

// read reads to the end.
func (r *reader) read() error {
	var over time.Time // since then nobody is cut any more
	for over.IsZero() || time.Since(over) < 2*patience {
		if over.IsZero() && r.cuts.over.Load() {
			over = time.Now()
		}
		c, err := r.call()
		if err == nil {
			err = r.listen(c)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, errSevered) {
			return fmt.Errorf("%s: %w", r.who, err)
		}
		if r.cuts.away > 0 {
			time.Sleep(time.Duration(r.rnd.Int64N(int64(r.cuts.away))))
		}
	}
	return fmt.Errorf("%s: %d channels have not come to their end, though nobody is cut any more", r.who, r.ends)
}

// call connects.
func (r *reader) call() (*call, error) {
	conn, err := net.Dial("tcp", r.addr)
	if err != nil {
		return nil, err
	}
	if r.cuts.narrow && r.rnd.IntN(2) == 0 {
		conn.(*net.TCPConn).SetReadBuffer(8 << 10)
	}
	c := &call{wire: &fuse{Conn: conn}, began: time.Now()}
	c.person = &person{t: r.t, conn: c.wire, r: bufio.NewReader(c.wire)}
	switch ways := r.cuts.ways; {
	case r.cuts.over.Load():
	case ways != nil:
		c.how = ways[r.rnd.IntN(len(ways))]
	default:
		c.how = cut(1 + r.rnd.IntN(len(cutNames)-1))
	}
	r.cuts.count[c.how].Add(1)
	return c, nil
}

// threaten has the connection cut, sooner or later.
func (r *reader) threaten(c *call) (unthreaten func()) {
	after := time.Duration(r.rnd.ExpFloat64() * float64(r.cuts.mean))
	c.wire.left = int(r.rnd.ExpFloat64() * 10_000)
	conn := c.wire.Conn.(*net.TCPConn)
	var act func()
	switch c.how {
	case uncut:
		after, act = patience, func() { conn.Close() } // it should be over long before
	case resets:
		c.wire.blow = func() error { return errSevered }
		act = func() { reset(conn) }
	case hangsUp:
		c.wire.blow = func() error { return errSevered }
		act = func() { conn.Close() }
	case finishes:
		act = func() { conn.CloseWrite() }
	case closes:
		act = func() { conn.Write(masked(frame.Close, true, "\x03\xe8")) }
	case breaks:
		act = func() { conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }
	case freezes:
		c.wire.blow = func() error { time.Sleep(after/4 + 1200*time.Millisecond); return nil }
		return func() {}
	case vanishes:
		c.wire.blow = func() error { return errSevered }
		return func() {}
	}
	timer := time.AfterFunc(after, act)
	return func() { timer.Stop() }
}

// listen listens until the connection ends: then the error is errSevered, unless
// something was wrong. Without an error all is read.
func (r *reader) listen(c *call) error {
	end := func() { c.wire.Close() }
	defer func() { end() }()
	defer r.threaten(c)()
	err := r.begin(r, c)
	for err == nil && r.ends > 0 {
		err = c.next()
	}
	if err == nil {
		c.wire.blow = nil
		if c.how == uncut {
			err = c.last()
		}
		return err
	}
	switch {
	case c.how == vanishes && errors.Is(err, errSevered):
		end = func() {}
		r.cuts.mu.Lock()
		r.cuts.holes = append(r.cuts.holes, c.wire.Conn)
		r.cuts.mu.Unlock()
	case c.how == resets:
		end = func() { reset(c.wire.Conn) }
	case c.how == uncut, c.how == vanishes:
		r.cuts.ended.Add(1)
		r.cuts.mu.Lock()
		r.cuts.strays = append(r.cuts.strays, fmt.Sprintf("%s after %v: %v", r.who, time.Since(c.began), err))
		r.cuts.mu.Unlock()
	}
	var wrong wrongError
	if errors.As(err, &wrong) {
		return err
	}
	return errSevered
}

// A wrongError is what must not happen, however connections are cut.
type wrongError struct{ error }

func wrong(format string, a ...any) error { return wrongError{fmt.Errorf(format, a...)} }

// dial asks for a WebSocket.
func (c *call) dial(path string, headers ...string) error {
	if _, err := io.WriteString(c.conn, upgrade("reader", path, headers...)); err != nil {
		return err
	}
	c.conn.SetReadDeadline(time.Now().Add(patience))
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return err
	}
	c.head = resp.Header
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		if c.how == breaks || c.how == closes || resp.StatusCode == http.StatusRequestTimeout {
			return errSevered // before it asked, or before it was answered
		}
		return wrong("joining %s: %s: %s", path, resp.Status, body)
	}
	return nil
}

// hears returns the next text, or the pong that comes before it.
func (c *call) hears() (frame.Opcode, []byte, error) {
	for {
		op, payload, err := c.person.next()
		if err != nil {
			return 0, nil, err
		}
		switch op {
		case frame.Text, frame.Pong:
			return op, payload, nil
		case frame.Ping:
			c.conn.Write(masked(frame.Pong, true, string(payload)))
		case frame.Close:
			code, reason, err := frame.ParseClose(payload)
			if err != nil {
				return 0, nil, wrong("close %x: %v", payload, err)
			}
			c.conn.Write(masked(frame.Close, true, ""))
			return 0, nil, fmt.Errorf("closed with %d %q", code, reason)
		default:
			return 0, nil, wrong("%v %x", op, payload)
		}
	}
}

// take notes a message.
func (r *reader) take(c *call, name, channel, position, predecessor string, data []byte) error {
	j := r.journals[name]
	if j == nil {
		return wrong("a message for %q, which was not subscribed to", name)
	}
	id, at, err := dataIn(data)
	if err != nil {
		return wrongError{err}
	}
	if err := j.hear(id, channel, position, predecessor); err != nil {
		return wrongError{err}
	}
	if strings.HasPrefix(id, curtainID) {
		r.ends--
	}
	if !c.live && at >= c.began.UnixNano() {
		c.live = true
		r.resumed = append(r.resumed, time.Since(c.began))
	}
	return nil
}

// curtainID begins the id of the last message of a channel.
const curtainID = "0-"

// v1 speaks fanfare.v1: over a connection without a channel, or one with the first
// of those that it reads.
func (r *reader) v1(c *call) error {
	names, path := r.names, "/-/connect"
	if r.rnd.IntN(2) == 0 {
		path = "/" + names[0] + "?since=" + r.journals[names[0]].at.String()
		names = names[1:]
	}
	if err := c.dial(path, askV1); err != nil {
		return err
	}
	slow := []string{"catch-up", "close", ""}[r.rnd.IntN(3)]
	var b []byte
	for _, i := range r.rnd.Perm(len(names)) {
		s := protocol.Command{Type: protocol.Subscribe, Channel: names[i], Since: r.journals[names[i]].at.String(), Slow: slow}
		b = frame.AppendMasked(b, frame.Text, true, testKey, s.Append(nil))
	}
	if _, err := c.conn.Write(b); err != nil {
		return err
	}
	c.next = func() error {
		_, err := r.event(c)
		return err
	}
	c.last = func() error {
		if _, err := c.conn.Write(masked(frame.Text, true, `{"type":"ping","id":"last"}`)); err != nil {
			return err
		}
		for {
			switch e, err := r.event(c); {
			case err != nil:
				return err
			case e.Type == "ok" && e.ID == "last":
				return nil
			}
		}
	}
	return nil
}

// event takes the next of what the server says.
func (r *reader) event(c *call) (protocol.Event, error) {
	op, text, err := c.hears()
	if err != nil {
		return protocol.Event{}, err
	}
	e, err := protocol.ParseEvent(text)
	if err != nil || op != frame.Text {
		return e, wrong("%v %q: %v", op, text, err)
	}
	return e, r.takeEvent(c, &e)
}

func (r *reader) takeEvent(c *call, e *protocol.Event) error {
	name := e.Channel
	if e.Pattern != "" {
		name = e.Pattern
	}
	switch e.Type {
	case "message":
		return r.take(c, name, e.Channel, e.Position, e.Predecessor, e.Data)
	case "gap":
		if j := r.journals[name]; j != nil {
			if err := j.gap(e.Reason, e.Missed, e.Position); err == nil {
				return nil
			}
		}
		return wrong("a gap that makes no sense: %s", e.Append(nil))
	case "welcome", "heartbeat":
	case "ok":
		if e.ID == "" {
			return wrong("an answer without an id: %s", e.Append(nil))
		}
	case "bye":
		if why := e.Code; why == "timeout" || why == "protocol" && c.how != breaks {
			return wrong("%s", e.Append(nil))
		}
	default:
		return wrong("%s", e.Append(nil))
	}
	return nil
}

// plain speaks plain, and has each message's position in a Pong behind it; in
// what comes of a pattern it stands in the message.
func (r *reader) plain(c *call) error {
	j := r.journals[r.names[0]]
	wild := strings.Contains(j.name, "*")
	ask := "Fanfare-Position: pong"
	if wild {
		ask = "Fanfare-Position: no"
	}
	slow := []string{"&slow=catch-up", "&slow=close", ""}[r.rnd.IntN(3)]
	if err := c.dial("/"+j.name+"?since="+j.resume()+slow, ask); err != nil {
		return err
	}
	over := false
	c.next = func() error {
		op, text, err := c.hears()
		switch {
		case err != nil:
			return err
		case op == frame.Pong && string(text) == "last":
			over = true
			return nil
		case op == frame.Pong:
			return wrong("a pong %q behind nothing", text)
		case len(text) > 13 && string(text[9:13]) == "] * ":
			// Where reading goes on is not said, but by the next message.
			var missed int64
			fmt.Sscanf(string(text[13:]), "%d message", &missed)
			reason := "expired"
			if strings.HasSuffix(string(text), " skipped") {
				reason = "outrun"
			}
			return j.gap(reason, missed, "")
		case wild:
			e, err := protocol.ParseEvent(text)
			if err != nil || e.Type != "message" {
				return wrong("%q: %v", text, err)
			}
			return r.takeEvent(c, &e)
		}
		op, position, err := c.hears()
		switch {
		case err != nil:
			return err
		case op != frame.Pong:
			return wrong("behind a message comes %v %q", op, position)
		}
		return r.take(c, j.name, j.name, string(position), "?", text)
	}
	c.last = func() error {
		if _, err := c.conn.Write(masked(frame.Ping, true, "last")); err != nil {
			return err
		}
		for !over {
			if err := c.next(); err != nil {
				return err
			}
		}
		return nil
	}
	return nil
}

// events reads server-sent events as a browser does: it comes back with the id that
// it heard last.
func (r *reader) events(c *call) error {
	j := r.journals[r.names[0]]
	return r.overHTTP(c, "/"+j.name, asEvents, "Last-Event-ID: "+j.at.String())
}

// lines reads lines of JSON.
func (r *reader) lines(c *call) error {
	j := r.journals[r.names[0]]
	return r.overHTTP(c, "/"+j.name+"?since="+j.at.String(), asLines)
}

func (r *reader) overHTTP(c *call, path string, headers ...string) error {
	l, err := listenOn(r.t, c.wire, path, headers...)
	if err != nil {
		if c.how == breaks || c.how == closes {
			return errSevered // before it asked
		}
		return err
	}
	c.next = func() error {
		e, err := l.next()
		switch {
		case err != nil:
		case e.Type == "ok" || e.Type == "welcome":
			return wrong("%s", e.Append(nil))
		default:
			err = r.takeEvent(c, &e)
		}
		if l.sse { // also where no message is: it is what a browser would say
			r.journals[r.names[0]].at, _ = broker.ParsePosition(l.at)
		}
		return err
	}
	c.last = func() error {
		for {
			e, err := l.next()
			if err != nil {
				return err
			}
			if e.Type == "heartbeat" {
				return nil
			}
			if err := r.takeEvent(c, &e); err != nil {
				return err
			}
		}
	}
	return nil
}
