package fanfare

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"fanfare/internal/handshake"
	"fanfare/protocol"
)

// Many messages in one POST: a line of JSON for each, and for each a line of the
// answer, in the same order and while more of the body is on its way. The
// request's goroutine reads and publishes, a second one answers, and no more is
// between them than a WebSocket's client may have with the broker: whoever does
// not read the answers is soon not read from, and cut off after WriteTimeout.

// A poster publishes the lines of one body.
type poster struct {
	server  *Server                  // static
	request *http.Request            // static
	control *http.ResponseController // static
	who     *speaker                 // the request's goroutine's; publishes at home
	asker   *asker                   // static; who, as it is held to limits
	batch   string                   // static; makes the id of a line that has none; empty: it does not

	// The request's goroutine's.
	lines *bufio.Reader // of the body, by way of Read
	text  []byte        // the line under way
	until time.Time     // when it must be complete

	answers chan answer   // owed, in their order
	room    chan struct{} // holds the weight of what is owed

	mu   sync.Mutex // guards the following
	over bool       // nothing more is to be read
	done bool       // the request's goroutine returns: control must not be used any more
}

// An answer is owed for a line.
type answer struct {
	line    int
	weight  int32
	outcome chan outcome // gets one
}

type outcome struct {
	pos Position
	err error
}

// servePostMany publishes the lines of the body. batch, if it is not empty, makes
// the id of each line that has none.
func (s *Server) servePostMany(w http.ResponseWriter, r *http.Request, who *speaker, held *asker, batch string) {
	p := &poster{
		server: s, request: r, control: http.NewResponseController(w),
		who: who, asker: held, batch: batch,
		answers: make(chan answer, maxUnanswered), room: make(chan struct{}, maxUnanswered),
	}
	if err := p.control.EnableFullDuplex(); err != nil {
		s.refuse(w, handshake.NoStream(w))
		return
	}
	liveHeader(w.Header(), manyType)
	if r.ProtoMajor == 1 {
		// If we break off, what is left of the body must not be taken for the next
		// request. net/http sees to that before an answer begins, and not behind it.
		w.Header().Set("Connection", "close")
	}
	defer p.finish()
	defer context.AfterFunc(s.life, p.stop)()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		p.answer(w)
	}()
	p.lines = bufio.NewReaderSize(p, 16<<10)
	if !p.publishAll() {
		p.stop() // net/http does not wait for the rest either
	}
	close(p.answers)
	<-answered
}

// publishAll publishes the lines, and reports whether the body has come to its end.
func (p *poster) publishAll() bool {
	for n := 1; ; n++ {
		text, err := p.line()
		p.wait(p.asker.spend(1, len(text)))
		switch {
		case errors.Is(err, io.EOF):
			return true
		case err == nil && len(text) == 0:
			continue
		case errors.Is(err, errLongLine):
			p.server.reached(byMessageSize, "channel", p.who.home)
			p.owe(n, 1) <- outcome{err: errorf("too_big", "the line has more than %d bytes, and a message may have %d", p.maxLine(), p.server.cfg.MaxMessage)}
			continue
		case err != nil:
			p.owe(n, 1) <- outcome{err: p.server.cutShort(err)}
			return false
		}
		p.who = p.server.current(p.who)
		if err := p.server.stands(p.who); err != nil {
			p.owe(n, 1) <- outcome{err: err}
			return false // no line of his will be published any more
		}
		m, err := p.message(n, text)
		if err == nil {
			err = p.server.allow(p.request.Context(), m)
		}
		if err != nil {
			p.owe(n, 1) <- outcome{err: err}
			continue
		}
		to := p.owe(n, weight(m.Payload))
		p.server.publishFor(p.who, m, func(pos Position, err error) { to <- outcome{pos, err} })
	}
}

// wait waits before the next line, unless nothing more is to be read.
func (p *poster) wait(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(max(d, leastPause))
	defer t.Stop()
	select {
	case <-t.C:
	case <-p.request.Context().Done():
	case <-p.server.life.Done():
	}
}

// owe notes that a line is to be answered, when there is room for its weight.
func (p *poster) owe(line int, weight int32) chan<- outcome {
	a := answer{line, min(weight, maxUnanswered), make(chan outcome, 1)}
	for range a.weight {
		p.room <- struct{}{}
	}
	p.answers <- a // which does not wait: there is room for each
	return a.outcome
}

// message makes a message of a line.
func (p *poster) message(n int, text []byte) (*Message, error) {
	if text[0] != '{' {
		return nil, errorf("bad_json", `a line is a JSON object, such as {"data":"Hello"}`)
	}
	c, refused := protocol.ParseLine(text)
	if refused != nil {
		return nil, refused
	}
	if c.Channel != "" && c.Channel != p.who.home {
		return nil, errorf("bad_channel", "the line is for the channel %.80q, and this URL publishes to %q", c.Channel, p.who.home)
	}
	payload, binary, refused := c.Payload()
	if refused != nil {
		return nil, refused
	}
	id := scoped(p.who.scope(), c.ID)
	if id == "" && p.batch != "" {
		id = scoped(p.who.scope()+"\x00"+p.batch, strconv.Itoa(n))
	}
	return &Message{Channel: p.who.home, Sender: p.who.name, Key: cmp.Or(c.Key, p.who.key), Binary: binary, Payload: payload, ID: id}, nil
}

var (
	errLongLine = errors.New("fanfare: the line is too long")
	errOver     = errors.New("fanfare: nothing more is read")
)

// maxLine is how long a line may be: as long as a text in fanfare.v1.
func (p *poster) maxLine() int { return int(p.server.v1Rules.loose.Limit) }

// line returns the next line without white space around it, until the next call.
// The last may lack its end. After [errLongLine] there are more.
func (p *poster) line() ([]byte, error) {
	p.until = time.Now().Add(p.server.cfg.MessageTimeout)
	p.text = p.text[:0]
	for long := false; ; {
		part, err := p.lines.ReadSlice('\n')
		if long = long || len(p.text)+len(part) > p.maxLine(); !long {
			p.text = append(p.text, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(p.text) == 0 && !long:
			return nil, io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case long:
			return nil, errLongLine
		default:
			return bytes.TrimSpace(p.text), nil
		}
	}
}

// Read reads the body, as long as the line under way has time.
func (p *poster) Read(b []byte) (int, error) {
	_ = p.control.SetReadDeadline(p.until)
	p.mu.Lock()
	over := p.over
	p.mu.Unlock()
	if over {
		return 0, errOver
	}
	n, err := p.request.Body.Read(b)
	// It is for the reading alone: over HTTP/2 it would end the body while we
	// wait for something else.
	_ = p.control.SetReadDeadline(time.Time{})
	return n, err
}

// stop has nothing more read. Any goroutine may call it.
func (p *poster) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	if !p.done {
		_ = p.control.SetReadDeadline(time.Unix(1, 0))
	}
}

// finish says that the request is over.
func (p *poster) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = true
}

// answer answers the lines as soon as it can, as many at once as can be
// answered, and when the client does not read them, none of the rest.
func (p *poster) answer(w http.ResponseWriter) {
	var b []byte
	broken := false
	flush := func() {
		if len(b) == 0 {
			return
		}
		defer func() { b = b[:0] }()
		if broken {
			return
		}
		_ = p.control.SetWriteDeadline(time.Now().Add(p.server.cfg.WriteTimeout))
		_, err := w.Write(b)
		if err == nil {
			err = p.control.Flush()
		}
		_ = p.control.SetWriteDeadline(time.Time{})
		if broken = err != nil; broken {
			p.stop()
		}
	}
	for {
		a, more := receive(p.answers, flush)
		if !more {
			flush()
			return
		}
		o, _ := receive(a.outcome, flush)
		if len(b) > 4<<10 {
			flush()
		}
		b = p.server.appendOutcome(b, a.line, o)
		for range a.weight {
			<-p.room
		}
	}
}

// receive receives from c, and calls idle before it waits.
func receive[T any](c <-chan T, idle func()) (v T, ok bool) {
	select {
	case v, ok = <-c:
	default:
		idle()
		v, ok = <-c
	}
	return v, ok
}

// appendOutcome appends the line of the answer.
func (s *Server) appendOutcome(b []byte, line int, o outcome) []byte {
	if o.err == nil {
		return fmt.Appendf(b, "{\"line\":%d,\"position\":%q}\n", line, o.pos)
	}
	e := s.known(o.err)
	return appendJSON(b, struct {
		Line  int       `json:"line"`
		Error errorText `json:"error"`
	}{line, errorText{e.Code, e.Message}})
}
