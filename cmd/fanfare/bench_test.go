package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/gorilla/websocket"

	"fanfare"
	"fanfare/internal/loadgen"
)

// all is what is left of standard output.
func (p *program) all() string {
	p.t.Helper()
	var b strings.Builder
	for line := range p.lines {
		b.WriteString(line + "\n")
	}
	return b.String()
}

func TestBenchTable(t *testing.T) {
	_, at := hub(t, fanfare.Config{})
	p := start(t, "bench", at+"/x?token=secret", "-n", "20", "--rate", "50", "--size", "64", "--duration", "300ms", "--warmup", "0s")
	table := p.all()
	p.ends(exitFine)
	for _, want := range []string{
		`^broadcast · 20 connections · 50 messages/s · 64 bytes\nws://[\d.:]+/x\n`,
		`(?m)^ +p50 +p90 +p99 +p99\.9 +max$`,
		`(?m)^each receiver +\d`,
		`(?m)^last receiver +\d`,
		`(?m)^messages +\d+`,
		`(?m)^deliveries +[\d,]+/s; 0 lost, 0 doubled, 0 out of order$`,
		`(?m)^generator .* of CPU for each delivery, .* late at p50`,
	} {
		if !regexp.MustCompile(want).MatchString(table) {
			t.Errorf("the table has no %s:\n%s", want, table)
		}
	}
	if strings.Contains(p.errs.String(), "\r") {
		t.Errorf("there is a progress line, though this is no terminal: %q", p.errs)
	}
}

func TestBenchJSONAndPlot(t *testing.T) {
	_, at := hub(t, fanfare.Config{})
	for _, scenario := range []string{"throughput", "connect", "stall"} {
		plot := filepath.Join(t.TempDir(), "latency.svg")
		// What was there, and longer, is gone afterwards.
		if err := os.WriteFile(plot, []byte(strings.Repeat("<old>", 100000)), 0o600); err != nil {
			t.Fatal(err)
		}
		args := []string{"bench", at + "/x", "--scenario", scenario, "-n", "20", "--json", "--plot", plot}
		if scenario != "connect" {
			args = append(args, "--duration", "300ms", "--warmup", "100ms", "--size", "100")
		}
		p := start(t, args...)
		out := p.all()
		p.ends(exitFine)
		var r struct {
			Scenario   string
			Handshakes struct{ Connections int }
			Traffic    struct {
				Latency map[string]float64 `json:"latency_us"`
				Lost    *int
			}
			Unstalled any
			Warnings  []string
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatalf("%s: %v in %s", scenario, err, out)
		}
		if r.Scenario != scenario || r.Handshakes.Connections != 20 || r.Warnings == nil || (r.Unstalled != nil) != (scenario == "stall") {
			t.Errorf("%s: %s", scenario, out)
		}
		if l := r.Traffic.Latency; scenario != "connect" && (l["p50"] <= 0 || l["max"] < l["p99_9"] || r.Traffic.Lost == nil || *r.Traffic.Lost != 0) {
			t.Errorf("%s: %s", scenario, out)
		}
		svg, err := os.ReadFile(plot)
		if err != nil {
			t.Fatal(err)
		}
		for d := xml.NewDecoder(strings.NewReader(string(svg))); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: the plot is not well-formed: %v", scenario, err)
			}
		}
		if !strings.Contains(string(svg), "prefers-color-scheme:dark") || !strings.Contains(string(svg), scenario) {
			t.Errorf("%s: the plot is %s", scenario, svg)
		}
	}
}

// A server that sends twice what it should is found out, and the table is there
// all the same.
func TestBenchFindsFault(t *testing.T) {
	var mu sync.Mutex
	var clients []*websocket.Conn
	messages := 0
	at := web(t, func(w http.ResponseWriter, r *http.Request) {
		conn, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		mu.Lock()
		clients = append(clients, conn)
		mu.Unlock()
		for {
			kind, text, err := conn.ReadMessage()
			if err != nil {
				return
			}
			mu.Lock()
			for _, c := range clients {
				_ = c.WriteMessage(kind, text)
			}
			if messages++; messages%5 == 0 {
				_ = clients[0].WriteMessage(kind, text)
			}
			mu.Unlock()
		}
	})
	p := start(t, "bench", at, "-n", "3", "--rate", "50", "--duration", "200ms", "--warmup", "0s")
	if table := p.all(); !regexp.MustCompile(`0 lost, [12] doubled`).MatchString(table) {
		t.Errorf("the table is:\n%s", table)
	}
	p.ends(exitOther, "deliveries came twice")
}

func TestBenchWithoutServer(t *testing.T) {
	at := web(t, http.NotFound)
	start(t, "bench", at, "-n", "3").ends(exitConnect, "answered 404 Not Found")
	start(t, "bench", "ws+unix://"+t.TempDir()+"/none:/", "--scenario", "connect").ends(exitConnect, "there is no socket")
}

// What a flag says is not silently left out.
func TestBenchUsage(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"--rate 0", "--rate is 0: it must be between"},
		{"--scenario idle --pid 1 --window 3", "--window means nothing to the scenario idle"},
		{"--scenario idle --pid 1 --plot x.svg", "--plot means nothing to the scenario idle"},
		{"--size 2MiB", "larger than --max-message"},
		{"--scenario dance", "there is no scenario"},
	} {
		start(t, append([]string{"bench", "bench/a"}, strings.Fields(c.args)...)...).ends(exitUsage, c.says)
	}
}

func TestSources(t *testing.T) {
	for _, c := range []struct {
		text, host string
		want       int // addresses; -1: an error
	}{
		{"", "example.com", 0}, {"3", "localhost", 3}, {"250", "127.0.0.1", 250}, {"192.0.2.1, 2001:db8::1", "example.com", 2},
		{"0", "localhost", -1}, {"251", "localhost", -1}, {"3", "example.com", -1}, {"3", "::1", -1}, {"3", "192.0.2.1", -1}, {"here", "localhost", -1},
	} {
		got, err := sources(c.text, c.host)
		if (err != nil) != (c.want < 0) || err == nil && len(got) != c.want {
			t.Errorf("--sources %q for %s: %v, %v; want %d", c.text, c.host, got, err, c.want)
		}
	}
	if got, err := sources("2", "localhost"); err != nil || got[0].String() != "127.0.0.2" || got[1].String() != "127.0.0.3" {
		t.Errorf("two sources are %v, %v", got, err)
	}
}

func TestProgressLine(t *testing.T) {
	got := progressLine(loadgen.Progress{Phase: "measuring", Passed: 3290e6, Of: 10e9, Connections: 1000, Sent: 98, Deliveries: 98000})
	if want := "measuring 3.2s of 10s · 1,000 connections · 98 messages · 98,000 deliveries"; got != want {
		t.Errorf("the progress line is %q, want %q", got, want)
	}
}
