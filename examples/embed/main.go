// Command embed is an ordinary REST service, a shop's orders, with one live
// channel in it: whatever is ordered, everyone who listens hears at once.
//
//	go run ./examples/embed                                     # then open http://127.0.0.1:8080/live/orders
//	curl --data '{"item":"tea"}' http://127.0.0.1:8080/orders   # and see it there
//	curl http://127.0.0.1:8080/orders
package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"fanfare"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err == nil {
		err = serve(ctx, listener)
	}
	if err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, listener net.Listener) error {
	live, err := fanfare.New(fanfare.Config{})
	if err != nil {
		return err
	}
	var mu sync.Mutex             // guards orders
	orders := []json.RawMessage{} // oldest first
	mux := http.NewServeMux()
	mux.HandleFunc("GET /orders", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(orders)
	})
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		order, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 4<<10))
		if err != nil || !json.Valid(order) {
			http.Error(w, "an order is JSON of 4 KiB at most", http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		orders = append(orders, order)
		if _, err := live.Publish(r.Context(), &fanfare.Message{Channel: "orders", Payload: order}); err != nil {
			log.Printf("order %d was taken, but not announced: %v", len(orders), err)
		}
		w.WriteHeader(http.StatusCreated)
	})
	mux.Handle("/live/", http.StripPrefix("/live", live)) // so /live/orders is the channel "orders"

	log.Printf("ready, open http://%s/live/orders", listener.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { log.Print(server.Serve(listener)) }()
	<-ctx.Done()
	// The live part first: it tells everyone goodbye, and http.Server.Shutdown knows nothing of WebSockets.
	return errors.Join(live.Shutdown(context.Background()), server.Shutdown(context.Background()))
}
