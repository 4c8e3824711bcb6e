package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"fanfare/client"
)

// A secret is a flag whose value is shown nowhere: Set takes everything, because
// what it refused would be shown.
type secret string

func (s *secret) String() string { return "" }
func (s *secret) Type() string   { return "token" }
func (s *secret) Set(token string) error {
	*s = secret(token)
	return nil
}

// checkSecret says what is wrong with a token, without saying it.
func checkSecret(token string) error {
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("a token is one word of ASCII, and this one has a space, or a character that no token can have")
	}
	return nil
}

// mostToken bounds what is read of a file that may not be one with a token.
const mostToken = 64 << 10

func (f *dialFlags) registerToken(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.tokenFile, "token-file", "", "a file with the token that says who this is; it is read anew whenever a token is needed, and wins over --token")
	flags.Var(&f.token, "token", "the token that says who this is. Whoever may list processes sees it here: better say it as FANFARE_TOKEN in the environment, or in a --token-file")
}

// tokens returns what gives a token whenever one is needed; nil: there is none.
func (f *dialFlags) tokens() func(context.Context) (string, error) {
	switch {
	case f.tokenFile != "":
		return func(context.Context) (string, error) { return readToken(f.tokenFile) }
	case f.token != "":
		return client.StaticToken(string(f.token))
	}
	return nil
}

func readToken(name string) (string, error) {
	info, err := os.Stat(name)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	if info.Size() > mostToken {
		return "", fmt.Errorf("--token-file: %s has %d bytes, and can hardly be a token", name, info.Size())
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("--token-file: %s is empty", name)
	}
	if err := checkSecret(token); err != nil {
		return "", fmt.Errorf("--token-file: %s: %w", name, err)
	}
	return token, nil
}

// advice is what can be done about a refusal; empty: nothing that is known here.
func advice(code string) string {
	switch code {
	case "unauthenticated":
		return "; say who you are with a token: FANFARE_TOKEN in the environment, --token-file or --token"
	case "bad_token", "token_expired", "token_not_yet", "token_revoked", "revoked":
		return "; another token may do (FANFARE_TOKEN, --token-file or --token)"
	case "forbidden":
		return "; a token with more rights may do"
	}
	return ""
}
