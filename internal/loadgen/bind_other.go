//go:build !linux

package loadgen

import "syscall"

func bindWithoutPort(_, _ string, _ syscall.RawConn) error { return nil }
