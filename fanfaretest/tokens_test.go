package fanfaretest_test

import (
	"errors"
	"testing"
	"time"

	"fanfare"
	"fanfare/auth"
	"fanfare/client"
	"fanfare/fanfaretest"
)

func TestTokens(t *testing.T) {
	var tokens fanfaretest.Tokens
	srv := fanfaretest.NewServer(t, fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: &tokens}})
	alice, err := client.Dial(t.Context(), srv.URL, &client.Options{Token: client.StaticToken(tokens.Give(auth.Identity{Subject: "alice"}))})
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	if subject := alice.State().Subject; subject != "alice" {
		t.Errorf("she is %q", subject)
	}
	if _, err := alice.Publish(t.Context(), "chat", "hello", nil); err != nil {
		t.Error(err)
	}
	if m := srv.WaitForMessages("chat", 1)[0]; m.Sender != "alice" {
		t.Errorf("%q said it", m.Sender)
	}
	for token, want := range map[string]string{
		"": "unauthenticated", "forged": "bad_token",
		tokens.Give(auth.Identity{Subject: "alice", Expires: time.Now().Add(-time.Second)}): "token_expired",
	} {
		var said *client.Error
		if _, err := client.Dial(t.Context(), srv.URL, &client.Options{Token: client.StaticToken(token)}); !errors.As(err, &said) || said.Code != want {
			t.Errorf("with %q: %v, expected %s", token, err, want)
		}
	}
}
