// Command gws broadcasts with lxzan/gws in the form that its README gives: a
// Broadcaster for each message, which encodes it once and queues it to every
// connection.
//
//	gws PORT
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/lxzan/gws"
)

func main() {
	everyone := &audience{members: gws.NewConcurrentMap[*gws.Conn, struct{}](16, 128)}
	upgrader := gws.NewUpgrader(everyone, nil)
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		go conn.ReadLoop() // in a goroutine, so that the request's memory is let go
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}

type audience struct {
	gws.BuiltinEventHandler
	members *gws.ConcurrentMap[*gws.Conn, struct{}]
}

func (a *audience) OnOpen(conn *gws.Conn)           { a.members.Store(conn, struct{}{}) }
func (a *audience) OnClose(conn *gws.Conn, _ error) { a.members.Delete(conn) }

func (a *audience) OnMessage(_ *gws.Conn, message *gws.Message) {
	defer message.Close()
	b := gws.NewBroadcaster(message.Opcode, message.Bytes())
	defer b.Close()
	a.members.Range(func(conn *gws.Conn, _ struct{}) bool {
		_ = b.Broadcast(conn)
		return true
	})
}
