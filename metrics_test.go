package fanfare_test

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"fanfare"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// scrape returns what /-/metrics tells, by name and labels.
func scrape(t *testing.T, s *stage) (values map[string]string, text string) {
	t.Helper()
	resp := askFor(t, "GET", s.url("/-/metrics"), "", "X: y")
	if resp.status != 200 {
		t.Fatalf("%d %s", resp.status, resp.body)
	}
	values = map[string]string{}
	for line := range strings.Lines(resp.body) {
		if i := strings.LastIndexByte(line, ' '); line[0] != '#' && i > 0 {
			values[line[:i]] = strings.TrimSpace(line[i:])
		}
	}
	return values, resp.body
}

func TestMetricsAreWellNamed(t *testing.T) {
	_, text := scrape(t, perform(t, fanfare.Config{}))
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "fanfare_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// What is known to have happened is what the metrics say.
func TestMetricsAreTrue(t *testing.T) {
	s := perform(t, fanfare.Config{MaxMessage: 1000})
	a, b := s.join("/chat"), s.join("/chat")
	defer b.conn.Close()
	events := s.listen("/chat", asEvents)
	for i := range 5 {
		s.post("/chat", fmt.Sprintf(`{"n":%d}`, i))
	}
	a.say(`{"n":"a"}`)
	for _, p := range []*person{a, b} {
		for range 5 {
			p.hear()
		}
		if got := p.hear(); got != `{"n":"a"}` {
			t.Fatal(got)
		}
	}
	s.fetch("POST", "/chat", strings.Repeat("x", 1001))
	s.fetch("GET", "/chat?limit=0", "")
	_ = events
	for name, want := range map[string]string{
		`fanfare_published_messages_total{source="post"}`:  "5",
		`fanfare_published_messages_total{source="plain"}`: "1",
		`fanfare_published_bytes_total{source="post"}`:     "35",
		`fanfare_published_bytes_total{source="plain"}`:    "9",
		`fanfare_delivered_messages_total{face="plain"}`:   "12",
		`fanfare_delivered_messages_total{face="sse"}`:     "6",
		`fanfare_refusals_total{code="too_big"}`:           "1",
		`fanfare_refusals_total{code="bad_limit"}`:         "1",
		`fanfare_requests_total{for="post"}`:               "6",
		`fanfare_requests_total{for="websocket"}`:          "2",
		`fanfare_requests_total{for="sse"}`:                "1",
		`fanfare_channels`:                                 "1",
		`fanfare_patterns`:                                 "0",
		`fanfare_subscriptions`:                            "3",
		`fanfare_publications_waiting`:                     "0",
	} {
		eventually(t, name+" is "+want, func() bool { now, _ := scrape(t, s); return now[name] == want })
	}
	a.conn.Close()
	eventually(t, "one connection has ended", func() bool {
		now, _ := scrape(t, s)
		sum := 0
		for name, value := range now {
			if strings.HasPrefix(name, "fanfare_connections_ended_total") && value == "1" {
				sum++
			}
		}
		return sum == 1 && now["fanfare_subscriptions"] == "2"
	})
}

// Every metric that the dashboard and the alerts ask for is there.
func TestDashboard(t *testing.T) {
	loops := runtime.GOOS == "linux"
	if loops {
		t.Setenv("FANFARE_TRANSPORT", "reactor") // the other has none
	}
	_, text := scrape(t, perform(t, fanfare.Config{}))
	for _, file := range []string{"docs/grafana.json", "docs/alerts.yaml"} {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, ".json") && !json.Valid(content) {
			t.Errorf("%s is no JSON", file)
		}
		names := regexp.MustCompile(`\b(fanfare|go|process)_[a-z0-9_]+`).FindAllString(string(content), -1)
		if len(names) < 5 {
			t.Errorf("%s asks for %v", file, names)
		}
		for _, name := range names {
			if strings.HasPrefix(name, "fanfare_loop_") && !loops {
				continue
			}
			if !strings.Contains(text, "\n"+name+" ") && !strings.Contains(text, "\n"+name+"{") {
				t.Errorf("%s asks for %s, which is not there", file, name)
			}
		}
	}
}

// Tokens are counted once each, by what came of them; who shows none is not.
func TestAuthenticationsAreCounted(t *testing.T) {
	s := perform(t, guarded())
	for _, token := range []string{"alice-token", "alice-token", "bob-token", "op-token", "nobody's", "nobody's", "down", ""} {
		header := "X: y"
		if token != "" {
			header = bearer(token)
		}
		askFor(t, "GET", s.url("/chat/x"), "", header)
	}
	admin := httptest.NewServer(s.Admin())
	defer admin.Close()
	text := askFor(t, "GET", admin.URL+"/-/metrics", "", "X: y").body
	for result, want := range map[string]int{"ok": 4, "bad_token": 2, "auth_unavailable": 1, "token_expired": 0, "other": 0} {
		if line := fmt.Sprintf("\nfanfare_authentications_total{result=%q} %d\n", result, want); !strings.Contains(text, line) {
			t.Errorf("the metrics do not have %q", line)
		}
	}
}
