//go:build !unix

package loadgen

import "syscall"

const readsRaw = false

func (c *conn) receiveRaw(syscall.Conn) error { panic("sockets are not read this way here") }
