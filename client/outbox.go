package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"fanfare/protocol"
)

// A call is a command of the program's that waits for its answer, over
// reconnections if it may.
type call struct {
	// static
	command protocol.Command
	size    int           // of its data, as the server counts
	done    chan struct{} // closed when it is finished

	// under Client.mu; once done is closed it does not change
	joined bool   // several wait for it
	first  moment // when it was first sent; zero: never
	answer *protocol.Event
	err    error
}

// repeats reports whether the call may be said again after it was sent without
// an answer: what it does, it does once, or it changes nothing.
func (a *call) repeats() bool { return a.command.Type != protocol.Request }

// unanswered is the error of a call that will get no answer.
func (a *call) unanswered(why error) error {
	if a.first.mono.IsZero() {
		return why
	}
	switch a.command.Type {
	case protocol.Publish:
		return &UncertainError{Channel: a.command.Channel, ID: a.command.ID, Err: why}
	case protocol.Request:
		return &UncertainError{Err: why}
	}
	return why
}

// failed is the error of a call that the server answered with one.
func (a *call) failed(e *Error) error {
	if a.command.Type == protocol.Publish && (e.Code == "timeout" || e.Code == "internal") {
		return &UncertainError{Channel: a.command.Channel, ID: a.command.ID, Err: e}
	}
	return e
}

// An outbox is the queue of calls without an answer, in the order in which
// they were made, and which of them were said over this connection: the first
// so many. Whoever uses it holds the client's mu.
type outbox struct {
	calls []*call
	bytes int
	said  int
	empty []chan struct{} // closed when calls becomes empty
}

// add appends a call, if there is room.
func (o *outbox) add(a *call, set *Options) error {
	switch {
	case len(o.calls) >= set.Queue:
		return fmt.Errorf("%w: %d commands wait for their answers, and no more may (Options.Queue)", ErrFull, len(o.calls))
	case len(o.calls) > 0 && o.bytes+a.size > set.QueueBytes:
		return fmt.Errorf("%w: with this one, more than %d bytes would wait for their answers (Options.QueueBytes)", ErrFull, set.QueueBytes)
	}
	o.calls = append(o.calls, a)
	o.bytes += a.size
	return nil
}

// finish takes a call off the queue and wakes who waits for it. A second time
// it does nothing.
func (o *outbox) finish(a *call, answer *protocol.Event, err error) {
	at := slices.Index(o.calls, a)
	if at < 0 {
		return
	}
	o.calls = slices.Delete(o.calls, at, at+1)
	o.bytes -= a.size
	if at < o.said {
		o.said--
	}
	a.answer, a.err = answer, err
	close(a.done)
	if len(o.calls) == 0 {
		for _, empty := range o.empty {
			close(empty)
		}
		o.empty = nil
	}
}

// whenEmpty returns what is closed once there is no call.
func (o *outbox) whenEmpty() <-chan struct{} {
	empty := make(chan struct{})
	if len(o.calls) == 0 {
		close(empty)
	} else {
		o.empty = append(o.empty, empty)
	}
	return empty
}

// publish returns the publish with an id that the program gave, or nil.
func (o *outbox) publish(id string) *call {
	for _, a := range o.calls {
		if a.command.Type == protocol.Publish && a.command.ID == id {
			return a
		}
	}
	return nil
}

// lose is for the end of a connection: everything has to be said again, but
// what may not.
func (o *outbox) lose(why error, now moment, repeatFor time.Duration) {
	o.said = 0
	for _, a := range slices.Clone(o.calls) {
		if !a.first.mono.IsZero() && !a.repeats() {
			o.finish(a, nil, a.unanswered(why))
		}
	}
	o.expire(now, repeatFor)
}

// expire gives up publishes that the server would not recognise any more.
func (o *outbox) expire(now moment, repeatFor time.Duration) {
	for _, a := range slices.Clone(o.calls[o.said:]) {
		o.expired(a, now, repeatFor)
	}
}

// expired gives up a publish if the server would not recognise it any more, and
// reports whether it did.
func (o *outbox) expired(a *call, now moment, repeatFor time.Duration) bool {
	if a.command.Type != protocol.Publish || now.after(a.first) <= repeatFor {
		return false
	}
	o.finish(a, nil, a.unanswered(fmt.Errorf("no answer came within %v, and after that the server might not recognise a repetition (Options.RepeatFor)", repeatFor)))
	return true
}

// newID makes up an id. The caller holds mu.
func (c *Client) newID() string {
	c.ids++
	return fmt.Sprintf("%s%d", c.idBase, c.ids)
}

// call queues a command.
func (c *Client) call(command protocol.Command, size int) (*call, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queue(command, size)
}

// queue is call for those who hold mu.
func (c *Client) queue(command protocol.Command, size int) (*call, error) {
	if err := c.open(); err != nil {
		return nil, err
	}
	a := &call{command: command, size: size, done: make(chan struct{})}
	if a.command.ID == "" {
		a.command.ID = c.newID()
	}
	if err := c.outbox.add(a, &c.o); err != nil {
		return nil, err
	}
	c.wakeWriter()
	return a, nil
}

// ask queues a command and waits for the answer.
func (c *Client) ask(ctx context.Context, command protocol.Command, size int) (*protocol.Event, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	a, err := c.call(command, size)
	if err != nil {
		return nil, err
	}
	select {
	case <-a.done:
		return a.answer, a.err
	case <-ctx.Done():
		return nil, c.withdraw(a, context.Cause(ctx))
	}
}

// withdraw is for a call whose caller waits no longer, and returns the error
// for it. What was not sent is not sent. A publish that was goes on until it is
// answered, so that those behind it do not overtake it.
func (c *Client) withdraw(a *call, why error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.joined {
		return &UncertainError{Channel: a.command.Channel, ID: a.command.ID, Err: why}
	}
	err := a.unanswered(why)
	if a.first.mono.IsZero() || a.command.Type != protocol.Publish {
		c.outbox.finish(a, nil, err)
	}
	return err
}
