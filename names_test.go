package fanfare_test

import (
	"encoding/json"
	"os"
	"testing"

	"fanfare"
	"fanfare/broker"
)

// What is a good name is written down for the clients of all languages.
func TestNameVectors(t *testing.T) {
	text, err := os.ReadFile("protocol/testdata/vectors/names.json")
	if err != nil {
		t.Fatal(err)
	}
	type names struct{ Good, Bad []string }
	var all struct {
		Channels, Patterns, Positions names
		Fits                          []struct {
			Pattern string
			Yes, No []string
		}
	}
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		names
		check func(string) error
	}{
		"channel":  {all.Channels, fanfare.CheckChannel},
		"pattern":  {all.Patterns, fanfare.CheckPattern},
		"position": {all.Positions, func(s string) error { _, err := broker.ParsePosition(s); return err }},
	} {
		if len(c.Good) == 0 || len(c.Bad) == 0 {
			t.Errorf("there is no good or no bad %s", what)
		}
		for _, name := range c.Good {
			if err := c.check(name); err != nil {
				t.Errorf("%s %q: %v", what, name, err)
			}
		}
		for _, name := range c.Bad {
			if c.check(name) == nil {
				t.Errorf("%s %q is good", what, name)
			}
		}
	}
	for _, c := range all.Fits {
		for _, name := range c.Yes {
			if !broker.Fits(c.Pattern, name) {
				t.Errorf("%q does not fit %q", name, c.Pattern)
			}
		}
		for _, name := range c.No {
			if broker.Fits(c.Pattern, name) {
				t.Errorf("%q fits %q", name, c.Pattern)
			}
		}
	}
}
