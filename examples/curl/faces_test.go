// Package curl tests the example beside it.
package curl

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"fanfare/fanfaretest"
	"fanfare/internal/partner"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the script prints is in faces.txt, but for what is another each time.
func TestFaces(t *testing.T) {
	partner.Curl(t)
	want, err := os.ReadFile("faces.txt")
	if err != nil {
		t.Fatal(err)
	}
	srv := fanfaretest.NewServer(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	script := exec.CommandContext(ctx, "sh", "faces.sh", srv.HTTPURL("demo/curl"))
	script.Stderr = os.Stderr
	got, err := script.Output()
	if err != nil {
		t.Error(err)
	}
	for pattern, placeholder := range map[string]string{
		`\d{13,}-`:                    "1763800000000-",
		`\d{4}-\d\d-\d\dT[\d:.]{12}Z`: "2026-11-22T16:00:00.123Z",
		`\r\n`:                        "\n",
		`retry: \d+`:                  "retry: 1500",
	} {
		got = regexp.MustCompile(pattern).ReplaceAll(got, []byte(placeholder))
	}
	if string(got) != string(want) {
		t.Errorf("it prints\n%s", got)
	}
}
