package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"fanfare"
)

// limitSettings are those that bound what clients can cost, and by what address.
type limitSettings struct {
	limits           fanfare.Limits // but for ChannelMessages, which is a channel's
	maxHeader        size
	handshakeTimeout time.Duration
	proxies          []string
	proxyProtocol    bool
}

func defaultLimits() limitSettings {
	return limitSettings{maxHeader: 16 << 10, handshakeTimeout: 10 * time.Second}
}

func (s *limitSettings) flags(flags *pflag.FlagSet) {
	l := &s.limits
	const elsewhere = "; the default is not for this machine's own addresses"
	for _, f := range []struct {
		name, usage string
		to          pflag.Value
	}{
		{"limit-requests", "how many requests over HTTP an address may make a second" + elsewhere, &bound{&l.Requests, "1000"}},
		{"limit-handshakes", "how many connections that stay an address may begin a second" + elsewhere, &bound{&l.Handshakes, "100"}},
		{"limit-connections", "how many connections that stay an address may have" + elsewhere, &wholeBound{&l.Connections, "1000"}},
		{"limit-messages", "how many messages a second a connection may send, or an anonymous address over HTTP", &bound{&l.Messages, "5000"}},
		{"limit-bytes", "how many bytes a second a connection may send, or an anonymous address over HTTP", &byteBound{&l.Bytes, "32MiB"}},
		{"limit-subject-messages", "how many messages a second a subject may send, over all its connections", &bound{&l.SubjectMessages, "none"}},
		{"limit-subject-bytes", "how many bytes a second a subject may send, over all its connections", &byteBound{&l.SubjectBytes, "none"}},
		{"limit-subject-connections", "how many connections a subject may have", &wholeBound{&l.SubjectConnections, "none"}},
		{"limit-channel-name", "the longest name of a channel in bytes, 255 at most", &wholeBound{&l.ChannelName, "255"}},
		{"limit-channel-segments", "how many segments the name of a channel may have", &wholeBound{&l.ChannelSegments, "32"}},
	} {
		flags.Var(f.to, f.name, f.usage)
	}
	flags.Var(&value[bool]{&l.DryRun, "bool", yesOrNo}, "dry-run-limits", "count and log what limits would refuse or slow down, and refuse and slow down nothing")
	flags.Lookup("dry-run-limits").NoOptDefVal = "true"
	flags.Var(&s.maxHeader, "max-header", "the largest head of a request")
	flags.Var(&value[time.Duration]{&s.handshakeTimeout, "duration", duration}, "handshake-timeout", "how long the head of a request may take, and before it that of the PROXY protocol")
	flags.Var(&list{&s.proxies, ",", func(s string) error { _, err := network(s); return err }}, "trusted-proxy", `believe what a reverse proxy of this address or network says for whom it asks, "10.0.0.0/8"; repeatable`)
	flags.Var(&value[bool]{&s.proxyProtocol, "bool", yesOrNo}, "proxy-protocol", "trusted proxies begin each connection with a header of the PROXY protocol, version 1 or 2")
	flags.Lookup("proxy-protocol").NoOptDefVal = "true"
}

// networks are those of the trusted proxies.
func (s *limitSettings) networks() (all []netip.Prefix) {
	for _, text := range s.proxies {
		if p, err := network(text); err == nil { // each was read before
			all = append(all, p)
		}
	}
	return all
}

// network reads one, or an address.
func network(text string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(text); err == nil {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, errors.New("it must be an address or a network, such as 10.0.0.1 or 10.0.0.0/8")
	}
	return p.Masked(), nil
}

// A bound is a flag for a number that may be none, or the default, which it then shows.
type bound struct {
	to       *float64 // 0: the default; negative: none
	standard string
}

func (b *bound) Type() string { return "number" }

func (b *bound) String() string {
	return showBound(*b.to, b.standard, func() string { return strconv.FormatFloat(*b.to, 'f', -1, 64) })
}

func (b *bound) Set(text string) error {
	return setBound(text, b.to, func() error {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || !(n > 0 && n <= 1e9) {
			return errors.New("it must be a number above 0, none, or default")
		}
		*b.to = n
		return nil
	})
}

// A wholeBound is one for a whole number.
type wholeBound struct {
	to       *int
	standard string
}

func (b *wholeBound) Type() string { return "number" }

func (b *wholeBound) String() string {
	return showBound(*b.to, b.standard, func() string { return strconv.Itoa(*b.to) })
}

func (b *wholeBound) Set(text string) error {
	return setBound(text, b.to, func() error {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return errors.New("it must be a whole number above 0, none, or default")
		}
		*b.to = n
		return nil
	})
}

// A byteBound is one for a size.
type byteBound struct {
	to       *float64
	standard string
}

func (b *byteBound) Type() string { return "bytes" }

func (b *byteBound) String() string {
	return showBound(*b.to, b.standard, func() string { return showSize(int(*b.to)) })
}

func (b *byteBound) Set(text string) error {
	return setBound(text, b.to, func() error {
		var n int
		if err := readSize(text, &n); err != nil || n > 1e9 {
			return fmt.Errorf("it must be a size below 1 GB such as 65536, 64KiB or 1MiB, none, or default")
		}
		*b.to = float64(n)
		return nil
	})
}

func showBound[T int | float64](n T, standard string, show func() string) string {
	switch {
	case n == 0:
		return standard
	case n < 0:
		return "none"
	}
	return show()
}

func setBound[T int | float64](text string, to *T, set func() error) error {
	switch text {
	case "none":
		*to = -1
		return nil
	case "default":
		*to = 0
		return nil
	}
	return set()
}
