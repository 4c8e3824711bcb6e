package broker_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"fanfare/broker"
)

func TestIsPattern(t *testing.T) {
	for name, want := range map[string]bool{
		"*": true, "**": true, "a/*": true, "*/a": true, "a/*/b": true, "a/**": true, "*/**": true,
		"": false, "a": false, "a/b": false, "a*": false, "a/b*": false, "**a": false, "**/a": false, "a/***": false,
	} {
		if got := broker.IsPattern(name); got != want {
			t.Errorf("IsPattern(%q) = %v", name, got)
		}
	}
}

// path returns a random path of segments.
func path(rnd *rand.Rand, segments ...string) string {
	parts := make([]string, 1+rnd.IntN(4))
	for i := range parts {
		parts[i] = segments[rnd.IntN(len(segments))]
	}
	return strings.Join(parts, "/")
}

// Patterns finds what asking each pattern with Fits finds, whatever was added
// and removed before; and in the end nothing is left of it.
func TestPatternsAgainstFits(t *testing.T) {
	rnd := random(t)
	for range 100 {
		var p broker.Patterns[int]
		want := make(map[string]int)
		for step := range 200 {
			pattern := path(rnd, "a", "b", "c", "*", "**", "a*")
			if rnd.IntN(5) < 3 {
				_, had := want[pattern]
				if isNew := p.Add(pattern, step); isNew == had {
					t.Fatalf("Add(%q) says new %v", pattern, isNew)
				}
				want[pattern] = step
			} else {
				_, had := want[pattern]
				if got := p.Remove(pattern); got != had {
					t.Fatalf("Remove(%q) = %v", pattern, got)
				}
				delete(want, pattern)
			}
			if p.Len() != len(want) {
				t.Fatalf("Len is %d of %d", p.Len(), len(want))
			}
			name := path(rnd, "a", "b", "c", "d")
			var found, fitting []int
			p.Match(name, func(v int) { found = append(found, v) })
			for pattern, v := range want {
				if broker.Fits(pattern, name) {
					fitting = append(fitting, v)
				}
			}
			slices.Sort(found)
			slices.Sort(fitting)
			if !slices.Equal(found, fitting) {
				t.Fatalf("%q fits the patterns added in steps %v of %v, want %v", name, found, want, fitting)
			}
		}
		for pattern := range want {
			p.Remove(pattern)
		}
		if fmt.Sprintf("%+v", p) != fmt.Sprintf("%+v", broker.Patterns[int]{}) {
			t.Fatalf("all patterns were removed, and this is left: %+v", p)
		}
	}
}

// Fitting finds of a set of names what asking each with Fits finds, and what
// stays in the set while others come and go is found once.
func TestFittingAgainstFits(t *testing.T) {
	rnd := random(t)
	for range 1000 {
		var p broker.Patterns[string]
		for range rnd.IntN(60) {
			name := path(rnd, "a", "b", "c", "d")
			p.Add(name, name)
		}
		pattern := path(rnd, "a", "b", "*", "*", "**")
		var all []string
		p.Fitting("**", func(name string) { all = append(all, name) }, nil)
		want := make(map[string]int)
		for _, name := range all {
			if broker.Fits(pattern, name) {
				want[name]++
			}
		}
		steady := rnd.IntN(2) == 0
		got := make(map[string]int)
		p.Fitting(pattern, func(name string) { got[name]++ }, func() {
			if steady {
				return
			}
			other := path(rnd, "a", "b", "c", "d")
			if delete(want, other); rnd.IntN(2) == 0 {
				p.Add(other, other)
			} else {
				p.Remove(other)
			}
		})
		for name, n := range want {
			if n != 1 || got[name] != 1 {
				t.Fatalf("%q is found %d times for %q among %q, which has it %d times", name, got[name], pattern, all, n)
			}
		}
		if steady && (len(all) != p.Len() || len(got) != len(want)) {
			t.Fatalf("of %d names %v are found for %q, want %v", p.Len(), got, pattern, want)
		}
	}
}

// devices returns n patterns of which a name fits one at most.
func devices(n int) *broker.Patterns[int] {
	var p broker.Patterns[int]
	for i := range n {
		p.Add(fmt.Sprintf("devices/%d/**", i), i)
	}
	return &p
}

// stars returns all ways to put MaxStars stars or fewer into the path a/a/a/…
// of so many segments, each going on with a literal that ends it; and a name
// that begins like all of them and fits none.
func stars(segments int) (p *broker.Patterns[int], name string) {
	p = new(broker.Patterns[int])
	path := make([]string, segments)
	var lay func(i, left int)
	lay = func(i, left int) {
		if i == segments {
			p.Add(strings.Join(path, "/")+"/end", 0)
			return
		}
		path[i] = "a"
		lay(i+1, left)
		if left > 0 {
			path[i] = "*"
			lay(i+1, left-1)
		}
	}
	lay(0, broker.MaxStars)
	return p, strings.Repeat("a/", segments) + "other"
}

func TestMatchAllocatesNothing(t *testing.T) {
	p := devices(1000)
	p.Add("*/*/temperature", 1000)
	p.Add("**", 1001)
	sum := 0
	if n := testing.AllocsPerRun(100, func() {
		p.Match("devices/77/temperature", func(v int) { sum += v })
	}); n != 0 {
		t.Errorf("Match costs %v allocations", n)
	}
	if want := 101 * (77 + 1000 + 1001); sum != want {
		t.Errorf("what fits adds up to %d, want %d", sum, want)
	}
}

func BenchmarkMatch(b *testing.B) {
	p := devices(10_000)
	adverse, name := stars(10)
	sum := 0
	for _, c := range []struct {
		what string
		p    *broker.Patterns[int]
		name string
	}{
		{"nothing", new(broker.Patterns[int]), "devices/77/temperature"},
		{"one of 10000", p, "devices/77/temperature"},
		{"none of 10000", p, "sensors/77/temperature"},
		{fmt.Sprintf("none of %d adverse", adverse.Len()), adverse, name},
	} {
		b.Run(c.what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.p.Match(c.name, func(v int) { sum += v })
			}
		})
	}
}
