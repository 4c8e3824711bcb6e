package stream

import (
	"net"

	"fanfare/internal/netend"
)

func boundUnsent(nc net.Conn) { netend.Control(nc, netend.BoundUnsent) }

func makeRoom(nc net.Conn, n int) { netend.Control(nc, func(fd int) { netend.MakeRoom(fd, n) }) }
