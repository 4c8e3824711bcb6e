//go:build !linux

package netend

import (
	"net"
	"time"
)

// GiveUp does nothing here: the system has a patience of its own.
func GiveUp(net.Conn, time.Duration) {}
