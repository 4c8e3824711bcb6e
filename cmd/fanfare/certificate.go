package main

import (
	"cmp"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// certificatePoll is how often the files of a certificate are looked at. Two
// stats a second are nothing, and need no notice from the system, which does not
// come for every kind of file system and of symbolic link.
const certificatePoll = time.Second

// A certificate is a server's, with its key, from files that may change while it
// is in use. Who is connected keeps what he was shown.
type certificate struct {
	certFile, keyFile string // static; they may be the same
	log               *slog.Logger

	now atomic.Pointer[tls.Certificate]

	// Of watch.
	loaded, seen files
	failed       error     // of what was seen last
	warned       time.Time // that it expires
}

// files tell whether a certificate and its key are other files than before, or
// have other content. A symbolic link counts as what it leads to.
type files struct{ cert, key fileState }

type fileState struct {
	info os.FileInfo // nil: there is none
}

func stateOf(name string) fileState {
	info, err := os.Stat(name)
	if err != nil {
		info = nil
	}
	return fileState{info}
}

func (s fileState) same(t fileState) bool {
	if s.info == nil || t.info == nil {
		return s.info == nil && t.info == nil
	}
	return os.SameFile(s.info, t.info) && s.info.ModTime().Equal(t.info.ModTime()) && s.info.Size() == t.info.Size()
}

func (f files) same(g files) bool { return f.cert.same(g.cert) && f.key.same(g.key) }

func (c *certificate) files() files { return files{stateOf(c.certFile), stateOf(c.keyFile)} }

// openCertificate loads a certificate and its key.
func openCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: cmp.Or(keyFile, certFile), log: log}
	c.loaded = c.files()
	c.seen = c.loaded
	pair, err := loadPair(c.certFile, c.keyFile)
	if err != nil {
		return nil, err
	}
	c.now.Store(pair)
	return c, nil
}

// get is for [tls.Config].
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.now.Load(), nil }

// watch has the certificate follow its files until ctx ends.
func (c *certificate) watch(ctx context.Context, every time.Duration) {
	c.advise()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			c.look()
			c.expiry(now)
		}
	}
}

// look loads the files if they are others than those in use. Certificate and key
// are seldom replaced in one stroke: so not before both stayed the same for a turn.
func (c *certificate) look() {
	now := c.files()
	if settled := now.same(c.seen); !settled || now.same(c.loaded) {
		if !settled {
			c.failed = nil
		}
		c.seen = now
		return
	}
	if c.failed != nil {
		return // said once
	}
	next, err := loadPair(c.certFile, c.keyFile)
	if err == nil && time.Now().After(next.Leaf.NotAfter) && next.Leaf.NotAfter.Before(c.now.Load().Leaf.NotAfter) {
		err = fmt.Errorf("the certificate in %s has expired on %s, sooner than the one in use", c.certFile, day(next.Leaf.NotAfter))
	}
	if err == nil && time.Now().Before(next.Leaf.NotBefore) {
		err = fmt.Errorf("the certificate in %s is valid only from %s on", c.certFile, next.Leaf.NotBefore.UTC().Format(time.RFC3339))
	}
	if err != nil {
		c.failed = err
		c.log.Error("the certificate stays as it is", "error", err)
		return
	}
	c.now.Store(next)
	c.loaded, c.warned = now, time.Time{}
	c.log.Info("a new certificate", "file", c.certFile, "names", strings.Join(known(next.Leaf), ", "), "expires", day(next.Leaf.NotAfter))
	c.advise()
}

// advise says what is not wrong, but should be otherwise.
func (c *certificate) advise() {
	leaf := c.now.Load().Leaf
	if len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
		c.log.Warn("the certificate names no host (no subject alternative name), so nobody will accept it", "file", c.certFile, "subject", leaf.Subject.String())
	}
	if info := c.loaded.key.info; info != nil && readable(info.Mode()) {
		c.log.Warn("everyone on this machine may read the key: chmod 600", "file", c.keyFile, "mode", info.Mode().Perm().String())
	}
	c.expiry(time.Now())
}

// expiry warns once a day of a certificate that should have been renewed: in the
// last fifth of its life, two weeks at most.
func (c *certificate) expiry(now time.Time) {
	leaf := c.now.Load().Leaf
	left := leaf.NotAfter.Sub(now)
	if left > min(14*24*time.Hour, leaf.NotAfter.Sub(leaf.NotBefore)/5) || now.Sub(c.warned) < 24*time.Hour && !(left <= 0 && c.warned.Before(leaf.NotAfter)) {
		return
	}
	c.warned = now
	if left <= 0 {
		c.log.Error("the certificate has expired, and nobody will accept it: replace it, which needs no restart", "file", c.certFile, "expired", day(leaf.NotAfter))
		return
	}
	c.log.Warn("the certificate expires soon: replace it, which needs no restart", "file", c.certFile, "expires", day(leaf.NotAfter), "left", left.Round(time.Hour).String())
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// known are the names and addresses that a certificate is for.
func known(leaf *x509.Certificate) []string {
	all := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		all = append(all, ip.String())
	}
	return all
}

// maxPEM is how large a file with certificates may be, in bytes.
const maxPEM = 1 << 20

// loadPair reads a certificate, with those that lead from it to a root behind it,
// and its key. An error says what is wrong with which file.
func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	certText, err := readPEM("--tls-cert", certFile)
	if err != nil {
		return nil, err
	}
	keyText, err := readPEM("--tls-key", keyFile)
	if err != nil {
		return nil, err
	}
	certs, err := certificatesIn(certText)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert: %s: %w", certFile, err)
	}
	pair, err := tls.X509KeyPair(certText, keyText)
	if err == nil {
		return &pair, nil // its Leaf is set
	}
	// What is wrong is the key then, of which crypto/tls says little.
	key, err := keyIn(keyText)
	if err != nil {
		return nil, fmt.Errorf("--tls-key: %s: %w", keyFile, err)
	}
	for i, c := range certs[1:] {
		if public, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); ok && public.Equal(key.Public()) {
			return nil, fmt.Errorf("--tls-cert: %s: the server's own certificate must stand first, and stands in place %d (of %s)", certFile, i+2, c.Subject)
		}
	}
	return nil, fmt.Errorf("--tls-key: the key in %s does not belong to the certificate in %s (of %s): they must be from the same request", keyFile, certFile, certs[0].Subject)
}

func readPEM(flag, name string) ([]byte, error) {
	in, err := os.Open(name) // #nosec G304: who starts the server names it
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	defer in.Close()
	text, err := io.ReadAll(io.LimitReader(in, maxPEM+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", flag, err)
	case len(text) > maxPEM:
		return nil, fmt.Errorf("%s: %s is larger than 1 MiB, so it is hardly PEM", flag, name)
	}
	return text, nil
}

// certificatesIn returns the certificates in a text, of which there is one at least.
func certificatesIn(text []byte) (certs []*x509.Certificate, err error) {
	other := ""
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			other = block.Type
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate number %d is damaged: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	switch {
	case len(certs) > 0:
		return certs, nil
	case strings.HasSuffix(other, "PRIVATE KEY"):
		return nil, errors.New("it holds a private key and no certificate: are the two files swapped?")
	case other != "":
		return nil, fmt.Errorf("it holds no certificate, but a %s", other)
	}
	return nil, errors.New(`it holds no certificate in PEM, which begins with "-----BEGIN CERTIFICATE-----"; DER can be changed into it with openssl x509 -inform der`)
}

// keyIn returns the first private key in a text.
func keyIn(text []byte) (crypto.Signer, error) {
	other := ""
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			other = block.Type
			continue
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return nil, errors.New("the key is encrypted, and nobody is there to be asked for its password: decrypt it with openssl pkey -in … -out …")
		}
		var key any
		var err error
		switch block.Type {
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		default:
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("the key is damaged: %w", err)
		}
		if signer, ok := key.(crypto.Signer); ok {
			return signer, nil
		}
		return nil, fmt.Errorf("a key of the kind %T cannot sign", key)
	}
	switch other {
	case "":
		return nil, errors.New(`it holds no key in PEM, which begins with "-----BEGIN PRIVATE KEY-----"`)
	case "CERTIFICATE":
		return nil, errors.New("it holds a certificate and no private key: --tls-key says where the key is")
	}
	return nil, fmt.Errorf("it holds no private key, but a %s", other)
}
