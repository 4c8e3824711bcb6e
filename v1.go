package fanfare

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"fanfare/broker"
	"fanfare/internal/feed"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

// v1 is the conversation fanfare.v1, of one session: docs/protocol.md. Its
// fields are guarded by the session's mu.
type v1 struct {
	stays []*stay // by channel, and of one channel that of messages first; not changed once the session is gone
	due   []*stay // that may have something to say, in turns
	life  *life   // for requests; nil as long as there was none
}

// A life is a context that ends when the session is gone.
type life struct {
	context.Context
	end context.CancelFunc
}

// A stay is one subscription of a session that speaks v1. It is what one
// subscription more costs, so it is small: 64 bytes.
type stay struct {
	subscription
	session *session
	due     bool // it is in v1.due, or has left
	crowd   bool // of joins and leaves, not of messages
}

var v1Wire = newWire(func(dst []byte, pattern string, m *Message) []byte {
	return frame.Append(dst, frame.Text, protocol.AppendMessage(nil, pattern, m))
})

// event returns the frame of something the server says.
func event(e *protocol.Event) []byte { return frame.Append(nil, frame.Text, e.Append(nil)) }

// maxInline is the longest command in bytes that is read on the loop.
const maxInline = 16 << 10

func (*v1) rules(s *Server) *frame.Rules { return &s.v1Rules }

// hear implements [conversation]: what cannot block is done at once.
func (v *v1) hear(s *session, isBinary bool, text []byte) bool {
	if len(text) > maxInline {
		return false
	}
	cmd, refused := parse(isBinary, text)
	switch {
	case refused != nil:
	case cmd.Type == protocol.Publish && s.server.cfg.Hooks.Publish == nil:
	case cmd.Type == protocol.Ping:
	default:
		return false
	}
	s.mu.Lock()
	s.owe(text)
	s.mu.Unlock()
	v.do(s, cmd, refused, weight(text))
	return true
}

// act implements [conversation].
func (v *v1) act(s *session, isBinary bool, text []byte) {
	cmd, refused := parse(isBinary, text)
	v.do(s, cmd, refused, weight(text))
}

func parse(isBinary bool, text []byte) (protocol.Command, *protocol.Error) {
	if isBinary {
		return protocol.Command{}, &protocol.Error{Code: "bad_json", Message: "fanfare.v1 is spoken in texts, and this message was binary; bytes go into data, with \"encoding\":\"base64\""}
	}
	return protocol.ParseCommand(text)
}

// do does a command, and answers it sooner or later: weight is what it counts
// until then.
func (v *v1) do(s *session, cmd protocol.Command, refused *protocol.Error, weight int32) {
	if refused != nil {
		v.answer(s, &cmd, weight, nil, &Error{Code: refused.Code, Message: refused.Message})
		return
	}
	if cmd.Channel == "" {
		cmd.Channel = s.who.home
	}
	switch cmd.Type {
	case protocol.Publish:
		v.publish(s, &cmd, weight)
		return
	case protocol.Request:
		v.request(s, &cmd, weight)
		return
	}
	ctx := s.server.life
	ok := &protocol.Event{Type: protocol.OKEvent, ID: cmd.ID}
	var err error
	switch cmd.Type {
	case protocol.Subscribe:
		if err = v.subscribe(ctx, s, &cmd, weight); err == nil {
			return
		}
	case protocol.Unsubscribe:
		ok.Channel = cmd.Channel
		err = v.unsubscribe(s, cmd.Channel)
	case protocol.History:
		err = s.server.historyEvent(ctx, s.who, &cmd, ok)
	case protocol.Presence:
		err = s.server.presenceEvent(ctx, s.who, &cmd, ok)
	case protocol.Ping:
		ok.Time = time.Now()
		v.reply(s, weight, event(ok)) // also without an id
		return
	case protocol.Auth:
		err = errorf("no_authentication", "this server asks for no authentication; leave auth out")
	default:
		err = errorf("unknown_type", "there is no message of type %.40q; there are subscribe, unsubscribe, publish, history, presence, request, ping and auth", cmd.Type)
	}
	v.answer(s, &cmd, weight, ok, err)
}

// reply ends a command with what the client is told.
func (v *v1) reply(s *session, weight int32, frames []byte) {
	s.answered(weight, frames, "", Position{})
}

// answer ends a command: ok is what the client is told if it has an id, unless
// there is an error.
func (v *v1) answer(s *session, cmd *protocol.Command, weight int32, ok *protocol.Event, err error) {
	switch {
	case err != nil:
		v.reply(s, weight, event(failure(cmd, s.server.known(err))))
	case cmd.ID != "":
		v.reply(s, weight, event(ok))
	default:
		v.reply(s, weight, nil)
	}
}

func failure(cmd *protocol.Command, e *Error) *protocol.Event {
	return &protocol.Event{Type: protocol.ErrorEvent, ID: cmd.ID, Channel: cmd.Channel, Code: e.Code, Message: e.Message}
}

// publish publishes, and answers when the broker did.
func (v *v1) publish(s *session, cmd *protocol.Command, weight int32) {
	payload, isBinary, refused := cmd.Payload()
	if refused != nil {
		v.answer(s, cmd, weight, nil, &Error{Code: refused.Code, Message: refused.Message})
		return
	}
	m := &Message{Channel: cmd.Channel, Sender: s.who.name, Key: cmp.Or(cmd.Key, s.who.key), Binary: isBinary, Payload: payload}
	if cmd.ID != "" {
		m.ID = scoped(s.scope(), cmd.ID)
	}
	id, channel := cmd.ID, m.Channel
	done := func(pos Position, err error) {
		var notice []byte
		switch {
		case err != nil:
			notice = event(failure(&protocol.Command{ID: id, Channel: channel}, s.server.known(err)))
		case id != "":
			notice = event(&protocol.Event{Type: protocol.OKEvent, ID: id, Channel: channel, Position: pos.String()})
		}
		s.answered(weight, notice, channel, pos)
	}
	if err := s.server.cfg.Hooks.mayPublish(s.server.life, m); err != nil {
		done(Position{}, err)
		return
	}
	s.server.publish(m, done)
}

// scope is among which publications the session's ids are one message's.
func (s *session) scope() string {
	if s.who.client != "" {
		return clientScope(s.who.client)
	}
	return sessionScope(idText(s.id))
}

// subscribe begins a subscription, and answers, unless it returns an error.
func (v *v1) subscribe(ctx context.Context, s *session, cmd *protocol.Command, weight int32) error {
	if err := checkReadable(cmd.Channel); err != nil {
		return err
	}
	if cmd.Presence && broker.IsPattern(cmd.Channel) {
		return errorf("bad_presence", "presence is for channels, and %.80q is a pattern", cmd.Channel)
	}
	since, err := sinceOf(cmd)
	if err != nil {
		return err
	}
	var slow Policy
	if cmd.Slow != "" {
		if slow, err = ParsePolicy(cmd.Slow); err != nil {
			return errorf("bad_slow", "slow: %v", err)
		}
	}
	if err := v.mayStay(s, cmd.Channel, cmd.Presence); err != nil {
		return err
	}
	if err := s.server.cfg.Hooks.maySubscribe(ctx, s.who, cmd.Channel); err != nil {
		return err
	}
	at, err := s.server.find(ctx, cmd.Channel, since, slowness{policy: slow}, v1Wire)
	if err != nil {
		return err
	}
	ok := &protocol.Event{Type: protocol.OKEvent, ID: cmd.ID, Channel: at.channel.name, Position: at.cursor.Position().String()}
	var crowd place
	if cmd.Presence {
		// The place first, then who is here: so nobody's coming or going is missed in between.
		crowd = at.channel.watch()
		members, count := at.channel.members(ctx, defaultMembers)
		ok.Members, ok.Count = members, &count
	}
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		s.server.release(at.channel)
		if cmd.Presence {
			s.server.release(crowd.channel)
		}
		v.reply(s, weight, nil)
		return nil // nobody is left to be told
	}
	if cmd.ID != "" {
		s.notice(event(ok))
	}
	if cmd.Presence {
		v.stay(s, crowd, true) // first, so that the client is told of itself too
	}
	v.stay(s, at, false)
	s.mu.Unlock()
	v.reply(s, weight, nil)
	return nil
}

// mayStay reports as an error why the session cannot subscribe to a channel.
func (v *v1) mayStay(s *session, name string, presence bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	more := 1
	if presence {
		more = 2
	}
	if _, found := v.find(name); found {
		return errorf("already_subscribed", "this connection is subscribed to %s already; unsubscribe first to begin anew", name)
	}
	if most := s.server.now.Load().MaxSubscriptions; len(v.stays)+more > most {
		return errorf("too_many_subscriptions", "a connection may have %d subscriptions, and presence counts as one; unsubscribe somewhere, use a pattern, or open another connection", most)
	}
	return nil
}

// find returns where the stays of a channel are. The caller holds the session's mu.
func (v *v1) find(name string) (int, bool) {
	return slices.BinarySearchFunc(v.stays, name, func(st *stay, name string) int {
		return strings.Compare(st.audience.channel.name, name)
	})
}

// stay begins a stay. The caller holds the session's mu.
func (v *v1) stay(s *session, at place, crowd bool) {
	i, _ := v.find(at.channel.name)
	st := &stay{session: s, crowd: crowd}
	s.server.attach(&st.subscription, at, s.conn.Loop(), st)
	v.stays = slices.Insert(v.stays, i, st)
}

// unsubscribe ends a subscription, with its joins and leaves.
func (v *v1) unsubscribe(s *session, name string) error {
	s.mu.Lock()
	i, found := v.find(name)
	if !found || s.gone {
		s.mu.Unlock()
		return errorf("not_subscribed", "this connection is not subscribed to %.80q", name)
	}
	end := i + 1
	for end < len(v.stays) && v.stays[end].audience.channel.name == name {
		end++
	}
	left := slices.Clone(v.stays[i:end])
	v.stays = slices.Delete(v.stays, i, end)
	v.due = slices.DeleteFunc(v.due, func(st *stay) bool { return slices.Contains(left, st) })
	for _, st := range left {
		st.due = true // so that nothing makes it due any more
		st.cursor.LetGo()
	}
	if s.closing != nil {
		s.closing.goals = slices.DeleteFunc(s.closing.goals, func(g goal) bool {
			return slices.ContainsFunc(left, func(st *stay) bool { return g.sub == &st.subscription })
		})
	}
	s.mu.Unlock()
	for _, st := range left {
		s.server.leave(&st.subscription, st)
	}
	return nil
}

// reading implements [subscriber].
func (st *stay) reading() *subscription { return &st.subscription }

// member implements [subscriber].
func (st *stay) member() (member, bool) {
	return member{st.session.id, st.session.who.name}, !st.crowd && !broker.IsPattern(st.audience.channel.name)
}

// wake implements [subscriber].
func (st *stay) wake() {
	s := st.session
	s.mu.Lock()
	if !st.due {
		st.due = true
		v := s.talk.(*v1)
		v.due = append(v.due, st)
	}
	s.mu.Unlock()
	s.flush(&st.subscription)
}

// read implements [conversation]: each stay that is due has its turn.
func (v *v1) read(s *session) []byte {
	for len(v.due) > 0 {
		st := v.due[0]
		b, gap := s.take(&st.subscription)
		v.due = slices.Delete(v.due, 0, 1)
		if st.due = st.cursor.Pending(); st.due {
			v.due = append(v.due, st)
		}
		switch {
		case gap.Missed != 0:
			return event(st.gap(gap))
		case b != nil:
			return b
		case s.closing != nil && !s.closing.flush:
			return nil
		}
	}
	if cap(v.due) > 8 {
		v.due = nil // it was rarely so many
	}
	return nil
}

// gap says that messages, or joins and leaves, are missing.
func (st *stay) gap(gap feed.Gap) *protocol.Event {
	if st.crowd {
		return &protocol.Event{Type: protocol.GapEvent, Channel: st.audience.channel.name, Reason: protocol.Presence}
	}
	return st.subscription.gap(gap)
}

func (v *v1) pending(*session) bool { return len(v.due) > 0 }

func (v *v1) each(_ *session, f func(*subscription, subscriber)) {
	for _, st := range v.stays {
		f(&st.subscription, st)
	}
}

func (*v1) ping(*session) []byte { return nil }

var v1Heartbeat = event(&protocol.Event{Type: protocol.HeartbeatEvent})

func (*v1) heartbeat() []byte { return v1Heartbeat }

// bye implements [conversation].
func (*v1) bye(d *disconnect) []byte {
	if d.why == byClient {
		return nil
	}
	return event(d.bye())
}

// begin has the session speak v1, with a subscription at a place, if there is one.
func (s *session) begin(at place) {
	v := new(v1)
	s.talk = v
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notice(s.welcome(at))
	if at.channel != nil {
		v.stay(s, at, false)
	}
}

func (v *v1) end() {
	v.due = nil
	if v.life != nil {
		v.life.end()
	}
}

// welcome is what the server says first. at is the subscription that there is
// already; its channel is nil without one.
func (s *session) welcome(at place) []byte {
	cfg := s.server.now.Load()
	e := &protocol.Event{
		Type: protocol.WelcomeEvent, Protocol: protocol.Subprotocol, Session: idText(s.id),
		Heartbeat: int(cfg.Heartbeat.Milliseconds()),
		Limits:    &protocol.Limits{Message: cfg.MaxMessage, Subscriptions: cfg.MaxSubscriptions},
	}
	if at.channel != nil {
		e.Channel, e.Position = at.channel.name, at.cursor.Position().String()
	}
	return event(e)
}

// request has a method of the program's answer.
func (v *v1) request(s *session, cmd *protocol.Command, weight int32) {
	handle := s.server.method(cmd.Method)
	if handle == nil {
		v.answer(s, cmd, weight, nil, errorf("unknown_method", "there is no method %.40q here", cmd.Method))
		return
	}
	s.mu.Lock()
	s.unanswered += requestWeight
	if v.life == nil {
		v.life = new(life)
		v.life.Context, v.life.end = context.WithCancel(s.server.life)
		if s.gone {
			v.life.end()
		}
	}
	ctx := v.life
	s.mu.Unlock()
	r := &Request{Method: cmd.Method, Data: json.RawMessage(slices.Clone(cmd.Data)), Channel: s.who.home, Session: idText(s.id), Name: s.who.name}
	asked := *cmd // so that no command but a request is on the heap
	s.server.speakers.Add(1)
	go func() {
		defer s.server.speakers.Add(-1)
		data, err := r.answer(ctx, handle)
		v.answer(s, &asked, weight+requestWeight, &protocol.Event{Type: protocol.ResponseEvent, ID: asked.ID, Data: data}, err)
	}()
}

// requestWeight is what a request counts besides its size: so many of
// maxUnanswered that sixteen of a client's run at once.
const requestWeight = maxUnanswered/16 - 1

// historyEvent fills in what a history command is answered.
func (s *Server) historyEvent(ctx context.Context, who *speaker, cmd *protocol.Command, ok *protocol.Event) error {
	if err := checkReadable(cmd.Channel); err != nil {
		return err
	}
	since, err := sinceOf(cmd)
	if err != nil {
		return err
	}
	limit, err := within(cmd.Limit, defaultLimit, 1, maxLimit)
	if err != nil {
		return err
	}
	if err := s.cfg.Hooks.maySubscribe(ctx, who, cmd.Channel); err != nil {
		return err
	}
	page, err := s.history(ctx, cmd.Channel, since, limit)
	if err != nil {
		return err
	}
	ok.Channel, ok.Position, ok.Gap, ok.More, ok.Messages = cmd.Channel, page.position.String(), page.gap, page.more, page.messages
	return nil
}

// presenceEvent fills in what a presence command is answered.
func (s *Server) presenceEvent(ctx context.Context, who *speaker, cmd *protocol.Command, ok *protocol.Event) error {
	if err := CheckChannel(cmd.Channel); err != nil {
		return err
	}
	limit, err := within(cmd.Limit, defaultMembers, 0, maxMembers)
	if err != nil {
		return err
	}
	if err := s.cfg.Hooks.maySubscribe(ctx, who, cmd.Channel); err != nil {
		return err
	}
	members, count := s.presence(ctx, cmd.Channel, limit)
	ok.Channel, ok.Members, ok.Count = cmd.Channel, members, &count
	return nil
}

// sinceOf returns the position that a client resumes from; nil: it does not.
func sinceOf(cmd *protocol.Command) (*Position, error) {
	if cmd.Since == "" {
		return nil, nil
	}
	since, err := broker.ParsePosition(cmd.Since)
	if err != nil {
		return nil, errorf("bad_since", "since: %v", err)
	}
	return &since, nil
}

// within returns a limit that a client asked for, or def if it did not.
func within(limit *int, def, least, most int) (int, error) {
	switch {
	case limit == nil:
		return def, nil
	case *limit < least || *limit > most:
		return 0, errorf("bad_limit", "limit is %d; it must be a number from %d to %d", *limit, least, most)
	}
	return *limit, nil
}
