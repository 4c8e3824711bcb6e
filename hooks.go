package fanfare

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
)

// Hooks let the program that embeds a [Server] take part. Nil means no part.
// They may be called from many goroutines at once, and may block: nobody waits but the
// client they are about. A panic in one is logged, and answered as an
// internal error.
type Hooks struct {
	// Connect is asked before a client is let in that stays: over a WebSocket (at
	// /-/connect channel is empty), or to read the live channel over HTTP. It is asked about nothing
	// else: for reading history and for POST, guard the whole Server by a handler around it. An error
	// refuses it: an [*Error] with its text, its code (without one: forbidden) and status 403,
	// every other one as internal, and the log has it. channel may be a pattern, "chat/**", as the
	// path of any request that reads may. Who it is says [auth.FromContext] of the request's context: nil
	// also for one that will say so in its first message, of whom then Subscribe is asked, also about
	// this channel; where [Config.Auth] is set, r is as
	// the Authenticator saw it: without the token. Not everybody whom it lets in comes: a HEAD
	// asks too, and a handshake can break off.
	Connect func(r *http.Request, channel string) error
	// Subscribe is asked before a client that speaks fanfare.v1 subscribes to a
	// channel or a pattern other than that of its URL, and before it is told the
	// history of one or who is present. Errors are told as with Connect; nothing
	// more is heard of the client until it returns. ctx ends when Shutdown is called, and knows
	// who the client is ([auth.FromContext]), as that of Publish does.
	//
	// A connection that speaks fanfare.v1 leads to every channel, whatever its URL.
	// So with Connect and without Subscribe it may read only its URL's, and with
	// Connect and without Publish it may publish only there. A guard around the Server that goes by the
	// URL's path is not known here, and needs both of these hooks.
	Subscribe func(ctx context.Context, channel, name string) error
	// Publish is asked before a client's message is published, over a WebSocket
	// or as a POST; what the program publishes itself is not asked about. m.Payload,
	// m.Binary, m.Key and m.Sender may be changed until it returns, and the same message must become the same
	// again: what is repeated with its id is compared behind this hook. An error keeps the
	// message from being published, and its sender is told as with Connect. The messages of
	// one WebSocket are asked about one after the other, and published in that
	// order; meanwhile nothing more is read from it. ctx ends with the
	// request, or, for a WebSocket, when the server's Shutdown is called.
	Publish func(ctx context.Context, m *Message) error
	// Disconnect is told of the end of every client that came in so, after
	// Publish was asked about the last message from it, each on a goroutine of its
	// own: when thousands leave at once, it is called thousands of times at once.
	// reason is one of those that [Stats] counts.
	Disconnect func(channel, name, reason string)
}

func (h *Hooks) mayConnect(r *http.Request, channel string) (err error) {
	if h.Connect == nil {
		return nil
	}
	defer recovered("Connect", &err)
	return refusal(r.Context(), "Connect", h.Connect(r, channel))
}

// mayLeaveHome returns an error if a client may not be somewhere else than at
// its URL's channel, where the program did not say more than whom Connect lets in there.
func (h *Hooks) mayLeaveHome(who *speaker, channel string) error {
	if h.Connect == nil || h.Publish != nil || channel == who.home {
		return nil
	}
	return errAtHome
}

var errAtHome = errorf("forbidden", "the server's program lets clients in channel by channel: connect to this channel's own URL")

func (h *Hooks) maySubscribe(ctx context.Context, who *speaker, channel string) (err error) {
	switch {
	case channel == who.home:
		return nil
	case h.Subscribe == nil && h.Connect != nil:
		return errAtHome
	case h.Subscribe == nil:
		return nil
	}
	return h.subscribe(ctx, who, channel)
}

// mayReadHome is asked about the URL's channel of a client that said who it is after
// Connect was asked about nobody.
func (h *Hooks) mayReadHome(ctx context.Context, who *speaker) error {
	if h.Subscribe == nil {
		return nil
	}
	return h.subscribe(ctx, who, who.home)
}

func (h *Hooks) subscribe(ctx context.Context, who *speaker, channel string) (err error) {
	defer recovered("Subscribe", &err)
	return refusal(ctx, "Subscribe", h.Subscribe(ctx, channel, who.name))
}

func (h *Hooks) mayPublish(ctx context.Context, m *Message) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx) // whoever would hear the answer is gone
	}
	defer recovered("Publish", &err)
	channel := m.Channel
	if err := refusal(ctx, "Publish", h.Publish(ctx, m)); err != nil {
		return err
	}
	if m.Channel != channel {
		return fmt.Errorf("the hook Publish changed a message's channel from %q to %.80q, which it must not", channel, m.Channel)
	}
	return nil
}

func (h *Hooks) disconnected(channel, name string, why ending) (err error) {
	defer recovered("Disconnect", &err)
	h.Disconnect(channel, name, why.String())
	return nil
}

// refusal makes of a hook's error what the client is told. Only an [*Error] is
// for clients; to all others, whatever they are, [Server.known] gives no meaning of its own.
func refusal(ctx context.Context, hook string, err error) error {
	var known *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return &Error{
			Code:    cmp.Or(known.Code, "forbidden"),
			Message: strings.ToValidUTF8(cmp.Or(known.Message, "the server's program refuses it"), "\uFFFD"),
			status:  http.StatusForbidden,
		}
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return context.Cause(ctx)
	}
	return fmt.Errorf("the hook %s: %v", hook, err)
}

// recovered turns a panic into an error.
func recovered(hook string, err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the hook %s panicked: %v\n%s", hook, p, debug.Stack())
	}
}
