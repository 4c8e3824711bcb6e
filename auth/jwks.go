package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"golang.org/x/time/rate"
)

const (
	maxSet   = 1 << 20          // bytes of a set of keys
	fetching = 10 * time.Second // how long an address has to answer
	retrying = 10 * time.Second // how often one that does not is asked again
)

// A keySet is a set of public keys that an address has.
type keySet struct {
	address string
	shown   string // of the address, what may be seen in a log
	client  *http.Client
	log     *slog.Logger
	now     func() time.Time
	keys    atomic.Pointer[map[keyID]any] // the last good ones; never nil

	ctx    context.Context // ends with the set
	cancel context.CancelFunc
	ended  sync.WaitGroup

	mu    sync.Mutex
	asked *rate.Limiter // fetches that tokens caused
	fetch chan struct{} // closed when the fetch that is under way has ended; nil: none is
	err   error         // of the last fetch
}

// CheckJWKS returns nil if keys can be fetched from an address without
// everybody on the way being able to exchange them.
func CheckJWKS(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return errors.New("the address of a set of keys is no URL: it is one such as https://example.com/.well-known/jwks.json")
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme == "https" || u.Scheme == "http" && (u.Hostname() == "localhost" || ip.IsLoopback()) {
		return nil
	}
	return fmt.Errorf("the set of keys at %.200q comes unprotected, and anybody on the way could exchange the keys: use https", shown(u))
}

// shown is a URL without what may be secret in it.
func shown(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// newKeySet begins to fetch a set of keys. Its address was checked.
func newKeySet(address string, o *JWTOptions) *keySet {
	u, _ := url.Parse(address)
	s := &keySet{
		address: address, shown: shown(u), log: o.Log, now: o.Now,
		asked: rate.NewLimiter(rate.Every(10*time.Second), 3),
	}
	s.client = new(http.Client)
	if o.Client != nil {
		*s.client = *o.Client
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.DisableKeepAlives = true // once in minutes
		s.client.Transport = transport
	}
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	s.keys.Store(new(map[keyID]any))
	s.ctx, s.cancel = context.WithCancel(context.Background())
	first := s.begin()
	s.ended.Go(func() { s.keep(first, o.Refresh) })
	return s
}

func (s *keySet) close() {
	s.mu.Lock()
	s.cancel()
	s.mu.Unlock()
	s.ended.Wait()
}

// keep fetches the set again and again, after the first time.
func (s *keySet) keep(done <-chan struct{}, refresh time.Duration) {
	for {
		select {
		case <-done:
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		wait := refresh
		if s.err != nil {
			wait = min(wait, retrying)
		}
		s.mu.Unlock()
		select {
		case <-time.After(wait):
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		done = s.begin()
		s.mu.Unlock()
	}
}

// renew fetches the set because a token names a key that is not in it, and
// returns when that has ended, or at once if it has just been done often. An error
// means that nobody knows now which keys there are.
func (s *keySet) renew(ctx context.Context) error {
	s.mu.Lock()
	if s.fetch == nil && !s.asked.AllowN(s.now(), 1) {
		defer s.mu.Unlock()
		return s.err
	}
	done := s.begin()
	s.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// begin begins a fetch, unless one is under way or the set is closed, and returns
// what is closed at its end. s.mu is held, or nobody else knows s yet.
func (s *keySet) begin() <-chan struct{} {
	if s.fetch != nil {
		return s.fetch
	}
	done := make(chan struct{})
	if s.ctx.Err() != nil {
		close(done)
		return done
	}
	s.fetch = done
	s.ended.Go(func() {
		keys, err := s.get()
		if err != nil && s.ctx.Err() == nil {
			s.log.Error("jwt: cannot fetch the set of keys: those that were fetched last count on", "address", s.shown, "err", err)
		}
		if err == nil {
			s.keys.Store(&keys)
		}
		s.mu.Lock()
		s.fetch, s.err = nil, err
		s.mu.Unlock()
		close(done)
	})
	return done
}

// get fetches the set.
func (s *keySet) get() (map[keyID]any, error) {
	ctx, cancel := context.WithTimeout(s.ctx, fetching)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.address, nil)
	if err != nil {
		return nil, errors.New("the address is no URL")
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		if failed := (*url.Error)(nil); errors.As(err, &failed) {
			err = failed.Err // without the address, in which there may be a password
		}
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s, and 200 is wanted; redirects are not followed", resp.Status)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxSet+1))
	if err != nil {
		return nil, err
	}
	if len(body) > maxSet {
		return nil, fmt.Errorf("it has more than %d bytes", maxSet)
	}
	return s.parse(body)
}

// parse reads a set (RFC 7517, section 5). A key that cannot be used is as good
// as not there; a set without keys is one from which all were withdrawn.
func (s *keySet) parse(body []byte) (map[keyID]any, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil || set.Keys == nil {
		return nil, errors.New("it is no set of keys: no object of JSON with a list of keys")
	}
	keys := make(map[keyID]any)
	for i, raw := range set.Keys {
		id, key, err := publicJWK(raw)
		if err != nil {
			s.log.Debug("jwt: a key of the set is left out", "address", s.shown, "number", i+1, "kid", id.id, "err", err)
			continue
		}
		if keys[id] == nil {
			keys[id] = key
		}
	}
	if len(keys) == 0 {
		s.log.Warn("jwt: the set has no key that can be used: all its tokens are refused", "address", s.shown, "keys", len(set.Keys))
	}
	return keys, nil
}

// publicJWK reads a public key. What it says of certificates is not looked at.
func publicJWK(raw []byte) (keyID, any, error) {
	var m jwkset.JWKMarshal
	if err := json.Unmarshal(raw, &m); err != nil {
		return keyID{}, nil, errors.New("it is no key of JSON")
	}
	switch {
	case len(m.KID) > maxSubject:
		return keyID{}, nil, errors.New("its kid is too long")
	case m.USE != "" && m.USE != jwkset.UseSig:
		return keyID{m.KID, ""}, nil, errors.New("its use is not sig")
	case m.KEYOPS != nil && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify):
		return keyID{m.KID, ""}, nil, errors.New("verify is not among its key_ops")
	}
	k, err := jwkset.NewJWKFromMarshal(
		jwkset.JWKMarshal{KTY: m.KTY, CRV: m.CRV, X: m.X, Y: m.Y, N: m.N, E: m.E}, // the public half alone, and nothing of what could be fetched
		jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
	if err != nil {
		return keyID{m.KID, ""}, nil, err
	}
	algorithm, err := algorithmOf(k.Key(), string(m.ALG))
	return keyID{m.KID, algorithm}, k.Key(), err
}
