package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fanfare/internal/loadgen"
	"fanfare/internal/terminal"
)

// benchFlags are those of bench alone.
type benchFlags struct {
	scenario    string
	connections int
	rate        float64
	compress    bool
	size        size
	duration    time.Duration
	warmup      time.Duration
	window      int
	stall       float64
	sources     string
	pid         int
	json        bool
	plot        string
}

func benchCommand(std stdio) *cobra.Command {
	var dial dialFlags
	var flags benchFlags
	cmd := &cobra.Command{
		Use:   "bench URL",
		Short: "Measure what a server can do: latency, throughput, memory",
		Long: `Connect many clients to a channel, send messages through it, and measure what
every one of them sees. It works with Fanfare and with any WebSocket server that
sends each text to all clients; use a channel where nobody else listens.
` + targetHelp + `

The scenarios, and what they do unless told otherwise:

  broadcast   30 messages of 128 bytes a second to 1000 connections, on a fixed
              schedule, for 10 s after 1 s to warm up.
              Latency counts from when a message was due, not from when it could
              be sent, so that no stall is hidden
  throughput  64 messages in flight to 1000 connections, as many as go through;
              size and times as above
  idle        1000 silent connections: memory for each, of the server --pid, 5 s
              (--duration) after the last came; 10000 make it more exact
  connect     1000 connections, 128 handshakes at once
  stall       broadcast of 30 messages of 32 kB to 200 connections, first with
              everybody reading, then with a share of 0.1 that never reads:
              what that does to the others, and to the memory of --pid

"last receiver" is the time until the last one had a message. With --pid, the
process id of a server on this machine, CPU and memory of the server are shown
too (Linux). When the load generator was the limit and not the server, the
table says so: give the server cores of its own (taskset), or measure from
another machine. A source address has some 28000 ports; --sources has more.
Fanfare hears 10000 messages a second from one connection: to find out how many
more it could, start it with "fanfare serve --limit-messages none".

Ctrl-C ends early and prints what was measured. The exit code is 1 when
messages were lost, doubled, out of order or not taken, connections failed, or
nothing could be measured; 4 when there was no connection.`,
		Example: `  fanfare bench bench/a --pid $(pgrep -n fanfare)
  fanfare bench bench/a --scenario throughput --plot latency.svg
  fanfare bench bench/a --scenario idle -n 10000 --pid $(pgrep -n fanfare)
  fanfare bench ws://localhost:3000/ -n 5000 --rate 10 --json | jq .traffic.latency_us`,
		Args: arguments(cobra.ExactArgs(1), "give one URL, or a channel such as bench/a"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := dial.target(args[0])
			if err != nil {
				return err
			}
			cfg, err := flags.config(u, &dial, cmd.Flags().Changed)
			if err != nil {
				return usage(err)
			}
			ctx, stop := untilInterrupted(func() {
				if isTerminal(std.err) {
					fmt.Fprint(std.err, "\r\x1b[K")
				}
				std.say("ending early; Ctrl-C again ends at once")
			})
			defer stop()
			return bench(ctx, cfg, flags, std)
		},
	}
	dial.register(cmd)
	f := cmd.Flags()
	f.StringVar(&flags.scenario, "scenario", string(loadgen.Broadcast), "what to measure: broadcast, throughput, idle, connect or stall")
	f.IntVarP(&flags.connections, "connections", "n", 0, "how many clients (default: the scenario's, as are those below)")
	f.Float64Var(&flags.rate, "rate", 0, "messages a second")
	f.BoolVar(&flags.compress, "compress", false, "have messages come compressed, and send what gets smaller as JSON does")
	f.Var(&flags.size, "size", "of each message, 29 bytes or more")
	f.DurationVar(&flags.duration, "duration", 0, "how long to measure, such as 30s")
	f.DurationVar(&flags.warmup, "warmup", 0, "how long to send before that")
	f.IntVar(&flags.window, "window", 0, "messages in flight; for connect, handshakes at once")
	f.Float64Var(&flags.stall, "stall", 0, "share of the clients that never read, such as 0.1")
	f.StringVar(&flags.sources, "sources", "", "addresses to connect from: a number, for 127.0.0.2 and so on, or addresses with commas")
	f.IntVar(&flags.pid, "pid", 0, "process id of the server, on this machine (Linux)")
	f.BoolVar(&flags.json, "json", false, "print a JSON object instead of the table")
	f.StringVar(&flags.plot, "plot", "", "write the distribution of the latency to this SVG file")
	_ = cmd.RegisterFlagCompletionFunc("scenario", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var names []string
		for _, s := range loadgen.Scenarios() {
			names = append(names, string(s))
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	})
	_ = cmd.MarkFlagFilename("plot", "svg")
	return cmd
}

// config is what the flags that were given mean to loadgen.Run. Errors are wrong usage.
func (f *benchFlags) config(u *url.URL, dial *dialFlags, given func(flag string) bool) (loadgen.Config, error) {
	o := dial.options()
	c := loadgen.Defaults(loadgen.Scenario(f.scenario))
	c.URL, c.Header, c.Subprotocols, c.Origin, c.TLS, c.PID = u, o.Header, o.Subprotocols, o.Origin, o.TLSConfig, f.pid
	for flag, set := range map[string]func(){
		"connections": func() { c.Connections = f.connections },
		"rate":        func() { c.Rate = f.rate },
		"compress":    func() { c.Compress = f.compress },
		"size":        func() { c.Size = int(f.size) },
		"duration":    func() { c.Duration = f.duration },
		"warmup":      func() { c.Warmup = f.warmup },
		"window":      func() { c.Window = f.window },
		"stall":       func() { c.Stall = f.stall },
	} {
		if given(flag) {
			set()
		}
	}
	switch {
	case f.plot != "" && c.Scenario == loadgen.Idle:
		return c, errors.New("--plot means nothing to the scenario idle, which has no latency: leave it out")
	case f.size > dial.maxMessage:
		return c, fmt.Errorf("--size %v is larger than --max-message allows (%v)", &f.size, &dial.maxMessage)
	}
	var err error
	if c.Sources, err = sources(f.sources, u.Hostname()); err != nil {
		return c, err
	}
	return c, c.Check()
}

// sources reads --sources, for a server on host.
func sources(text, host string) ([]netip.Addr, error) {
	if text == "" {
		return nil, nil
	}
	if n, err := strconv.Atoi(text); err == nil {
		address, err := netip.ParseAddr(host)
		switch {
		case n < 1 || n > 250:
			return nil, fmt.Errorf("--sources is %d: it must be between 1 and 250, or addresses", n)
		case host != "localhost" && (err != nil || !address.Unmap().Is4() || !address.IsLoopback()):
			return nil, fmt.Errorf("--sources %d is for a server on 127.0.0.1; for %s give addresses of this machine, with commas between them", n, host)
		}
		var all []netip.Addr
		for i := range n {
			all = append(all, netip.AddrFrom4([4]byte{127, 0, 0, byte(2 + i)}))
		}
		return all, nil
	}
	var all []netip.Addr
	for _, part := range strings.Split(text, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("--sources: %q is neither a number nor an IP address", part)
		}
		all = append(all, a)
	}
	return all, nil
}

// bench measures and prints.
func bench(ctx context.Context, cfg loadgen.Config, flags benchFlags, std stdio) (err error) {
	var plot *os.File
	if flags.plot != "" {
		// Opened now, so that nobody waits for a plot that cannot be written.
		plot, err = os.OpenFile(flags.plot, os.O_CREATE|os.O_WRONLY, 0o644) // #nosec G302: a picture to show to others
		if err != nil {
			return fmt.Errorf("--plot: %w", err)
		}
		defer func() {
			if e := plot.Close(); err == nil && e != nil {
				err = fmt.Errorf("--plot: %w", e)
			}
		}()
	}
	live := isTerminal(std.err)
	if live {
		// Not wrapped where the terminal is narrow: a second line would stay.
		cfg.Progress = func(p loadgen.Progress) { fmt.Fprint(std.err, "\r\x1b[K\x1b[?7l"+progressLine(p)+"\x1b[?7h") }
	}
	report, err := loadgen.Run(ctx, cfg)
	if live {
		fmt.Fprint(std.err, "\r\x1b[K")
	}
	var dialed *loadgen.DialError
	switch {
	case errors.As(err, &dialed):
		return &exitError{exitConnect, explainDial(cfg.URL, dialed.Response, dialed.Err)}
	case err != nil:
		return err
	}
	if flags.json {
		e := json.NewEncoder(std.out)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		err = e.Encode(report)
	} else {
		_, err = io.WriteString(std.out, benchTable(report))
	}
	if err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	wrong := report.Err()
	if plot != nil {
		if err := plot.Truncate(0); err != nil {
			return fmt.Errorf("--plot: %w", err)
		}
		if err := report.Plot(plot); err != nil && wrong == nil {
			return fmt.Errorf("--plot: %w", err)
		}
	}
	return wrong
}

// progressLine is what stands on the terminal meanwhile.
func progressLine(p loadgen.Progress) string {
	line := p.Phase + " " + p.Passed.Truncate(100*time.Millisecond).String()
	if p.Of > 0 {
		line += " of " + p.Of.String()
	}
	line += fmt.Sprintf(" · %s connections", loadgen.Count(float64(p.Connections)))
	if p.Sent > 0 {
		line += fmt.Sprintf(" · %s messages · %s deliveries", loadgen.Count(float64(p.Sent)), loadgen.Count(float64(p.Deliveries)))
	}
	return line
}

// benchTable is a report for people.
func benchTable(r *loadgen.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", r.Title(), terminal.Printable(r.URL))
	row := func(name string, l *loadgen.Latency) {
		if l.Count > 0 {
			fmt.Fprintf(&b, "%-22s%10s%10s%10s%10s%10s\n", name, loadgen.Duration(l.P50), loadgen.Duration(l.P90), loadgen.Duration(l.P99), loadgen.Duration(l.P999), loadgen.Duration(l.Max))
		}
	}
	head := func(name string) {
		fmt.Fprintf(&b, "\n%-22s%10s%10s%10s%10s%10s\n", name, "p50", "p90", "p99", "p99.9", "max")
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "%-12s%s\n", name, fmt.Sprintf(format, args...))
	}
	for _, t := range []*loadgen.Traffic{r.Unstalled, r.Traffic} {
		if t == nil {
			continue
		}
		switch {
		case r.Scenario != loadgen.Stall:
			head("")
		case t.Stalled == 0:
			head("everybody reads")
		default:
			head(fmt.Sprintf("%d never read", t.Stalled))
		}
		row("each receiver", &t.Latency)
		row("last receiver", &t.Last)
		b.WriteByte('\n')
		benchTraffic(t, line)
	}
	if h := r.Handshakes; h != nil && r.Scenario == loadgen.Connect {
		head("")
		row("handshake", &h.Latency)
		b.WriteByte('\n')
		line("connections", "%s in %.2f s, %s/s", loadgen.Count(float64(h.Connections)), h.Seconds, loadgen.Count(h.PerSecond))
		if h.Failed > 0 {
			line("failed", "%d: %s", h.Failed, terminal.Printable(h.Failure))
		}
		if h.ServerCPU != nil {
			line("server", "%s of CPU for each connection", microseconds(*h.ServerCPU))
		}
		line("generator", "%s", benchGenerator(&h.Generator, "connection"))
	}
	if m := r.Memory; m != nil {
		b.WriteByte('\n')
		if m.Each >= 0 {
			line("memory", "%s bytes for each connection, from %s to %s of them", loadgen.Count(m.Each), loadgen.Count(float64(m.Few)), loadgen.Count(float64(m.Connections)))
		}
		line("server", "RSS %s with %s, %s with %s; %.2f cores busy while nothing was said",
			mebibytes(m.RSSFew), loadgen.Count(float64(m.Few)), mebibytes(m.RSS), loadgen.Count(float64(m.Connections)), m.IdleCores)
	}
	if r.Unstalled != nil && r.Traffic != nil && r.Unstalled.Latency.P99 > 0 {
		b.WriteByte('\n')
		grew := ""
		if r.Traffic.Server != nil {
			grew = fmt.Sprintf("; the server's memory grew by %s, before by %s", mebibytes(r.Traffic.Server.Growth), mebibytes(r.Unstalled.Server.Growth))
		}
		line("stall", "p99 of those who read is %.2f times what it was with everybody reading%s", r.Traffic.Latency.P99/r.Unstalled.Latency.P99, grew)
	}
	if r.Interrupted {
		fmt.Fprintln(&b, "\nended early: it was interrupted")
	}
	for i, w := range r.Warnings {
		if i == 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "! %s\n", w)
	}
	return b.String()
}

func benchTraffic(t *loadgen.Traffic, line func(name, format string, args ...any)) {
	line("messages", "%s/s for %.1f s", loadgen.Count(t.Messages), t.Seconds)
	line("deliveries", "%s/s; %d lost, %d doubled, %d out of order", loadgen.Count(t.Deliveries), t.Lost, t.Doubled, t.Disordered)
	if t.Unsent > 0 {
		line("unsent", "%s messages were due and not taken by the server", loadgen.Count(float64(t.Unsent)))
	}
	if t.Closed > 0 {
		line("closed", "%s, the first because: %s", several(t.Closed, "connection"), terminal.Printable(t.Why))
	} else if t.Why != "" {
		line("ended", "%s", terminal.Printable(t.Why))
	}
	if s := t.Server; s != nil {
		line("server", "%s of CPU for each delivery, %.2f cores; RSS %s, grew by %s", microseconds(s.CPU), s.Cores, mebibytes(s.RSS), mebibytes(s.Growth))
	}
	text := benchGenerator(&t.Generator, "delivery")
	if l := t.Generator.Late; l != nil {
		text += fmt.Sprintf("; sent %s late at p50, %s at p99", loadgen.Duration(l.P50), loadgen.Duration(l.P99))
	}
	line("generator", "%s", text)
}

func benchGenerator(g *loadgen.Generator, what string) string {
	return fmt.Sprintf("%s of CPU for each %s, %.2f of %s", microseconds(g.CPU), what, g.Cores, several(g.Of, "core"))
}

func microseconds(us float64) string {
	if us < 100 {
		return fmt.Sprintf("%.2f µs", us)
	}
	return fmt.Sprintf("%.0f µs", us)
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
