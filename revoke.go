package fanfare

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"fanfare/auth"
)

// A Revocation says whose access ends. One field counts, and the others are empty.
type Revocation struct {
	Token   string `json:"token,omitempty"`   // the id of a token ([auth.Identity]; jti, of a JWT), and not the token itself
	Subject string `json:"subject,omitempty"` // all tokens of a subject that were issued until now
	Session string `json:"session,omitempty"` // one connection, as presence names it; its token stays good
}

// maxRevoked is how many tokens and subjects can be revoked.
const maxRevoked = 1_000_000

// revocations are whose access has ended, and who is here. It is in memory: another
// process knows nothing of it.
type revocations struct {
	// Publications hold it for reading while they enter, so that none does that was
	// let in before a revocation, behind it. It comes before all other locks.
	mu       sync.RWMutex // guards the following
	tokens   map[string]struct{}
	subjects map[string]time.Time // tokens issued until then count no more

	clients sync.Map // client by id, of a server that asks who clients are
}

// enter begins a publication, and returns what ends that.
func (r *revocations) enter() (leave func()) {
	r.mu.RLock()
	return r.mu.RUnlock
}

// has reports whether an identity was revoked.
func (r *revocations) has(id *auth.Identity) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.hit(id)
}

// hit is has; the caller holds mu.
func (r *revocations) hit(id *auth.Identity) bool {
	if id == nil {
		return false
	}
	if _, is := r.tokens[id.Token]; is && id.Token != "" {
		return true
	}
	until, is := r.subjects[id.Subject]
	return is && id.Subject != "" && !id.Issued.After(until)
}

// stands returns nil if who was let in still may be here. The caller holds mu.
func (r *revocations) stands(who *speaker) error {
	switch {
	case r.hit(who.id):
		return errRevokedToken
	case !who.until.IsZero() && time.Now().After(who.until):
		return errExpiredToken
	}
	return nil
}

// stands is that of revocations.
func (s *Server) stands(who *speaker) error {
	defer s.revoked.enter()()
	return s.revoked.stands(who)
}

// Revoke ends access: connections that it is about are told so, with code 4403, and
// how many they were is returned. When it returns, nothing more is delivered to
// them, and nothing that they say is published. The token, or those that the subject has
// by now, are refused from then on, by this server, as long as it runs. It may
// be called from any goroutine.
func (s *Server) Revoke(_ context.Context, what Revocation) (closed int, err error) {
	if s.trust() == nil {
		return 0, errorf("no_authentication", "this server asks nobody who he is, so there is nothing to revoke")
	}
	given := 0
	for _, v := range []string{what.Token, what.Subject, what.Session} {
		if v != "" {
			given++
		}
	}
	if given != 1 {
		return 0, errorf("bad_revocation", `say one of token, subject and session, as in {"subject":"alice"}`)
	}
	if isToken(what.Token) {
		return 0, errorf("bad_revocation", "this is a token itself, and it is revoked by its id: the jti of a JWT, the 8 characters behind ff_ of a key")
	}
	r := &s.revoked
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.tokens)+len(r.subjects) >= maxRevoked && what.Session == "" {
		return 0, errorf("full", "%d tokens and subjects are revoked, and no more can be: replace the key that tokens are signed with, and restart", maxRevoked)
	}
	switch {
	case what.Token != "":
		if r.tokens == nil {
			r.tokens = make(map[string]struct{})
		}
		r.tokens[strings.Clone(what.Token)] = struct{}{}
	case what.Subject != "":
		if r.subjects == nil {
			r.subjects = make(map[string]time.Time)
		}
		r.subjects[strings.Clone(what.Subject)] = time.Now()
	}
	r.clients.Range(func(id, c any) bool {
		if c := c.(client); what.Session == idText(id.(uint64)) || what.Session == "" && r.hit(c.speaks().id) {
			if c.revoke() {
				closed++
			}
		}
		return true
	})
	s.log.Info("access was revoked", "token", tokenID(what.Token), "subject", what.Subject, "session", what.Session, "closed", closed)
	return closed, nil
}

// tokenID is a token's id for the log. What is longer than an id usually is may be the token
// itself, by mistake.
func tokenID(given string) string {
	if len(given) > 40 {
		return fmt.Sprintf("(of %d bytes)", len(given))
	}
	return given
}

// isToken reports whether text is a token, where an id should be: ids are in the log.
func isToken(text string) bool {
	return strings.HasPrefix(text, "ff_") || strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") == 2
}

// register has a client found by Revoke and Reload, as long as it is here.
func (s *Server) register(c client, id uint64) {
	if s.trust() == nil {
		return
	}
	s.revoked.clients.Store(id, c)
	// What happened since it was asked who it is counts for it too.
	if who := c.speaks(); s.revoked.has(who.id) {
		c.revoke()
	}
	c.reconsider()
}

// reconsider looks at what all who are here may do, by other rules.
func (s *Server) reconsider() {
	s.revoked.clients.Range(func(_, c any) bool {
		c.(client).reconsider()
		return true
	})
}

// serveRevoke answers POST /-/revoke. Who may ask, and that it is a POST, was found out before.
func (s *Server) serveRevoke(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<10))
	if err != nil {
		s.refuse(w, s.cutShort(err))
		return
	}
	var what Revocation
	d := json.NewDecoder(strings.NewReader(string(body)))
	d.DisallowUnknownFields()
	if err := d.Decode(&what); err != nil || d.More() {
		s.refuse(w, errorf("bad_json", `the body is a JSON object with one of token, subject and session, as in {"subject":"alice"}`))
		return
	}
	closed, err := s.Revoke(r.Context(), what)
	if err != nil {
		s.refuse(w, err)
		return
	}
	s.writeJSON(w, http.StatusOK, map[string]int{"closed": closed})
}
