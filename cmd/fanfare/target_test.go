package main

import "testing"

func TestParseTarget(t *testing.T) {
	for _, c := range []struct{ in, want, shown string }{
		{"", "ws://localhost:8765/", ""},
		{"chat/general", "ws://localhost:8765/chat/general", ""},
		{"/chat/general", "ws://localhost:8765/chat/general", ""},
		{"chat?since=5", "ws://localhost:8765/chat?since=5", "ws://localhost:8765/chat"},
		{"聊天 室", "ws://localhost:8765/%E8%81%8A%E5%A4%A9%20%E5%AE%A4", "ws://localhost:8765/聊天 室"},
		{"a%2Fb", "ws://localhost:8765/a/b", ""},
		{"localhost", "ws://localhost:8765", "ws://localhost:8765/"},
		{"localhost/x?name=a", "ws://localhost:8765/x?name=a", "ws://localhost:8765/x"},
		{"[::1]/x", "ws://[::1]:8765/x", ""},
		{"localhost:9000/chat", "ws://localhost:9000/chat", ""},
		{"example.com:80", "ws://example.com:80/", ""},
		{"127.0.0.1/x", "ws://127.0.0.1:8765/x", ""},
		{"[::1]:8765/x", "ws://[::1]:8765/x", ""},
		{"example.com/chat", "ws://localhost:8765/example.com/chat", ""},
		{"jobs:nightly/42", "ws://localhost:8765/jobs:nightly/42", ""},
		{"http://example.com/a", "ws://example.com/a", ""},
		{"HTTPS://example.com/a?token=secret", "wss://example.com/a?token=secret", "wss://example.com/a"},
		{"ws+unix:///run/f.sock:/chat", "ws+unix:///run/f.sock:/chat", ""},
		{"wss://user:pass@example.com", "wss://user:pass@example.com/", "wss://example.com/"},
	} {
		u, err := parseTarget(c.in)
		if err != nil {
			t.Errorf("parseTarget(%q): %v", c.in, err)
			continue
		}
		if got := u.String(); got != c.want && got != c.want+"/" {
			t.Errorf("parseTarget(%q) = %s, want %s", c.in, got, c.want)
		}
		if c.shown != "" && visible(u) != c.shown {
			t.Errorf("%q is shown as %s, want %s", c.in, visible(u), c.shown)
		}
	}
	for _, bad := range []string{"ftp://x/", "ws://", "ws:///x", "ws://host:port/", "ws://x/#room", "http://[::1/", "ws+unix://run/f.sock"} {
		if u, err := parseTarget(bad); err == nil {
			t.Errorf("parseTarget(%q) = %s, want an error", bad, u)
		}
	}
}
