// Package python tests the example beside it.
package python

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"fanfare"
	"fanfare/fanfaretest"
	"fanfare/internal/partner"

	"go.uber.org/goleak"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestClient is Python in a channel, whose connection is cut again and again
// while both sides speak: it hears everything once and in order, and so is it heard.
func TestClient(t *testing.T) {
	srv := fanfaretest.NewServer(t)
	srv.Publish("räume/ä b", "before it came")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	python := exec.CommandContext(ctx, partner.Python(t), "client.py", "ws"+strings.TrimPrefix(srv.URL, "http"), "räume/ä b")
	python.Env = append(python.Environ(), "PYTHONUNBUFFERED=1", "PYTHONUTF8=1")
	in, err := python.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := python.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := python.Start(); err != nil {
		t.Fatal(err)
	}
	defer python.Wait()
	defer cancel()
	srv.WaitForReaders("räume/ä b", 1)

	lines := bufio.NewScanner(out)
	hears := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("Python prints %q, %v; want %q", lines.Text(), lines.Err(), want)
		}
	}
	srv.Publish("räume/ä b", "你好")
	hears("somebody: 你好")
	if _, err := srv.Fanfare.Publish(ctx, &fanfare.Message{Channel: "räume/ä b", Sender: "alice", Payload: []byte(`{"type":"chat","content":"Hello 👋"}`)}); err != nil {
		t.Fatal(err)
	}
	hears(`alice: {"type": "chat", "content": "Hello 👋"}`)

	const rounds, each = 5, 20
	var said []string
	for round := range rounds {
		for i := range each {
			srv.Publish("räume/ä b", fmt.Sprintf("from Go %d.%d", round, i))
			line := fmt.Sprintf("from Python %d.%d", round, i)
			said = append(said, line)
			if _, err := fmt.Fprintln(in, line); err != nil {
				t.Fatal(err)
			}
		}
		srv.CutConnections()
	}
	in.Close()

	var heard []string
	for range 2 * rounds * each {
		if !lines.Scan() {
			t.Fatalf("it ends after %d lines: %v", len(heard), lines.Err())
		}
		heard = append(heard, lines.Text())
	}
	var kept, fromPython []string
	for _, m := range srv.WaitForMessages("räume/ä b", 3+2*rounds*each)[3:] {
		sender := m.Sender
		if sender == "" {
			sender = "somebody"
		}
		kept = append(kept, sender+": "+string(m.Payload))
		if m.Sender == "python" {
			fromPython = append(fromPython, string(m.Payload))
		}
	}
	if !slices.Equal(heard, kept) {
		t.Errorf("it heard\n%s\n\nand the channel has\n%s", strings.Join(heard, "\n"), strings.Join(kept, "\n"))
	}
	if !slices.Equal(fromPython, said) {
		t.Errorf("the channel has from Python\n%s", strings.Join(fromPython, "\n"))
	}
	if lines.Scan() {
		t.Errorf("there is one line more: %s", lines.Text())
	}
	if err := python.Wait(); err != nil {
		t.Error(err)
	}
}
