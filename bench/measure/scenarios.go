package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// The scenarios of both modes. Load from more than a few thousand connections
// comes from eight addresses of the loopback, for the sake of port numbers.

func (o options) pingpong(n int) scenario {
	return o.loaded(fmt.Sprintf("pingpong-%d", n), or(o.n, n), "--mode pingpong --srcs 8", 128)
}

func (o options) sat() scenario {
	return o.loaded("sat", or(o.n, 1000), "--mode sat --window 64", 128)
}

func (o options) loaded(name string, n int, args string, size int) scenario {
	return scenario{name: name, n: n, args: append(strings.Fields(args), "--size", strconv.Itoa(or(o.size, size)), "--secs", strconv.Itoa(o.secs))}
}

func (o options) idle(name string, n int) scenario {
	return scenario{name: name, n: n, args: strings.Fields("--mode idle --srcs 8"), wait: time.Duration(o.wait) * time.Second}
}

// or returns v, unless it is 0.
func or(v, other int) int {
	if v == 0 {
		return other
	}
	return v
}

// peersScenarios are few, for many servers.
func peersScenarios(o options) []scenario {
	return []scenario{o.pingpong(1000), o.sat(), o.idle("idle", or(o.n, 10000))}
}

func peersTable(o options, r results, servers []server) string {
	scs := peersScenarios(o)
	single, many, idle := scs[0], scs[1], scs[2]
	var t strings.Builder
	fmt.Fprintf(&t, "| server | one message at a time to %s: CPU µs per delivery | × floor | 64 in flight to %s: CPU µs per delivery | the same: p99, ms | RSS per idle connection, bytes | CPU µs per new connection |\n|---|---|---|---|---|---|---|\n",
		num(float64(single.n)), num(float64(many.n)))
	for _, s := range servers {
		one := r.of(single, s.name, cpu)
		fmt.Fprintf(&t, "| %s | %v | %s | %v | %v | %v | %v |\n", s.title,
			one, num(one.median()/r.of(single, floor, cpu).median()),
			r.of(many, s.name, cpu), r.of(many, s.name, p99), r.of(idle, s.name, rssPerConn), r.of(idle, s.name, connectCPU))
	}
	return t.String()
}

// alone is a scenario for Fanfare only.
func alone(sc scenario) scenario {
	sc.only = ours
	return sc
}

// together is one whose rounds wait at the same time.
func together(sc scenario) scenario {
	sc.together = true
	return alone(sc)
}

// figuresScenarios are many, for Fanfare, and for the floor what it can do too.
func figuresScenarios(o options) []scenario {
	few, rooms := or(o.n, 18000)/9, or(o.n, 9000)/3
	crowd := or(o.n, 200)
	all := []scenario{
		o.pingpong(1000),
		o.pingpong(10000),
		o.sat(),
		{name: "connect", n: or(o.n, 10000), args: strings.Fields("--mode connect --srcs 8 --secs 1")},
		alone(o.loaded("stall-none", crowd, "--mode rate --rate 30", 32000)),
		alone(o.loaded("stall", crowd, fmt.Sprintf("--mode rate --rate 30 --stall %d", crowd/10), 32000)),
		alone(o.loaded("rooms", 3*rooms, fmt.Sprintf("--mode rate --rate %d --rooms %[1]d --srcs 8", rooms), 128)),
		together(o.idle("idle-few", few)),
	}
	return append(all, v1Scenarios(o)...)
}

// A row of figures is something that Fanfare must keep within a bound.
type row struct {
	what   string
	fig    figures
	beside figures // what it is compared with, or nil
	named  string  // who that is
	bound  float64
	ratio  bool // the bound is for the ratio of the two
}

// byName are the scenarios of figures.
func byName(o options) map[string]scenario {
	sc := map[string]scenario{}
	for _, s := range figuresScenarios(o) {
		sc[s.name] = s
	}
	return sc
}

func figuresTable(o options, r results, _ []server) string {
	sc := byName(o)
	of := func(name string, pick func(*result) float64) figures { return r.of(sc[name], ours, pick) }
	atFloor := func(name string, pick func(*result) float64) figures { return r.of(sc[name], floor, pick) }
	n := func(name string) string { return num(float64(sc[name].n)) }
	step := float64(sc["idle-many"].n - sc["idle-few"].n)
	rows := []row{
		{"one message at a time to " + n("pingpong-1000") + ": CPU µs per delivery", of("pingpong-1000", cpu), atFloor("pingpong-1000", cpu), "floor", 1.1, true},
		{"one message at a time to " + n("pingpong-10000") + ": CPU µs per delivery", of("pingpong-10000", cpu), atFloor("pingpong-10000", cpu), "floor", 1.1, true},
		{"64 in flight to " + n("sat") + ": CPU µs per delivery", of("sat", cpu), atFloor("sat", cpu), "floor", 0.5, false},
		{"the same: p99, ms", of("sat", p99), atFloor("sat", p99), "floor", 1.5, true},
		{"RSS per idle connection, slope from " + n("idle-few") + " to " + n("idle-many") + ", bytes",
			minus(of("idle-many", rss), of("idle-few", rss), 1<<20/step), nil, "", 500, false},
		{"CPU µs per new connection, of " + n("connect"), of("connect", connectCPU), atFloor("connect", connectCPU), "floor", 80, false},
		{"30 large messages a second to " + n("stall") + ", a tenth of whom never read: p99 of the others, ms", of("stall", p99), of("stall-none", p99), "all read", 1.2, true},
		{"the same: RSS more than when all read, MB", minus(of("stall", rss), of("stall-none", rss), 1), nil, "", 2, false},
		{"a message to each of " + num(float64(sc["rooms"].n)/3) + " channels of three every second: p99, ms", of("rooms", p99), nil, "", 100, false},
	}
	return table(append(rows, v1Rows(o, r)...))
}

func table(rows []row) string {
	var t strings.Builder
	t.WriteString("| what | Fanfare | beside it | ratio | bound | holds |\n|---|---|---|---|---|---|\n")
	for _, row := range rows {
		t.WriteString(row.String())
	}
	return t.String()
}

func (r row) String() string {
	beside, ratio, value, bound := "", "", r.fig.median(), "≤ "+num(r.bound)
	if r.beside != nil {
		beside = r.named + " " + r.beside.String()
		ratio = num(r.fig.median() / r.beside.median())
	}
	if r.ratio {
		value, bound = r.fig.median()/r.beside.median(), bound+" ×"
	}
	holds := "**no**"
	switch {
	case missing(value):
		holds = "–"
	case value <= r.bound:
		holds = "yes"
	}
	return fmt.Sprintf("| %s | %v | %s | %s | %s | %s |\n", r.what, r.fig, beside, ratio, bound, holds)
}
