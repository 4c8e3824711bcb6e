package websocket

import (
	"errors"
	"net/http"

	"fanfare/internal/handshake"
)

// Accept turns the request into a connection. When it cannot, it has answered
// the request, and the error says why. Headers set on w before, cookies for
// example, go out with the handshake.
//
// The connection outlives the handler, while the request's context ends with it.
func Accept(w http.ResponseWriter, r *http.Request, o *AcceptOptions) (*Conn, error) {
	if o == nil {
		o = &AcceptOptions{}
	}
	subprotocol, err := handshake.Check(r, &handshake.Options{Subprotocols: o.Subprotocols, Origins: o.Origins})
	if err == nil {
		conn, arrived, taken := handshake.Take(w, r, subprotocol, w.Header())
		if taken == nil {
			return newConn(conn, arrived, false, subprotocol, o.settings()), nil
		}
		err = taken
	}
	var refusal *handshake.Refusal
	if errors.As(err, &refusal) {
		refusal.Answer(w)
	}
	return nil, err
}
