package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// describe says what was measured and on which machine, in a sentence or two
// for below the table.
func describe(ctx context.Context, bench string) string {
	model := "unknown CPU"
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	commit, err := output(ctx, bench, nil, "git", "describe", "--always", "--dirty", "--exclude", "*")
	if err != nil {
		commit = "of unknown commit"
	}
	goVersion, err := output(ctx, filepath.Join(bench, ".."), nil, "go", "env", "GOVERSION")
	if err != nil {
		goVersion = runtime.Version()
	}
	transport := ""
	if t := os.Getenv("FANFARE_TRANSPORT"); t != "" {
		transport = ", FANFARE_TRANSPORT=" + t
	}
	return fmt.Sprintf("Measured on %s: Fanfare %s%s, %s; %s, %d cores, Linux %s.",
		time.Now().Format(time.DateOnly), commit, transport, goVersion, model, runtime.NumCPU(), strings.TrimSpace(read("/proc/sys/kernel/osrelease")))
}

// canPin reports whether server and load can have a core each, and if not, why.
func canPin(ctx context.Context) (pin bool, why string) {
	if runtime.NumCPU() < 2 {
		return false, "Server and load generator shared the one core."
	}
	if _, err := exec.LookPath("taskset"); err != nil {
		return false, "Server and load generator were not pinned to a core each, as there is no taskset (install util-linux): the figures of two servers may not be comparable."
	}
	for _, core := range []string{"0", "1"} {
		if command(ctx, true, core, []string{"true"}).Run() != nil {
			return false, "Server and load generator were not pinned to a core each, as core " + core + " is not ours to use."
		}
	}
	return true, ""
}

// busyness warns if others are using the machine.
func busyness() string {
	first, _, _ := strings.Cut(read("/proc/loadavg"), " ")
	if load, err := strconv.ParseFloat(first, 64); err == nil && load > 0.5 {
		return fmt.Sprintf("the machine was busy in the last minute (load %.1f): if that goes on, the figures are worth little", load)
	}
	return ""
}

// read returns a file's text, or nothing.
func read(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}
