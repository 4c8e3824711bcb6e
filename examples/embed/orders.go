package main

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"net/http"
	"sync"

	"fanfare"
)

// channel is where orders are announced.
const channel = "orders"

type order struct {
	ID    int    `json:"id"`
	Item  string `json:"item"`
	Ready bool   `json:"ready"`
}

// An event is a message in the channel: the service says "ordered" with the
// order, the kitchen says "ready" with an id. Whoever can reach the channel can
// say either; a real shop would look at who does.
type event struct {
	Type  string `json:"type"`
	Order *order `json:"order,omitempty"`
	ID    int    `json:"id,omitempty"`
}

type shop struct {
	live *fanfare.Server

	mu     sync.Mutex // guards the following
	orders []order    // order n is at n-1
}

func (s *shop) list(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	orders := append([]order{}, s.orders...)
	s.mu.Unlock()
	answer(w, http.StatusOK, orders)
}

func (s *shop) order(w http.ResponseWriter, r *http.Request) {
	var o order
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&o); err != nil || o.Item == "" {
		http.Error(w, `an order is a JSON object such as {"item":"tea"}, of 4 KiB at most`, http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	o.ID, o.Ready = len(s.orders)+1, false
	s.orders = append(s.orders, o)
	s.mu.Unlock()

	// A text that is a JSON object reaches every listener byte for byte.
	text, _ := json.Marshal(event{Type: "ordered", Order: &o}) // such a struct always encodes
	if _, err := s.live.Publish(r.Context(), &fanfare.Message{Channel: channel, Payload: text}); err != nil {
		log.Printf("order %d was taken but not announced: %v", o.ID, err)
	}
	answer(w, http.StatusCreated, o)
}

// listen does what the kitchen says, until the server is shut down.
func (s *shop) listen(heard *fanfare.Subscription) {
	for m, err := range heard.Messages(context.Background()) {
		if err != nil {
			// A gap, after which it goes on, or the end.
			if !errors.Is(err, fanfare.ErrServerClosed) {
				log.Print(err)
			}
			continue
		}
		var e event
		if json.Unmarshal(m.Payload, &e) == nil && e.Type == "ready" {
			s.ready(e.ID)
		}
	}
}

func (s *shop) ready(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if 1 <= id && id <= len(s.orders) {
		s.orders[id-1].Ready = true
	}
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone; nobody is left to tell
}
