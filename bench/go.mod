// The servers that Fanfare is measured beside are nobody's dependency but this
// comparison's: it is a module of its own, and go.mod at the top knows nothing of them.
module fanfare/bench

go 1.25.0

require (
	github.com/coder/websocket v1.8.15
	github.com/gorilla/websocket v1.5.3
	github.com/lxzan/gws v1.8.9
)

require (
	github.com/dolthub/maphash v0.1.0 // indirect
	github.com/klauspost/compress v1.17.9 // indirect
)
