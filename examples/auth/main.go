// Command auth is a program with users of its own, who talk in live channels: who
// has logged in may read and write in chat/…, and reads an inbox that is nobody else's.
//
//	go run ./examples/auth
//	token=$(curl --data alice http://127.0.0.1:8080/login)
//	FANFARE_TOKEN=$token fanfare connect ws://127.0.0.1:8080/live/chat/general
//	curl -H "Authorization: Bearer $token" --data Hello http://127.0.0.1:8080/live/chat/general
//	curl -H "Authorization: Bearer $token" -X POST http://127.0.0.1:8080/logout   # ends the connection above
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"time"

	"fanfare"
	"fanfare/auth"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	listener, err := net.Listen("tcp", "127.0.0.1:8080")
	if err == nil {
		err = serve(ctx, listener)
	}
	if err != nil {
		log.Fatal(err)
	}
}

// Logins are who has logged in. A program with a database asks that instead.
type logins struct {
	mu     sync.Mutex // guards the following
	tokens map[string]*auth.Identity
}

// Authenticate implements [auth.Authenticator].
func (l *logins) Authenticate(_ context.Context, c auth.Credentials) (*auth.Identity, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch id := l.tokens[c.Token]; {
	case id != nil && time.Now().Before(id.Expires):
		return id, nil
	case c.Token == "":
		return nil, nil // anonymous, who may do what rules grant to that role: here nothing
	}
	return nil, &auth.Error{Code: "bad_token", Message: "nobody is logged in with this token; log in again"}
}

// rules are who may do what. Nothing else is granted.
var rules = auth.Rules{
	{Channels: []string{"chat/**"}, Roles: []string{auth.Authenticated}, Allow: auth.Rights},
	{Channels: []string{"inbox/$sub"}, Roles: []string{auth.Authenticated}, Allow: []auth.Right{auth.Subscribe, auth.History}},
}

var user = regexp.MustCompile(`^[a-z]{1,20}$`)

func serve(ctx context.Context, listener net.Listener) error {
	users := &logins{tokens: make(map[string]*auth.Identity)}
	live, err := fanfare.New(fanfare.Config{Auth: &fanfare.AuthConfig{Authenticator: users, Rules: rules}})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /login", func(w http.ResponseWriter, r *http.Request) {
		name, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 100)) // a real program asks for a password, too
		if err != nil || !user.Match(name) {
			http.Error(w, "a name is 1 to 20 letters from a to z", http.StatusBadRequest)
			return
		}
		token := rand.Text()
		users.mu.Lock()
		users.tokens[token] = &auth.Identity{Subject: string(name), Token: rand.Text(), Issued: time.Now(), Expires: time.Now().Add(time.Hour)}
		users.mu.Unlock()
		if _, err := live.Publish(r.Context(), &fanfare.Message{Channel: "inbox/" + string(name), Payload: []byte("Welcome!")}); err != nil {
			log.Print(err)
		}
		fmt.Fprint(w, token)
	})
	mux.HandleFunc("POST /logout", func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		users.mu.Lock()
		id := users.tokens[token]
		delete(users.tokens, token)
		users.mu.Unlock()
		if id == nil {
			http.Error(w, "nobody is logged in with this token", http.StatusUnauthorized)
			return
		}
		// Connections that are there already end now.
		if _, err := live.Revoke(r.Context(), fanfare.Revocation{Token: id.Token}); err != nil {
			http.Error(w, "try again", http.StatusInternalServerError)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	mux.Handle("/live/", http.StripPrefix("/live", live)) // so /live/chat/general is the channel "chat/general"

	log.Printf("ready, listening on http://%s", listener.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { log.Print(server.Serve(listener)) }()
	<-ctx.Done()
	// The live part first: it tells everyone goodbye, and http.Server.Shutdown knows nothing of WebSockets.
	return errors.Join(live.Shutdown(context.Background()), server.Shutdown(context.Background()))
}
