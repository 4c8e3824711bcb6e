package websocket_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"fanfare/websocket"
)

func Example() {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // the client has been answered
		}
		defer conn.CloseNow()
		for message, err := range conn.Messages(r.Context()) {
			if err != nil {
				return
			}
			if err := conn.Write(r.Context(), message.Type, message.Data); err != nil {
				return
			}
		}
	}))
	defer srv.Close()

	ctx := context.Background()
	conn, _, err := websocket.Dial(ctx, srv.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, websocket.Text, []byte("hello")); err != nil {
		fmt.Println(err)
		return
	}
	kind, data, err := conn.Read(ctx)
	fmt.Println(kind, string(data), err)
	fmt.Println(conn.Close(ctx, websocket.NormalClosure, ""))
	// Output:
	// text hello <nil>
	// <nil>
}
