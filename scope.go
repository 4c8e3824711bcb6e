package fanfare

import (
	"crypto/sha256"
	"encoding/base64"
)

// scoped is what a publication is called towards the broker, by which it knows
// one that is repeated: the id that its sender gave it, among all that the scope
// has published. Without an id it is called nothing.
//
// It is a hash, so that any scope and any id make a short name, and nobody who sees
// it learns the scope, which may be a client's secret.
func scoped(scope, id string) string {
	if id == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(scope + "\x00" + id)) // no scope contains a zero
	return base64.RawURLEncoding.EncodeToString(sum[:16])
}

// clientScope is the scope of all that a subject says with ?client=, over whatever
// connection and on whatever face. Neither has control characters.
func clientScope(subject, client string) string { return "client " + subject + "\x01" + client }

// sessionScope is the scope of a connection without it.
func sessionScope(session string) string { return "session " + session }
