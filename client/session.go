package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"fanfare/protocol"
	"fanfare/websocket"
)

// A session is one connection, from the server's welcome on.
type session struct {
	// static
	client  *Client
	conn    *websocket.Conn
	name    string
	subject string
	limits  protocol.Limits
	silence time.Duration // that means that the connection is dead
	wake    chan struct{} // one place: there may be something to say
	expires chan struct{} // one place: a new token is wanted

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
	ctx, cancel := context.WithCancel(c.life)
	defer cancel()
	var others sync.WaitGroup
	others.Go(func() { s.write(done) })
	others.Go(func() { s.watch(began, done) })
	if c.o.Token != nil {
		others.Go(func() { s.renew(ctx) })
	}
	others.Go(func() {
		select {
		case <-c.life.Done():
			_ = s.conn.Close(context.Background(), websocket.NormalClosure, "")
		case <-done:
		}
	})
	lost := s.read()
	close(done)
	cancel()
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
	c.repeat = span(max(0, s.limits.Repeat), time.Millisecond, mostTime) * 9 / 10
	for _, sub := range c.subs {
		c.attend(sub)
	}
	select {
	case <-c.online:
	default:
		close(c.online)
	}
	c.become(State{Phase: Connected, Session: s.name, Subject: s.subject, Limits: s.limits})
}

func (s *session) finish(lost *loss) {
	c := s.client
	c.mu.Lock()
	defer c.mu.Unlock()
	c.session = nil
	for _, sub := range c.subs {
		sub.live, sub.asked, sub.retry = false, false, moment{}
	}
	c.outbox.lose(lost.err, c.now(), c.repeatFor())
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
		if now := c.now(); out.expired(a, now, c.repeatFor()) {
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
	refused := &Error{Code: e.Code, Message: e.Message, Retry: e.Retry}
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
	case protocol.RenewEvent:
		select {
		case s.expires <- struct{}{}:
		default:
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
	case protocol.UnsubscribedEvent:
		c.endSubscription(sub, &Error{Code: e.Code, Message: e.Message})
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
