package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// variable is the environment variable that stands for a flag: --max-message is
// FANFARE_MAX_MESSAGE.
func variable(flag string) string {
	return "FANFARE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment sets every flag that the command line left out and the
// environment names. An empty variable is as good as none.
func fromEnvironment(flags *pflag.FlagSet, lookup func(string) (string, bool)) error {
	var wrong error
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "help" || f.Name == "version" || wrong != nil {
			return
		}
		value, ok := lookup(variable(f.Name))
		if !ok || value == "" {
			return
		}
		values := []string{value}
		if several, ok := f.Value.(interface{ separatedBy() string }); ok {
			values = strings.Split(value, several.separatedBy())
		}
		for _, v := range values {
			if err := f.Value.Set(strings.TrimSpace(v)); err != nil {
				wrong = usage(fmt.Errorf("the environment variable %s has the value %q: %v", variable(f.Name), value, err))
				return
			}
		}
		f.Changed = true
	})
	return wrong
}

// A list is a flag that may be given several times. In the environment its
// values stand in one variable, with the separator between them.
type list struct {
	values    *[]string
	separator string
	check     func(string) error // nil: anything goes
}

func (l *list) String() string {
	if l.values == nil {
		return ""
	}
	return strings.Join(*l.values, l.separator)
}
func (l *list) Type() string        { return "value" }
func (l *list) separatedBy() string { return l.separator }
func (l *list) Set(s string) error {
	if l.check != nil {
		if err := l.check(s); err != nil {
			return err
		}
	}
	*l.values = append(*l.values, s)
	return nil
}

// A size is a flag that counts bytes: 65536, 64KiB, 1MiB (binary), 64kB, 1MB
// (decimal).
type size int64

var units = []struct {
	name  string
	bytes int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30},
	{"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9},
	{"B", 1},
}

func (s *size) Type() string { return "bytes" }

func (s *size) String() string {
	for i := 2; i >= 0; i-- {
		if u := units[i]; *s > 0 && int64(*s)%u.bytes == 0 {
			return fmt.Sprint(int64(*s)/u.bytes, u.name)
		}
	}
	return strconv.FormatInt(int64(*s), 10)
}

func (s *size) Set(text string) error {
	number, factor := text, int64(1)
	for _, u := range units {
		if rest, ok := strings.CutSuffix(text, u.name); ok {
			number, factor = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n <= 0 || n > (1<<40)/factor {
		return fmt.Errorf("a size is a positive number of bytes such as 65536, 64KiB or 1MiB")
	}
	*s = size(n * factor)
	return nil
}
