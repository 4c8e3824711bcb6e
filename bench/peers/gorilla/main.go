// Command gorilla broadcasts with gorilla/websocket in the form of its chat
// example: one goroutine is the hub, each client has a reading and a writing
// goroutine and a channel of 256 messages between hub and writer; a client
// whose channel is full is dropped. What is written is a PreparedMessage, as
// the library recommends for a message to many, so it is encoded once.
//
//	gorilla PORT
package main

import (
	"log"
	"net/http"
	"os"
	"time"

	"github.com/gorilla/websocket"
)

const (
	patience = time.Minute // for a pong
	interval = patience * 9 / 10
	deadline = 10 * time.Second // for a write
)

type client struct {
	conn *websocket.Conn
	out  chan *websocket.PreparedMessage
}

type hub struct {
	join, leave chan *client
	publish     chan *websocket.PreparedMessage
}

func (h *hub) run() {
	clients := map[*client]bool{}
	remove := func(c *client) {
		if clients[c] {
			delete(clients, c)
			close(c.out)
		}
	}
	for {
		select {
		case c := <-h.join:
			clients[c] = true
		case c := <-h.leave:
			remove(c)
		case message := <-h.publish:
			for c := range clients {
				select {
				case c.out <- message:
				default:
					remove(c)
				}
			}
		}
	}
}

func (h *hub) read(c *client) {
	defer func() {
		h.leave <- c
		c.conn.Close()
	}()
	awake := func(string) error { return c.conn.SetReadDeadline(time.Now().Add(patience)) }
	c.conn.SetPongHandler(awake)
	_ = awake("")
	for {
		kind, payload, err := c.conn.ReadMessage()
		if err != nil {
			return
		}
		message, err := websocket.NewPreparedMessage(kind, payload)
		if err != nil {
			return
		}
		h.publish <- message
	}
}

func (c *client) write() {
	pings := time.NewTicker(interval)
	defer func() {
		pings.Stop()
		c.conn.Close()
	}()
	for {
		var err error
		select {
		case message, ok := <-c.out:
			_ = c.conn.SetWriteDeadline(time.Now().Add(deadline))
			if !ok {
				_ = c.conn.WriteMessage(websocket.CloseMessage, nil)
				return
			}
			err = c.conn.WritePreparedMessage(message)
		case <-pings.C:
			_ = c.conn.SetWriteDeadline(time.Now().Add(deadline))
			err = c.conn.WriteMessage(websocket.PingMessage, nil)
		}
		if err != nil {
			return
		}
	}
}

func main() {
	h := &hub{join: make(chan *client), leave: make(chan *client), publish: make(chan *websocket.PreparedMessage)}
	go h.run()
	upgrader := websocket.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		c := &client{conn, make(chan *websocket.PreparedMessage, 256)}
		h.join <- c
		go c.write()
		go h.read(c)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
