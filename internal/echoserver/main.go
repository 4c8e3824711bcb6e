// Command echoserver sends every WebSocket message back. It is what test
// suites for the protocol run against:
//
//	go run ./internal/echoserver --listen 127.0.0.1:9001
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"fanfare/websocket"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:9001", "`address` to listen on; port 0 takes a free one")
	flag.Parse()
	if err := run(*listen); err != nil {
		fmt.Fprintln(os.Stderr, "echoserver:", err)
		os.Exit(1)
	}
}

func run(listen string) error {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "echoing on ws://%s/\n", l.Addr())
	srv := &http.Server{Handler: http.HandlerFunc(echo), ReadHeaderTimeout: 10 * time.Second}
	return srv.Serve(l)
}

// echo sends messages back until the client has had enough.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Limit: 64 << 20, PingInterval: -1, MessageTimeout: -1})
	if err != nil {
		return // the client has been answered
	}
	defer conn.CloseNow()
	for m, err := range conn.Messages(r.Context()) {
		if err != nil {
			return
		}
		if err := conn.Write(r.Context(), m.Type, m.Data); err != nil {
			return
		}
	}
	// Both sides have said goodbye; the last of it is still on its way.
	<-conn.Done()
}
