package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"fanfare/auth"
	"fanfare/internal/terminal"
)

// owner is who gets a token, and what it may do, as flags say.
type owner struct {
	subject, name, expires string
	roles                  []string
	rights                 [4][]string // by auth.Right
}

func (o *owner) flags(flags *pflag.FlagSet, expires string) {
	flags.StringVar(&o.subject, "subject", "", "who it is, for the server")
	flags.StringVar(&o.name, "name", "", "who it is for others; by default the subject")
	flags.Var(&list{&o.roles, ",", nil}, "role", "a role that rules may name, or admin; repeatable")
	for _, right := range auth.Rights {
		usage := fmt.Sprintf("a channel or pattern in which the token grants %s, whatever rules say; repeatable; '' is for none", right)
		if right == auth.Subscribe {
			usage += "; presence and history too, unless they are said"
		}
		flags.Var(&list{&o.rights[right], ",", func(p string) error {
			if p == "" {
				return nil
			}
			return auth.CheckPattern(p)
		}}, right.String(), usage)
	}
	flags.StringVar(&o.expires, "expires", expires, "when it ends: after 720h, or on 2027-01-31 (UTC)")
}

// key is the owner as one of a key, which has no id yet.
func (o *owner) key() (auth.Key, error) {
	k := auth.Key{Subject: o.subject, Name: o.name, Roles: o.roles}
	for _, right := range auth.Rights {
		patterns := slices.DeleteFunc(slices.Clone(o.rights[right]), func(p string) bool { return p == "" })
		if len(patterns) > 0 && len(patterns) < len(o.rights[right]) {
			return k, usage(fmt.Errorf("--%s is for nothing at all, and for something", right))
		}
		if o.rights[right] != nil {
			if k.Allow == nil {
				k.Allow = make(map[auth.Right][]string)
			}
			k.Allow[right] = patterns
		}
	}
	if o.expires != "" {
		var err error
		if k.Expires, err = when(o.expires); err != nil {
			return k, usage(fmt.Errorf("--expires is %q: %w", o.expires, err))
		}
	}
	if o.subject == "" {
		return k, usage(errors.New("it is not said whose token it is: add --subject, as in --subject sensor-17"))
	}
	if err := k.Check(); err != nil {
		return k, usage(err)
	}
	return k, nil
}

// when is a time from now, or one by the calendar, which is to come.
func when(text string) (time.Time, error) {
	t, err := auth.ParseTime(text)
	if d, isSpan := time.ParseDuration(text); isSpan == nil {
		t, err = time.Now().Add(d).UTC().Truncate(time.Second), nil
	}
	switch {
	case err != nil:
		return t, errors.New("it is a time from now, as in 720h, or one such as 2027-01-31 or 2027-01-31T18:00:00Z")
	case !t.After(time.Now()):
		return t, errors.New("that is over already")
	}
	return t, nil
}

func tokenCommand(std stdio) *cobra.Command {
	var (
		who           owner
		file, comment string
	)
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make tokens",
		Long: `Make a key for a machine: a token that does not change, which is printed once and
kept nowhere, and the line that a server's file of keys has for it, in which only
a hash of it stands.

The token goes to standard output. With --file the line is appended to the file,
which is made if it is not there; without, it goes to standard error. A server
that was started with --auth-keys looks at its file every second: a new key
counts at once, and one that is removed is refused at once, and whoever is
connected with it is disconnected. A key that was removed does not count again
before the server is restarted, even if its line comes back.

Without --publish, --subscribe, --presence and --history the rules of the server
say what the key may do; without rules that is everything.`,
		Example: `  fanfare token --subject sensor-17 --publish 'sensors/17/**' --subscribe '' --file keys
  fanfare token --subject ci --role admin --expires 2160h --comment "the build" --file keys
  fanfare token list --file keys
  fanfare token remove K3VQX72A --file keys
  fanfare serve --auth-keys keys
  fanfare token jwt --subject alice --secret-file secret     # a JSON Web Token, to try things out`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage(fmt.Errorf("there is no command token %q: there are list, remove and jwt, and token alone, which takes flags only", args[0]))
			}
			k, err := who.key()
			if err != nil {
				return err
			}
			k.Comment = comment
			if err := k.Check(); err != nil {
				return usage(err)
			}
			token, k := auth.NewKey(k)
			if file == "" {
				fmt.Fprintln(std.out, token)
				fmt.Fprintf(std.err, "# The token is shown this once; the next line is for the file of keys.\n%s\n", &k)
				return nil
			}
			if err := appendKey(file, &k); err != nil {
				return err
			}
			fmt.Fprintln(std.out, token)
			return nil
		},
	}
	who.flags(cmd.Flags(), "")
	cmd.Flags().StringVar(&file, "file", "", "a file of keys, to which the key's line is appended")
	cmd.Flags().StringVar(&comment, "comment", "", "what people should know of it")
	cmd.AddCommand(tokenListCommand(std), tokenRemoveCommand(std), tokenJWTCommand(std))
	return cmd
}

// appendKey adds a line to a file of keys, which the owner alone may read if it
// is new.
func appendKey(name string, k *auth.Key) error {
	switch _, err := auth.ReadKeys(name); {
	case err != nil && !errors.Is(err, os.ErrNotExist):
		return mistakes(strings.Split(err.Error(), "\n"))
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) // #nosec G304: the operator's file
	if err != nil {
		return err
	}
	_, err = f.WriteString(k.String() + "\n")
	return cmp.Or(err, f.Sync(), f.Close())
}

func tokenListCommand(std stdio) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:     "list --file keys",
		Short:   "Say which keys a file has",
		Example: "  fanfare token list --file keys",
		Args:    arguments(cobra.NoArgs, "list takes --file only"),
		RunE: func(*cobra.Command, []string) error {
			keys, err := keysOf(file)
			if err != nil {
				return err
			}
			table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(table, "ID\tSUBJECT\tROLES\tISSUED\tEXPIRES\tCOMMENT")
			for _, k := range keys {
				expires := date(k.Expires)
				if !k.Expires.IsZero() && !k.Expires.After(time.Now()) {
					expires += ", over"
				}
				cells := []string{k.ID, k.Subject, cmp.Or(strings.Join(k.Roles, ","), "-"), date(k.Issued), expires, k.Comment}
				for i := range cells {
					cells[i] = terminal.Printable(cells[i])
				}
				fmt.Fprintln(table, strings.Join(cells, "\t"))
			}
			return table.Flush()
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "the file of keys")
	return cmd
}

func date(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.DateOnly)
}

func keysOf(file string) ([]auth.Key, error) {
	if file == "" {
		return nil, usage(errors.New("it is not said which file of keys is meant: add --file"))
	}
	keys, err := auth.ReadKeys(file)
	if err != nil {
		return nil, mistakes(strings.Split(err.Error(), "\n"))
	}
	return keys, nil
}

func tokenRemoveCommand(std stdio) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "remove ID… --file keys",
		Short: "Remove keys from a file",
		Long: `Remove keys from a file: their lines become comments, in which no hash is any
more. A server that has the file refuses them within a second or two, and
disconnects whoever is there with one.`,
		Example: "  fanfare token remove K3VQX72A --file keys",
		Args:    arguments(cobra.MinimumNArgs(1), "name keys as `fanfare token list` does"),
		RunE: func(_ *cobra.Command, ids []string) error {
			keys, err := keysOf(file)
			if err != nil {
				return err
			}
			for _, id := range ids {
				if !slices.ContainsFunc(keys, func(k auth.Key) bool { return k.ID == id }) {
					return fmt.Errorf("%s has no key %.40q: `fanfare token list` says which there are", file, id)
				}
			}
			return removeKeys(file, ids)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "the file of keys")
	return cmd
}

// removeKeys makes comments of the lines of keys. It writes over them in their
// place, so that the file stays the server's own, whoever may read it, and nobody
// finds it half written.
func removeKeys(name string, ids []string) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0) // #nosec G304: the operator's file
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	at := 0
	for line := range bytes.Lines(content) {
		words := bytes.Fields(line)
		if len(words) > 1 && slices.Contains(ids, string(words[0])) {
			end := bytes.Index(line, words[1]) + len(words[1]) // of the hash; with the id longer than what is put there
			note := fmt.Sprintf("# removed %s: %s", time.Now().UTC().Format(time.RFC3339), words[0])
			note += strings.Repeat(" ", max(0, end-len(note)))
			if _, err := f.WriteAt([]byte(note), int64(at)); err != nil {
				return err
			}
		}
		at += len(line)
	}
	return cmp.Or(f.Sync(), f.Close())
}

func tokenJWTCommand(std stdio) *cobra.Command {
	var (
		who                              owner
		secretFile, kid, alg, id, issuer string
		audience                         []string
	)
	cmd := &cobra.Command{
		Use:   "jwt",
		Short: "Sign a JSON Web Token, to try things out",
		Long: `Sign a JSON Web Token with a secret that the server has too: to try things out,
and for scripts. In earnest the service that knows who people are makes them,
and gives each of them short ones.`,
		Example: `  openssl rand -base64 32 > secret
  fanfare serve --auth-jwt-secret-file secret
  fanfare token jwt --secret-file secret --subject alice --expires 1h
  fanfare token jwt --secret-file secret --subject alice --publish 'chat/**' --subscribe 'chat/**' --subscribe 'inbox/$sub'`,
		Args: arguments(cobra.NoArgs, "jwt takes flags only, such as --subject alice"),
		RunE: func(*cobra.Command, []string) error {
			if secretFile == "" {
				return usage(errors.New("it is not said what it is signed with: add --secret-file"))
			}
			k, err := who.key()
			if err != nil {
				return err
			}
			secret, err := readSecret(secretFile)
			if err != nil {
				return usage(fmt.Errorf("--secret-file: %w", err))
			}
			more := map[string]any{}
			if issuer != "" {
				more["iss"] = issuer
			}
			if len(audience) > 0 {
				more["aud"] = audience
			}
			signer := auth.JWTKey{ID: kid, Algorithm: alg, Secret: secret}
			token, err := signer.Sign(&auth.Identity{Subject: k.Subject, Name: k.Name, Roles: k.Roles, Allow: k.Allow, Expires: k.Expires, Token: id}, more)
			if err != nil {
				return usage(errors.New(strings.TrimPrefix(err.Error(), "jwt: ")))
			}
			fmt.Fprintln(std.out, token)
			return nil
		},
	}
	who.flags(cmd.Flags(), "1h")
	cmd.Flags().StringVar(&secretFile, "secret-file", "", "the file with the secret, of 32 characters or more")
	cmd.Flags().StringVar(&kid, "kid", "", "what the server calls the secret, if it has several")
	cmd.Flags().StringVar(&alg, "alg", "HS256", "HS256, HS384 or HS512")
	cmd.Flags().StringVar(&id, "id", "", "the token's own id (jti), to revoke it by")
	cmd.Flags().StringVar(&issuer, "issuer", "", "who made it (iss)")
	cmd.Flags().Var(&list{&audience, ",", nil}, "audience", "whom it is for (aud); repeatable")
	return cmd
}
