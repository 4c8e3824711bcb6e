package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Every server that is here is built, started and measured with twenty
// connections, so that nothing of the comparison can rot. The figures
// themselves mean nothing here, least of all with the race detector in the
// servers; it shares the compiled packages with the rest of the tests.
func TestEveryFigureComesOut(t *testing.T) {
	bin := t.TempDir()
	servers, missing, err := builder{bench: "..", bin: bin, goFlags: []string{"-race"}}.build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range missing {
		t.Logf("going on without %s", m)
		if os.Getenv("CI") == "true" {
			t.Errorf("CI=true, and missing: %s", m)
		}
	}
	o := options{n: 20, secs: 1, wait: 1}
	r := results{}
	var mu sync.Mutex // guards r
	var all sync.WaitGroup

	// What only waits goes first, while nothing else is busy.
	for _, s := range servers {
		all.Go(func() {
			var raw bytes.Buffer
			got, err := measure(t.Context(), &meter{bin: bin, raw: &raw}, 1, scenariosFor(s, o, true), []server{s}, t.Logf)
			if err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
			if lines := bytes.Count(raw.Bytes(), []byte("\n")); lines != len(got) {
				t.Errorf("%s: %d lines were kept of %d measurements:\n%s", s.name, lines, len(got), &raw)
			}
			mu.Lock()
			defer mu.Unlock()
			maps.Copy(r, got)
		})
	}
	all.Wait()

	few := make(chan struct{}, 8)
	for _, s := range servers {
		for _, sc := range scenariosFor(s, o, false) {
			sc.args = append(sc.args, "--warm", "0")
			all.Go(func() {
				few <- struct{}{}
				defer func() { <-few }()
				got, err := (&meter{bin: bin, raw: io.Discard}).measure(t.Context(), 1, s, sc)
				if err != nil {
					t.Errorf("%s with %s: %v", sc.name, s.name, err)
				}
				mu.Lock()
				defer mu.Unlock()
				r[[2]string{sc.name, s.name}] = []*result{got}
			})
		}
	}
	all.Wait()

	peers := peersScenarios(o)
	for _, s := range servers {
		if v := r.of(peers[0], s.name, cpu).median(); !(v > 0) {
			t.Errorf("%s: %v µs of CPU per delivery, which cannot be", s.name, v)
		}
		if v := r.of(peers[2], s.name, rssPerConn).median(); !(v > 0) && s.name != floor {
			t.Errorf("%s: %v bytes per idle connection, which cannot be", s.name, v)
		}
	}
	if table := peersTable(o, r, servers); strings.Contains(table, "–") || strings.Contains(table, "failed") {
		t.Errorf("something is missing:\n%s", table)
	}
	if table := figuresTable(o, r, servers); strings.Contains(table, "| – |\n") || strings.Contains(table, "failed") {
		t.Errorf("something is missing:\n%s", table)
	}
}

// scenariosFor lists what a server is measured in, over both modes: what only
// waits, or what is loaded.
func scenariosFor(s server, o options, waits bool) []scenario {
	all := peersScenarios(o)
	if s.name == ours || s.name == floor {
		all = append(all, figuresScenarios(o)...)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(all, func(sc scenario) bool {
		twice := seen[sc.name]
		seen[sc.name] = true
		return twice || sc.wait > 0 != waits || sc.only != "" && sc.only != s.name
	})
}

func TestServerThatDoesNotStart(t *testing.T) {
	s := server{name: "mute", command: func(int) []string { return []string{"sh", "-c", "echo no such thing >&2; exit 3"} }}
	_, err := s.start(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "mute did not begin to listen: no such thing") {
		t.Errorf("the error is %v", err)
	}
}

func TestFiguresAsText(t *testing.T) {
	nan := math.NaN()
	for _, c := range []struct {
		f    figures
		want string
	}{
		{figures{7.42, 6.9, 8.1}, "7.42 (6.90–8.10)"},
		{figures{1, 2, 3, 4}, "2.50 (1–4)"},
		{figures{11425.2}, "11,425"},
		{figures{1234567, nan}, "1,234,567, 1 of 2 failed"},
		{figures{-1234}, "-1,234"},
		{figures{999.6}, "1,000"},
		{figures{99.97}, "100"},
		{figures{nan}, "–, 1 of 1 failed"},
		{nil, "–"},
		{figures{math.Inf(1)}, "–"},
	} {
		if got := c.f.String(); got != c.want {
			t.Errorf("%v is written %q, want %q", []float64(c.f), got, c.want)
		}
	}
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		r    row
		want string
	}{
		{row{"a", figures{1.08}, figures{1}, "floor", 1.1, true}, "| a | 1.08 | floor 1 | 1.08 | ≤ 1.10 × | yes |\n"},
		{row{"b", figures{2.4}, figures{2}, "floor", 1.1, true}, "| b | 2.40 | floor 2 | 1.20 | ≤ 1.10 × | **no** |\n"},
		{row{"c", figures{2}, nil, "", 2, false}, "| c | 2 |  |  | ≤ 2 | yes |\n"},
		{row{"d", figures{81}, figures{20}, "floor", 80, false}, "| d | 81 | floor 20 | 4.05 | ≤ 80 | **no** |\n"},
		{row{"e", figures{}, nil, "", 2, false}, "| e | – |  |  | ≤ 2 | – |\n"},
	} {
		if got := c.r.String(); got != c.want {
			t.Errorf("got  %swant %s", got, c.want)
		}
	}
}

// --write must find its places.
func TestPerformancePageHasItsPlaces(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "performance.md"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(page)
	for _, mode := range []string{"peers", "figures"} {
		once, err := replace(text, mode, "new\n")
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		begin, end := marks(mode)
		before, _, _ := strings.Cut(text, begin)
		_, after, _ := strings.Cut(text, end)
		if want := before + begin + "new\n" + end + after; once != want {
			t.Errorf("with a new table for %s the page is\n%s", mode, once)
		}
	}
	if _, err := replace("no marks", "peers", "new\n"); err == nil {
		t.Error("a table was put into a text that has no place for it")
	}
}

func TestCommandLine(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"", "say what to do"},
		{"pears", `no "pears"`},
		{"peers now", `"now" is neither`},
		{"peers --rounds 0", "1 or more"},
		{"peers --size 70000", "60000 bytes at most"},
		{"figures --n 5", "from 20 connections on"},
		{"figures --nonsense", "nonsense"},
	} {
		if _, err := parse(strings.Fields(c.args), io.Discard); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%q: the error is %v, and should say %q", c.args, err, c.says)
		}
	}
	if _, err := parse([]string{"peers", "-h"}, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-h: %v", err)
	}
	o, err := parse(strings.Fields("figures --rounds 1"), io.Discard)
	if err != nil || o.wait != 60 || o.rounds != 1 || o.secs != 3 {
		t.Errorf("figures --rounds 1 means %+v, %v", o, err)
	}
	name := func(s string) string { return s }
	if got, err := pick([]string{"a", "b", "c"}, "c,a", name); err != nil || !slices.Equal(got, []string{"a", "c"}) {
		t.Errorf("c,a of a, b, c is %v, %v", got, err)
	}
	if _, err := pick([]string{"a", "b"}, "d", name); err == nil || !strings.Contains(err.Error(), "a, b") {
		t.Errorf("d of a, b: %v", err)
	}
}
