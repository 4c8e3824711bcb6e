// Command page serves a drawing board: a page that everybody who has it open
// draws on together. All of it is in page.html; the drawing is the history of a channel.
//
//	go run ./examples/page    # then open http://127.0.0.1:8080/ in two windows
package main

import (
	_ "embed"
	"log"
	"net/http"
	"time"

	"fanfare"
)

//go:embed page.html
var page []byte

func main() {
	// A drawing has many strokes: more of them are kept than of other channels' messages.
	live, err := fanfare.New(fanfare.Config{Channels: []fanfare.ChannelConfig{{Pattern: "board", History: 10_000, HistoryBytes: 10 << 20}}})
	if err != nil {
		log.Fatal(err)
	}
	log.Print("open http://127.0.0.1:8080/")
	server := &http.Server{Addr: "127.0.0.1:8080", Handler: handler(live), ReadHeaderTimeout: 10 * time.Second}
	log.Fatal(server.ListenAndServe())
}

// handler is the page, and below /live/ the server that it speaks with.
func handler(live http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/live/", http.StripPrefix("/live", live))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page)
	})
	return mux
}
