package main

import (
	"net/http"
	"strings"
	"testing"
)

// An operators' address that others can reach must be meant.
func TestAdminAddress(t *testing.T) {
	for address, refused := range map[string]bool{"": false, "127.0.0.1:0": false, "[::1]:0": false, "unix:/run/x.sock": false, "0.0.0.0:1": true, ":1": true, "192.0.2.7:1": true} {
		s := defaultSettings()
		s.adminListen = address
		if err := s.onlyOperators(); (err != nil) != refused || refused && exitCode(err) != 2 {
			t.Errorf("--admin-listen %q: %v", address, err)
		}
		s.adminOpen = true
		if err := s.onlyOperators(); err != nil {
			t.Errorf("--admin-listen %q --admin-open: %v", address, err)
		}
	}
}

// The ready line names the address, the pages are there and nowhere else, until the end.
func TestAdminListen(t *testing.T) {
	_, _, at := daemon(t, "--admin-listen", "127.0.0.1:0")
	main, admin, found := strings.Cut("http://"+at+"/", ", for operators ")
	if !found {
		t.Fatalf("the ready line does not name it: %s", at)
	}
	for _, c := range []struct {
		url    string
		status int
	}{{admin, 200}, {admin + "-/metrics", 200}, {admin + "-/debug/pprof/", 200}, {admin + "chat", 404}, {main + "-/debug/pprof/", 403}} {
		resp, err := http.Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s, want %d", c.url, resp.Status, c.status)
		}
	}
}
