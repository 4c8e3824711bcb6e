package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"fanfare/internal/terminal"
)

// stdio is where a command reads and writes: the process's own, except in
// tests.
type stdio struct {
	in       io.Reader
	out, err io.Writer
}

// isTerminal reports whether f is a terminal.
func isTerminal(f any) bool {
	file, ok := f.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// say writes one line for people to standard error.
func (s stdio) say(format string, args ...any) {
	// What servers sent may be part of it, so nothing in it may drive a
	// terminal.
	fmt.Fprintf(s.err, "fanfare: %s\n", terminal.Printable(fmt.Sprintf(format, args...)))
}

// run runs the command line and returns the exit code.
func run(args []string, std stdio) int {
	root := newRoot(std)
	root.SetArgs(args)
	root.SetIn(std.in)
	root.SetOut(std.out)
	root.SetErr(std.err)
	cmd, err := root.ExecuteC()
	if err == nil {
		return exitFine
	}
	var many mistakes
	switch text := err.Error(); {
	case errors.As(err, &many):
		for _, line := range many {
			std.say("%s", line)
		}
	case text != "":
		std.say("%s", text)
	}
	code := exitCode(err)
	if code == exitUsage {
		fmt.Fprintf(std.err, "Run `%s --help` for what it takes.\n", cmd.CommandPath())
	}
	return code
}

func newRoot(std stdio) *cobra.Command {
	root := &cobra.Command{
		Use:   "fanfare",
		Short: "Broadcast in real time: what one client says into a channel, everyone listening hears",
		Long: `Fanfare is a real-time broadcast server and its clients in one program.

Whatever one client says into a channel, everyone listening hears: in order
and at once. One URL is one channel: http://localhost:8765/chat/general is the
channel chat/general for a browser, for curl and for any WebSocket client.

Every flag can also be given in the environment: --max-message as
FANFARE_MAX_MESSAGE. A flag wins over the environment, which wins over the
default.

Exit codes: 0 fine, 1 something failed, 2 wrong usage, 4 could not connect, 5
the connection was closed abnormally.`,
		Example: `  fanfare serve                        # then open http://127.0.0.1:8765/
  fanfare connect                      # talk, in a second terminal
  fanfare connect chat/general --name alice
  fanfare publish chat/general "Dinner is ready"
  fanfare subscribe chat/general --json
  fanfare bench bench/a                # what can this machine do?
  fanfare token --subject ci --file keys   # who may come in: see fanfare serve --help`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		// With Args and RunE of its own the root sees unknown commands itself.
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			text := fmt.Sprintf("there is no command %q", args[0])
			if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
				text += fmt.Sprintf("; did you mean %s?", strings.Join(s, " or "))
			}
			return usage(errors.New(text))
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags(), os.LookupEnv)
		},
	}
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate("fanfare {{.Version}}\n")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return usage(flagError(cmd.Name(), err)) })
	root.AddCommand(serveCommand(std), connectCommand(std), subscribeCommand(std), publishCommand(std), benchCommand(std), tokenCommand(std))
	root.InitDefaultCompletionCmd()
	if completion, _, err := root.Find([]string{"completion"}); err == nil {
		completion.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usage(fmt.Errorf("there is no completion for %q: it is there for bash, zsh, fish and powershell", args[0]))
		}
		completion.Args = cobra.ArbitraryArgs
	}
	return root
}

// arguments wraps a check of cobra's so that what it refuses is wrong usage,
// and the advice says what is right.
func arguments(check cobra.PositionalArgs, advice string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usage(fmt.Errorf("%w: %s", err, advice))
		}
		return nil
	}
}

// moreTargets is advice for who gave two. That is often the shell's doing.
const moreTargets = "; more channels with --channel, and a pattern in quotes, 'chat/**', or the shell puts names of files in its place"

// flagError is what is wrong with a flag of a command, in words for people.
func flagError(command string, err error) error {
	var (
		value  *pflag.InvalidValueError
		number *strconv.NumError
		letter *pflag.NotExistError
		syntax *pflag.InvalidSyntaxError
	)
	switch {
	case errors.As(err, &value) && errors.As(value.Unwrap(), &number):
		return fmt.Errorf("invalid argument %q for --%s: it must be a number", value.GetValue(), value.GetFlag().Name)
	case errors.As(err, &value) && value.GetFlag().Value.Type() == "duration" && strings.HasPrefix(value.Unwrap().Error(), "time:"):
		return fmt.Errorf("invalid argument %q for --%s: a time is written as in 90s, 1h30m or 24h", value.GetValue(), value.GetFlag().Name)
	case command == "publish" && (errors.As(err, &syntax) || errors.As(err, &letter) && letter.GetSpecifiedShortnames() != ""):
		return fmt.Errorf("%w; a message that begins with - stands behind --, as in: fanfare publish chat/general -- -5", err)
	}
	return err
}

// several is a number and a noun: 1 line, 2 lines.
func several(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprint(n, " ", noun, "s")
}

// version is what the binary was built from: a release, else the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, changed := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision" && len(s.Value) >= 12:
			revision = " " + s.Value[:12]
		case s.Key == "vcs.modified" && s.Value == "true":
			changed = ", changed"
		}
	}
	return "development" + revision + changed
}
