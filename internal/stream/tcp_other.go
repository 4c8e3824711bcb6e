//go:build !linux

package stream

import "net"

func tuneTCP(net.Conn) {}

func makeRoom(net.Conn, int) {}
