package main

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
)

// results holds what came out by scenario and server: one for each round, nil
// where it failed.
type results map[[2]string][]*result

// figures are one quantity's values, by round; NaN where a round failed.
type figures []float64

func cpu(r *result) float64        { return r.CPU }
func connectCPU(r *result) float64 { return r.ConnectCPU }
func rss(r *result) float64        { return r.RSS }
func rssPerConn(r *result) float64 { return r.RSSPerConn }
func bytesEach(r *result) float64  { return r.Bytes }
func p99(r *result) float64 { // in milliseconds
	if r.Latency == nil {
		return math.NaN()
	}
	return r.Latency.P99 / 1000
}

// of returns one quantity of what a server did in a scenario.
func (r results) of(sc scenario, server string, quantity func(*result) float64) figures {
	f := figures{}
	for _, one := range r[[2]string{sc.name, server}] {
		if one == nil {
			f = append(f, math.NaN())
		} else {
			f = append(f, quantity(one))
		}
	}
	return f
}

// minus returns (a - b) × factor, round by round.
func minus(a, b figures, factor float64) figures {
	f := figures{}
	for i := range min(len(a), len(b)) {
		f = append(f, (a[i]-b[i])*factor)
	}
	return f
}

// good returns the values that there are, in order of size.
func (f figures) good() []float64 {
	good := slices.DeleteFunc(slices.Clone(f), math.IsNaN)
	slices.Sort(good)
	return good
}

// median is NaN if there is nothing.
func (f figures) median() float64 {
	good := f.good()
	if len(good) == 0 {
		return math.NaN()
	}
	return (good[(len(good)-1)/2] + good[len(good)/2]) / 2
}

// String is the median with the spread, from the least to the greatest.
func (f figures) String() string {
	good := f.good()
	text := num(f.median())
	if len(good) > 1 {
		text += fmt.Sprintf(" (%s–%s)", num(good[0]), num(good[len(good)-1]))
	}
	if failed := len(f) - len(good); failed > 0 {
		text += fmt.Sprintf(", %d of %d failed", failed, len(f))
	}
	return text
}

// missing reports whether a value is none: not measured, or compared with 0.
func missing(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }

// num writes three digits or so, thousands apart; a missing value is a dash.
func num(v float64) string {
	switch abs := math.Abs(v); {
	case missing(v):
		return "–"
	case abs >= 999.5:
		text := fmt.Sprintf("%.0f", v)
		for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
			text = text[:i] + "," + text[i:]
		}
		return text
	case abs >= 99.95 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case abs >= 9.995:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// marks returns what stands before and behind a mode's table in docs/performance.md.
func marks(mode string) (begin, end string) {
	return "<!-- written by bench/run.sh " + mode + " --write -->\n", "<!-- end of " + mode + " -->\n"
}

// replace puts a table between its marks in a text.
func replace(text, mode, table string) (string, error) {
	begin, end := marks(mode)
	before, rest, found := strings.Cut(text, begin)
	_, after, found2 := strings.Cut(rest, end)
	if !found || !found2 {
		return "", fmt.Errorf("there is no place for the table: it belongs between the lines %q and %q", begin, end)
	}
	return before + begin + table + end + after, nil
}

func replaceInFile(name, mode, table string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	replaced, err := replace(string(text), mode, table)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return os.WriteFile(name, []byte(replaced), 0o666)
}
