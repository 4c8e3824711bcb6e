package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"fanfare"
	"fanfare/websocket"
)

// written writes a configuration file.
func written(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// configured is what `serve` makes of flags and a file.
func configured(t *testing.T, content string, args ...string) (*settings, error) {
	t.Helper()
	given := defaultSettings()
	flags := given.flags()
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	written(t, "f.yaml", content)
	return withFile("f.yaml", given, flags.Changed)
}

const everything = `
listen: unix:/run/fanfare.sock
open: true
grace: 3s
heartbeat: 4s
heartbeat-timeout: 5s
max-message: 64KiB
compression: false
compress-over: 1KiB
max-subscriptions: 7
id-window: 8m
origin: [https://app.example.com, "*.example.com"]
tls-cert: cert.pem
tls-key: key.pem
acme-domain: chat.example.com
acme-email: admin@example.com
acme-cache: certificates
acme-directory: https://ca.example.com/directory
http-redirect: 0.0.0.0:80
hsts: 24h
behind-proxy: true
admin-listen: 0.0.0.0:9
admin-open: true
host: chat.example.com   # one needs no list
history: 0
history-age: 90m
history-bytes: 3MiB
slow-readers: skip
max-lag: 65536
log-level: warn
log-format: json
limit-handshakes: 1.5
limit-requests: 1.6
limit-connections: 2
limit-messages: none
limit-bytes: 3MiB
limit-subject-messages: 4
limit-subject-bytes: 5kB
limit-subject-connections: 6
limit-channel-messages: 7
limit-channel-name: 88
limit-channel-segments: 9
dry-run-limits: true
max-header: 8KiB
handshake-timeout: 2s
trusted-proxy: [10.0.0.0/8, 192.0.2.1]
proxy-protocol: true
channels:
  - pattern: tick/*
    history: 0
    slow-readers: latest
  - {pattern: "*/b", history: 9, history-age: 24h, history-bytes: 4MiB, slow-readers: close, max-lag: 1kB}
`

// Every flag can stand in the file, and means the same there.
func TestFileSaysEverything(t *testing.T) {
	got, err := configured(t, everything)
	if err != nil {
		t.Fatal(err)
	}
	want := &settings{
		listen: "unix:/run/fanfare.sock", open: true, grace: 3 * time.Second, heartbeat: 4 * time.Second, heartbeatTimeout: 5 * time.Second,
		maxMessage: 64 << 10, compressOver: 1 << 10, maxSubscriptions: 7, idWindow: 8 * time.Minute,
		origins: []string{"https://app.example.com", "*.example.com"}, hosts: []string{"chat.example.com"},
		tlsCert: "cert.pem", tlsKey: "key.pem", acmeDomains: []string{"chat.example.com"}, acmeEmail: "admin@example.com", acmeCache: "certificates",
		acmeDirectory: "https://ca.example.com/directory", httpRedirect: "0.0.0.0:80", hsts: 24 * time.Hour, behindProxy: true,
		adminListen: "0.0.0.0:9", adminOpen: true,
		logLevel: "warn", logFormat: "json",
		limitSettings: limitSettings{
			limits: fanfare.Limits{
				Handshakes: 1.5, Requests: 1.6, Connections: 2, Messages: -1, Bytes: 3 << 20, SubjectMessages: 4, SubjectBytes: 5000, SubjectConnections: 6,
				ChannelName: 88, ChannelSegments: 9, DryRun: true,
			},
			maxHeader: 8 << 10, handshakeTimeout: 2 * time.Second, proxies: []string{"10.0.0.0/8", "192.0.2.1"}, proxyProtocol: true,
		},
	}
	all := fanfare.Config{History: -1, HistoryAge: 90 * time.Minute, HistoryBytes: 3 << 20, SlowReaders: fanfare.Skip, MaxLag: 64 << 10}
	some := []fanfare.ChannelConfig{
		{Pattern: "tick/*", History: -1, SlowReaders: fanfare.Latest},
		{Pattern: "*/b", History: 9, HistoryAge: 24 * time.Hour, HistoryBytes: 4 << 20, SlowReaders: fanfare.Close, MaxLag: 1000},
	}
	cfg := got.config()
	if !reflect.DeepEqual(cfg.Channels, some) {
		t.Errorf("channels: %+v", cfg.Channels)
	}
	if cfg.History != all.History || cfg.HistoryAge != all.HistoryAge || cfg.HistoryBytes != all.HistoryBytes || cfg.SlowReaders != all.SlowReaders || cfg.MaxLag != all.MaxLag {
		t.Errorf("for all channels: %+v", cfg)
	}
	if cfg.MaxSubscriptions != 7 || cfg.IDWindow != 8*time.Minute || cfg.MaxMessage != 64<<10 || cfg.Heartbeat != 4*time.Second || cfg.HeartbeatTimeout != 5*time.Second || len(cfg.Origins) != 2 || cfg.Compression != (fanfare.Compression{Off: true, Over: 1 << 10}) {
		t.Errorf("%+v", cfg)
	}
	got.channels = nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	// So that nobody adds a flag which this does not try.
	said, usual := got.facts(), defaultSettings().facts()
	for name := range usual {
		if said[name] == usual[name] && !strings.HasPrefix(name, "auth-") && !slices.ContainsFunc(channelSettings, func(c channelSetting) bool { return c.name == name }) {
			t.Errorf("%s is as without the file: %s", name, said[name])
		}
	}
}

func TestFlagsBeforeTheFile(t *testing.T) {
	got, err := configured(t, everything, "--grace=1m", "--origin=https://flag.example", "--slow-readers=close", "--max-lag=tick/*=2MiB", "--history=tick/gold=1", "--open=false", "--listen=127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	cfg := got.config()
	if got.grace != time.Minute || got.listen != "127.0.0.1:1" || got.open || !slices.Equal(cfg.Origins, []string{"https://flag.example"}) || cfg.SlowReaders != fanfare.Close {
		t.Errorf("flags must win: %+v", got)
	}
	if got.heartbeat != 4*time.Second || cfg.MaxLag != 64<<10 || cfg.History != -1 {
		t.Errorf("what no flag says is the file's: %+v", got)
	}
	if cfg.Channels[0] != (fanfare.ChannelConfig{Pattern: "tick/*", MaxLag: 2 << 20}) || cfg.Channels[1] != (fanfare.ChannelConfig{Pattern: "tick/gold", History: 1}) || len(cfg.Channels) != 4 {
		t.Errorf("what flags say of channels comes first: %+v", cfg.Channels)
	}
}

// The example says every setting there is.
func TestTheExample(t *testing.T) {
	name := filepath.FromSlash("../../examples/fanfare.yaml")
	p := start(t, "serve", "--config", name, "--check")
	p.want(name + ": ok")
	p.ends(exitFine)
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	defaultSettings().flags().VisitAll(func(f *pflag.Flag) {
		if text := "\n" + string(content); !strings.HasPrefix(f.Name, "auth-") && !strings.Contains(text, "\n"+f.Name+":") && !strings.Contains(text, "\n# "+f.Name+":") {
			t.Errorf("%s does not say %s", name, f.Name)
		}
	})
	// What it says to be the defaults are.
	s, err := withFile(name, defaultSettings(), func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	s.channels = slices.DeleteFunc(s.channels, func(c fanfare.ChannelConfig) bool { return c.Pattern != "" })
	s.auth = authSettings{} // TestTheExampleAsks
	was, now := defaultSettings().facts(), s.facts()
	if got := changes(was, now); got != "history-bytes: 1MiB → 2MiB; host: unsaid → chat.example.com; origin: unsaid → https://app.example.com,*.example.org" {
		t.Errorf("it is other than the defaults in %s", got)
	}
}

func TestFilesThatSayNothing(t *testing.T) {
	for _, content := range []string{"", "# nothing\n", "---\n"} {
		got, err := configured(t, content)
		if err != nil || !reflect.DeepEqual(got, defaultSettings()) {
			t.Errorf("%q: %+v %v", content, got, err)
		}
	}
}

// What is wrong in a file is told with line and column, and with what is right.
func TestBadFiles(t *testing.T) {
	for _, c := range []struct{ content, want string }{
		{"histroy: 3", `f.yaml:1:1: there is no setting "histroy" here; there are acme-cache, `},
		{"config: f.yaml", `f.yaml:1:1: there is no setting "config" here`},
		{"help: true", `f.yaml:1:1: there is no setting "help" here`},
		{"\n# no\n\n  history: many", `f.yaml:4:12: history is "many": it must be a whole number, 0 or more`},
		{"history: -1", `f.yaml:1:10: history is "-1": it must be`},
		{"history: 1.5", `f.yaml:1:10: history is "1.5": it must be`},
		{"history:", "f.yaml:1:10: history has no value"},
		{"history: [1, 2]", "f.yaml:1:14: history is \"2\": it is 1 for all channels already"},
		{"grace: [1s, 2s]", "f.yaml:1:8: grace must be one value"},
		{"grace: {a: 1}", "f.yaml:1:8: grace must be one value"},
		{"grace: 10", `f.yaml:1:8: grace is "10": a time is written as in 90s, 1h30m or 24h`},
		{"grace: 0s", `f.yaml:1:8: grace is "0s": it must be longer than nothing`},
		{"grace: &a 10s", "f.yaml:1:8: grace must be one value"},
		{"max-lag: lots", `f.yaml:1:10: max-lag is "lots": a size is a positive number of bytes`},
		{"open: yes", `f.yaml:1:7: open is "yes": it must be true or false`},
		{"log-level: loud", `f.yaml:1:12: log-level is "loud": it must be debug, info, warn or error`},
		{"listen: 80", `f.yaml:1:9: listen is "80": it must be host:port`},
		{"max-subscriptions: 0", `f.yaml:1:20: max-subscriptions is "0": it must be a whole number, 1 or more`},
		{`origin: ["https://a.example", "a b"]`, `f.yaml:1:31: origin is "a b": the origin "a b" holds a blank`},
		{"host: https://a.example", `f.yaml:1:7: host is "https://a.example": `},
		{"slow-readers: fast", `f.yaml:1:15: slow-readers is "fast": "fast" is no policy`},
		{"history: 1\nhistory: 2", `f.yaml:2:1: mapping key "history" already defined at [1:1]`},
		{"a: 1\n b: 2", "f.yaml:1:4: "},
		{"history: \"1", "f.yaml:1:10: "},
		{"history: 1\n---\nhistory: 2", "f.yaml:2:1: a second document begins here"},
		{"- history", "f.yaml:1:1: a configuration file is a list of lines, each a name, a colon and a value; there are acme-cache, "},
		{"history", "f.yaml:1:1: a configuration file is a list of lines"},
		{"channels: 3", "f.yaml:1:11: channels is a list, each of whose entries begins as in - pattern: chat/**"},
		{"channels:\n  - chat", "f.yaml:2:5: an entry of channels is a list of lines"},
		{"channels:\n  - history: 3", "f.yaml:2:12: it is not said for which channels this is"},
		{"channels:\n  - pattern: a\n    grace: 3s", `f.yaml:3:5: there is no setting "grace" here; there are history, history-age, history-bytes, limit-channel-messages, max-lag, pattern, slow-readers`},
		{"limit-messages: 0", `f.yaml:1:17: limit-messages is "0": it must be a number above 0, none, or default`},
		{"limit-connections: 1.5", `f.yaml:1:20: limit-connections is "1.5": it must be a whole number above 0, none, or default`},
		{"limit-bytes: lots", `f.yaml:1:14: limit-bytes is "lots": it must be a size below 1 GB`},
		{"trusted-proxy: example.com", `f.yaml:1:16: trusted-proxy is "example.com": it must be an address or a network, such as 10.0.0.1 or 10.0.0.0/8`},
		{"channels:\n  - pattern: '**/a'", `f.yaml:2:14: pattern is "**/a": "**/a" is no pattern`},
		{"channels:\n  - pattern: a\n  - pattern: b\n  - pattern: a", `f.yaml:4:14: pattern is "a": its settings are in line 2 already`},
		{"channels:\n  - pattern: a\n    max-lag: 0", `f.yaml:3:14: max-lag is "0": a size is`},
		{"channels:\n  - pattern: a\n    history-age:", "f.yaml:3:18: history-age has no value"},
		{"channels:\n  - pattern: **", `f.yaml:2:15: unexpected scalar value type; what begins with * needs quotes: "*"`},
		{"history: 1\n  history-age: 1h", "f.yaml:1:10: mapping value is not allowed in this context; this line or the next is indented"},
		{"channels:\n  - pattern: a\n  history: 1", "f.yaml:3:3: value is not allowed in this context; this line or the next is indented"},
		{"channels:\n\t- pattern: a", `f.yaml:2:1: found character '\t' that cannot start any token; a line is indented with blanks`},
		{"channels:\n  - pattern: *", `what begins with * needs quotes: "*"`},
		{"channels:\n  - pattern: *\n    history: 1", `what begins with * needs quotes: "*"`},
		{"channels:\n  - pattern: */a", `what begins with * needs quotes: "*"`},
		{"origin: [*.example.com]", `what begins with * needs quotes: "*"`},
	} {
		got, err := configured(t, c.content)
		var wrong mistakes
		if got != nil || exitCode(err) != exitUsage || !errors.As(err, &wrong) || len(wrong) != 1 || !strings.Contains(wrong[0], c.want) || !strings.HasPrefix(wrong[0], "f.yaml:") {
			t.Errorf("%q: %v, want %s", c.content, err, c.want)
		}
	}
	_, err := configured(t, "history: x\nchannels:\n  - pattern: '**/a'\n  - pattern: b\n    max-lag: y\ngrace: z\n", "--grace=1s")
	var wrong mistakes
	if !errors.As(err, &wrong) || len(wrong) != 4 || !strings.HasPrefix(wrong[3], "f.yaml:6:8: grace") {
		t.Errorf("all mistakes at once, also where a flag wins: %v", err)
	}
	if _, err := configured(t, "#"+strings.Repeat("x", maxFile)); err == nil || !strings.Contains(err.Error(), "f.yaml is larger than 1 MiB") {
		t.Errorf("a large file: %v", err)
	}
}

func TestChanges(t *testing.T) {
	was := &settings{channels: []fanfare.ChannelConfig{{Pattern: "a", History: 1, MaxLag: 64 << 10}, {Pattern: "b", SlowReaders: fanfare.Skip}, {History: 3}}}
	now := &settings{logLevel: "warn", channels: []fanfare.ChannelConfig{{Pattern: "a", History: -1, MaxLag: 64 << 10}, {Pattern: "a", MaxLag: 1}, {Pattern: "c", HistoryAge: time.Hour}}}
	want := "history: 3 → 256; history of a: 1 → 0; history-age of c: unsaid → 1h0m0s; log-level: unsaid → warn; slow-readers of b: skip → unsaid"
	if got := changes(was.facts(), now.facts()); got != want {
		t.Errorf("%s", got)
	}
	if got := changes(now.facts(), now.facts()); got != "nothing" {
		t.Errorf("the same: %s", got)
	}
	for i := range 25 {
		now.channels = append(now.channels, fanfare.ChannelConfig{Pattern: strconv.Itoa(i), History: 1})
	}
	if got := changes(was.facts(), now.facts()); !strings.HasSuffix(got, "; and 10 more") || strings.Count(got, ";") != 20 {
		t.Errorf("many: %s", got)
	}
}

// hangUp has the server read its file again, and waits for what it says of it.
func hangUp(t *testing.T, cmd *exec.Cmd, said *program, want ...string) {
	t.Helper()
	said.errs.reset()
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for _, text := range want {
		said.says(text)
	}
}

// kept is how many messages of a channel a server has.
func kept(t *testing.T, at, channel string) int {
	t.Helper()
	resp, err := http.Get("http://" + at + "/" + channel + "?since=0&limit=1000")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var page struct{ Messages []json.RawMessage }
	if err := json.NewDecoder(resp.Body).Decode(&page); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %v", resp.Status, err)
	}
	return len(page.Messages)
}

// post publishes messages to a channel.
func post(t *testing.T, at, channel string, n int) {
	t.Helper()
	for range n {
		resp, err := http.Post("http://"+at+"/"+channel, "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatal(resp.Status)
		}
	}
}

// A hang-up has a server go on with what its file says now, and a mistake in
// the file changes nothing.
func TestReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fanfare.yaml")
	written(t, file, "history: 20\ngrace: 1m\nmax-message: 1kB\n")
	cmd, said, at := daemon(t, "--config", file, "--max-lag", "2MiB")
	conn, _, err := websocket.Dial(context.Background(), "ws://"+at+"/chat/a", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	post(t, at, "chat/a", 30)
	if n := kept(t, at, "chat/a"); n != 20 {
		t.Fatalf("%d messages are kept, and the file says 20", n)
	}

	written(t, file, "history: 20\nmax-lag: 1MiB\ngrace: 200ms\nhost: proxied.example\nchannels:\n  - pattern: chat/**\n    history: 5\n")
	hangUp(t, cmd, said, `level=INFO msg="read the configuration again"`, `changed="grace: 1m0s → 200ms; history of chat/**: unsaid → 5; host: unsaid → proxied.example"`)
	said.says(`level=WARN msg="a setting takes effect at the next start" setting=max-message now=1000 then=1MiB`)
	if n := kept(t, at, "chat/a"); n != 5 {
		t.Errorf("%d messages are kept of a channel that was open when the file began to say 5", n)
	}
	req, err := http.NewRequest(http.MethodGet, "http://"+at+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "proxied.example"
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("a new host: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}

	written(t, file, "history: 1\n\nhistroy: 2\ngrace: 0s\n")
	hangUp(t, cmd, said, `fanfare.yaml:3:1: there is no setting`, `fanfare.yaml:4:8: grace is`)
	said.says(`level=ERROR msg="the settings stay as they are"`)
	written(t, file, "history: 1\nlisten: 0.0.0.0:80\n") // --listen is given
	hangUp(t, cmd, said, `history: 20 → 1; history of chat/**: 5 → unsaid; host: proxied.example → unsaid"`)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	hangUp(t, cmd, said, "no such file")
	post(t, at, "chat/a", 3)
	if n := kept(t, at, "chat/a"); n != 1 {
		t.Errorf("%d messages are kept, want 1: the last good file counts", n)
	}

	written(t, file, "log-level: error\ngrace: 200ms\n")
	hangUp(t, cmd, said, "grace: 10s → 200ms; history: 1 → 256; log-level: info → error")
	frozen := dialRaw(t, at)
	defer frozen.Close()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if code := exits(t, cmd); code != exitOther {
		t.Errorf("the exit code is %d, want 1", code)
	}
	said.says("not everyone had left after --grace 200ms")
}

// Without a file a hang-up is what it is for every program of a terminal.
func TestAHangUpEnds(t *testing.T) {
	// Where these tests run without a terminal, hang-ups may be ignored, and children
	// inherit that; not so what is caught.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGHUP)
	defer signal.Stop(caught)
	cmd, _, _ := daemon(t)
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	exits(t, cmd)
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGHUP {
		t.Errorf("it ended with %v", cmd.ProcessState)
	}
}
