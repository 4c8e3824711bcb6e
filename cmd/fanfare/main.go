// Command fanfare is the broadcast server and its clients in a terminal.
//
// Each command lies in the file of its name. What the clients share: link.go
// keeps one plain WebSocket connection and brings it back when it is lost,
// dial.go has the flags that say where to and as whom, env.go lets every flag
// come from the environment, exit.go holds the exit codes.
package main

import (
	"os"
)

func main() {
	os.Exit(run(os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr}))
}
