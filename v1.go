package fanfare

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"fanfare/auth"
	"fanfare/broker"
	"fanfare/internal/feed"
	"fanfare/internal/frame"
	"fanfare/protocol"
)

// v1 is the conversation fanfare.v1, of one session: docs/protocol.md. Its
// fields are guarded by the session's mu.
type v1 struct {
	stays []*stay            // by channel; not changed once the session is gone
	due   []*stay            // that may have something to say, in turns
	one   [1]*stay           // room for due: mostly it is one, and in a delivery all of this is a line of the processor's cache
	life  *life              // for requests; nil as long as there was none
	own   map[*stay]Position // those that begin with messages of their own, and up to where; nil: none
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
	due     bool // it is in v1.due
	left    bool // the client unsubscribed
	crowd   bool // of joins and leaves, not of messages
}

var v1Wire = newWire(func(dst []byte, pattern string, m *Message) []byte {
	return frame.Append(dst, frame.Text, protocol.AppendMessage(nil, pattern, m))
})

// event returns the frame of something the server says.
func event(e *protocol.Event) []byte { return frame.Append(nil, frame.Text, e.Append(nil)) }

// maxInline is the longest command in bytes that is read on the loop.
const maxInline = 16 << 10

func (*v1) rules(s *Server) *frameRules { return &s.v1Rules }

func (*v1) face() face { return v1Face }

// hear implements [conversation]: what cannot block is done at once.
func (v *v1) hear(s *session, isBinary bool, text []byte) bool {
	if len(text) > maxInline {
		return false
	}
	cmd, refused := parse(isBinary, text)
	switch {
	case refused != nil:
	case s.who.Load().waits && cmd.Type != protocol.Auth:
		refused = errSilent
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
	if refused == nil && s.who.Load().waits && cmd.Type != protocol.Auth {
		refused = errSilent
	}
	v.do(s, cmd, refused, weight(text))
}

// errSilent answers who has yet to say who it is.
var errSilent = &protocol.Error{Code: "unauthenticated", Message: `say who you are first: {"type":"auth","token":"..."}`}

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
		s.spend(1)
		v.answer(s, &cmd, weight, nil, refused)
		return
	}
	if cmd.Channel == "" && cmd.Type != protocol.Auth {
		cmd.Channel = s.who.Load().home
	}
	if cmd.Type != protocol.Publish {
		s.spend(1) // it costs about twice as much
	}
	switch cmd.Type {
	case protocol.Publish:
		v.publish(s, &cmd, weight)
		return
	case protocol.Request:
		v.request(s, &cmd, weight)
		return
	}
	ctx := s.server.life // what waits for the broker has a bound of its own
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
		err = v.history(ctx, s, &cmd, ok)
	case protocol.Presence:
		err = v.presence(ctx, s, &cmd, ok)
	case protocol.Ping:
		ok.Time = time.Now()
		v.reply(s, weight, event(ok)) // also without an id
		return
	case protocol.Auth:
		err = v.auth(s, &cmd, ok)
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
		told := event(ok)
		s.spend(answerCost(len(told)))
		v.reply(s, weight, s.packed(told))
	default:
		v.reply(s, weight, nil)
	}
}

// answerCost is how many messages an answer of so many bytes counts as besides what
// asked for it: a page of history or a list of members costs as much as it is long.
func answerCost(bytes int) int { return bytes >> 12 }

func failure(cmd *protocol.Command, e *Error) *protocol.Event {
	f := &protocol.Event{Type: protocol.ErrorEvent, ID: cmd.ID, Channel: cmd.Channel, Code: e.Code, Message: e.Message, Retry: int(e.retry.Milliseconds())}
	if len(f.Channel) > broker.MaxName {
		f.Channel = "" // it is none, and could be a megabyte
	}
	return f
}

// publish publishes, and answers when the broker did.
func (v *v1) publish(s *session, cmd *protocol.Command, weight int32) {
	if cmd.Channel == "" {
		v.answer(s, cmd, weight, nil, errNoChannel)
		return
	}
	payload, isBinary, refused := cmd.Payload()
	if refused != nil {
		v.answer(s, cmd, weight, nil, refused)
		return
	}
	who := s.who.Load()
	m := &Message{Channel: cmd.Channel, Sender: who.name, Key: cmp.Or(cmd.Key, who.key), Binary: isBinary, Payload: payload}
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
	err := who.may(auth.Publish, channel)
	if err == nil {
		err = s.server.cfg.Hooks.mayLeaveHome(who, channel)
	}
	if err == nil {
		err = s.server.allow(who.context(s.server.life), m)
	}
	if err != nil {
		done(Position{}, err)
		return
	}
	s.publish(m, done)
}

// scope is among which publications the session's ids are one message's.
func (s *session) scope() string {
	if who := s.who.Load(); who.client != "" {
		return clientScope(who.subject(), who.client)
	}
	return sessionScope(idText(s.id))
}

// subscribe begins a subscription, and answers, unless it returns an error.
func (v *v1) subscribe(ctx context.Context, s *session, cmd *protocol.Command, weight int32) error {
	if cmd.Channel == "" {
		return errNoChannel
	}
	if err := s.server.readable(cmd.Channel); err != nil {
		return err
	}
	if cmd.Presence && broker.IsPattern(cmd.Channel) {
		return errPatternPresence(cmd.Channel)
	}
	who := s.who.Load()
	err := who.mayRead(auth.Subscribe, cmd.Channel)
	if err == nil && cmd.Presence {
		err = who.may(auth.Presence, cmd.Channel)
	}
	reads := false
	if err == nil {
		reads, err = v.mayStay(s, cmd)
	}
	if err == nil {
		err = s.server.cfg.Hooks.maySubscribe(who.context(ctx), who, cmd.Channel)
	}
	if err != nil {
		return err
	}
	slow, _ := ParsePolicy(cmd.Slow) // which the protocol checked
	at, err := s.server.find(ctx, cmd.Channel, sinceOf(cmd), slowness{policy: slow}, s.server.wire(v1Wire, s.bits), &s.who)
	if err != nil {
		return err
	}
	ok := &protocol.Event{Type: protocol.OKEvent, ID: cmd.ID, Channel: at.channel.name, Position: at.from.String()}
	begin := []place{at}
	if cmd.Presence {
		// The place first, then who is here: so nobody's coming or going is missed in
		// between. And before that of the messages, so that the client is told of itself.
		begin = []place{at.channel.watch(), at}
		members, count := at.channel.members(ctx, defaultMembers)
		ok.Members, ok.Count = members, &count
	}
	if reads {
		begin = begin[:1]
		defer s.server.release(at.channel)
	}
	s.mu.Lock()
	defer v.reply(s, weight, nil)
	defer s.mu.Unlock()
	now := s.who.Load() // who may do less by now
	switch {
	case !now.keeps(auth.Subscribe, cmd.Channel, &at.cursor), reads && len(v.of(cmd.Channel)) == 0:
		err = now.refused(auth.Subscribe, cmd.Channel)
	case cmd.Since != "" && who.may(auth.History, cmd.Channel) == nil:
		err = now.may(auth.History, cmd.Channel)
	}
	if err == nil && cmd.Presence {
		err = now.may(auth.Presence, cmd.Channel)
	}
	if s.gone || s.out || err != nil {
		for _, p := range begin {
			defer s.server.release(p.channel)
		}
		if err != nil {
			s.notice(event(failure(cmd, s.server.known(err))))
		}
		return nil // but for that, nobody is left to be told
	}
	if reads {
		ok.Position = v.messages(at.channel.name).cursor.Seen().String()
	}
	if cmd.ID != "" {
		s.notice(event(ok))
	}
	for _, p := range begin {
		v.stay(s, p, p.channel != at.channel)
	}
	return nil
}

// mayStay reports as an error why the session cannot subscribe to a channel, or
// else whether it reads the channel already, and wants to know who is there.
func (v *v1) mayStay(s *session, cmd *protocol.Command) (reads bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	more := 1
	if cmd.Presence {
		more = 2
	}
	if here := v.of(cmd.Channel); len(here) > 0 {
		if !cmd.Presence || len(here) > 1 || cmd.Since != "" || cmd.Slow != "" {
			return false, errorf("already_subscribed", "this connection is subscribed to %s already; unsubscribe first to begin anew", cmd.Channel)
		}
		reads, more = true, 1
	}
	if most := s.who.Load().subscriptions(s.server.now.Load()); len(v.stays)+more > most {
		s.server.reached(bySubscriptions, "channel", s.who.Load().home, "name", s.who.Load().name, "session", idText(s.id))
		return false, errorf("too_many_subscriptions", "a connection may have %d subscriptions, and presence counts as one; unsubscribe somewhere, use a pattern, or open another connection", most)
	}
	return reads, nil
}

// of returns the stays of a channel: none, that of messages, or that and that of
// joins and leaves. The caller holds the session's mu, here and below.
func (v *v1) of(name string) []*stay {
	i, _ := v.find(name)
	end := i
	for end < len(v.stays) && v.stays[end].audience.channel.name == name {
		end++
	}
	return v.stays[i:end]
}

// messages returns the stay of a channel's messages, which is there.
func (v *v1) messages(name string) *stay {
	here := v.of(name)
	return here[slices.IndexFunc(here, func(st *stay) bool { return !st.crowd })]
}

// find returns where the stays of a channel are, or would be.
func (v *v1) find(name string) (int, bool) {
	return slices.BinarySearchFunc(v.stays, name, func(st *stay, name string) int {
		return strings.Compare(st.audience.channel.name, name)
	})
}

// stay begins a stay.
func (v *v1) stay(s *session, at place, crowd bool) {
	i, _ := v.find(at.channel.name)
	st := &stay{session: s, crowd: crowd}
	if !at.own.IsZero() {
		if v.own == nil {
			v.own = make(map[*stay]Position)
		}
		v.own[st] = at.own
	}
	s.server.attach(&st.subscription, at, s.conn.Loop(), st)
	v.stays = slices.Insert(v.stays, i, st)
}

// unsubscribe ends a subscription, with its joins and leaves.
func (v *v1) unsubscribe(s *session, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := slices.Clone(v.of(name))
	if len(left) == 0 || s.gone {
		return errorf("not_subscribed", "this connection is not subscribed to %.80q", name)
	}
	v.drop(s, left)
	return nil
}

// drop ends stays. The caller holds mu.
func (v *v1) drop(s *session, left []*stay) {
	if len(left) == 0 || s.gone { // if it is gone, Gone does it
		return
	}
	v.stays = slices.DeleteFunc(v.stays, func(st *stay) bool { return slices.Contains(left, st) })
	v.due = slices.DeleteFunc(v.due, func(st *stay) bool { return slices.Contains(left, st) })
	for _, st := range left {
		st.left = true
		st.cursor.LetGo()
		v.caughtUp(s, st)
	}
	if s.closing != nil {
		s.closing.goals = slices.DeleteFunc(s.closing.goals, func(g goal) bool {
			return slices.ContainsFunc(left, func(st *stay) bool { return g.sub == &st.subscription })
		})
	}
	for _, st := range left {
		s.server.leave(&st.subscription, st)
	}
}

// face is what the stay's messages count as.
func (st *stay) face() face {
	if st.crowd {
		return crowdFace
	}
	return v1Face
}

// reading implements [subscriber].
func (st *stay) reading() *subscription { return &st.subscription }

// member implements [subscriber].
func (st *stay) member() (member, bool) {
	return member{st.session.id, st.session.who.Load().name}, !st.crowd && !broker.IsPattern(st.audience.channel.name)
}

// wake implements [subscriber].
func (st *stay) wake() {
	s := st.session
	s.mu.Lock()
	left := st.left
	if !left && !st.due {
		st.due = true
		v := s.v1
		if v.due == nil {
			v.due = v.one[:0]
		}
		v.due = append(v.due, st)
	}
	s.mu.Unlock()
	if !left {
		s.flush(&st.subscription)
	}
}

// read implements [conversation]: each stay that is due has its turn.
func (v *v1) read(s *session) []byte {
	for len(v.due) > 0 {
		st := v.due[0]
		b, gap := s.take(&st.subscription, st.face())
		v.due = slices.Delete(v.due, 0, 1)
		if st.due = st.cursor.Pending(); st.due {
			v.due = append(v.due, st)
		}
		if to, own := v.own[st]; own && reached(to, st.cursor.Position()) {
			v.caughtUp(s, st)
		}
		switch {
		case gap.Missed != 0:
			if !st.crowd {
				s.server.stats.miss(gap)
			}
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

// caughtUp notes that a stay has read what it began with.
func (v *v1) caughtUp(s *session, st *stay) {
	if _, own := v.own[st]; own {
		delete(v.own, st)
		s.goOn()
	}
}

// busy implements [conversation]: a client that resumes in many places reads what it has
// asked for before it is heard again. Each can be ten thousand messages, which nobody shares.
func (v *v1) busy() bool { return len(v.own) >= maxReplays }

// maxReplays is how many of a session's subscriptions may have messages of their own
// at once.
const maxReplays = 4

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

// warn implements [conversation].
func (*v1) warn(e *Error) []byte { return event(failure(new(protocol.Command), e)) }

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
	s.v1 = v
	s.mu.Lock()
	defer s.mu.Unlock()
	s.notice(s.welcome(at))
	if at.channel != nil {
		v.stay(s, at, false)
	}
}

// readHome implements [conversation].
func (v *v1) readHome(s *session, at place) { v.stay(s, at, false) }

// renew implements [conversation].
func (*v1) renew(who *speaker) []byte { return renewEvent(who) }

// dismiss implements [conversation]. Who lost a right to one of two that belong
// together, of messages, and of joins and leaves, keeps the other.
func (v *v1) dismiss(s *session) {
	who := s.who.Load()
	var lost []*stay
	for _, st := range v.stays {
		right := auth.Subscribe
		if st.crowd {
			right = auth.Presence
		}
		if !who.keeps(right, st.audience.channel.name, &st.cursor) {
			lost = append(lost, st)
		}
	}
	for _, st := range lost {
		name := st.audience.channel.name
		e := &protocol.Event{Type: protocol.UnsubscribedEvent, Channel: name, Code: "forbidden", Message: "you may not read this any more"}
		if st.crowd {
			e.Message = "you may not know any more who is here"
		}
		s.notice(event(e))
	}
	v.drop(s, lost)
}

// auth finds out who the client is, and fills in what it is told then.
func (v *v1) auth(s *session, cmd *protocol.Command, ok *protocol.Event) error {
	at, err := s.authenticate(cmd.Token)
	if err != nil {
		return err
	}
	who := s.who.Load()
	ok.Subject, ok.Expires = who.subject(), who.expires()
	if at.channel != nil {
		ok.Channel, ok.Position = at.channel.name, at.from.String()
	}
	return nil
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
		Limits:    &protocol.Limits{Message: cfg.MaxMessage, Subscriptions: cfg.MaxSubscriptions, Repeat: int(cfg.IDWindow.Milliseconds())},
	}
	if at.channel != nil {
		e.Channel, e.Position = at.channel.name, at.from.String()
	}
	who := s.who.Load()
	e.Subject, e.Expires = who.subject(), who.expires()
	if who.waits {
		e.Auth = protocol.Required
	}
	return event(e)
}

// request has a method of the program's answer.
func (v *v1) request(s *session, cmd *protocol.Command, weight int32) {
	handle := s.server.method(cmd.Method)
	if handle == nil {
		v.answer(s, cmd, weight, nil, errorf("unknown_method", "there is no method %.40q here; the program that the server is part of registers them", cmd.Method))
		return
	}
	who := s.who.Load()
	if who.grants != nil && who.id == nil {
		v.answer(s, cmd, weight, nil, errRequestNobody)
		return
	}
	s.mu.Lock()
	if s.out {
		s.mu.Unlock()
		v.answer(s, cmd, weight, nil, errRevokedToken)
		return
	}
	s.unanswered += requestWeight
	if v.life == nil {
		v.life = new(life)
		v.life.Context, v.life.end = context.WithCancel(s.server.life)
		if s.gone {
			v.life.end()
		}
	}
	ctx := who.context(v.life)
	s.mu.Unlock()
	r := &Request{Method: cmd.Method, Data: json.RawMessage(slices.Clone(cmd.Data)), Channel: who.home, Session: idText(s.id), Name: who.name}
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

// errNoChannel is for what names none, where the URL has none.
var errNoChannel = errorf("bad_channel", "name a channel: this connection has none of its own")

// history fills in what a history command is answered.
func (v *v1) history(ctx context.Context, s *session, cmd *protocol.Command, ok *protocol.Event) error {
	if cmd.Channel == "" {
		return errNoChannel
	}
	if err := s.server.readable(cmd.Channel); err != nil {
		return err
	}
	who := s.who.Load()
	if err := who.mayRead(auth.History, cmd.Channel); err != nil {
		return err
	}
	if err := s.server.cfg.Hooks.maySubscribe(who.context(ctx), who, cmd.Channel); err != nil {
		return err
	}
	page, err := s.server.history(ctx, cmd.Channel, sinceOf(cmd), limitOf(cmd, defaultLimit), who)
	if err != nil {
		return err
	}
	ok.Channel, ok.Position, ok.Gap, ok.More, ok.Messages = cmd.Channel, page.position.String(), page.gap, page.more, page.messages
	return nil
}

// presence fills in what a presence command is answered.
func (v *v1) presence(ctx context.Context, s *session, cmd *protocol.Command, ok *protocol.Event) error {
	switch {
	case cmd.Channel == "":
		return errNoChannel
	case broker.IsPattern(cmd.Channel):
		return errPatternPresence(cmd.Channel)
	}
	if err := CheckChannel(cmd.Channel); err != nil {
		return err
	}
	who := s.who.Load()
	if err := who.may(auth.Presence, cmd.Channel); err != nil {
		return err
	}
	if err := s.server.cfg.Hooks.maySubscribe(who.context(ctx), who, cmd.Channel); err != nil {
		return err
	}
	ok.Channel = cmd.Channel
	members, count := s.server.presence(ctx, cmd.Channel, limitOf(cmd, defaultMembers))
	ok.Members, ok.Count = members, &count
	return nil
}

func errPatternPresence(pattern string) error {
	return errorf("bad_presence", "presence is for channels, and %.80q is a pattern", pattern)
}

// sinceOf returns the position that a client resumes from, which the protocol
// checked; nil: it does not.
func sinceOf(cmd *protocol.Command) *Position {
	since, err := broker.ParsePosition(cmd.Since)
	if err != nil {
		return nil
	}
	return &since
}

// limitOf returns the limit that a client asked for, or def if it did not.
func limitOf(cmd *protocol.Command, def int) int {
	if cmd.Limit == nil {
		return def
	}
	return *cmd.Limit
}
