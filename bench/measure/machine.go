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
// for below the table. A Fanfare that was not built from the tree is named.
func describe(ctx context.Context, bench, fanfare string) string {
	model := "unknown CPU"
	for line := range strings.Lines(read("/proc/cpuinfo")) {
		if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	commit, err := output(ctx, bench, nil, "git", "rev-parse", "--short", "HEAD")
	if err != nil {
		commit = "of unknown commit"
	}
	// The page of the figures may differ: they are written into it.
	if _, err := output(ctx, bench, nil, "git", "diff", "--quiet", "HEAD", "--", "..", ":!../docs"); err != nil {
		commit += " with changes"
	}
	if fanfare != "" {
		commit = "as a binary given by hand"
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

// busyness looks for a second whether others are using the machine, and says so.
func busyness() string {
	busy0, all0 := ticks()
	time.Sleep(time.Second)
	busy1, all1 := ticks()
	if share := float64(busy1-busy0) / float64(max(1, all1-all0)); share > 0.1 {
		return fmt.Sprintf("The machine was busy with other things: %.0f %% of its CPU in the second before.", 100*share)
	}
	return ""
}

// ticks returns what all cores did since the machine started, of which busy
// was not idle (proc_stat(5): the fourth number is idle, the fifth waits for a disk).
func ticks() (busy, all int) {
	line, _, _ := strings.Cut(read("/proc/stat"), "\n")
	for i, word := range strings.Fields(line) {
		n, _ := strconv.Atoi(word) // the first word is a name, and counts 0
		all += n
		if i != 4 && i != 5 {
			busy += n
		}
	}
	return busy, all
}

// read returns a file's text, or nothing.
func read(name string) string {
	b, _ := os.ReadFile(name)
	return string(b)
}
