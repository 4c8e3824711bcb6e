package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	maxAnswer   = 64 << 10 // bytes
	askAtOnce   = 64       // questions under way
	maxCached   = 10_000   // answers that let somebody in, and as many that do not
	failureLogs = 10 * time.Second
)

// WebhookOptions say whom a [Webhook] asks, and what.
type WebhookOptions struct {
	// URL is what is asked: https, or http on this machine. A name and password in
	// it are sent as they are in a browser, so that the service knows who asks.
	URL string
	// Headers are those of the client's request that are passed on. Default:
	// none, so that only who shows a token is asked about; sessions of a web site
	// want Cookie.
	//
	// Cookie and Authorization go as what they are. Any other goes in the body, as
	// a member of "headers": as a header, the service could take for its own
	// proxy's what a client made up, X-Forwarded-For or X-User.
	Headers []string
	// Timeout is how long an answer may take. Default 2 seconds.
	Timeout time.Duration
	// Cache is how long an answer counts that says who somebody is. So long may
	// somebody get in who was locked out since. Default 30 seconds; negative: not at all.
	Cache time.Duration
	// CacheRefusals is how long one counts that lets nobody in. Default 5 seconds;
	// negative: not at all.
	CacheRefusals time.Duration
	// Insecure permits http to another machine, so that everybody on the way can
	// read tokens and let himself in.
	Insecure bool
	// Log is told, now and then, when answers fail. Default: slog.Default.
	Log *slog.Logger
	// Client asks. Its redirects and timeout do not count. Default: one of its own.
	Client *http.Client
}

// A Webhook asks a service that has sessions of its own who a client is: an
// [Authenticator] of every token, and of requests with a header that is passed
// on. It is last in a [Chain] therefore.
//
// It sends POST with {"token": "…", "headers": {…}}, in which is left out what is
// not there, and takes for an answer
//
//	200 {"subject": "u17", "name": "Alice", "roles": ["staff"], "expires": 1795000000,
//	     "publish": ["chat/**"], "subscribe": ["chat/**", "inbox/$sub"], "limits": {"messages": 5}}
//	204 it is nobody in particular
//	401 the token, or the session, is none
//	403 it is known, and must not come in
//
// Of 200, all but subject may be left out. There may also be presence, history,
// token, an id by which it can be revoked, and issued, without which a subject that
// is revoked stays out as long as the server runs; and nothing else, since a
// misspelled right would be none. Times are seconds since 1970, or
// 2027-01-31T18:00:00Z. When expires is there connections end then, and else they do
// not. Whatever else comes, or does not come in time, lets nobody in.
//
// The same question is asked once however many wait for it, and 64 are under way
// at most.
type Webhook struct {
	o     WebhookOptions
	shown string // of URL, what may be seen

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	turns  chan struct{} // has one of each question that is under way

	mu      sync.Mutex
	asking  sync.WaitGroup
	asked   map[question]*answer // and not answered yet
	known   cache                // whom answers let in
	refused cache
	failed  int       // since the last line of it
	failure time.Time // of that line
}

// A question is a hash of what is asked, so that no credentials stay in memory.
type question [sha256.Size]byte

type answer struct {
	done chan struct{} // closed when the rest is there, and does not change
	id   *Identity
	err  error
	ends time.Time
}

// NewWebhook returns a webhook, which Close ends, or an error that says what of
// the options is wrong. Nothing is asked yet.
func NewWebhook(o WebhookOptions) (*Webhook, error) {
	u, err := url.Parse(o.URL)
	switch {
	case err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("webhook: the URL is one such as https://example.com/fanfare")
	case u.Scheme == "http" && !o.Insecure && u.Hostname() != "localhost" && !net.ParseIP(u.Hostname()).IsLoopback():
		return nil, fmt.Errorf("webhook: %s sends tokens unprotected to another machine, and anybody on the way could let himself in: use https", u.Redacted())
	}
	headers := make([]string, len(o.Headers))
	for i, name := range o.Headers {
		headers[i] = http.CanonicalHeaderKey(name)
		switch {
		case name == "" || strings.ContainsAny(name, " \t\r\n:*"):
			return nil, fmt.Errorf("webhook: %.40q is no header's name: each is named in full, such as Cookie", name)
		case headers[i] == "Authorization" && u.User != nil:
			return nil, errors.New("webhook: the client's Authorization and the name and password of the URL would be one header: pass on the token alone, which is in the body")
		}
	}
	slices.Sort(headers)
	o.Headers = slices.Compact(headers)
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{{&o.Timeout, 2 * time.Second}, {&o.Cache, 30 * time.Second}, {&o.CacheRefusals, 5 * time.Second}} {
		if *d.value == 0 {
			*d.value = d.def
		}
	}
	if o.Timeout < 0 {
		return nil, fmt.Errorf("webhook: the timeout is %v; it must be positive, or zero for 2s", o.Timeout)
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	client := new(http.Client)
	if o.Client != nil {
		*client = *o.Client
	} else {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.MaxIdleConnsPerHost = askAtOnce
		transport.MaxResponseHeaderBytes = maxAnswer
		transport.DisableCompression = true // it would say nothing of how long an answer gets
		client.Transport = transport
	}
	client.Jar, client.Timeout = nil, 0 // a cookie of one client's must not be sent for another
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	o.Client = client
	w := &Webhook{o: o, shown: (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String(),
		turns: make(chan struct{}, askAtOnce), asked: map[question]*answer{}, known: cache{}, refused: cache{}}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w, nil
}

// Close ends the questions that are under way, and waits for that.
func (w *Webhook) Close() error {
	w.mu.Lock()
	w.cancel()
	w.mu.Unlock()
	w.asking.Wait()
	w.o.Client.CloseIdleConnections()
	return nil
}

// Authenticate implements [Authenticator].
func (w *Webhook) Authenticate(ctx context.Context, c Credentials) (*Identity, error) {
	passed := make(http.Header)
	if c.Request != nil {
		for _, name := range w.o.Headers {
			if values := c.Request.Header[name]; len(values) > 0 {
				passed[name] = slices.Clone(values) // the request is not to be kept, and we may be longer than it
			}
		}
	}
	if c.Token == "" && len(passed) == 0 {
		return nil, nil
	}
	a := w.answerTo(c.Token, passed)
	select {
	case <-a.done:
		return a.id, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answerTo returns the answer to a question, which may not be there yet.
func (w *Webhook) answerTo(token string, passed http.Header) *answer {
	q := hashOf(token, w.o.Headers, passed)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	for _, c := range []cache{w.known, w.refused} {
		if a := c.get(q, now); a != nil {
			return a
		}
	}
	if a := w.asked[q]; a != nil {
		return a
	}
	a := &answer{done: make(chan struct{})}
	if w.ctx.Err() != nil {
		a.err = errors.New("auth: the webhook is closed")
		close(a.done)
		return a
	}
	w.asked[q] = a
	// Whoever asks first may leave before the answer comes, and others wait for it.
	w.asking.Go(func() {
		a.id, a.err = w.ask(token, passed)
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.asked, q)
		w.keep(q, a)
		close(a.done)
	})
	return a
}

// keep puts an answer into the cache that it belongs to. A failure belongs to none.
// w.mu is held.
func (w *Webhook) keep(q question, a *answer) {
	var refusal *Error
	into, lasts := w.refused, w.o.CacheRefusals
	switch {
	case a.id != nil:
		into, lasts = w.known, w.o.Cache
	case a.err != nil && !errors.As(a.err, &refusal):
		return
	}
	if lasts <= 0 {
		return
	}
	a.ends = time.Now().Add(lasts)
	if a.id != nil && !a.id.Expires.IsZero() && a.id.Expires.Before(a.ends) {
		a.ends = a.id.Expires
	}
	into.put(q, a)
}

// hashOf is the question that a token and headers are. Each part says its length,
// or else two questions could be one.
func hashOf(token string, names []string, passed http.Header) (q question) {
	h := sha256.New()
	add := func(s string) {
		_ = binary.Write(h, binary.LittleEndian, uint64(len(s)))
		_, _ = io.WriteString(h, s)
	}
	add(token)
	for _, name := range names {
		_ = binary.Write(h, binary.LittleEndian, uint64(len(passed[name])))
		for _, value := range passed[name] {
			add(value)
		}
	}
	h.Sum(q[:0])
	return q
}

// ask asks the service.
func (w *Webhook) ask(token string, passed http.Header) (*Identity, error) {
	ctx, cancel := context.WithTimeout(w.ctx, w.o.Timeout)
	defer cancel()
	id, err := w.wait(ctx, token, passed)
	var refusal *Error
	if err != nil && !errors.As(err, &refusal) {
		if ctx.Err() == context.DeadlineExceeded {
			err = fmt.Errorf("there was no answer within %v", w.o.Timeout)
		}
		w.fails(err)
		return nil, fmt.Errorf("auth: the webhook failed: %w", err)
	}
	return id, err
}

func (w *Webhook) wait(ctx context.Context, token string, passed http.Header) (*Identity, error) {
	select {
	case w.turns <- struct{}{}:
		defer func() { <-w.turns }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	req, err := w.request(ctx, token, passed)
	if err != nil {
		return nil, err
	}
	resp, err := w.o.Client.Do(req)
	if err != nil {
		if failed := (*url.Error)(nil); errors.As(err, &failed) {
			err = failed.Err // without the URL, in which there may be a password
		}
		return nil, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return w.read(resp.Body)
	case http.StatusNoContent:
		return nil, nil
	case http.StatusUnauthorized:
		return nil, &Error{Code: "bad_token", Message: "who you are is not known, or not any more: log in again"}
	case http.StatusForbidden:
		return nil, &Error{Code: "forbidden", Message: "it is known who you are, and you are not let in"}
	}
	return nil, fmt.Errorf("it answered %d, and 200, 204, 401 and 403 are answers; redirects are not followed", resp.StatusCode)
}

func (w *Webhook) request(ctx context.Context, token string, passed http.Header) (*http.Request, error) {
	var body struct {
		Token   string            `json:"token,omitempty"`
		Headers map[string]string `json:"headers,omitempty"`
	}
	body.Token = token
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.o.URL, nil)
	if err != nil {
		return nil, errors.New("the URL is none")
	}
	for name, values := range passed {
		if name == "Cookie" || name == "Authorization" {
			req.Header[name] = values
			continue
		}
		if body.Headers == nil {
			body.Headers = make(map[string]string)
		}
		body.Headers[name] = strings.Join(values, ", ")
	}
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(data)), int64(len(data))
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "fanfare")
	return req, nil
}

// read reads who the service says it is.
func (w *Webhook) read(body io.Reader) (*Identity, error) {
	data, err := io.ReadAll(io.LimitReader(body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxAnswer:
		return nil, fmt.Errorf("its answer is longer than %d bytes", maxAnswer)
	}
	m, err := object(data)
	if err != nil {
		return nil, fmt.Errorf("its answer is wrong: %w", err)
	}
	r := reader{members: m}
	id := &Identity{Issued: r.moment("issued"), Expires: r.moment("expires"), Allow: r.allow(), Limits: r.limits()}
	id.Subject, _ = r.text("subject")
	id.Name, _ = r.text("name")
	id.Token, _ = r.text("token")
	id.Roles, _ = r.texts("roles")
	for name := range m {
		if !slices.Contains([]string{"subject", "name", "token", "roles", "publish", "subscribe", "presence", "history", "limits", "issued", "expires"}, name) {
			r.fail(fmt.Errorf("there is no member %.40q", name))
		}
	}
	if r.err == nil {
		r.err = id.check()
	}
	switch {
	case r.err != nil:
		return nil, fmt.Errorf("its answer is wrong: %w", r.err)
	case id.Subject == "":
		return nil, errors.New("its answer does not say who it is: it has no subject; nobody in particular is 204")
	case !id.Expires.IsZero() && !time.Now().Before(id.Expires):
		return nil, &Error{Code: "token_expired", Message: "the session has expired: log in again"}
	}
	return id, nil
}

// moment is a time, as a number or in words.
func (r *reader) moment(name string) (t time.Time) {
	if raw := r.members[name]; len(raw) == 0 || raw[0] != '"' {
		return r.time(name)
	}
	r.read(name, &t, "seconds since 1970, or a time such as 2027-01-31T18:00:00Z")
	return t
}

// fails tells the log of a failure, unless it has just been told of one.
func (w *Webhook) fails(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed++
	if now := time.Now(); w.ctx.Err() == nil && now.Sub(w.failure) >= failureLogs {
		w.o.Log.Error("the webhook does not say who clients are, and they are not let in", "url", w.shown, "error", err, "failures", w.failed)
		w.failed, w.failure = 0, now
	}
}

// A cache keeps answers for their time. Whoever tries a million tokens gets a
// million answers, so it keeps some of them only; and since there is one for
// refusals, those push out no other.
type cache map[question]*answer

func (c cache) get(q question, now time.Time) *answer {
	a := c[q]
	if a != nil && !now.Before(a.ends) {
		delete(c, q)
		return nil
	}
	return a
}

func (c cache) put(q question, a *answer) {
	for other := range c {
		if len(c) < maxCached {
			break
		}
		delete(c, other) // any: what is asked often is back soon
	}
	c[q] = a
}
