package main

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
)

// A plan is what one of the modes measures and how it shows it.
type plan struct {
	servers   string // their names by comma, or "" for all that are there
	scenarios func(o options) []scenario
	table     func(o options, r results, servers []server) string
}

var plans = map[string]plan{
	"peers":   {"", peersScenarios, peersTable},
	"figures": {floor + "," + ours, figuresScenarios, figuresTable},
	"v1":      {ours, v1Scenarios, func(o options, r results, _ []server) string { return table(v1Rows(o, r)) }},
}

// scenarioNames lists the names that --scenarios takes.
func scenarioNames(mode string) string {
	var names []string
	for _, sc := range plans[mode].scenarios(options{}) {
		if !slices.Contains(names, sc.name) {
			names = append(names, sc.name)
		}
	}
	return strings.Join(names, ", ")
}

// measure runs every scenario with every server, round after round, and says
// how each came out. What failed is said too, and is no error.
func measure(ctx context.Context, m *meter, rounds int, scenarios []scenario, servers []server, say func(string, ...any)) (results, error) {
	r := results{}
	var mu sync.Mutex // guards r and say
	one := func(round int, sc scenario, s server) {
		got, err := m.measure(ctx, round+1, s, sc)
		if ctx.Err() != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		key := [2]string{sc.name, s.name}
		if r[key] == nil {
			r[key] = make([]*result, rounds)
		}
		if err != nil {
			say("round %d  %-15s  %-10s  FAILED: %v", round+1, sc.name, s.name, err)
			return
		}
		r[key][round] = got
		say("round %d  %-15s  %-10s  %v", round+1, sc.name, s.name, got)
	}
	each := func(together bool, do func(round int, sc scenario, s server)) {
		for round := range rounds {
			for _, sc := range scenarios {
				for _, s := range servers {
					if sc.together == together && (sc.only == "" || sc.only == s.name) {
						do(round, sc, s)
					}
				}
			}
		}
	}
	each(false, one)
	var waiting sync.WaitGroup
	each(true, func(round int, sc scenario, s server) {
		waiting.Go(func() { one(round, sc, s) })
	})
	waiting.Wait()
	return r, ctx.Err()
}

// duration says about how long measure takes.
func duration(rounds, secs int, scenarios []scenario, servers []server) time.Duration {
	const apart = 2 * time.Second // to start, connect, and warm up
	var all, together time.Duration
	for _, sc := range scenarios {
		took := apart + time.Duration(secs)*time.Second + time.Duration(sc.n)*150*time.Microsecond
		if sc.wait > 0 {
			took = apart + 3*time.Second + time.Duration(sc.n)*150*time.Microsecond
			if sc.together {
				together = sc.wait
			} else {
				took += sc.wait
			}
		}
		for _, s := range servers {
			if sc.only == "" || sc.only == s.name {
				all += took * time.Duration(rounds)
			}
		}
	}
	return all + together
}
