package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
	"unicode/utf8"

	"fanfare/protocol"
)

// PublishOptions are a publish's. Nil or zero: a message without a key.
type PublishOptions struct {
	// Key is what the message is the newest value of, for channels in which a
	// slow reader wants the latest.
	Key string
	// Binary: the data, which must be a []byte, are any bytes and not a text.
	Binary bool
	// ID makes publishes with it one message, for as long as the server
	// remembers ids (five minutes unless its settings say otherwise) and for this
	// client: for trying again after an [UncertainError]. 128 bytes at most. Empty: one that no other has.
	ID string
}

// Publish publishes to a channel and returns the position of the message, when it
// is in history as durably as the server's broker promises.
//
// data is a message's text, or with [PublishOptions.Binary] its bytes, if it is a []byte, and
// otherwise what [encoding/json] makes of it. So json.RawMessage goes out as it
// is, and a string is a JSON string, which those who speak plain see as the text it stands for.
// In text that is JSON, ends of lines become spaces.
//
// Publish waits over reconnections, and where the server takes no more for now
// (rate_limited) for as long as it says; [Client.Send] does not, because what was sent after it
// would overtake it. If ctx ends before the message was sent
// over any, the message is not published; if it ends after that, the error is an
// [UncertainError] and the client goes on to publish it: publishing it again
// with the ID of the error tells how it went.
func (c *Client) Publish(ctx context.Context, channel string, data any, o *PublishOptions) (position string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	var set PublishOptions
	if o != nil {
		set = *o
	}
	for {
		r, err := c.Send(channel, data, &set)
		if err != nil {
			return "", err
		}
		select {
		case <-r.Done():
		case <-ctx.Done():
			return "", c.withdraw(r.call, context.Cause(ctx))
		}
		position, err = r.Wait(ctx)
		var limited *Error
		if !errors.As(err, &limited) || limited.Code != "rate_limited" || limited.Retry <= 0 {
			return position, err
		}
		set.ID = r.ID()
		wait := span(limited.Retry, time.Millisecond, mostRetry)
		select {
		case <-time.After(wait + rand.N(wait/2+1)): // #nosec G404: those who were refused together do not come back together
		case <-c.ended:
			return "", err
		case <-ctx.Done():
			return "", fmt.Errorf("client: %w; until then: %w", context.Cause(ctx), err)
		}
	}
}

// maxID is how long an id may be, in bytes.
const maxID = 128

// Send queues a publish and returns at once. Messages to a channel are
// published in the order of their Sends. See Publish for data.
func (c *Client) Send(channel string, data any, o *PublishOptions) (*Receipt, error) {
	if o == nil {
		o = &PublishOptions{}
	}
	command := protocol.Command{Type: protocol.Publish, ID: o.ID, Channel: c.orURLs(channel), Key: o.Key}
	if len(o.ID) > maxID || !utf8.ValidString(o.ID) { // the server's error could not say whose it is
		return nil, &Error{Code: "bad_id", Message: fmt.Sprintf("id is %.40q with %d bytes; it may have %d, and must be UTF-8", o.ID, len(o.ID), maxID)}
	}
	size, err := pack(&command, data, o.Binary)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if o.ID != "" {
		if a := c.outbox.publish(o.ID); a != nil {
			if !same(&a.command, &command) {
				return nil, &Error{Code: "id_reused", Message: fmt.Sprintf("id %.40q belongs to another message, which is under way: use one id for one message", o.ID)}
			}
			a.joined = true
			return &Receipt{a}, nil
		}
	}
	a, err := c.queue(command, size)
	if err != nil {
		return nil, err
	}
	return &Receipt{a}, nil
}

// same reports whether two publishes with the same id are one.
func same(a, b *protocol.Command) bool {
	return a.Channel == b.Channel && a.Key == b.Key && a.Encoding == b.Encoding && bytes.Equal(a.Data, b.Data)
}

// pack puts what a program publishes into a command and returns how many bytes
// the server will count.
func pack(command *protocol.Command, data any, binary bool) (size int, err error) {
	payload, isBytes := data.([]byte)
	switch {
	case binary && !isBytes:
		return 0, fmt.Errorf("client: only a []byte can be published as binary, not a %T", data)
	case isBytes && !binary && !utf8.Valid(payload):
		return 0, &Error{Code: "bad_data", Message: "the text is not UTF-8: publish other bytes with PublishOptions.Binary"}
	case isBytes:
		command.Data, command.Encoding = protocol.DataOf(payload, binary)
		return len(payload), nil
	default:
		if command.Data, err = marshal(data); err != nil {
			return 0, fmt.Errorf("client: the data cannot be published: %w", err)
		}
	}
	kept, _, refusal := command.Payload()
	if refusal != nil {
		return 0, refusal
	}
	return len(kept), nil
}

// marshal is json.Marshal, but that it leaves alone what only matters in HTML,
// and JSON that is there already.
func marshal(v any) (json.RawMessage, error) {
	if raw, ok := v.(json.RawMessage); ok {
		if !protocol.IsJSON(raw) {
			return nil, fmt.Errorf("this json.RawMessage is not JSON of at most %d levels: %.80q", protocol.MaxLevels, raw)
		}
		return bytes.Clone(raw), nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// A Receipt is a publish under way.
type Receipt struct{ call *call }

// ID returns the publish's id: see [PublishOptions.ID].
func (r *Receipt) ID() string { return r.call.command.ID }

// Done is closed when Wait would not wait.
func (r *Receipt) Done() <-chan struct{} { return r.call.done }

// Wait waits for the server's answer, over reconnections, and returns the
// message's position, or the error: an [*Error] of the server's, an [UncertainError],
// or why the client ended. That ctx ends changes nothing for the publish.
func (r *Receipt) Wait(ctx context.Context) (position string, err error) {
	select {
	case <-r.call.done:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	if r.call.err != nil {
		return "", r.call.err
	}
	return r.call.answer.Position, nil
}
