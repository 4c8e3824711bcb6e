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
// call that can wait takes a context, and a cancelled call leaves the connection as
// it was: a cancelled Read loses nothing, the next one gets the message; a
// cancelled Write sent nothing, or its message is completed in the background
// before any other goes out, so it may still arrive.
//
// A goroutine per connection reads ahead, at most 16 frames or one message
// limit, and then leaves the rest to TCP's flow control. So pings are answered
// and a lost or closed connection is noticed ([Conn.Done]) though nobody reads,
// until those 16 frames are full.
//
// # Two ways to hurt yourself
//
// Not reading: with the queue full, pings are no longer answered, and the peer
// will take you for dead. Read in a loop, also where no message is expected.
//
// Keeping a [Conn.Writer] open: a message is a unit, so every other message waits
// until it is closed.
package websocket
