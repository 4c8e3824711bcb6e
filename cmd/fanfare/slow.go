package main

import (
	"cmp"
	"fmt"
	"strings"

	"fanfare"
)

// A channelSetting reads a flag's value that is for all channels, as in "skip", or
// for some, as in "tick/*=latest": the pattern is empty or it is not.
type channelSetting func(string) (fanfare.ChannelConfig, error)

// slowReaders reads a value of --slow-readers.
func slowReaders(s string) (c fanfare.ChannelConfig, err error) {
	if c.Pattern, s, err = forSome(s); err == nil {
		c.SlowReaders, err = fanfare.ParsePolicy(s)
	}
	return c, err
}

// maxLag reads a value of --max-lag.
func maxLag(s string) (c fanfare.ChannelConfig, err error) {
	var n size
	if c.Pattern, s, err = forSome(s); err == nil {
		err = n.Set(s)
	}
	c.MaxLag = int(n)
	return c, err
}

// forSome takes the pattern off a value that has one. The last "=" counts: a
// channel's name may have others.
func forSome(s string) (pattern, value string, err error) {
	i := strings.LastIndexByte(s, '=')
	if i < 0 {
		return "", s, nil
	}
	return s[:i], s[i+1:], fanfare.CheckPattern(s[:i])
}

// flag makes a flag of it, which may be given once for all channels and for each pattern.
func (read channelSetting) flag(values *[]string) *list {
	return &list{values, ",", func(s string) error {
		c, err := read(s)
		if err != nil {
			return err
		}
		for _, before := range *values {
			switch b, _ := read(before); {
			case b.Pattern != c.Pattern:
			case c.Pattern == "":
				return fmt.Errorf("it is %s for all channels already", before)
			default:
				return fmt.Errorf("it is said for %s already, with %s", c.Pattern, before)
			}
		}
		return nil
	}}
}

// apply puts the flag's values, which were checked, into cfg.
func (read channelSetting) apply(values []string, cfg *fanfare.Config) {
	for _, s := range values {
		c, _ := read(s)
		if c.Pattern != "" {
			cfg.Channels = append(cfg.Channels, c)
			continue
		}
		cfg.SlowReaders, cfg.MaxLag = cmp.Or(c.SlowReaders, cfg.SlowReaders), cmp.Or(c.MaxLag, cfg.MaxLag)
	}
}
