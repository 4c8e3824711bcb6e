//go:build !linux

package stream

import "net"

func boundUnsent(net.Conn) {}

func makeRoom(net.Conn, int) {}
