// Package client speaks fanfare.v1 with a Fanfare server: many channels over
// one connection, acknowledged publishes, what was missed while away, who is
// here, and answers to questions. It connects again by itself.
//
//	c, err := client.Dial(ctx, "ws://localhost:8765", nil)
//	…
//	defer c.Close()
//	sub, err := c.Subscribe(ctx, "chat/general", nil)
//	…
//	position, err := c.Publish(ctx, "chat/general", map[string]string{"type": "chat", "content": "Hello"}, nil)
//	…
//	for m, err := range sub.Messages(ctx) {
//		…
//	}
//
// The conversation is described in docs/protocol.md. Programs that want a bare
// WebSocket use package websocket instead.
//
// # The shape of it
//
//   - A [Client] is one conversation over as many connections as it takes. [Client.State] and
//     [Client.States] tell how it is.
//   - A [Subscription] is one channel, or one pattern of channels ("chat/**"): an
//     iterator of messages, and who is here.
//   - [Client.Publish] returns when the message is in the channel's history;
//     [Client.Send] returns at once, with a [Receipt].
//   - [Client.History], [Client.Presence] and [Client.Request] ask.
//
// Everything may be called from any goroutine. Nothing is a callback, so that
// nothing can be called from a wrong place.
//
// # What happens when the connection is lost
//
// The client connects again after a pause of random length, whose bound doubles
// with each failure, and not before the time that the server asked for. It asks for every subscription from the message on that it received
// last. So a subscription brings every message once and in order, or says with
// a [GapError] that some are gone.
//
// Commands wait meanwhile in a queue with bounds in number and bytes; beyond them
// the error is [ErrFull]. A publish that got no answer is said again with the
// same id, by which the server knows it: it is published once. The server
// remembers ids for five minutes. A publish that stayed without an answer for
// almost so long ends with an [UncertainError]: it may have been published.
// Publishes to a channel happen in the order in which they were sent.
//
// A server that refuses for good (an HTTP status of 400 to 499 but 408, 425 and
// 429, or a farewell that does not ask to come back) ends the client, and whatever
// waits for something gets that as its error.
//
// # Who it is
//
// [Options.Token] gives the token of each connection. It goes along in a header, is
// in no URL and in no error, and is asked for anew when the server says that the old one expires
// soon: the connection and all that is read over it goes on. When that came too late
// the client connects again with a new one. When a server refuses a token (with the [Error] bad_token,
// token_revoked, forbidden and the like) the client asks for one more, after the pause of a failure,
// and ends if that is no other or is refused too.
//
// What the token does not grant is refused with the [Error] forbidden. A subscription
// whose right is taken away ends with what the server says about it. Who may read, and not
// read history, gets a [GapError] with the reason forbidden where something was missed.
//
// # Slow consumers
//
// The client always reads from its connection as fast as it can: answers and
// other subscriptions must not wait for a slow one. Each subscription has a
// buffer, bounded in number and bytes. When it is full, the client ends the
// subscription at the server; and when half of the buffer is free again it
// fetches what followed from history, page by page, until nothing more is missing,
// and then subscribes again from there. So nothing is lost as far as history
// reaches, and a [GapError] stands where it does not. The price: while it lags,
// the client is not among the channel's members, and its reading costs the server requests.
// With the policies skip and latest the client does instead what the server does for slow connections: see
// [SubscribeOptions].
package client
