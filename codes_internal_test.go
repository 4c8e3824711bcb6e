package fanfare

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every stable code that the source has is one that refusals are counted by, and is
// described where people look for it.
func TestCodesAreKnown(t *testing.T) {
	described := ""
	for _, file := range []string{"docs/protocol.md", "errors.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		described += string(text)
	}
	literal := regexp.MustCompile(`(?:errorf\(|Code: +|Refusal\{[^,]+, +|[Bb]ad[A-Za-z]*\(|cmp\.Or\([^,"]+, )"([a-z]+(?:_[a-z]+)*)"`)
	named := regexp.MustCompile(`\b[a-z]+(?:_[a-z]+)*\b`)
	words := named.FindAllString(described, -1)
	found := map[string]string{}
	for _, pattern := range []string{"*.go", "auth/*.go", "protocol/*.go", "internal/handshake/*.go", "internal/descriptors/*.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, match := range literal.FindAllStringSubmatch(string(text), -1) {
				found[match[1]] = file
			}
		}
	}
	if len(found) < 40 {
		t.Errorf("only %d codes were found in the source", len(found))
	}
	for code, file := range found {
		if !slices.Contains(codes, code) {
			t.Errorf("%s (%s) is not among the codes that refusals are counted by", code, file)
		}
		if !slices.Contains(words, code) {
			t.Errorf("%s (%s) is described neither in docs/protocol.md nor in Error's doc", code, file)
		}
	}
}
