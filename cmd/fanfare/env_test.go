package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

func TestFlagBeforeEnvironmentBeforeDefault(t *testing.T) {
	var (
		listen  = "default"
		origins []string
		headers []string
		max     = size(1 << 20)
		grace   time.Duration
		open    bool
	)
	parse := func(env map[string]string, args ...string) error {
		listen, origins, headers, max, grace, open = "default", nil, nil, 1<<20, time.Second, false
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		flags.StringVar(&listen, "listen", listen, "")
		flags.Var(&list{&origins, ",", nil}, "origin", "")
		flags.Var(&list{&headers, "\n", checkHeader}, "header", "")
		flags.Var(&max, "max-message", "")
		flags.DurationVar(&grace, "grace", grace, "")
		flags.BoolVar(&open, "open", open, "")
		if err := flags.Parse(args); err != nil {
			t.Fatal(err)
		}
		return fromEnvironment(flags, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	}

	if err := parse(map[string]string{"FANFARE_LISTEN": ""}); err != nil || listen != "default" {
		t.Errorf("an empty variable: listen %q, %v", listen, err)
	}
	env := map[string]string{
		"FANFARE_LISTEN": "env", "FANFARE_ORIGIN": "a.example, b.example", "FANFARE_HEADER": "A: 1, 2\nB: 3",
		"FANFARE_MAX_MESSAGE": "64KiB", "FANFARE_GRACE": "3s", "FANFARE_OPEN": "1",
	}
	if err := parse(env); err != nil {
		t.Fatal(err)
	}
	if listen != "env" || strings.Join(origins, "|") != "a.example|b.example" || strings.Join(headers, "|") != "A: 1, 2|B: 3" ||
		max != 65536 || grace != 3*time.Second || !open {
		t.Errorf("from the environment: %q %q %q %d %v %v", listen, origins, headers, max, grace, open)
	}
	if err := parse(env, "--listen=flag", "--origin=c.example", "--open=false"); err != nil {
		t.Fatal(err)
	}
	if listen != "flag" || strings.Join(origins, "|") != "c.example" || open {
		t.Errorf("a flag must win over the environment: %q %q %v", listen, origins, open)
	}
	for name, value := range map[string]string{
		"FANFARE_MAX_MESSAGE": "lots", "FANFARE_GRACE": "3", "FANFARE_OPEN": "perhaps", "FANFARE_HEADER": "no colon",
	} {
		err := parse(map[string]string{name: value})
		if exitCode(err) != exitUsage || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), value) {
			t.Errorf("%s=%s: error %v with code %d, want one that names both, code 2", name, value, err, exitCode(err))
		}
	}
}

func TestSize(t *testing.T) {
	for in, want := range map[string]int64{"1": 1, "65536": 65536, "64KiB": 65536, "1MiB": 1 << 20, "2 MiB": 2 << 20, "1kB": 1000, "1MB": 1e6, "10B": 10} {
		var s size
		if err := s.Set(in); err != nil || int64(s) != want {
			t.Errorf("%q is %d, %v; want %d", in, s, err, want)
		}
	}
	for _, in := range []string{"", "0", "-1", "x", "1.5MiB", "MiB", "9999999999999GiB", "1TiB"} {
		var s size
		if err := s.Set(in); err == nil {
			t.Errorf("%q is %d, want an error", in, s)
		}
	}
	for s, want := range map[size]string{1 << 20: "1MiB", 1000: "1000", 3 << 10: "3KiB"} {
		if s.String() != want {
			t.Errorf("%d is written %s, want %s", int64(s), s.String(), want)
		}
	}
}
