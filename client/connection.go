package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
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
)

// A loss is why there is no connection, and what to do about it.
type loss struct {
	err   error
	final bool          // connecting again would end the same way
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
			if time.Since(began) >= pause.bound() {
				pause.reset() // it was a good one
			}
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
	c.outbox.expire(c.now(), c.o.RepeatFor)
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
	if c.o.Token != nil {
		token, err := c.o.Token(c.life)
		if err != nil {
			return nil, &loss{err: fmt.Errorf("client: there is no token: %w", err)}
		}
		if options.Header = options.Header.Clone(); options.Header == nil {
			options.Header = http.Header{}
		}
		options.Header.Set("Authorization", "Bearer "+token)
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
		lost.least = min(time.Duration(seconds)*time.Second, mostRetry)
	}
	body, _ := io.ReadAll(answer.Body) // websocket.Dial bounds it
	var said struct{ Error *Error }
	if json.Unmarshal(body, &said) == nil && said.Error != nil && said.Error.Code != "" {
		err = said.Error
	}
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
	case e.Type != protocol.WelcomeEvent:
		return nil, &loss{err: fmt.Errorf("client: the server does not begin with a welcome but with %.40q", e.Type), final: true}
	}
	s := &session{
		client: c, conn: conn, name: e.Session, wake: make(chan struct{}, 1),
		silence: heartbeatElse * 3 / 2, pending: make(map[string]func(*protocol.Event)), heard: c.now(),
	}
	if e.Heartbeat > 0 {
		s.silence = time.Duration(e.Heartbeat) * time.Millisecond * 3 / 2
	}
	if e.Limits != nil {
		s.limits = *e.Limits
	}
	return s, nil
}

// farewell says what a bye means.
func farewell(e *protocol.Event) *loss {
	lost := &loss{err: fmt.Errorf("client: the server ended the conversation: %w", &Error{Code: e.Code, Message: e.Message}), final: e.Retry == 0}
	if e.Retry > 0 {
		least := min(time.Duration(e.Retry)*time.Millisecond, mostRetry)
		lost.least = least + rand.N(least/2+1)
	}
	return lost
}

// ended says what the end of a connection means, of which the server said nothing.
func ended(err error) *loss {
	var closed *websocket.CloseError
	if errors.As(err, &closed) && closed.Local && closed.Code == websocket.MessageTooBig {
		return &loss{err: fmt.Errorf("client: the server sent a message that is larger than Options.WebSocket.Limit: %w", err), final: true}
	}
	return &loss{err: err}
}

// A session is one connection, from the server's welcome on.
type session struct {
	// static
	client  *Client
	conn    *websocket.Conn
	name    string
	limits  protocol.Limits
	silence time.Duration // that means that the connection is dead
	wake    chan struct{} // one place: there may be something to say

	// under Client.mu
	due     []utterance                      // to be said before the program's calls
	pending map[string]func(*protocol.Event) // who waits for the answer with an id
	leaving time.Time                        // the server said that it is shutting down; zero: not
	heard   moment                           // when something came
	probed  bool                             // since then we asked for a sign of life
	why     error                            // we cut the connection
}

// An utterance is something that the client has to say about itself and its
// subscriptions. Without answered it needs no answer.
type utterance struct {
	command  protocol.Command
	answered func(*protocol.Event) // under Client.mu
}

// run is the session's life. When it returns, the connection is gone.
func (s *session) run() *loss {
	c := s.client
	began := c.now()
	s.begin()
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() { s.write(done) })
	others.Go(func() { s.watch(began, done) })
	others.Go(func() {
		select {
		case <-c.life.Done():
			_ = s.conn.Close(context.Background(), websocket.NormalClosure, "")
		case <-done:
		}
	})
	lost := s.read()
	close(done)
	_ = s.conn.CloseNow()
	others.Wait()
	s.finish(lost)
	return lost
}

// begin makes the session the client's, and asks for all subscriptions.
func (s *session) begin() {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = s
	for _, sub := range c.subs {
		c.attend(sub)
	}
	select {
	case <-c.online:
	default:
		close(c.online)
	}
	c.become(State{Phase: Connected, Session: s.name, Limits: s.limits})
}

func (s *session) finish(lost *loss) {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = nil
	for _, sub := range c.subs {
		sub.live, sub.asked, sub.retry = false, false, moment{}
	}
	c.outbox.lose(lost.err, c.now(), c.o.RepeatFor)
}

// say queues an utterance. The caller holds mu.
func (s *session) say(command protocol.Command, answered func(*protocol.Event)) {
	s.due = append(s.due, utterance{command, answered})
	s.client.wakeWriter()
}

// wakeWriter is for whoever has something to be said, and holds mu.
func (c *Client) wakeWriter() {
	if c.session != nil {
		select {
		case c.session.wake <- struct{}{}:
		default:
		}
	}
}

// write says what there is to say.
func (s *session) write(done <-chan struct{}) {
	var text []byte
	for {
		command, ok := s.next()
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-done:
				return
			}
		}
		text = command.Append(text[:0])
		if err := s.conn.Write(context.Background(), websocket.Text, text); err != nil {
			if s.conn.Err() == nil {
				s.cut(err) // it cannot be written to, so it is of no use
			}
			return
		}
	}
}

// next returns what is to be said now.
func (s *session) next() (command protocol.Command, ok bool) {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(s.due) > 0 && (s.due[0].answered == nil || len(s.pending) < mostInFlight) {
		u := s.due[0]
		if s.due[0], s.due = (utterance{}), s.due[1:]; len(s.due) == 0 {
			s.due = nil
		}
		if u.answered != nil {
			u.command.ID = c.newID()
			s.pending[u.command.ID] = u.answered
		}
		return u.command, true
	}
	out := &c.outbox
	for out.said < len(out.calls) && len(s.due) == 0 && len(s.pending) < mostInFlight && s.leaving.IsZero() {
		a := out.calls[out.said]
		if limit := s.limits.Message; a.command.Type == protocol.Publish && limit > 0 && a.size > limit {
			out.finish(a, nil, &Error{Code: "too_big", Message: fmt.Sprintf("the message has %d bytes, and a message may have %d", a.size, limit)})
			continue
		}
		if now := c.now(); out.expired(a, now, c.o.RepeatFor) {
			continue
		}
		if a.first.mono.IsZero() {
			a.first = c.now()
		}
		out.said++
		s.pending[a.command.ID] = func(e *protocol.Event) { s.answered(a, e) }
		return a.command, true
	}
	return protocol.Command{}, false
}

// answered is for a call. The caller holds mu.
func (s *session) answered(a *call, e *protocol.Event) {
	out := &s.client.outbox
	if e.Type != protocol.ErrorEvent {
		out.finish(a, e, nil)
		return
	}
	refused := &Error{Code: e.Code, Message: e.Message}
	if e.Code == "shutting_down" && a.repeats() {
		if s.leaving.IsZero() { // it will be said over the next connection, and nothing that is behind it before
			s.leaving = time.Now()
		}
		return
	}
	out.finish(a, nil, a.failed(refused))
}

// cut ends the connection from within.
func (s *session) cut(why error) {
	s.client.mu.Lock()
	if s.why == nil {
		s.why = why
	}
	s.client.mu.Unlock()
	_ = s.conn.CloseNow()
}

// watch cuts a connection over which nothing comes. last is when it began.
func (s *session) watch(last moment, done <-chan struct{}) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-done:
			return
		}
		now := s.client.now()
		slept := now.after(last) > tick+late
		last = now
		if why := s.check(now, slept); why != nil {
			s.cut(why)
			return
		}
	}
}

// check returns why a connection is of no use any more, or nil. A machine that
// slept cannot know what it missed: it asks for a sign of life, and waits for it
// with a clock that runs again.
func (s *session) check(now moment, slept bool) error {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, sub := range c.subs {
		if !sub.retry.mono.IsZero() && now.after(sub.retry) >= 0 {
			sub.retry = moment{}
			c.attend(sub)
		}
	}
	if slept {
		s.heard, s.probed = now, true
		s.due = slices.Insert(s.due, 0, utterance{command: protocol.Command{Type: protocol.Ping}})
		c.wakeWriter()
		return nil
	}
	silent := now.mono.Sub(s.heard.mono)
	switch {
	case !s.leaving.IsZero() && now.mono.Sub(s.leaving) > leavingWait:
		return errors.New("client: the server is shutting down")
	case s.probed && silent > probeWait:
		return errors.New("client: no sign of life came after a time in which this program did not run")
	case silent > s.silence:
		return fmt.Errorf("client: nothing was heard for %v", silent.Round(time.Millisecond))
	}
	return nil
}

// read takes what the server says until the connection ends, and returns why it did.
func (s *session) read() *loss {
	for {
		_, text, err := s.conn.Read(context.Background())
		if err != nil {
			return s.lossOf(err)
		}
		e, err := protocol.ParseEvent(text)
		if err != nil {
			return &loss{err: err}
		}
		if e.Type == protocol.ByeEvent {
			ctx, cancel := context.WithTimeout(context.Background(), farewellWait)
			defer cancel()
			_ = s.conn.Close(ctx, websocket.NormalClosure, "") // after a bye nothing comes but the close
			return farewell(&e)
		}
		s.take(&e, len(text))
	}
}

func (s *session) lossOf(err error) *loss {
	s.client.mu.Lock()
	defer s.client.mu.Unlock()
	if s.why != nil {
		return &loss{err: s.why}
	}
	return ended(err)
}

// take does what something means that the server said.
func (s *session) take(e *protocol.Event, size int) {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	s.heard, s.probed = c.now(), false
	switch e.Type {
	case protocol.OKEvent, protocol.ErrorEvent, protocol.ResponseEvent:
		if answered := s.pending[e.ID]; answered != nil {
			delete(s.pending, e.ID)
			c.wakeWriter()
			answered(e)
		}
		return
	}
	name := e.Channel
	if e.Pattern != "" {
		name = e.Pattern
	}
	sub := c.subs[name]
	if sub == nil || !sub.live {
		return
	}
	switch e.Type {
	case protocol.MessageEvent:
		sub.put(item{message: messageOf(e), position: e.Position, size: size})
	case protocol.GapEvent:
		if e.Reason == protocol.Presence {
			s.askPresence(sub)
			return
		}
		sub.gap(e.Reason, int(e.Missed), e.Position, size)
	case protocol.JoinEvent, protocol.LeaveEvent:
		change := &PresenceEvent{Type: e.Type, Members: e.Members, Omitted: e.Omitted}
		if e.Count != nil {
			change.Count = *e.Count
		}
		sub.hear(change)
	}
}

func (s *Subscription) gap(reason string, missed int, position string, size int) {
	if position == "" {
		position = s.received
	}
	s.put(item{gap: &GapError{s.channel, reason, missed, position}, position: position, size: size})
}

// attend asks for what a subscription needs. The caller holds mu.
func (c *Client) attend(sub *Subscription) {
	s := c.session
	switch {
	case s == nil || sub.asked || sub.live || !sub.retry.mono.IsZero():
	case !sub.behind:
		sub.asked = true
		s.say(protocol.Command{Type: protocol.Subscribe, Channel: sub.channel, Since: sub.received, Presence: sub.o.Presence, Slow: sub.o.Slow},
			func(e *protocol.Event) { s.subscribed(sub, e) })
	case sub.relaxed():
		sub.asked = true
		limit := min(max(c.o.Buffer-sub.half, 1), 1000)
		s.say(protocol.Command{Type: protocol.History, Channel: sub.channel, Since: sub.received, Limit: &limit},
			func(e *protocol.Event) { s.caughtUp(sub, e) })
	}
}

// subscribed hears the answer to a subscribe. The caller holds mu.
func (s *session) subscribed(sub *Subscription, e *protocol.Event) {
	sub.asked = false
	if sub.err != nil || e.Type == protocol.ErrorEvent && s.refused(sub, e) {
		return
	}
	sub.pause.reset()
	sub.live = true
	if sub.received == "" {
		sub.received, sub.given = e.Position, e.Position
	}
	if sub.o.Presence {
		sub.hear(hereOf(e))
	}
	if !sub.established {
		sub.established = true
		close(sub.ready)
	}
}

func hereOf(e *protocol.Event) *PresenceEvent {
	here := &PresenceEvent{Type: "here", Members: e.Members}
	if e.Count != nil {
		here.Count = *e.Count
	}
	return here
}

// refused does what a refusal means for a subscription. The caller holds mu.
func (s *session) refused(sub *Subscription, e *protocol.Event) bool {
	passing := e.Code == "timeout" || e.Code == "internal"
	switch {
	case e.Code == "shutting_down": // the next connection asks again
	case passing && sub.established:
		wait := sub.pause.next()
		now := s.client.now()
		sub.retry = moment{now.mono.Add(wait), now.wall.Add(wait)}
	default:
		s.client.endSubscription(sub, &Error{Code: e.Code, Message: e.Message})
	}
	return true
}

// caughtUp hears a page of history that follows what the buffer had room for.
// The caller holds mu.
func (s *session) caughtUp(sub *Subscription, e *protocol.Event) {
	sub.asked = false
	if sub.err != nil || e.Type == protocol.ErrorEvent && s.refused(sub, e) {
		return
	}
	page, err := pageOf(e)
	if err != nil {
		s.client.endSubscription(sub, err)
		return
	}
	sub.pause.reset()
	if page.Gap {
		sub.gap(protocol.Outrun, 0, sub.received, 0)
	}
	for i, m := range page.Messages {
		it := item{message: m, position: m.Position, size: len(e.Messages[i])}
		sub.received = m.Position
		sub.bytes += it.size
		sub.messages.put(it)
	}
	if page.Position != "" {
		sub.received = page.Position
	}
	sub.behind = page.More
	s.client.attend(sub)
}

// askPresence asks who is here: changes were left out. The caller holds mu.
func (s *session) askPresence(sub *Subscription) {
	s.say(protocol.Command{Type: protocol.Presence, Channel: sub.channel}, func(e *protocol.Event) {
		if sub.err == nil && e.Type != protocol.ErrorEvent {
			sub.hear(hereOf(e))
		}
	})
}
