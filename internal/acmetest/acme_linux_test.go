// Package acmetest has `fanfare serve` get its certificate from an authority of ACME
// (RFC 8555), which is Pebble, Let's Encrypt's own for tests. It runs on Linux only, where a
// program can be told by its environment whose certificates to trust.
package acmetest

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

const (
	ours     = "chat.example.com" // the name that there is to be a certificate for
	patience = 30 * time.Second   // bounds what takes a second
)

var fanfare string // the program

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "fanfare-acme")
	if err != nil {
		log.Fatal(err)
	}
	fanfare = filepath.Join(dir, "fanfare")
	build := exec.Command("go", "build", "-o", fanfare, "./cmd/fanfare")
	build.Dir = filepath.Join("..", "..")
	if said, err := build.CombinedOutput(); err != nil {
		log.Fatalf("%v: %s", err, said)
	}
	// Pebble would wait some seconds before it looks at a proof, to be more like the world.
	if err := os.Setenv("PEBBLE_VA_NOSLEEP", "1"); err != nil {
		log.Fatal(err)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// An authority gives certificates to who proves to it that a name is its.
type authority struct {
	t      *testing.T
	web    *httptest.Server
	trust  string        // the file with the certificate that its own pages are shown with
	orders atomic.Int64  // that it was asked for
	ready  chan struct{} // closed once it works
	work   atomic.Pointer[work]
}

// work is what of an authority cannot be before it is known where proofs are to be had.
type work struct {
	pages http.Handler
	ca    *ca.CAImpl
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, ready: make(chan struct{})}
	a.web = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/order-plz") {
			a.orders.Add(1)
		}
		if order, ok := strings.CutPrefix(r.URL.Path, "/finalize-order/"); ok {
			// Pebble signs later, and leaves it to the client to remember where the order is.
			// autocert does not: it needs to be told, as Let's Encrypt does.
			w.Header().Set("Location", a.web.URL+"/my-order/"+order)
		}
		select {
		case <-a.ready:
			a.work.Load().pages.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}))
	a.web.StartTLS()
	t.Cleanup(a.web.Close)
	a.trust = filepath.Join(t.TempDir(), "authority.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.web.Certificate().Raw})
	if err := os.WriteFile(a.trust, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return a
}

// open has the authority work, and look for proofs at ports of this machine, where
// all names lead.
func (a *authority) open(plainPort, tlsPort int) {
	a.t.Helper()
	names, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		a.t.Fatal(err)
	}
	resolver := &dns.Server{Listener: names, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		if q := question.Question[0]; q.Qtype == dns.TypeA {
			answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(127, 0, 0, 1)}}
		}
		_ = w.WriteMsg(answer)
	})}
	go func() { _ = resolver.ActivateAndServe() }()
	a.t.Cleanup(func() { names.Close() })
	quiet := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	signs := ca.New(quiet, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {}})
	looks := va.New(quiet, plainPort, tlsPort, true, names.Addr().String(), store)
	pages := wfe.New(quiet, store, looks, signs, []string{"pebble.example"}, true, false, 1, 1)
	a.work.Store(&work{pages.Handler(), signs})
	close(a.ready)
}

// trusts is what a client has that trusts the authority.
func (a *authority) trusts() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.work.Load().ca.GetRootCert(0).Cert)
	return pool
}

// A server is `fanfare serve` in a process of its own.
type server struct {
	t    *testing.T
	proc *exec.Cmd
	said chan string // its lines; closed at the end
	all  []string    // that were taken from said
}

func serve(t *testing.T, a *authority, args ...string) *server {
	t.Helper()
	s := &server{t: t, said: make(chan string, 1000)}
	s.proc = exec.Command(fanfare, append([]string{"serve", "--listen", "127.0.0.1:0", "--acme-directory", a.web.URL + wfe.DirectoryPath}, args...)...)
	s.proc.Env = append(os.Environ(), "SSL_CERT_FILE="+a.trust)
	out, err := s.proc.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.proc.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(s.said)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.said <- lines.Text()
		}
	}()
	t.Cleanup(s.end)
	return s
}

// end has the server end, and waits for it.
func (s *server) end() {
	if s.proc.ProcessState != nil {
		return
	}
	_ = s.proc.Process.Signal(syscall.SIGTERM)
	stuck := time.AfterFunc(patience, func() { _ = s.proc.Process.Kill() })
	defer stuck.Stop()
	for line := range s.said {
		s.all = append(s.all, line)
	}
	if err := s.proc.Wait(); err != nil {
		s.t.Errorf("it ended with %v; it said %q", err, s.all)
	}
}

// says waits for a line with a text, and returns it from there on.
func (s *server) says(text string) string {
	s.t.Helper()
	late := time.After(patience)
	for {
		select {
		case line, more := <-s.said:
			if !more {
				s.t.Fatalf("it ended and never said %q; it said %q", text, s.all)
			}
			s.all = append(s.all, line)
			if i := strings.Index(line, text); i >= 0 {
				return line[i+len(text):]
			}
		case <-late:
			s.t.Fatalf("it never said %q; it said %q", text, s.all)
		}
	}
}

// port is the number at the end of a line.
func port(t *testing.T, line string) int {
	t.Helper()
	line = strings.TrimSuffix(line, "/")
	n, err := strconv.Atoi(line[strings.LastIndexByte(line, ':')+1:])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// shown asks the server under a name, as somebody who trusts the authority, and returns
// the certificate that it shows.
func shown(a *authority, name string, port int) (*x509.Certificate, error) {
	dialer := &net.Dialer{Timeout: patience}
	conn, err := tls.DialWithDialer(dialer, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), &tls.Config{ServerName: name, RootCAs: a.trusts()})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := fmt.Fprintf(conn, "GET /-/healthz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", name); err != nil {
		return nil, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", resp.Status)
	}
	return conn.ConnectionState().PeerCertificates[0], nil
}

// The server proves its name on its own port (TLS-ALPN-01), and is given a certificate. It
// asks for none for other names, and has the same after a restart, without the authority.
func TestProofOverTLS(t *testing.T) {
	a, cache := newAuthority(t), filepath.Join(t.TempDir(), "cache")
	s := serve(t, a, "--acme-domain", ours, "--acme-cache", cache)
	at := port(t, s.says("ready, open "))
	a.open(1, at) // nobody listens at port 1
	if line := s.says("a certificate by ACME"); !strings.Contains(line, ours) {
		t.Errorf("it has a certificate %s", line)
	}
	first, err := shown(a, ours, at)
	if err != nil {
		t.Fatal(err)
	}
	asked := a.orders.Load()
	for _, other := range []string{"other.example.com", "www." + ours, "localhost", "127.0.0.1"} {
		if c, err := shown(a, other, at); err == nil {
			t.Errorf("who asks for %s is shown a certificate for %v", other, c.DNSNames)
		}
	}
	if now := a.orders.Load(); now != asked {
		t.Errorf("the authority was asked for %d certificates more, of names that are not ours", now-asked)
	}
	for _, name := range files(t, cache) {
		if info, err := os.Stat(filepath.Join(cache, name)); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("others may read %s: %v, %v", name, info.Mode(), err)
		}
	}
	s.end()

	again := serve(t, a, "--acme-domain", ours, "--acme-cache", cache)
	at = port(t, again.says("ready, open "))
	again.says("a certificate by ACME")
	second, err := shown(a, ours, at)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Equal(second) {
		t.Errorf("after a restart it shows another certificate, number %v, not %v", second.SerialNumber, first.SerialNumber)
	}
	if now := a.orders.Load(); now != asked {
		t.Errorf("after a restart the authority was asked for %d certificates more", now-asked)
	}
}

// Where the authority cannot reach the port of TLS, the server proves its name over
// --http-redirect (HTTP-01), which sends all others to https meanwhile.
func TestProofOverHTTP(t *testing.T) {
	a := newAuthority(t)
	s := serve(t, a, "--acme-domain", ours, "--acme-cache", t.TempDir(), "--http-redirect", "127.0.0.1:0")
	plain := port(t, s.says("plain HTTP is sent to https"))
	at := port(t, s.says("ready, open "))
	a.open(plain, 1)
	s.says("a certificate by ACME")
	if _, err := shown(a, ours, at); err != nil {
		t.Error(err)
	}
	web := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: patience}
	resp, err := web.Get(fmt.Sprintf("http://127.0.0.1:%d/x?a=b", plain))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if to, want := resp.Header.Get("Location"), fmt.Sprintf("https://127.0.0.1:%d/x?a=b", at); resp.StatusCode != http.StatusPermanentRedirect || to != want {
		t.Errorf("it answers %s and %s, want %s", resp.Status, to, want)
	}
}

// An authority that can reach neither port gives nothing, and the server says why.
func TestNoProof(t *testing.T) {
	a := newAuthority(t)
	s := serve(t, a, "--acme-domain", ours, "--acme-cache", t.TempDir())
	at := port(t, s.says("ready, open "))
	a.open(1, 1)
	if line := s.says("no certificate; the authority must reach this server"); !strings.Contains(line, ours) {
		t.Errorf("it says %s", line)
	}
	if _, err := shown(a, ours, at); err == nil {
		t.Error("it shows a certificate that nobody gave")
	}
}

func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		names = append(names, f.Name())
	}
	if len(names) < 2 { // the account's key and a certificate
		t.Errorf("in the cache there are %q", names)
	}
	return names
}
