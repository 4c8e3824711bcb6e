package main

import (
	"io"
	"reflect"
	"testing"

	"fanfare"
)

func TestSlowReadersFlags(t *testing.T) {
	f := serveFlags{grace: 1, heartbeat: 1, heartbeatTimeout: 1, historyAge: 1, logLevel: "info", logFormat: "text",
		slowReaders: []string{"tick/*=latest", "skip", "a=b/**=close"}, maxLag: []string{"64KiB", "tick/gold=2MiB"}}
	cfg, err := f.config(stdio{err: io.Discard})
	want := []fanfare.ChannelConfig{
		{Pattern: "tick/*", SlowReaders: fanfare.Latest},
		{Pattern: "a=b/**", SlowReaders: fanfare.Close},
		{Pattern: "tick/gold", MaxLag: 2 << 20},
	}
	if err != nil || cfg.SlowReaders != fanfare.Skip || cfg.MaxLag != 64<<10 || !reflect.DeepEqual(cfg.Channels, want) {
		t.Errorf("%v %d %+v %v", cfg.SlowReaders, cfg.MaxLag, cfg.Channels, err)
	}
}

func TestSettingsInTheURL(t *testing.T) {
	u, err := (&dialFlags{name: "a b", slow: "latest"}).target("ws://example.com/x?slow=skip&token=t")
	if err != nil || u.String() != "ws://example.com/x?name=a+b&slow=latest&token=t" {
		t.Errorf("%v %v", u, err)
	}
	if u, err = new(dialFlags).target("ws://example.com/x?b=%20&a"); err != nil || u.String() != "ws://example.com/x?b=%20&a" {
		t.Errorf("without settings the URL became %v %v", u, err)
	}
}
