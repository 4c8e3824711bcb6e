package auth

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"maps"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// A token of a key is
//
//	ff_K3VQX72A_5GZ2Q4…   ff_ID_SECRET, 45 characters, which ff_[A-Z2-7]{8}_[A-Z2-7]{33} finds
//
// The secret is 26 random characters of base32 (130 bits) and a checksum in 7, so
// that a scanner that finds a token in somebody's repository can be sure that it
// is one without asking anybody.
//
// A file of keys has a line for each:
//
//	K3VQX72A sha256:6ca13d… subject=sensor-17 role=sensor publish=sensors/17/** expires=2027-01-31 comment="on the roof"
//
// the id, the SHA-256 of the whole token in hex, and fields, of which role and
// the four rights may be repeated. What has blanks or quotes in it is quoted as in
// Go. Lines that begin with # and empty ones say nothing. The last line, too, has a
// line break at its end: without it nobody could tell that it was cut off, and
// what is missing may be the time when the key expires.
//
// One round of SHA-256 is right here, and a slow hash for passwords would be
// wrong: 130 random bits are not guessed however fast one can try, and with a
// slow hash each stranger who sends nonsense would have the server work for him.

const (
	keyPrefix  = "ff_"
	idLength   = 8
	keyLength  = len(keyPrefix) + idLength + 1 + 26 + 7
	maxKeyFile = 16 << 20 // bytes
)

var keyForm = regexp.MustCompile(`^[A-Z2-7]+$`)

// A Key is one line of a file of keys.
type Key struct {
	// ID names the key: in the file, in logs and for revocation. No secret.
	ID string
	// Hash is the SHA-256 of its token.
	Hash [sha256.Size]byte
	// Subject and Name are who has it, as in [Identity]; Roles, too.
	Subject, Name string
	Roles         []string
	// Allow is what the key itself says of rights, as in [Identity], but that
	// Subscribe says Presence and History too, unless they are keys of their own.
	Allow map[Right][]string
	// Issued and Expires are when it was made and when it ends; zero: not said.
	Issued, Expires time.Time
	// Comment is for people.
	Comment string
}

// NewKey makes up a key and its token, which is not kept anywhere: k gets ID,
// Hash and Issued.
func NewKey(k Key) (token string, _ Key) {
	k.ID = rand.Text()[:idLength]
	token = keyPrefix + k.ID + "_" + rand.Text()
	token += checksum(token)
	k.Hash, k.Issued = sha256.Sum256([]byte(token)), time.Now().UTC().Truncate(time.Second)
	return token, k
}

// checksum is the end of the token that begins with head.
func checksum(head string) string {
	sum := crc32.ChecksumIEEE([]byte(head))
	return base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
}

// idOf returns the id that a token names; ok: it has a key's form.
func idOf(token string) (id string, ok bool) {
	if len(token) != keyLength || !strings.HasPrefix(token, keyPrefix) {
		return "", false
	}
	id, secret, _ := strings.Cut(token[len(keyPrefix):], "_")
	head, sum := token[:keyLength-7], token[keyLength-7:]
	return id, len(id) == idLength && keyForm.MatchString(id) && keyForm.MatchString(secret) && checksum(head) == sum
}

// Check returns an error that says what of a key can never have been meant.
func (k *Key) Check() error {
	switch {
	case k.Subject == "":
		return errors.New("it is not said who has the key: add a subject, as in subject=sensor-17")
	case !utf8.ValidString(k.Comment) || strings.ContainsAny(k.Comment, "\r\n"):
		return errors.New("the comment must be one line of UTF-8")
	}
	for _, role := range []string{Anonymous, Authenticated} {
		if slices.Contains(k.Roles, role) {
			return fmt.Errorf("the role %s is had without being said", role)
		}
	}
	return k.identity().check()
}

// identity is who shows the key.
func (k *Key) identity() *Identity {
	return &Identity{Subject: k.Subject, Name: k.Name, Roles: k.Roles, Token: k.ID, Issued: k.Issued, Expires: k.Expires, Allow: spread(maps.Clone(k.Allow))}
}

// String returns the line that a file of keys has for it, without the line break.
func (k *Key) String() string {
	line := k.ID + " sha256:" + hex.EncodeToString(k.Hash[:])
	say := func(field, value string) {
		if strings.ContainsAny(value, " \t\"\\") || value != strings.Trim(strconv.Quote(value), `"`) {
			value = strconv.Quote(value)
		}
		line += " " + field + "=" + value
	}
	say("subject", k.Subject)
	if k.Name != "" {
		say("name", k.Name)
	}
	for _, role := range k.Roles {
		say("role", role)
	}
	for _, right := range Rights {
		patterns, own := k.Allow[right]
		if own && len(patterns) == 0 {
			say(right.String(), "")
		}
		for _, pattern := range patterns {
			say(right.String(), pattern)
		}
	}
	if !k.Issued.IsZero() {
		say("issued", k.Issued.UTC().Format(time.RFC3339))
	}
	if !k.Expires.IsZero() {
		say("expires", k.Expires.UTC().Format(time.RFC3339))
	}
	if k.Comment != "" {
		say("comment", k.Comment)
	}
	return line
}

// ReadKeys reads a file of keys. What is wrong in it is told with the line, all of
// it at once, and nothing of a secret with it.
func ReadKeys(file string) ([]Key, error) {
	content, _, err := readKeys(file)
	if err != nil {
		return nil, err
	}
	return parseKeys(file, content)
}

func readKeys(file string) ([]byte, os.FileMode, error) {
	f, err := os.Open(file) // #nosec G304: the operator's file
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	content, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(content) > maxKeyFile {
		err = fmt.Errorf("%s is larger than 16 MiB, so it is hardly a file of keys", file)
	}
	return content, info.Mode(), err
}

func parseKeys(file string, content []byte) ([]Key, error) {
	var (
		keys  []Key
		wrong []error
		lines = map[string]int{} // by id
	)
	refuse := func(n int, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("%s:%d: %w", file, n, fmt.Errorf(format, args...)))
	}
	for n := 1; len(content) > 0; n++ {
		text, rest, whole := bytes.Cut(content, []byte("\n"))
		line := strings.TrimSpace(string(text))
		content = rest
		switch {
		case !whole:
			refuse(n, "the last line may have been cut off: end it with a line break")
			continue
		case line == "" || line[0] == '#':
			continue
		}
		key, err := parseKey(line)
		switch before, twice := lines[key.ID]; {
		case err != nil:
			refuse(n, "%w", err)
		case twice:
			refuse(n, "the key %s is in line %d already", key.ID, before)
		default:
			lines[key.ID] = n
			keys = append(keys, key)
		}
	}
	return keys, errors.Join(wrong...)
}

// parseKey reads a line. No error has anything of the first two fields in it: one
// may be a token, put there by mistake.
func parseKey(line string) (k Key, err error) {
	words, err := fields(line)
	if err != nil {
		return k, err
	}
	switch {
	case strings.HasPrefix(line, keyPrefix):
		return k, errors.New("this line begins with a token, which nobody but its owner should have; here stand its id and its hash, as fanfare token prints them")
	case len(words[0]) != idLength || !keyForm.MatchString(words[0]):
		return k, fmt.Errorf("a line begins with the key's id, %d characters of A-Z and 2-7, as fanfare token prints it", idLength)
	case len(words) < 2 || !strings.HasPrefix(words[1], "sha256:"):
		return k, errors.New("what follows the id is the token's hash, as in sha256:6ca13d…")
	}
	k.ID = words[0]
	hash, err := hex.DecodeString(strings.TrimPrefix(words[1], "sha256:"))
	if err != nil || len(hash) != len(k.Hash) {
		return k, fmt.Errorf("the hash must be sha256: and %d hexadecimal digits", 2*len(k.Hash))
	}
	copy(k.Hash[:], hash)
	said := map[string]bool{}
	for _, word := range words[2:] {
		name, value, ok := strings.Cut(word, "=")
		if !ok {
			return k, errors.New("what follows the hash are fields, such as subject=sensor-17; one that has blanks in it needs quotes: comment=\"on the roof\"")
		}
		if err := k.set(name, value, said[name]); err != nil {
			return k, err
		}
		said[name] = true
	}
	return k, k.Check()
}

// set sets a field; again: not the first of its name.
func (k *Key) set(name, value string, again bool) (err error) {
	right, notRight := ParseRight(name)
	switch {
	case name == "role":
		k.Roles = append(k.Roles, value)
	case notRight == nil:
		if again && (value == "" || len(k.Allow[right]) == 0) {
			return fmt.Errorf("%s= with nothing behind it grants nothing, and cannot stand beside another", name)
		}
		if k.Allow == nil {
			k.Allow = map[Right][]string{}
		}
		k.Allow[right] = append(k.Allow[right], value)
		if value == "" {
			k.Allow[right] = []string{}
		}
	case again:
		return fmt.Errorf("%.40q is there twice", name)
	case name == "subject":
		k.Subject = value
	case name == "name":
		k.Name = value
	case name == "issued":
		k.Issued, err = ParseTime(value)
	case name == "expires":
		k.Expires, err = ParseTime(value)
	case name == "comment":
		k.Comment = value
	default:
		return fmt.Errorf("there is no field %.40q; there are subject, name, role, publish, subscribe, presence, history, issued, expires, comment", name)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// ParseTime reads a time as a file of keys has it: 2027-01-31T18:00:00Z, or a day,
// 2027-01-31, which is its first moment, UTC.
func ParseTime(text string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, errors.New("a time is written as 2027-01-31T18:00:00Z, or 2027-01-31 for that day's first moment, UTC")
}

// fields divides a line at its blanks, outside of quotes, which it takes away.
func fields(line string) (words []string, err error) {
	var word strings.Builder
	for line = strings.TrimSpace(line); line != ""; {
		switch c := line[0]; {
		case c == '"':
			quoted, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, errors.New("a quote has no end, or \\ stands before what it may not")
			}
			text, _ := strconv.Unquote(quoted) // QuotedPrefix has checked it
			word.WriteString(text)
			line = line[len(quoted):]
		case c == ' ' || c == '\t':
			words = append(words, word.String())
			word.Reset()
			line = strings.TrimLeft(line, " \t")
		default:
			word.WriteByte(c)
			line = line[1:]
		}
	}
	return append(words, word.String()), nil
}

// Keys are static keys, of machines for instance, from a file that may change: an
// [Authenticator] of tokens that begin with ff_, and of no others.
//
// The file is looked at each second. What it says of a key counts for whoever
// comes from then on, and a key that is gone is refused at once. A file that cannot be read or has a
// mistake changes nothing, and the log says which line is wrong; so does one that
// has become empty, as a file is for a moment while it is written anew: leave a
// comment in it to refuse all keys.
type Keys struct {
	file string
	log  *slog.Logger
	ring atomic.Pointer[ring]

	stop, stopped chan struct{}
	closing       sync.Once

	// Only the goroutine that watches (before it there is, OpenKeys) has these.
	mode  os.FileMode
	read  [sha256.Size]byte // of the content that was read last, and is in ring unless it had mistakes
	seen  [sha256.Size]byte // of the content that another look must confirm
	wrong string            // why the file could not be read, as the log has it already

	mu      sync.Mutex
	removed func(ids []string)
}

// A ring is one state of the file. It does not change.
type ring map[string]*ringed // by id

type ringed struct {
	hash [sha256.Size]byte
	id   *Identity
}

const (
	lookEvery = time.Second
	settle    = 100 * time.Millisecond // what was the same for so long is written to its end
)

// OpenKeys reads a file of keys and watches it until Close. The logger, by default
// slog.Default, gets a line when the keys have changed, or could not.
func OpenKeys(file string, log *slog.Logger) (*Keys, error) {
	return openKeys(file, log, lookEvery, settle)
}

func openKeys(file string, log *slog.Logger, every, settle time.Duration) (*Keys, error) {
	if log == nil {
		log = slog.Default()
	}
	content, mode, err := readKeys(file)
	if err != nil {
		return nil, err
	}
	list, err := parseKeys(file, content)
	if err != nil {
		return nil, err
	}
	k := &Keys{file: file, log: log, stop: make(chan struct{}), stopped: make(chan struct{}), read: sha256.Sum256(content)}
	k.ring.Store(ringOf(list))
	k.warn(mode)
	go k.watch(every, settle)
	return k, nil
}

func ringOf(list []Key) *ring {
	r := make(ring, len(list))
	for i := range list {
		r[list[i].ID] = &ringed{list[i].Hash, list[i].identity()}
	}
	return &r
}

// nobody's hash is what an unknown id is compared with, so that it takes as long
// to refuse as a wrong secret. No token has it but by chance.
var nobodys = [sha256.Size]byte{}

var errBadKey = &Error{Code: "bad_token", Message: "this key is none of this server's: it was removed, or mistyped; ask for another"}

// Authenticate implements [Authenticator].
func (k *Keys) Authenticate(_ context.Context, c Credentials) (*Identity, error) {
	if !strings.HasPrefix(c.Token, keyPrefix) {
		return nil, nil
	}
	name, ok := idOf(c.Token)
	if !ok {
		return nil, errBadKey // the form alone says so, and tells nothing of our keys
	}
	hash := sha256.Sum256([]byte(c.Token))
	key, known := (*k.ring.Load())[name]
	want := &nobodys
	if known {
		want = &key.hash
	}
	switch same := subtle.ConstantTimeCompare(hash[:], want[:]) == 1; {
	case !same || !known:
		return nil, errBadKey
	case !key.id.Expires.IsZero() && !time.Now().Before(key.id.Expires):
		return nil, &Error{Code: "token_expired", Message: "this key has expired: ask for another"}
	}
	return key.id, nil
}

// IDs are the keys that count now, sorted.
func (k *Keys) IDs() []string { return slices.Sorted(maps.Keys(*k.ring.Load())) }

// OnRemove has f called, by the goroutine that watches the file, with the ids of
// keys that are gone, or have another hash, after they are refused: to end the
// connections that were made with them. It replaces what was set before.
func (k *Keys) OnRemove(f func(ids []string)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.removed = f
}

// Close stops watching. The keys stay as they are. No function of OnRemove's runs
// any more when it returns, so none may call it.
func (k *Keys) Close() error {
	k.closing.Do(func() { close(k.stop) })
	<-k.stopped
	return nil
}

func (k *Keys) watch(every, settle time.Duration) {
	defer close(k.stopped)
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-k.stop:
			return
		case <-timer.C:
			if k.look() {
				timer.Reset(every)
			} else {
				timer.Reset(settle)
			}
		}
	}
}

// look reads the file, and takes what it says if that was so the last time already.
// It is cheaper to understand than to guess from times and inodes whether a file has changed,
// right on every file system, and a file of keys is small. Not settled: it has just
// changed, and is to be looked at soon again.
func (k *Keys) look() (settled bool) {
	content, mode, err := readKeys(k.file)
	if err != nil {
		if k.wrong != err.Error() {
			k.wrong = err.Error()
			k.log.Error("the keys stay as they are", "error", k.wrong)
		}
		return true
	}
	k.warn(mode)
	k.wrong = ""
	sum := sha256.Sum256(content)
	before := k.seen
	k.seen = sum
	switch sum {
	case k.read:
		return true
	case before:
		k.read = sum
	default:
		return false
	}
	list, err := parseKeys(k.file, content)
	was := *k.ring.Load()
	switch {
	case err != nil:
		for line := range strings.Lines(err.Error()) {
			k.log.Error("the keys stay as they are", "error", strings.TrimSpace(line))
		}
		return true
	case len(content) == 0 && len(was) > 0:
		k.log.Error("the keys stay as they are", "error", k.file+" is empty: to refuse all keys, leave a comment in it")
		return true
	}
	now := ringOf(list)
	k.ring.Store(now)
	var gone []string
	for id, key := range was {
		if next, stays := (*now)[id]; !stays || next.hash != key.hash {
			gone = append(gone, id)
		}
	}
	slices.Sort(gone)
	k.log.Info("read the keys again", "file", k.file, "keys", len(list), "removed", strings.Join(gone, " "))
	k.mu.Lock()
	f := k.removed
	k.mu.Unlock()
	if f != nil && len(gone) > 0 {
		f(gone)
	}
	return true
}

// warn says so once when others may read the file, or write to it.
func (k *Keys) warn(mode os.FileMode) {
	if mode == k.mode || runtime.GOOS == "windows" { // whose modes say nothing
		return
	}
	k.mode = mode
	switch {
	case mode&0o002 != 0:
		k.log.Warn("everybody on this machine can give themselves a key: chmod 600", "file", k.file, "mode", mode.String())
	case mode&0o004 != 0:
		k.log.Warn("everybody on this machine can read whose keys there are, and their hashes: chmod 600", "file", k.file, "mode", mode.String())
	}
}
