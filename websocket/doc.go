// Package websocket speaks RFC 6455 for Go programs: [Accept] turns an HTTP
// request into a connection, [Dial] opens one, and both give a [Conn], which
// carries messages ([Text] or [Binary]) both ways until either side closes it
// with a [Code] and a reason.
//
//	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
//		conn, err := websocket.Accept(w, r, nil)
//		if err != nil {
//			return // the client has been answered
//		}
//		defer conn.CloseNow()
//		for message, err := range conn.Messages(r.Context()) {
//			if err != nil {
//				log.Print(err)
//				return
//			}
//			if err := conn.Write(r.Context(), message.Type, message.Data); err != nil {
//				return
//			}
//		}
//	})
//
// All methods of a Conn may be called from any goroutine at any time. Every
// call that can wait takes a context, but for [Conn.CloseNow], which waits a second
// at most. A cancelled call leaves the connection as it was: a cancelled Read loses
// nothing, the next one gets the message; a cancelled Write sent nothing, or its
// message is completed in the background before any other goes out, so it may still
// arrive; a cancelled Close goes on in the background. The streams of [Conn.Reader]
// and [Conn.Writer] go by the context that they were asked for with.
//
// A goroutine per connection reads ahead, at most 16 frames or one message
// limit, and then leaves the rest to TCP's flow control. So pings are answered
// and a lost or closed connection is noticed ([Conn.Done]) though nobody reads,
// until those 16 frames are full.
//
// Messages of 256 bytes and more are compressed where the peer can do it too,
// each on its own, so that a connection without traffic holds nothing for it; see [Compression].
// A compressed message is inflated, and its text checked, when all of it is there, so
// [Conn.Reader] has it a little later. It counts against the limit with what it inflates to.
//
// # Two ways to hurt yourself
//
// Not reading: with the queue full, pings are no longer answered, and the peer
// will take you for dead. Read in a loop, also where no message is expected.
//
// Keeping a [Conn.Writer] open: a message is a unit, so every other message waits
// until it is closed. And the peer may have a limit to how long a message may take;
// ours is a minute.
//
// # What there is not
//
// Whoever comes from Python's websockets will miss:
//
//   - Extensions of one's own. Compression (permessage-deflate, RFC 7692) is there,
//     on unless [AcceptOptions] or [DialOptions] say otherwise; a level or a window size cannot be chosen.
//   - Connecting again by itself: Dial in a loop, with a pause that grows. What has to
//     be said again on the new connection, only the application knows.
//   - A server: [Accept] is called in a handler of net/http, and what serve, its
//     router and process_request do is the HTTP server's and its middleware's;
//     so are basic authentication and asking who it is. Dial does send the user
//     and password of a URL.
//   - Closing all connections of a server at once: Shutdown of net/http knows
//     none of them; keep them, and Close each.
//   - Broadcasting: package fanfare does, with channels. Here it is a Write for each
//     connection, from a goroutine each, so that nobody waits for the slowest.
//   - Logging: nothing is logged. Every error is returned, and [Conn.Err] tells
//     why a connection ended.
//   - SOCKS4 proxies; a protocol without input and output of its own (Sans-I/O);
//     WebSocket over HTTP/2 (RFC 8441). Left out.
package websocket
