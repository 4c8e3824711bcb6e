//go:build !linux

package loadgen

import (
	"errors"
	"time"
)

type process int

type usage struct {
	cpu time.Duration
	rss int64
}

func (p process) usage() (usage, error) {
	return usage{}, errors.New("--pid needs Linux: what the server uses is read from /proc, which is not there")
}

func (p process) sharesCores() bool { return false }
