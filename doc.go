// Package fanfare is a real-time broadcast server as a library: what one
// client says into a channel, everyone listening there hears, in order and at
// once. A [Server] is an [http.Handler]; mount it in any router.
//
//	srv, err := fanfare.New(fanfare.Config{})
//	if err != nil { ... }
//	http.Handle("/live/", http.StripPrefix("/live", srv))
//
// Now ws://host/live/chat is the channel "chat". Any WebSocket client is a
// full citizen, a browser gets a page, curl reads history and publishes, and
// the program itself speaks too: [Server.Publish], [Server.Subscribe].
//
// # The nouns
//
// A channel is a named stream of messages. A message is one publication; its
// position, an epoch and an offset, is the place right after it. A session is
// one connected client. A subscription is one session in one channel: a cursor
// in the channel's feed, and what to do when it lags. A broker gives messages
// their positions and keeps history.
//
// # The path of one message
//
//	socket → frame → session → (plain | v1) → publish → broker → feed → joined bytes → socket
//
// A transport reads a client's bytes; the frame parser makes frames of them,
// the session messages. The conversation, plain or fanfare.v1, says what a message means, and
// publish, the only door for publications, hands it to the broker. The broker
// gives it an offset and delivers it to the channel's feed: one list that all
// subscriptions read, each with its own cursor. The channel wakes its
// subscriptions; each takes everything between its cursor and the newest
// message as one piece of bytes, encoded and joined once for all.
//
// On Linux a plain TCP connection belongs to an event loop, one for each
// processor, and has no goroutine and no buffer of its own; the subscribers of a
// channel that belong to one loop are an audience, and the loop walks past them.
// All other connections have a goroutine. [Hooks], which may block, are called on
// neither: meanwhile nothing more is read from the client they are about.
//
// # What is promised
//
// Within one channel all subscriptions see the same order. A publish that was
// acknowledged is in history as durably as the broker says. A client that
// resumes from a position gets every message after it exactly once, or is told
// that some are gone. No publisher waits for a reader, and no reader for another.
//
// # Who may do what
//
// With [Config.Auth] an [auth.Authenticator], the program's own or one of package auth, says who a client is, and rules
// what it may do, on every face; without, nobody is asked. [Server.Revoke] ends somebody's
// access, [Server.Reload] brings other rules, and [Server.Admin] has the operators' pages, for an address of their own.
//
// # Two ways to hurt yourself
//
// [http.Server.Shutdown] does not know of connections that became WebSockets or live readers:
// call [Server.Shutdown] too, first; it also ends the server's own goroutines. And a middleware that wraps the
// [http.ResponseWriter] must pass it through (an Unwrap method is enough), or
// no WebSocket can be opened behind it; the error names the wrapper.
package fanfare
