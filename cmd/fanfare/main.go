// Command fanfare is the broadcast server and its clients in a terminal.
//
// Each command lies in the file of its name. What serve can be told is in
// settings.go, and file.go reads it from a file. What the clients share: dial.go has
// the flags that say where to and as whom, and finds out whether a Fanfare server
// is there; talk.go is what they do with one, and link.go the plain WebSocket
// connection that they have with any other. env.go lets every flag come from the
// environment, exit.go holds the exit codes.
package main

import (
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}
