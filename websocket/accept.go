package websocket

import (
	"errors"
	"net/http"

	"fanfare/internal/deflate"
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
	conn, err := o.accept(w, r)
	var refusal *handshake.Refusal
	if errors.As(err, &refusal) {
		refusal.Answer(w)
	}
	return conn, err
}

func (o *AcceptOptions) accept(w http.ResponseWriter, r *http.Request) (*Conn, error) {
	subprotocol, err := handshake.Check(r, &handshake.Options{Subprotocols: o.Subprotocols, Origins: o.Origins})
	if err != nil {
		return nil, err
	}
	agreed := handshake.Agreed{Subprotocol: subprotocol}
	var pack *packing
	if o.Compression != CompressionOff {
		params, ok, err := deflate.Accept(r.Header["Sec-Websocket-Extensions"], o.Compression == CompressionTakeover)
		if err != nil {
			return nil, handshake.BadExtensions(err)
		}
		if ok {
			agreed.Extensions = params.String()
			pack = newPacking(params.ServerBits, !params.ServerNoTakeover, params.ClientBits, !params.ClientNoTakeover, o.CompressOver)
		}
	}
	conn, arrived, err := handshake.Take(w, r, agreed, w.Header())
	if err != nil {
		return nil, err
	}
	return newConn(conn, arrived, false, subprotocol, pack, o.settings()), nil
}
