package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience bounds what should take no time at all.
const patience = 30 * time.Second

// heard is a log that a test waits for.
type heard struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func hear() *heard { return &heard{more: make(chan struct{}, 1)} }

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case h.more <- struct{}{}:
	default:
	}
	return h.text.Write(p)
}

func (h *heard) logger() *slog.Logger { return slog.New(slog.NewTextHandler(h, nil)) }

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.text.String()
}

// says waits until something is in the log, and returns the log, which begins anew.
func (h *heard) says(t *testing.T, want string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		h.mu.Lock()
		if text := h.text.String(); strings.Contains(text, want) {
			h.text.Reset()
			h.mu.Unlock()
			return text
		}
		h.mu.Unlock()
		select {
		case <-h.more:
		case <-deadline:
			t.Fatalf("the log does not say %q, but\n%s", want, h)
		}
	}
}

// keyFile is a file of keys of these lines.
func keyFile(t *testing.T, lines ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys")
	writeKeys(t, name, lines...)
	return name
}

func writeKeys(t *testing.T, name string, lines ...string) {
	t.Helper()
	content := strings.Join(lines, "\n")
	if content != "" {
		content += "\n"
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// opened watches a file, and looks at it often.
func opened(t *testing.T, name string, log *slog.Logger) *Keys {
	t.Helper()
	keys, err := openKeys(name, log, time.Millisecond, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = keys.Close() })
	return keys
}

// shows returns who shows a token, and else the code of the refusal.
func shows(t *testing.T, a Authenticator, token string) (*Identity, string) {
	t.Helper()
	id, err := a.Authenticate(t.Context(), Credentials{Token: token})
	var refusal *Error
	switch {
	case errors.As(err, &refusal):
		if len(token) > 10 && strings.Contains(err.Error(), token) {
			t.Errorf("the refusal has the token in it: %v", err)
		}
		return id, refusal.Code
	case err != nil:
		t.Fatal(err)
	}
	return id, ""
}

var form = regexp.MustCompile(`^ff_[A-Z2-7]{8}_[A-Z2-7]{33}$`)

// A key made up, written down and read again is the same, whatever is in it.
func TestKeyRoundTrip(t *testing.T) {
	soon := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	for i, k := range []Key{
		{Subject: "ci"},
		{Subject: `a "b" c\d`, Name: "The Roof 🏠", Roles: []string{"sensor", "two words"}, Expires: soon, Comment: `north "side", # no comment`},
		{Subject: "x=y", Allow: map[Right][]string{Publish: {"sensors/*/t", "a b/$sub"}, Subscribe: {}, History: {"**"}}},
	} {
		token, k := NewKey(k)
		if !form.MatchString(token) {
			t.Errorf("the token %s has not the form that scanners look for", token)
		}
		if k.Hash != sha256.Sum256([]byte(token)) || strings.Contains(k.String(), token[len("ff_12345678_"):]) {
			t.Errorf("the line %s is not of the token %s, or has it in it", &k, token)
		}
		got, err := ReadKeys(keyFile(t, "# keys", "", k.String(), "  # more"))
		if err != nil || len(got) != 1 || !reflect.DeepEqual(got[0], k) {
			t.Errorf("%d: %+v was read from\n%s\nwhich is of\n%+v (%v)", i, got, &k, k, err)
		}
		id, code := shows(t, opened(t, keyFile(t, k.String()), nil), token)
		if id == nil || id.Subject != k.Subject || id.Name != k.Name || id.Token != k.ID || !id.Issued.Equal(k.Issued) || !id.Expires.Equal(k.Expires) {
			t.Errorf("%s is %+v, %s", &k, id, code)
		}
	}
	first, _ := NewKey(Key{Subject: "a"})
	second, _ := NewKey(Key{Subject: "a"})
	if first == second {
		t.Error("two keys are one")
	}
}

// What a key says of subscribe it says of presence and history, unless it speaks of them.
func TestKeySpeaksForItself(t *testing.T) {
	_, k := NewKey(Key{Subject: "s", Allow: map[Right][]string{Subscribe: {"a/**"}, History: {}}})
	g := Default.Grants(k.identity())
	for _, c := range []struct {
		r    Right
		may  bool
		what string
	}{
		{Subscribe, true, "a/b"}, {Subscribe, false, "b"}, {Presence, true, "a/b"}, {Presence, false, "b"}, {History, false, "a/b"}, {Publish, true, "b"},
	} {
		if g.May(c.r, c.what) != c.may {
			t.Errorf("%v in %s: %v", c.r, c.what, !c.may)
		}
	}
	if len(k.Allow) != 2 {
		t.Errorf("the key was changed: %v", k.Allow)
	}
}

func TestKeysRefuse(t *testing.T) {
	good, key := NewKey(Key{Subject: "ci"})
	late, old := NewKey(Key{Subject: "ci", Expires: time.Now()})
	_, same := NewKey(Key{Subject: "ci"})
	stranger, _ := NewKey(Key{Subject: "ci"})
	keys := opened(t, keyFile(t, key.String(), old.String(), same.String()), nil)
	forged := keyPrefix + same.ID + good[len(keyPrefix)+idLength:len(good)-7] // another's id, and a checksum that fits
	forged += checksum(forged)
	for token, want := range map[string]string{
		late: "token_expired", stranger: "bad_token", forged: "bad_token",
		good[:len(good)-1]: "bad_token", good + "A": "bad_token", strings.ToLower(good): "bad_token", " " + good: "", "ff_": "bad_token",
		"ff_" + strings.Repeat("_", 42): "bad_token", "ff_" + strings.Repeat("A", 42): "bad_token", "ff_" + strings.Repeat("A", 1<<20): "bad_token",
		"": "", "eyJhbGciOiJIUzI1NiJ9.e30.x": "", "FF_x": "",
	} {
		id, code := shows(t, keys, token)
		if id != nil || code != want {
			t.Errorf("%.60q: %v, %q, want %q", token, id, code, want)
		}
	}
	for i := range good { // one character other
		token := good[:i] + string('A'+(good[i]+1-'A')%26) + good[i+1:]
		if id, _ := shows(t, keys, token); id != nil && token != good {
			t.Errorf("%s is let in, and %s is the key", token, good)
		}
	}
	if id, code := shows(t, keys, good); id == nil {
		t.Errorf("the key itself: %s", code)
	}
}

func TestBadKeyFiles(t *testing.T) {
	token, k := NewKey(Key{Subject: "ci"})
	line := k.String()
	begin := line[:strings.Index(line, " subject")]
	hash := hex.EncodeToString(k.Hash[:])
	for _, c := range []struct{ content, want string }{
		{line, "keys:1: the last line may have been cut off: end it with a line break"},
		{"# x\n\n" + begin + "\n", "keys:3: it is not said who has the key: add a subject"},
		{line + "\n# x\n" + line + "\n", "keys:3: the key " + k.ID + " is in line 1 already"},
		{token + " " + begin + "\n", "keys:1: this line begins with a token, which nobody but its owner should have"},
		{"key " + hash + "\n", "keys:1: a line begins with the key's id, 8 characters"},
		{k.ID + " " + token + " subject=x\n", "keys:1: what follows the id is the token's hash, as in sha256:"},
		{k.ID + "\n", "keys:1: what follows the id is the token's hash"},
		{k.ID + " sha256:" + token + " subject=x\n", "keys:1: the hash must be sha256: and 64 hexadecimal digits"},
		{k.ID + " sha256:" + hash[:62] + " subject=x\n", "keys:1: the hash must be"},
		{line + " admin\n", "keys:1: what follows the hash are fields, such as subject=sensor-17; one that has blanks in it needs quotes"},
		{line + " roles=admin\n", `keys:1: there is no field "roles"; there are subject, name, role, publish,`},
		{line + " subject=x\n", `keys:1: "subject" is there twice`},
		{line + " publish=a publish=\n", "keys:1: publish= with nothing behind it grants nothing"},
		{line + " publish= publish=a\n", "keys:1: publish= with nothing behind it grants nothing"},
		{line + " publish=**/a\n", `keys:1: publish: "**/a" is no pattern`},
		{line + " history=a$sub\n", "keys:1: history: in \"a$sub\", $sub is part of a segment"},
		{line + " expires=tomorrow\n", "keys:1: expires: a time is written as 2027-01-31T18:00:00Z, or 2027-01-31"},
		{line + " comment=\"open\n", "keys:1: a quote has no end"},
		{line + " role=\n", "keys:1: a role must have a name"},
		{line + " role=anonymous\n", "keys:1: the role anonymous is had without being said"},
		{line + " name=" + strings.Repeat("ä", 65) + "\n", "keys:1: the name must be UTF-8"},
		{begin + " subject=\"a\\x00\"\n", "keys:1: the subject must be UTF-8"},
		{begin + " subject=\xff\n", "keys:1: the subject must be UTF-8"},
	} {
		t.Chdir(t.TempDir())
		if err := os.WriteFile("keys", []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		keys, err := OpenKeys("keys", nil)
		if keys != nil || err == nil || !strings.HasPrefix(err.Error(), c.want) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("%q: %v, want %s", c.content, err, c.want)
		}
		if err != nil && (strings.Contains(err.Error(), token[12:]) || strings.Contains(err.Error(), hash)) {
			t.Errorf("a secret is in %v", err)
		}
	}
	_, err := parseKeys("keys", []byte("x\n\ny\n"))
	if err == nil || strings.Count(err.Error(), "\n") != 1 || !strings.Contains(err.Error(), "\nkeys:3: ") {
		t.Errorf("all mistakes at once: %v", err)
	}
	if _, err := OpenKeys("none", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := OpenKeys(t.TempDir(), nil); err == nil {
		t.Error("a directory is no file of keys")
	}
}

// A file that changes is read again: what is gone is refused and told, and a
// mistake or a cut changes nothing.
func TestKeysReload(t *testing.T) {
	log := hear()
	tokenA, a := NewKey(Key{Subject: "a"})
	tokenB, b := NewKey(Key{Subject: "b"})
	file := keyFile(t, a.String(), b.String())
	keys := opened(t, file, log.logger())
	gone := make(chan []string, 10)
	keys.OnRemove(func(ids []string) {
		if id, _ := shows(t, keys, tokenB); id != nil && slices.Contains(ids, b.ID) {
			t.Error("a key is removed, and still let in")
		}
		gone <- ids
	})
	lets := func(token string, want bool) {
		t.Helper()
		if id, code := shows(t, keys, token); (id != nil) != want {
			t.Errorf("%.11s: %v %s", token, id, code)
		}
	}

	writeKeys(t, file, a.String())
	log.says(t, `msg="read the keys again" file=`+file+` keys=1 removed=`+b.ID)
	if ids := <-gone; !slices.Equal(ids, []string{b.ID}) {
		t.Errorf("%v are gone", ids)
	}
	lets(tokenA, true)
	lets(tokenB, false)

	writeKeys(t, file, a.String(), "nonsense")
	log.says(t, file+`:2: a line begins with the key's id`)
	lets(tokenA, true)
	writeKeys(t, file)
	log.says(t, "is empty: to refuse all keys, leave a comment in it")
	lets(tokenA, true)
	half := b.String()[:len(b.String())/2]
	if err := os.WriteFile(file, []byte(a.String()+"\n"+half), 0o600); err != nil {
		t.Fatal(err)
	}
	log.says(t, file+`:2: the last line may have been cut off`)
	lets(tokenA, true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	log.says(t, "no such file")
	lets(tokenA, true)

	// The same id with another hash is another key.
	other := a
	other.Hash[0]++
	writeKeys(t, file, other.String(), b.String())
	log.says(t, "keys=2 removed="+a.ID)
	if ids := <-gone; !slices.Equal(ids, []string{a.ID}) {
		t.Errorf("%v are gone", ids)
	}
	lets(tokenA, false)
	lets(tokenB, true)

	writeKeys(t, file, "# none")
	log.says(t, "keys=0")
	lets(tokenB, false)
	if log := log.String(); log != "" {
		t.Errorf("it was said again: %s", log)
	}
}

// Kubernetes changes a file by putting another directory behind a link.
func TestKeysBehindALink(t *testing.T) {
	log := hear()
	dir := t.TempDir()
	tokenA, a := NewKey(Key{Subject: "a"})
	tokenB, b := NewKey(Key{Subject: "b"})
	for name, key := range map[string]Key{"..1": a, "..2": b} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		writeKeys(t, filepath.Join(dir, name, "keys"), key.String())
	}
	link := func(to, name string) {
		t.Helper()
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/keys", "keys")
	keys := opened(t, filepath.Join(dir, "keys"), log.logger())
	if id, code := shows(t, keys, tokenA); id == nil {
		t.Fatal(code)
	}
	link("..2", "..tmp")
	if err := os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	log.says(t, "removed="+a.ID)
	if id, _ := shows(t, keys, tokenA); id != nil {
		t.Error("the key that was behind the link is let in")
	}
	if id, code := shows(t, keys, tokenB); id == nil {
		t.Errorf("the key that is behind the link now: %s", code)
	}
}

// Keys that come and go while everybody authenticates: who has one that stays is
// always let in, and who has one that is gone never again.
func TestKeysReloadUnderLoad(t *testing.T) {
	log := hear()
	stays, s := NewKey(Key{Subject: "s"})
	file := keyFile(t, s.String())
	keys := opened(t, file, log.logger())
	var tried, ended atomic.Int64
	var all sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				id, err := keys.Authenticate(context.Background(), Credentials{Token: stays})
				if err != nil || id.Subject != "s" {
					t.Errorf("%v %v", id, err)
					return
				}
				tried.Add(1)
			}
		})
	}
	keys.OnRemove(func(ids []string) { ended.Add(int64(len(ids))) })
	const rounds = 20
	for range rounds {
		token, k := NewKey(Key{Subject: "c"})
		writeKeys(t, file, s.String(), k.String())
		log.says(t, "keys=2")
		if id, code := shows(t, keys, token); id == nil {
			t.Fatal(code)
		}
		writeKeys(t, file, s.String())
		log.says(t, "keys=1 removed="+k.ID)
		if id, _ := shows(t, keys, token); id != nil {
			t.Fatal("it is gone")
		}
	}
	close(stop)
	all.Wait()
	if err := keys.Close(); err != nil || keys.Close() != nil {
		t.Error(err)
	}
	if ended.Load() != rounds || tried.Load() == 0 {
		t.Errorf("%d keys ended in %d rounds, and %d asked", ended.Load(), rounds, tried.Load())
	}
}

func TestKeysModes(t *testing.T) {
	_, k := NewKey(Key{Subject: "a"})
	for mode, want := range map[os.FileMode]string{0o600: "", 0o640: "", 0o644: "can read whose keys there are", 0o666: "can give themselves a key"} {
		log, file := hear(), keyFile(t, k.String())
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		opened(t, file, log.logger())
		if got := log.String(); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%v: %s, want %s", mode, got, want)
		}
		if err := os.Chmod(file, 0o604); err != nil {
			t.Fatal(err)
		}
		if want == "" || mode == 0o666 {
			log.says(t, "can read whose keys")
		}
	}
}

func FuzzKeyLine(f *testing.F) {
	token, k := NewKey(Key{Subject: "a", Name: "b c", Roles: []string{"r"}, Allow: map[Right][]string{Publish: {}}, Expires: time.Unix(1e9, 0).UTC(), Comment: "x"})
	f.Add(k.String())
	f.Add(token)
	f.Add(k.ID + " sha256:00")
	f.Fuzz(func(t *testing.T, line string) {
		k, err := parseKey(strings.TrimSpace(line + "#"))
		if err != nil {
			return
		}
		again, err := parseKey(k.String())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(k) {
			t.Errorf("%q is %+v, and that again %+v (%v)", line, k, again, err)
		}
	})
}
