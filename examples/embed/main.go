// Command embed is an ordinary REST service, a shop's orders, with one live
// channel in it:
//
//	GET  /orders        the orders, as JSON
//	POST /orders        {"item":"tea"} orders something; every listener hears of it
//	     /live/orders   the live channel; open it in a browser, or as a WebSocket
//
// What changes over REST is announced in the channel as {"type":"ordered",…}.
// What a listener says there as {"type":"ready","id":1} changes the order. Try:
//
//	go run ./examples/embed
//	curl --data '{"item":"tea"}' http://localhost:8080/orders
package main

import (
	"context"
	"errors"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"fanfare"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("open http://%s/live/orders", listener.Addr())
	if err := serve(ctx, listener); err != nil {
		log.Fatal(err)
	}
}

// serve runs the service until ctx is done, and then ends it in order.
func serve(ctx context.Context, listener net.Listener) error {
	live, err := fanfare.New(fanfare.Config{})
	if err != nil {
		return err
	}
	heard, err := live.Subscribe(ctx, channel, nil)
	if err != nil {
		return err
	}
	s := &shop{live: live}
	listening := make(chan struct{})
	go func() {
		s.listen(heard)
		close(listening)
	}()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", s.list)
	mux.HandleFunc("POST /orders", s.order)
	mux.Handle("/live/", http.StripPrefix("/live", live)) // /live/orders is the channel "orders"

	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err = <-failed:
	case <-ctx.Done():
	}

	// First the live part: http.Server.Shutdown does not know of connections
	// that became WebSockets. Everybody listening is told to come back later,
	// and our own subscription ends. Then what is left is plain HTTP.
	patience, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	err = errors.Join(err, live.Shutdown(patience), server.Shutdown(patience))
	<-listening
	return err
}
