package loadgen

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// A process is one of this machine, by its id.
type process int

// usage is what a process has used.
type usage struct {
	cpu time.Duration // in steps of 10 ms
	rss int64         // bytes
}

// usage reads /proc (proc(5): utime, stime and rss of stat).
func (p process) usage() (usage, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", int(p)))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return usage{}, fmt.Errorf("there is no process %d: --pid is the server's process id, on this machine (pgrep -n fanfare)", int(p))
	case err != nil:
		return usage{}, fmt.Errorf("reading what the process %d uses: %w", int(p), err)
	}
	// The second field is the program's name in brackets, and may hold blanks.
	_, rest, _ := bytes.Cut(stat[max(bytes.LastIndexByte(stat, ')'), 0):], []byte(" "))
	fields := bytes.Fields(rest)
	if len(fields) < 22 {
		return usage{}, fmt.Errorf("/proc/%d/stat is not as expected", int(p))
	}
	number := func(field int) int64 { // as proc(5) counts them, from 1
		n, _ := strconv.ParseInt(string(fields[field-3]), 10, 64)
		return n
	}
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every architecture that Go runs on
	return usage{
		cpu: time.Duration(number(14)+number(15)) * tick,
		rss: number(24) * int64(os.Getpagesize()),
	}, nil
}

// sharesCores reports whether the process may run on the same cores as we.
func (p process) sharesCores() bool {
	cores := func(p process) string {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", int(p)))
		_, rest, _ := strings.Cut(string(status), "\nCpus_allowed:")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	return cores(p) == cores(process(os.Getpid()))
}
