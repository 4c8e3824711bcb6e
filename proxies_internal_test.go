package fanfare

import (
	"net/http"
	"net/netip"
	"testing"
)

// For whom a proxy asks is believed of the proxies only, and of what they say only
// what they know.
func TestClientAddress(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:1::/48"), netip.MustParsePrefix("127.0.0.1/32")}
	for _, c := range []struct {
		peer  string
		given []string
		want  string
	}{
		{"203.0.113.7:4711", nil, "203.0.113.7"},
		{"203.0.113.7:4711", []string{"192.0.2.1"}, "203.0.113.7"}, // a client that claims to be another
		{"203.0.113.7:4711", []string{"10.0.0.1"}, "203.0.113.7"},
		{"[2001:db8:2::7]:4711", []string{"192.0.2.1"}, "2001:db8:2::7"},
		{"203.0.113.7", nil, "203.0.113.7"}, // a middleware left the port out
		{"10.0.0.1:1", nil, "10.0.0.1"},
		{"10.0.0.1:1", []string{"192.0.2.1"}, "192.0.2.1"},
		{"[::ffff:10.0.0.1]:1", []string{"192.0.2.1"}, "192.0.2.1"},
		{"[2001:db8:1::1]:1", []string{"2001:db8:3::9"}, "2001:db8:3::9"},
		{"10.0.0.1:1", []string{"8.8.8.8, 192.0.2.1"}, "192.0.2.1"}, // the client made the first up
		{"10.0.0.1:1", []string{"127.0.0.1, 10.9.9.9, 192.0.2.1"}, "192.0.2.1"},
		{"10.0.0.1:1", []string{"192.0.2.1, 10.2.3.4, 10.3.4.5"}, "192.0.2.1"}, // three proxies
		{"10.0.0.1:1", []string{"8.8.8.8", "192.0.2.1, 10.2.3.4", "10.3.4.5"}, "192.0.2.1"},
		{"10.0.0.1:1", []string{"192.0.2.1:5555"}, "192.0.2.1"},
		{"10.0.0.1:1", []string{"[2001:db8:3::9]:5555"}, "2001:db8:3::9"},
		{"10.0.0.1:1", []string{"[2001:db8:3::9]"}, "2001:db8:3::9"},
		{"10.0.0.1:1", []string{"::ffff:192.0.2.1"}, "192.0.2.1"},
		{"10.0.0.1:1", []string{"fe80::1%eth0"}, "fe80::1"},
		{"10.0.0.1:1", []string{" \t192.0.2.1 "}, "192.0.2.1"},
		{"10.0.0.1:1", []string{"unknown"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"192.0.2.1, unknown, 10.2.2.2"}, "10.2.2.2"},
		{"10.0.0.1:1", []string{""}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"192.0.2.1,"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"192.0.2.1; 8.8.8.8"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"192.0.2.256"}, "10.0.0.1"},
		{"10.0.0.1:1", []string{"10.7.7.7, 10.8.8.8"}, "10.7.7.7"},
		{"@", nil, "invalid IP"}, // a Unix socket's peer
		{"@", []string{"192.0.2.1"}, "192.0.2.1"},
		{"", []string{"8.8.8.8, 192.0.2.1"}, "192.0.2.1"},
		{"@", []string{"nonsense"}, "invalid IP"},
	} {
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{"X-Forwarded-For": c.given, "Forwarded": {"for=9.9.9.9"}, "X-Real-Ip": {"9.9.9.9"}}}
		if got := clientAddress(r, proxies).String(); got != c.want {
			t.Errorf("%q by way of %q: %s, want %s", c.peer, c.given, got, c.want)
		}
		if c.peer == "10.0.0.1:1" {
			if got := clientAddress(r, nil).String(); got != "10.0.0.1" {
				t.Errorf("without proxies %q is believed: %s", c.given, got)
			}
		}
	}
}

// What a limit is where nothing is said, and that the defaults by address are not for this
// machine's own.
func TestBounds(t *testing.T) {
	b := (&Config{}).bounds()
	if b.handshakes.Second != 100 || b.handshakes.Burst != 500 || b.connections != 1000 || b.messages.Second != 5_000 || b.bytes.Burst != 32<<20 || b.channelName != 255 || b.channelSegments != 32 {
		t.Errorf("%+v", b)
	}
	if !b.ownHandshakes.None() || b.ownConnections != 0 || !b.ownMessages.None() || !b.ownBytes.None() || !b.subjectMessages.None() || b.channels {
		t.Errorf("%+v", b)
	}
	b = (&Config{Limits: Limits{Handshakes: 3, Connections: 4, Messages: 5, Bytes: 6, ChannelName: 7, ChannelSegments: 8, SubjectMessages: 0.5, ChannelMessages: 9}}).bounds()
	if b.ownHandshakes != b.handshakes || b.ownHandshakes.Burst != 15 || b.ownConnections != 4 || b.ownMessages.Second != 5 || b.ownBytes.Burst != leastBytes || b.subjectMessages.Burst != 1 || !b.channels {
		t.Errorf("%+v", b)
	}
	b = (&Config{Limits: Limits{Handshakes: -1, Connections: -1, Messages: -1, Bytes: -1, ChannelName: -1, ChannelSegments: -1, SubjectConnections: -1}}).bounds()
	if !b.handshakes.None() || b.connections != 0 || !b.messages.None() || !b.bytes.None() || b.channelName != 0 || b.channelSegments != 0 || b.subjectConnections != 0 {
		t.Errorf("%+v", b)
	}
}
