package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"fanfare/broker"
	"fanfare/client"
	"fanfare/protocol"
)

// What connect, subscribe and publish do with a Fanfare server, in the
// conversation fanfare.v1.

// A hearing is what one listens to.
type hearing struct {
	u    *url.URL
	past []*client.Message // what was said before
	subs []*client.Subscription
}

// hear asks for what was said before, and subscribes. The error has its exit code.
func (f *dialFlags) hear(ctx context.Context, c *client.Client, u *url.URL, names []string) (*hearing, error) {
	h := &hearing{u: u}
	for _, name := range names {
		since := f.since
		if f.history > 0 {
			page, err := c.History(ctx, name, &client.HistoryOptions{Limit: f.history})
			if err != nil {
				return nil, explainEnd(u, err)
			}
			h.past = append(h.past, page.Messages...)
			since = page.Position
		}
		sub, err := c.Subscribe(ctx, name, &client.SubscribeOptions{Since: since, Slow: f.slow, Presence: f.presence && !isPattern(name)})
		if err != nil {
			return nil, explainEnd(u, err)
		}
		h.subs = append(h.subs, sub)
	}
	slices.SortStableFunc(h.past, func(a, b *client.Message) int { // a server has one count for all channels
		x, _ := broker.ParsePosition(a.Position)
		y, _ := broker.ParsePosition(b.Position)
		return cmp.Compare(x.Offset, y.Offset)
	})
	return h, nil
}

// ears are where what is heard goes. They are called one at a time.
type ears struct {
	message  func(*client.Message) error // an error is the end
	gap      func(*client.GapError)
	presence func(sub *client.Subscription, e *client.PresenceEvent)
}

// run hands on what is heard until ctx ends or message returns an error. Otherwise
// the error, with its exit code, says why the client or a subscription ended.
func (h *hearing) run(ctx context.Context, to ears) error {
	listening, end := context.WithCancelCause(ctx)
	defer end(nil)
	var turn sync.Mutex
	hand := func(on func() error) {
		turn.Lock()
		defer turn.Unlock()
		if listening.Err() != nil {
			return
		}
		if err := on(); err != nil {
			end(err)
		}
	}
	for _, m := range h.past {
		hand(func() error { return to.message(m) })
	}
	h.past = nil
	var all sync.WaitGroup
	for _, sub := range h.subs {
		all.Go(func() {
			for listening.Err() == nil {
				m, err := sub.Next(listening)
				var gap *client.GapError
				hand(func() error {
					switch {
					case errors.As(err, &gap):
						to.gap(gap)
						return nil
					case err != nil:
						return explainEnd(h.u, err)
					}
					return to.message(m)
				})
			}
		})
		if to.presence != nil {
			all.Go(func() {
				for e, err := range sub.Presence(listening) {
					if err == nil {
						hand(func() error { to.presence(sub, e); return nil })
					}
				}
			})
		}
	}
	all.Wait()
	if err := context.Cause(listening); ctx.Err() == nil && !errors.Is(err, errStop) {
		return err
	}
	return nil
}

// follow tells how a client is until it or ctx has ended.
func follow(ctx context.Context, c *client.Client, u *url.URL, tell func(linkState)) {
	for s := range c.States(ctx) {
		switch s.Phase {
		case client.Connecting:
			tell(linkState{})
		case client.Connected:
			tell(linkState{connected: true})
		case client.Waiting:
			tell(linkState{wait: s.Wait, reason: explainLoss(u, s.Err)})
		}
	}
}

// A speaker publishes texts one after the other, and tells what becomes of each.
type speaker struct {
	// static
	client  *client.Client
	to      []string // the channels that each of them goes to
	options client.PublishOptions
	done    func(s saying, position string, refused error) // published or refused; called one at a time
	over    chan struct{}                                  // closed when it is finished and all is answered

	mu       sync.Mutex // guards the following
	changed  chan struct{}
	queue    []saying // not answered, oldest first
	finished bool
	refused  int
	slowly   bool // the server takes no more than it is given one by one
	doubtful int  // sent, and nobody knows whether they were published
	unsent   int
	why      error // of the last doubt
}

// A saying is a text on its way to one channel.
type saying struct {
	channel string
	text    string
	number  int // which line it was
	receipt *client.Receipt
}

var errNowhere = &client.Error{Code: "no_patterns", Message: "there is no channel to say it in, because a pattern can only be read: add --channel with the name of one"}

// mostSayings are under way; the client's own queue is longer.
const mostSayings = 500

func newSpeaker(c *client.Client, to []string, o client.PublishOptions, done func(s saying, position string, refused error)) *speaker {
	s := &speaker{client: c, to: to, options: o, done: done, over: make(chan struct{}), changed: make(chan struct{})}
	go s.listen()
	return s
}

// change wakes whoever waits. The caller holds mu.
func (s *speaker) change() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// say publishes a text, and waits while too many are under way. The error is ctx's,
// or why the client takes no more.
func (s *speaker) say(ctx context.Context, text string, number int) error {
	if len(s.to) == 0 {
		return errNowhere
	}
	for _, channel := range s.to {
		for {
			s.mu.Lock()
			err := s.send(channel, text, number)
			changed := s.changed
			s.mu.Unlock()
			if !errors.Is(err, client.ErrFull) {
				if err != nil {
					return err
				}
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
	}
	return nil
}

// trySay publishes a text, or fails at once.
func (s *speaker) trySay(text string, number int) error {
	if len(s.to) == 0 {
		return errNowhere
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, channel := range s.to {
		if err := s.send(channel, text, number); err != nil {
			return err
		}
	}
	return nil
}

// send is for those who hold mu.
func (s *speaker) send(channel, text string, number int) error {
	switch {
	case s.finished:
		return errStop
	case (s.options.ID != "" || s.slowly) && len(s.queue) > 0: // the same id in another channel: one after the other
		return client.ErrFull
	case len(s.queue) >= mostSayings:
		return fmt.Errorf("%d lines wait to be sent already: wait until the connection is back%w", mostSayings, client.ErrFull)
	}
	receipt, err := s.client.Send(channel, []byte(text), &s.options)
	if err != nil {
		return err
	}
	s.queue = append(s.queue, saying{channel, text, number, receipt})
	s.change()
	return nil
}

// waiting returns the texts that are not answered, oldest first.
func (s *speaker) waiting() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var texts []string
	for _, w := range s.queue {
		texts = append(texts, w.text)
	}
	return texts
}

// finish says that nothing more will be said.
func (s *speaker) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.finished = true
	s.change()
}

// listen hears the answers.
func (s *speaker) listen() {
	defer close(s.over)
	for {
		s.mu.Lock()
		changed, finished := s.changed, s.finished
		if len(s.queue) == 0 {
			s.mu.Unlock()
			if finished {
				return
			}
			<-changed
			continue
		}
		first := s.queue[0]
		s.mu.Unlock()
		position, err := first.receipt.Wait(context.Background())
		if limited, ok := err.(*client.Error); ok && limited.Code == "rate_limited" && limited.Retry > 0 {
			if err = s.sayAgain(&first, time.Duration(limited.Retry)*time.Millisecond); err == nil {
				continue
			}
		}
		_, isRefused := err.(*client.Error) // and not one in the chain: that may be why the client ended
		if err == nil || isRefused {
			s.done(first, position, err)
		}
		var unsure *client.UncertainError
		s.mu.Lock()
		switch {
		case err == nil:
		case isRefused:
			s.refused++
		case errors.As(err, &unsure):
			s.doubtful++
			s.why = unsure.Err
		default:
			s.unsent++
		}
		s.queue[0] = saying{}
		s.queue = s.queue[1:]
		s.change()
		s.mu.Unlock()
	}
}

// sayAgain says what the server did not take for now, after the time that it
// asked for. What follows is said one by one: so it stays in order.
func (s *speaker) sayAgain(first *saying, wait time.Duration) error {
	pause, cancel := context.WithTimeout(context.Background(), min(wait, backoffMost))
	defer cancel()
	for range s.client.States(pause) { // until then, or until the client is closed
	}
	options := s.options
	options.ID = first.receipt.ID()
	receipt, err := s.client.Send(first.channel, []byte(first.text), &options)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowly = true
	s.queue[0].receipt = receipt
	return nil
}

// writable are those names that are no patterns, or rather the first: what one
// says goes to one channel.
func writable(names []string) []string {
	for i, name := range names {
		if !isPattern(name) {
			return names[i : i+1]
		}
	}
	return nil
}

// stamped is a message as one who speaks plain sees it: a text that is a JSON
// object and bytes are as they are, other texts have the time and who said them
// before them.
func stamped(m *client.Message) []byte {
	payload := m.Bytes()
	if m.Binary() || len(m.Data) > 0 && m.Data[0] == '{' {
		return payload
	}
	line := []byte(m.Time.Local().Format("[15:04:05] "))
	if m.Sender != "" {
		line = append(append(line, m.Sender...), ": "...)
	}
	return append(line, payload...)
}

// eventLine is a message in JSON, as it looks on every face of a server.
func eventLine(m *client.Message) []byte {
	e := protocol.Event{
		Type: protocol.MessageEvent, Channel: m.Channel, Pattern: m.Pattern, Position: m.Position, Predecessor: m.Predecessor,
		Time: m.Time, Sender: m.Sender, Key: m.Key, Encoding: m.Encoding, Data: m.Data,
	}
	return e.Append(nil)
}

// missing says what a gap means.
func missing(gap *client.GapError) string {
	how := "messages of " + gap.Channel + " may be missing here"
	switch {
	case gap.Missed == 1:
		how = "1 message of " + gap.Channel + " is missing here"
	case gap.Missed > 1:
		how = fmt.Sprintf("%d messages of %s are missing here", gap.Missed, gap.Channel)
	}
	why := map[string]string{
		protocol.Expired:    "history does not reach back so far",
		protocol.Lost:       "the server lost its history",
		protocol.Outrun:     "this read too slowly, and history does not reach back so far",
		protocol.Skipped:    "this read too slowly, and goes on with the newest",
		protocol.Superseded: "this read too slowly, and goes on with the newest of each key",
		protocol.Forbidden:  "it is not granted to read history, so this goes on with what is new",
	}[gap.Reason]
	if why == "" {
		why = gap.Reason
	}
	return how + ": " + why
}

// presence says who came, who went, or who is there.
func presence(e *client.PresenceEvent) string {
	who := people(e.Members, len(e.Members)+e.Omitted)
	switch e.Type {
	case protocol.JoinEvent:
		return fmt.Sprintf("%s joined, %d here", who, e.Count)
	case protocol.LeaveEvent:
		return fmt.Sprintf("%s left, %d here", who, e.Count)
	}
	return hereNow(e.Members, e.Count)
}

// hereNow says who is there, of whom some may be known.
func hereNow(known []client.Member, count int) string {
	if count == 0 {
		return "nobody here"
	}
	return fmt.Sprintf("%d here: %s", count, people(known, count))
}

// people are so many, of whom some are known and some of those have names.
func people(known []client.Member, count int) string {
	var names []string
	for _, m := range known {
		if m.Name != "" && len(names) < 10 {
			names = append(names, m.Name)
		}
	}
	others := count - len(names)
	switch {
	case len(names) == 0 && others == 1:
		return "somebody"
	case len(names) == 0:
		return fmt.Sprintf("%d without a name", others)
	case others > 0:
		return strings.Join(names, ", ") + " and " + several(others, "other")
	}
	return strings.Join(names, ", ")
}
