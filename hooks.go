package fanfare

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
)

// Hooks let the program that embeds a [Server] take part. Nil means no part.
// They may be called from many goroutines at once, and may block: nobody waits but the
// client they are about. A panic in one is logged, and answered as an
// internal error.
type Hooks struct {
	// Connect is asked before a client's handshake is answered. An error
	// refuses it: an [*Error] with its text, code and status 403, every other
	// one as internal.
	Connect func(r *http.Request, channel string) error
	// Publish is asked before a client's message is published, over a WebSocket
	// or as a POST; what the program publishes itself is not asked about. m.Payload,
	// m.Binary, m.Key and m.Sender may be changed. An error keeps the message from being
	// published, and its sender is told as with Connect. One client's
	// messages are asked about one after the other, and published in that order; ctx ends with the
	// request, or, for a WebSocket, with the server.
	Publish func(ctx context.Context, m *Message) error
	// Disconnect is told of every session's end, after the last message was
	// taken from it; reason is one of those that [Stats] counts.
	Disconnect func(channel, name, reason string)
}

func (h *Hooks) mayConnect(r *http.Request, channel string) (err error) {
	if h.Connect == nil {
		return nil
	}
	defer recovered("Connect", &err)
	return forbidden(h.Connect(r, channel))
}

func (h *Hooks) mayPublish(ctx context.Context, m *Message) (err error) {
	if h.Publish == nil {
		return nil
	}
	defer recovered("Publish", &err)
	return forbidden(h.Publish(ctx, m))
}

func (h *Hooks) disconnected(channel, name string, why ending) (err error) {
	if h.Disconnect == nil {
		return nil
	}
	defer recovered("Disconnect", &err)
	h.Disconnect(channel, name, why.String())
	return nil
}

// forbidden gives a hook's refusal its HTTP status.
func forbidden(err error) error {
	var known *Error
	if !errors.As(err, &known) {
		return err
	}
	refusal := *known
	refusal.status = http.StatusForbidden
	return &refusal
}

// recovered turns a panic into an error.
func recovered(hook string, err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the hook %s panicked: %v\n%s", hook, p, debug.Stack())
	}
}
