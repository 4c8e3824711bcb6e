// Command measure is the program behind bench/run.sh: it measures Fanfare beside
// its peers and beside the kernel's floor (limit.c), all with one neutral load
// generator (fanload.c), and prints a Markdown table.
//
// Every figure comes from a server that was started for it and saw nothing
// else. The servers take turns, round after round, so that what changes on the
// machine meanwhile changes for all of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const help = `Measures Fanfare on this machine, beside other servers and beside the kernel's floor.

  bench/run.sh peers   [flags]   Fanfare, gws, gorilla/websocket, coder/websocket, ws, websockets and the floor
  bench/run.sh figures [flags]   Fanfare beside the floor, and whether it keeps its bounds
  bench/run.sh v1      [flags]   of these only fanfare.v1 and readers over HTTP
  bench/run.sh build             only builds everything into bench/out/bin, to measure by hand

The table goes to standard output, progress to standard error, and every single
measurement as a line of JSON to a file in bench/out that is named at the end.
Keep the machine quiet meanwhile; each takes about ten minutes.
FANFARE_TRANSPORT=stream bench/run.sh ... measures Fanfare's portable transport.

Flags:
`

const examples = `
Examples:
  bench/run.sh peers
  bench/run.sh peers --servers fanfare,limit,gws --scenarios pingpong-1000
  bench/run.sh figures --rounds 1 --secs 1 --wait 5      # a quick look
  bench/run.sh figures --write                           # and into docs/performance.md
`

type options struct {
	mode      string
	rounds    int
	secs      int
	wait      int
	n         int
	size      int
	servers   string
	scenarios string
	fanfare   string
	raw       string
	write     bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil:
	case errors.Is(err, flag.ErrHelp):
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; everything it had started was ended")
		os.Exit(130)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// parse reads the command line. An error is for people, or flag.ErrHelp.
func parse(args []string, out io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench/run.sh", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.IntVar(&o.rounds, "rounds", 5, "how often each server's turn comes; the table has medians")
	flags.IntVar(&o.secs, "secs", 3, "seconds of each measurement under load, after one to warm up")
	flags.IntVar(&o.wait, "wait", 0, "seconds between the last message and reading the memory of idle connections (default: 60, peers 2)")
	flags.IntVar(&o.n, "n", 0, "connections, in place of each scenario's own number")
	flags.IntVar(&o.size, "size", 0, "bytes of a message, in place of each scenario's own")
	flags.StringVar(&o.servers, "servers", "", "only these `names`, by comma (default: all that are there)")
	flags.StringVar(&o.scenarios, "scenarios", "", "only these `names`, by comma; peers has "+scenarioNames("peers")+"; figures has "+scenarioNames("figures"))
	flags.StringVar(&o.fanfare, "fanfare", "", "measure this `binary`, not one built from the tree")
	flags.StringVar(&o.raw, "raw", "", "`file` for the single measurements (default: a new one in bench/out)")
	flags.BoolVar(&o.write, "write", false, "put the table into docs/performance.md too")
	flags.Usage = func() {
		fmt.Fprint(out, help)
		flags.PrintDefaults()
		fmt.Fprint(out, examples)
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		o.mode, args = args[0], args[1:]
	}
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case o.mode == "":
		flags.Usage()
		return o, errors.New("say what to do: peers, figures, v1 or build")
	case plans[o.mode].table == nil && o.mode != "build":
		return o, fmt.Errorf("there is no %q: say peers, figures, v1 or build", o.mode)
	case flags.NArg() > 0:
		return o, fmt.Errorf("%q is neither a flag nor a flag's value; -h says what there is", flags.Arg(0))
	case o.rounds < 1 || o.secs < 1 || o.wait < 0 || o.n < 0 || o.size < 0:
		return o, errors.New("--rounds and --secs must be 1 or more, --wait, --n and --size 0 or more")
	case o.size > 60000:
		return o, fmt.Errorf("--size is %d, and the load generator sends 60000 bytes at most", o.size)
	case o.write && (o.servers != "" || o.scenarios != "" || o.n > 0 || o.size > 0 || o.mode == "build" || o.mode == "v1"):
		return o, errors.New("--write is for the whole table of peers or figures: leave out --servers, --scenarios, --n and --size, or --write")
	case o.n > 0 && o.n < 20:
		return o, fmt.Errorf("--n is %d: the scenarios make sense from 20 connections on", o.n)
	}
	if o.wait == 0 {
		o.wait = 2
		if o.mode != "peers" {
			o.wait = 60
		}
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	say := func(format string, a ...any) { fmt.Fprintf(stderr, format+"\n", a...) }

	exe, err := os.Executable()
	if err != nil {
		return err
	}
	bench := filepath.Dir(filepath.Dir(exe)) // run.sh builds us into bench/out
	say("building into %s", filepath.Join(bench, "out", "bin"))
	b := builder{bench: bench, bin: filepath.Join(bench, "out", "bin"), fanfare: o.fanfare}
	servers, missing, err := b.build(ctx)
	if err != nil {
		return err
	}
	for _, m := range missing {
		if o.mode != "figures" && o.mode != "v1" { // which need none of them
			say("going on without %s", m)
		}
	}
	if o.mode == "build" {
		for _, s := range servers {
			say("  %s", strings.Join(s.command(8765), " "))
		}
		return nil
	}

	p := plans[o.mode]
	for _, names := range []string{p.servers, o.servers} {
		if servers, err = pick(servers, names, func(s server) string { return s.name }); err != nil {
			return err
		}
	}
	scenarios, err := pick(p.scenarios(o), o.scenarios, func(s scenario) string { return s.name })
	if err != nil {
		return err
	}
	if err := enoughDescriptors(scenarios); err != nil {
		return err
	}
	machine := describe(ctx, bench, o.fanfare)
	machine += fmt.Sprintf(" Rounds: %d; seconds under load: %d; seconds from the last message until memory was read: %d.", o.rounds, o.secs, o.wait)
	pin, why := canPin(ctx)
	for _, remark := range []string{why, busyness()} {
		if remark != "" {
			say("%s", remark)
			machine += " " + remark
		}
	}

	raw, err := openRaw(o, bench)
	if err != nil {
		return err
	}
	defer raw.Close()
	m := &meter{bin: b.bin, pin: pin, raw: raw}
	about := "less than a minute"
	if minutes := int(duration(o.rounds, o.secs, scenarios, servers).Round(time.Minute).Minutes()); minutes > 0 {
		about = fmt.Sprintf("about %d min", minutes)
	}
	say("rounds: %d; it will take %s", o.rounds, about)
	results, err := measure(ctx, m, o.rounds, scenarios, servers, say)
	if err != nil {
		return err
	}
	table := p.table(o, results, servers) + "\n" + machine + "\n"
	fmt.Fprint(stdout, table)
	say("every single measurement: %s", raw.Name())
	if o.write {
		return replaceInFile(filepath.Join(bench, "..", "docs", "performance.md"), o.mode, table)
	}
	return nil
}

func openRaw(o options, bench string) (*os.File, error) {
	if o.raw != "" {
		return os.Create(o.raw)
	}
	return os.Create(filepath.Join(bench, "out", o.mode+"-"+time.Now().Format("20060102-150405")+".jsonl"))
}

// pick returns the items that a list of names asks for, in their own order;
// all of them if it is empty.
func pick[T any](items []T, list string, name func(T) string) ([]T, error) {
	if list == "" {
		return items, nil
	}
	var there []string
	for _, item := range items {
		there = append(there, name(item))
	}
	wanted := map[string]bool{}
	for _, w := range strings.Split(list, ",") {
		if !slices.Contains(there, w) {
			return nil, fmt.Errorf("there is no %q here; there is: %s", w, strings.Join(there, ", "))
		}
		wanted[w] = true
	}
	var picked []T
	for _, item := range items {
		if wanted[name(item)] {
			picked = append(picked, item)
		}
	}
	return picked, nil
}
