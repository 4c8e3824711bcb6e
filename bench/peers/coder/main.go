// Command coder broadcasts with coder/websocket in the form of its chat
// example: a buffered channel for each subscriber, filled under one lock;
// the handler's goroutine writes, with a timeout for each message, and a
// subscriber whose channel is full is closed. The example's clients publish by
// POST; here they do it over the WebSocket, so a second goroutine reads. Its
// channels hold 16 messages; with 64 in flight that would close everybody, so
// these hold 256.
//
//	coder PORT
package main

import (
	"context"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/coder/websocket"
)

type message struct {
	kind    websocket.MessageType
	payload []byte
}

type subscriber struct {
	out       chan message
	closeSlow func()
}

type chat struct {
	mu          sync.Mutex
	subscribers map[*subscriber]struct{}
}

func (c *chat) publish(m message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.subscribers {
		select {
		case s.out <- m:
		default:
			go s.closeSlow()
		}
	}
}

func (c *chat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	s := &subscriber{make(chan message, 256), func() {
		conn.Close(websocket.StatusPolicyViolation, "too slow to keep up with the messages")
	}}
	c.mu.Lock()
	c.subscribers[s] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.subscribers, s)
		c.mu.Unlock()
	}()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		for {
			kind, payload, err := conn.Read(ctx)
			if err != nil {
				return
			}
			c.publish(message{kind, payload})
		}
	}()
	for {
		select {
		case m := <-s.out:
			if err := write(ctx, conn, m); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func write(ctx context.Context, conn *websocket.Conn, m message) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return conn.Write(ctx, m.kind, m.payload)
}

func main() {
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], &chat{subscribers: map[*subscriber]struct{}{}}))
}
