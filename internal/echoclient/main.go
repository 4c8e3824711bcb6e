// Command echoclient plays the client against a server that tests clients,
// as the Autobahn test suite does:
//
//	go run ./internal/echoclient ws://127.0.0.1:9001 --agent fanfare
//
// The server tells at /getCaseCount how many cases there are, runs number N at
// /runCase?case=N&agent=A, where every message is to be echoed until the
// server closes, and writes its report at /updateReports?agent=A.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"fanfare/websocket"
)

func main() {
	agent := flag.String("agent", "fanfare", "`name` in the server's report")
	base := parse(os.Args[1:])
	if err := run(context.Background(), base, *agent); err != nil {
		fmt.Fprintln(os.Stderr, "echoclient:", err)
		os.Exit(1)
	}
}

// parse reads the command line, flags before or after the URL, and returns the URL.
func parse(args []string) string {
	var words []string
	for {
		_ = flag.CommandLine.Parse(args) // ExitOnError
		if flag.NArg() == 0 {
			break
		}
		words, args = append(words, flag.Arg(0)), flag.Args()[1:]
	}
	if len(words) != 1 {
		fmt.Fprintln(os.Stderr, "usage: echoclient ws://HOST:PORT [--agent NAME]")
		os.Exit(2)
	}
	return strings.TrimSuffix(words[0], "/")
}

var options = &websocket.DialOptions{Limit: 64 << 20, PingInterval: -1, MessageTimeout: -1}

// run plays all cases. Only what keeps it from going on is an error: how a
// case went is for the server to judge.
func run(ctx context.Context, base, agent string) error {
	count, err := caseCount(ctx, base)
	if err != nil {
		return err
	}
	as := "agent=" + url.QueryEscape(agent)
	for n := 1; n <= count; n++ {
		if err := runCase(ctx, fmt.Sprintf("%s/runCase?case=%d&%s", base, n, as)); err != nil {
			return fmt.Errorf("case %d: %w", n, err)
		}
	}
	conn, _, err := websocket.Dial(ctx, base+"/updateReports?"+as, options)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	for range conn.Messages(ctx) { // the report is written when the server closes
	}
	<-conn.Done()
	fmt.Fprintf(os.Stderr, "%d cases played as %s\n", count, agent)
	return nil
}

func caseCount(ctx context.Context, base string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, base+"/getCaseCount", options)
	if err != nil {
		return 0, err
	}
	defer conn.CloseNow()
	_, data, err := conn.Read(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the number of cases: %w", err)
	}
	if err := conn.Close(ctx, websocket.NormalClosure, ""); err != nil {
		return 0, err
	}
	return strconv.Atoi(string(data))
}

// runCase echoes until the server has had enough, in whatever way it likes.
func runCase(ctx context.Context, url string) error {
	conn, _, err := websocket.Dial(ctx, url, options)
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	for m, err := range conn.Messages(ctx) {
		if err != nil || conn.Write(ctx, m.Type, m.Data) != nil {
			break
		}
	}
	<-conn.Done()
	return nil
}
