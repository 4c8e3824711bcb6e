package fanfare_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"fanfare/internal/frame"
	"fanfare/protocol"
)

// A publisher publishes, and repeats each publication until it is acknowledged,
// with the same id, over as many connections as that takes. Its connections
// are cut at random: many acknowledgements never reach it.
type publisher struct {
	t        testing.TB
	addr     string
	number   int
	rnd      *rand.Rand
	story    *chronicle
	channels []string
	pause    time.Duration // between batches, at most
	enough   func() bool   // nothing new is published any more; nil: go on
	how      func(*publisher, []publishing) error

	said      int
	conn      *person // of speak; nil: none
	cuts      *atomic.Int64
	lost      *atomic.Int64 // acknowledgements
	published *atomic.Int64
}

// publishing is a publication that was not acknowledged yet.
type publishing struct{ id, channel, data string }

// errSevered says that a connection was cut on purpose.
var errSevered = errors.New("cut")

// publish publishes n messages, unless it is enough before.
func (p *publisher) publish(n int) error {
	defer p.hangUp()
	var owed []publishing
	for n > 0 {
		if p.enough != nil && p.enough() {
			return nil
		}
		for range min(n, 1+p.rnd.IntN(8)) {
			p.said++
			n--
			id := fmt.Sprintf("%d-%d", p.number, p.said)
			owed = append(owed, publishing{id, p.channels[p.rnd.IntN(len(p.channels))], dataOf(id, p.size())})
		}
		for begin := time.Now(); len(owed) > 0; {
			before := len(owed)
			switch err := p.how(p, owed); {
			case err == nil, errors.Is(err, errSevered):
			case time.Since(begin) > patience:
				return fmt.Errorf("publisher %d: %w", p.number, err)
			}
			left := owed[:0]
			for _, o := range owed {
				p.story.mu.Lock()
				_, done := p.story.acked[o.id]
				p.story.mu.Unlock()
				if !done {
					left = append(left, o)
				}
			}
			owed = left
			p.published.Add(int64(before - len(owed)))
		}
		if p.pause > 0 {
			time.Sleep(time.Duration(p.rnd.Int64N(int64(p.pause))))
		}
	}
	return nil
}

// size is how long a message is: mostly short, now and then longer than a
// batch of the server's.
func (p *publisher) size() int {
	switch n := p.rnd.IntN(100); {
	case n == 0:
		return p.rnd.IntN(80 << 10)
	case n < 10:
		return p.rnd.IntN(4 << 10)
	}
	return p.rnd.IntN(300)
}

// cut ends the connection by a reset, or by an end without a close.
func (p *publisher) cut(conn net.Conn) error {
	p.cuts.Add(1)
	if p.rnd.IntN(2) == 0 {
		reset(conn)
	} else {
		conn.Close()
	}
	return errSevered
}

// chance reports whether something happens that happens in so many of a hundred
// cases.
func (p *publisher) chance(percent int) bool { return p.rnd.IntN(100) < percent }

// client is the publisher's ?client=.
func (p *publisher) client() string { return fmt.Sprintf("publisher-%08d", p.number) }

func (p *publisher) hangUp() {
	if p.conn != nil {
		p.conn.conn.Close()
		p.conn = nil
	}
}

// speaks publishes over a WebSocket, which lasts until it is cut.
func (p *publisher) speaks(owed []publishing) (err error) {
	if p.conn == nil {
		conn, resp, err := meet(p.t, p.addr, "/-/connect?client="+p.client(), askV1)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusSwitchingProtocols {
			conn.conn.Close()
			return fmt.Errorf("not let in: %s", resp.Status)
		}
		p.conn = conn
	}
	defer func() {
		if err != nil {
			p.hangUp()
		}
	}()
	var b []byte
	for _, o := range owed {
		c := protocol.Command{Type: protocol.Publish, ID: o.id, Channel: o.channel, Data: json.RawMessage(o.data)}
		b = frame.AppendMasked(b, frame.Text, true, testKey, c.Append(nil))
	}
	if p.chance(5) {
		p.conn.conn.Write(b[:p.rnd.IntN(len(b))])
		return p.cut(p.conn.conn)
	}
	if _, err := p.conn.conn.Write(b); err != nil {
		return err
	}
	if p.chance(5) {
		time.Sleep(time.Duration(p.rnd.IntN(3000)) * time.Microsecond)
		return p.cut(p.conn.conn)
	}
	deaf := false
	for range owed {
		e, err := p.answer()
		if err != nil {
			return err
		}
		if deaf = deaf || p.chance(10); deaf {
			p.lost.Add(1) // it was on its way, and all behind it
			continue
		}
		if err := p.story.ack(e.ID, e.Channel, e.Position); err != nil {
			p.t.Error(err)
		}
	}
	if deaf {
		return p.cut(p.conn.conn)
	}
	return nil
}

// answer returns the next ok.
func (p *publisher) answer() (protocol.Event, error) {
	for {
		op, text, err := p.conn.next()
		switch {
		case err != nil:
			return protocol.Event{}, err
		case op == frame.Ping:
			p.conn.conn.Write(masked(frame.Pong, true, string(text)))
			continue
		case op != frame.Text:
			return protocol.Event{}, fmt.Errorf("publisher %d hears %v %q", p.number, op, text)
		}
		switch e, err := protocol.ParseEvent(text); {
		case err != nil:
			p.t.Errorf("publisher %d hears %q: %v", p.number, text, err)
			return e, err
		case e.Type == "ok":
			return e, nil
		case e.Type == "error":
			p.t.Errorf("publisher %d hears %s", p.number, text)
			return e, errors.New(e.Message)
		}
	}
}

// posts publishes one message by POST.
func (p *publisher) posts(owed []publishing) error {
	o := owed[0]
	head := fmt.Sprintf("POST /%s?client=%s HTTP/1.1\r\nHost: %s\r\nIdempotency-Key: %q\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", o.channel, p.client(), p.addr, o.id, len(o.data))
	return p.web(head+o.data, func(resp *http.Response, _ *json.Decoder) error {
		var e protocol.Event
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s %v", resp.Status, e)
		}
		return p.acknowledged(o, e.Position)
	})
}

// postsMany publishes what is for one channel as the lines of one POST.
func (p *publisher) postsMany(owed []publishing) error {
	var lines strings.Builder
	var some []publishing
	for _, o := range owed {
		if o.channel == owed[0].channel {
			some = append(some, o)
			fmt.Fprintf(&lines, "{\"id\":%q,\"data\":%s}\n", o.id, o.data)
		}
	}
	head := fmt.Sprintf("POST /%s?client=%s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n", owed[0].channel, p.client(), p.addr, lines.Len())
	return p.web(head+lines.String(), func(resp *http.Response, answers *json.Decoder) error {
		for _, o := range some {
			var e struct{ Position string }
			if err := answers.Decode(&e); err != nil {
				return err
			}
			if e.Position == "" {
				return fmt.Errorf("%s is refused", o.id)
			}
			if err := p.acknowledged(o, e.Position); err != nil {
				return err
			}
		}
		return nil
	})
}

// acknowledged notes an acknowledgement, unless it does not arrive.
func (p *publisher) acknowledged(o publishing, position string) error {
	if p.chance(10) {
		p.lost.Add(1)
		return errSevered
	}
	if err := p.story.ack(o.id, o.channel, position); err != nil {
		p.t.Error(err)
	}
	return nil
}

// web sends a request and has take read the answer; or it is cut somewhere.
func (p *publisher) web(request string, take func(*http.Response, *json.Decoder) error) error {
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if p.chance(5) {
		io.WriteString(conn, request[:p.rnd.IntN(len(request))])
		return p.cut(conn)
	}
	if _, err := io.WriteString(conn, request); err != nil {
		return err
	}
	if p.chance(5) {
		return p.cut(conn)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	if err = take(resp, json.NewDecoder(resp.Body)); err == errSevered {
		return p.cut(conn)
	}
	return err
}
