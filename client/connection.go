package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"fanfare/protocol"
	"fanfare/websocket"
)

const (
	welcomeWait   = 10 * time.Second // for the first thing that a server says
	mostInFlight  = 256              // commands without an answer over a connection
	tick          = time.Second      // how often the clock is watched
	late          = 2 * time.Second  // a tick so late means that we slept
	probeWait     = 2 * time.Second  // for a sign of life after that
	farewellWait  = time.Second      // for the closing handshake after a farewell
	leavingWait   = 5 * time.Second  // for the farewell of a server that said it is shutting down
	mostRetry     = 10 * time.Minute // that a server may ask for
	heartbeatElse = 25 * time.Second // of a server that does not say
	mostTime      = 24 * time.Hour   // that a server may tell
)

// A loss is why there is no connection, and what to do about it.
type loss struct {
	err   error
	final bool          // connecting again would end the same way
	who   bool          // … but with another token it might not
	least time.Duration // before connecting again
}

// run is the client's life: one connection after the other.
func (c *Client) run() {
	defer close(c.ended)
	pause := backoff{first: c.o.LeastPause, most: c.o.MostPause}
	patient := c.o.Patient
	for {
		c.tell(State{Phase: Connecting})
		s, lost := c.connect()
		if lost == nil {
			patient = true
			began := time.Now()
			lost = s.run()
			good := time.Since(began) >= pause.bound()
			if good {
				pause.reset()
			}
			if good || lost.code() == "token_expired" { // until then the token would do
				c.refused = nil
			}
		}
		if lost.who {
			lost.final = c.o.Token == nil || c.refused != nil
			c.refused = lost.err
		}
		switch {
		case c.life.Err() != nil:
			c.end(context.Cause(c.life))
			return
		case lost.final || !patient:
			c.end(lost.err)
			return
		}
		wait := lost.least + pause.next()
		c.tell(State{Phase: Waiting, Wait: wait, Err: lost.err})
		c.sleep(wait)
	}
}

func (c *Client) tell(s State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.outbox.expire(c.now(), c.repeatFor())
	c.become(s)
}

// sleep waits until life ends or so much time has passed by any clock: timers
// stand still while a machine is suspended.
func (c *Client) sleep(d time.Duration) {
	began := c.now()
	for left := d; left > 0; left = d - c.now().after(began) {
		select {
		case <-time.After(min(left, tick)):
		case <-c.life.Done():
			return
		}
	}
}

// connect makes one connection, up to the server's welcome.
func (c *Client) connect() (*session, *loss) {
	options := c.o.WebSocket
	var lost *loss
	if options.Header, lost = c.header(); lost != nil {
		return nil, lost
	}
	conn, answer, err := websocket.Dial(c.life, c.url, &options)
	if err != nil {
		return nil, refusal(answer, err)
	}
	s, lost := c.meet(conn)
	if lost != nil {
		_ = conn.CloseNow()
		return nil, lost
	}
	return s, nil
}

// refusal says what a failure of websocket.Dial means.
func refusal(answer *http.Response, err error) *loss {
	if answer == nil || answer.StatusCode == http.StatusSwitchingProtocols {
		return &loss{err: err}
	}
	lost := &loss{}
	switch code := answer.StatusCode; code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
	default:
		lost.final = code >= 400 && code < 500
	}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil && seconds > 0 {
		lost.least = span(seconds, time.Second, mostRetry)
	}
	body, _ := io.ReadAll(answer.Body) // websocket.Dial bounds it
	var said struct{ Error *Error }
	if json.Unmarshal(body, &said) == nil && said.Error != nil && said.Error.Code != "" {
		err = said.Error
	}
	lost.who = answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden && said.Error != nil && aboutWho(said.Error.Code)
	lost.err = &RefusedError{Status: answer.StatusCode, Err: err}
	return lost
}

// meet hears the server's welcome.
func (c *Client) meet(conn *websocket.Conn) (*session, *loss) {
	if conn.Subprotocol() != protocol.Subprotocol {
		ctx, cancel := context.WithTimeout(c.life, farewellWait)
		defer cancel()
		_ = conn.Close(ctx, websocket.NormalClosure, "") // it did nothing wrong
		return nil, &loss{err: errors.New("client: the server does not speak fanfare.v1"), final: true}
	}
	ctx, cancel := context.WithTimeoutCause(c.life, welcomeWait, fmt.Errorf("client: no welcome came within %v", welcomeWait))
	defer cancel()
	e, lost := hear(ctx, conn)
	switch {
	case lost != nil:
		return nil, lost
	case e.Type != protocol.WelcomeEvent:
		return nil, &loss{err: fmt.Errorf("client: the server does not begin with a welcome but with %.40q", e.Type), final: true}
	}
	subject := e.Subject
	if e.Auth == protocol.Required {
		ok, lost := c.introduce(ctx, conn)
		if lost != nil {
			return nil, lost
		}
		subject = ok.Subject
	}
	s := &session{
		client: c, conn: conn, name: e.Session, subject: subject, wake: make(chan struct{}, 1), expires: make(chan struct{}, 1),
		silence: heartbeatElse * 3 / 2, pending: make(map[string]func(*protocol.Event)), heard: c.now(),
	}
	if e.Heartbeat > 0 {
		s.silence = span(e.Heartbeat, time.Millisecond, mostTime) * 3 / 2
	}
	if e.Limits != nil {
		s.limits = *e.Limits
	}
	return s, nil
}

// hear waits for what the server says next, where that is not a bye.
func hear(ctx context.Context, conn *websocket.Conn) (*protocol.Event, *loss) {
	_, text, err := conn.Read(ctx)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, ended(err)
	}
	e, err := protocol.ParseEvent(text)
	switch {
	case err != nil:
		return nil, &loss{err: err}
	case e.Type == protocol.ByeEvent:
		return nil, farewell(&e)
	}
	return &e, nil
}

// code is what the server said, if it said something; otherwise it is empty.
func (l *loss) code() string {
	var said *Error
	if errors.As(l.err, &said) {
		return said.Code
	}
	return ""
}

// farewell says what a bye means.
func farewell(e *protocol.Event) *loss {
	said := &Error{Code: e.Code, Message: e.Message, Retry: e.Retry}
	lost := &loss{err: fmt.Errorf("client: the server ended the conversation: %w", said), final: e.Retry == 0, who: e.Retry == 0 && aboutWho(e.Code)}
	if e.Retry > 0 {
		least := span(e.Retry, time.Millisecond, mostRetry)
		lost.least = least + rand.N(least/2+1) // #nosec G404: spreads those who come back
	}
	return lost
}

// span is a time that a server gives as n units, and most if it is more. However
// large n is, nothing overflows.
func span(n int, unit, most time.Duration) time.Duration {
	if int64(n) > int64(most/unit) {
		return most
	}
	return time.Duration(n) * unit
}

// ended says what the end of a connection means, of which the server said nothing.
func ended(err error) *loss {
	var closed *websocket.CloseError
	switch errors.As(err, &closed); {
	case closed == nil:
	case closed.Local && closed.Code == websocket.MessageTooBig:
		return &loss{err: fmt.Errorf("client: the server sent a message that is larger than Options.WebSocket.Limit: %w", err), final: true}
	case !closed.Local && (closed.Code == closedUnauthenticated || closed.Code == closedForbidden):
		return &loss{err: err, who: true}
	}
	return &loss{err: err}
}
