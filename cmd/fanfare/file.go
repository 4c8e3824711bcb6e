package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
	"github.com/spf13/pflag"

	"fanfare"
)

// maxFile is how large a configuration file may be, in bytes: something much
// larger is another file.
const maxFile = 1 << 20

// withFile returns given, and of a configuration file what given has not from
// flags or the environment, which isGiven knows. An error may be mistakes.
func withFile(name string, given *settings, isGiven func(setting string) bool) (*settings, error) {
	content, err := readFile(name)
	if err != nil {
		return nil, err
	}
	f := &file{name: name}
	next, overruled := *given, defaultSettings()
	next.channels = nil
	setters := map[string]func(ast.Node){
		"channels": func(n ast.Node) { f.channels(n, &next.channels) },
		"auth":     func(n ast.Node) { f.auth(n, isGiven, &next.auth) },
	}
	ignored := overruled.flags()
	next.flags().VisitAll(func(flag *pflag.Flag) {
		if strings.HasPrefix(flag.Name, "auth-") {
			return // that is said in the section auth
		}
		// What flags say of channels stands before what the file does; of the rest it stands instead.
		if _, both := flag.Value.(*byChannel); isGiven(flag.Name) && !both {
			flag = ignored.Lookup(flag.Name) // it must be well-formed all the same
		}
		setters[flag.Name] = func(n ast.Node) { f.flag(flag, n) }
	})
	f.parse(content, setters)
	if f.wrong != nil {
		return nil, usage(f.wrong)
	}
	next.channels = append(slices.Clip(given.channels), next.channels...)
	return &next, nil
}

func readFile(name string) ([]byte, error) {
	in, err := os.Open(name)
	if err != nil {
		return nil, usage(fmt.Errorf("--config: %w", err))
	}
	defer in.Close()
	content, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	switch {
	case err != nil:
		return nil, usage(fmt.Errorf("--config: %w", err))
	case len(content) > maxFile:
		return nil, usage(fmt.Errorf("--config: %s is larger than 1 MiB, so it is hardly the configuration", name))
	}
	return content, nil
}

// A file is a configuration file while it is read.
type file struct {
	name  string
	wrong mistakes
}

// mistakes are all that is wrong in a file, a line for each.
type mistakes []string

func (m mistakes) Error() string { return strings.Join(m, "\n") }

// refuse remembers that something is wrong with what stands at a place.
func (f *file) refuse(at *token.Token, format string, args ...any) {
	f.wrong = append(f.wrong, fmt.Sprintf("%s:%d:%d: ", f.name, at.Position.Line, at.Position.Column)+fmt.Sprintf(format, args...))
}

// star finds a value that begins with "*" and has no quotes. YAML has another
// meaning for that.
var star = regexp.MustCompile(`(?m)^[^#"']*[:\-,\[]\s+\*`)

// tab finds a line that is indented with tabs.
var tab = regexp.MustCompile(`^ *\t`)

// parse reads the file and has each setting set by its setter.
func (f *file) parse(content []byte, setters map[string]func(ast.Node)) {
	parsed, err := parser.ParseBytes(content, 0)
	var syntax yaml.Error
	switch {
	case errors.As(err, &syntax):
		at, message, line := syntax.GetToken(), strings.ReplaceAll(syntax.GetMessage(), "\t", `\t`), ""
		if lines := strings.Split(string(content), "\n"); at.Position.Line <= len(lines) {
			line = lines[at.Position.Line-1]
		}
		switch {
		case star.MatchString(line):
			message += `; what begins with * needs quotes: "*"`
		case tab.MatchString(line):
			message += "; a line is indented with blanks, not with tabs"
		case strings.Contains(message, "not allowed in this context"):
			message += "; this line or the next is indented more or less than what it belongs to"
		}
		f.refuse(at, "%s", message)
	case err != nil:
		f.wrong = append(f.wrong, fmt.Sprintf("%s: %v", f.name, err))
	case len(parsed.Docs) > 1:
		f.refuse(parsed.Docs[1].Start, "a second document begins here; a configuration file has one")
	default:
		for _, d := range parsed.Docs {
			if d.Body != nil {
				f.mapping(d.Body, "a configuration file", setters)
			}
		}
	}
}

// mapping has each entry of a mapping set by its setter.
func (f *file) mapping(n ast.Node, what string, setters map[string]func(ast.Node)) {
	m, ok := n.(*ast.MappingNode)
	switch {
	case !ok && n.Type() == ast.NullType:
		f.refuse(n.GetToken(), "%s says nothing: what belongs to it stands on lines below it, which are indented more; there are %s", what, names(setters))
		return
	case !ok:
		f.refuse(n.GetToken(), "%s is a list of lines, each a name, a colon and a value; there are %s", what, names(setters))
		return
	}
	for _, entry := range m.Values {
		key := entry.Key.GetToken()
		set := setters[key.Value]
		if set == nil {
			f.refuse(key, "there is no setting %.40q here; there are %s", key.Value, names(setters))
			continue
		}
		set(entry.Value)
	}
}

// names are those of settings.
func names(setters map[string]func(ast.Node)) string {
	return strings.Join(slices.Sorted(maps.Keys(setters)), ", ")
}

// flag sets a flag, one that can be repeated from a list too.
func (f *file) flag(flag *pflag.Flag, n ast.Node) {
	values := []ast.Node{n}
	if several, ok := n.(*ast.SequenceNode); ok {
		if _, ok := flag.Value.(interface{ separatedBy() string }); ok {
			values = several.Values
		}
	}
	for _, v := range values {
		f.value(v, flag.Name, flag.Value.Set)
	}
}

// value sets one setting.
func (f *file) value(n ast.Node, name string, set func(string) error) {
	var text string
	switch n := n.(type) {
	case *ast.StringNode, *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		text = n.GetToken().Value
	case *ast.NullNode:
		f.refuse(n.GetToken(), "%s has no value", name)
		return
	case *ast.AliasNode:
		f.refuse(n.GetToken(), `%s: what begins with * needs quotes: "*"`, name)
		return
	default:
		f.refuse(n.GetToken(), "%s must be one value", name)
		return
	}
	if err := set(text); err != nil {
		f.refuse(n.GetToken(), "%s is %.80q: %v", name, text, err)
	}
}

// channels reads the settings for some channels.
func (f *file) channels(n ast.Node, into *[]fanfare.ChannelConfig) {
	entries, ok := n.(*ast.SequenceNode)
	if !ok {
		f.refuse(n.GetToken(), "channels is a list, each of whose entries begins as in - pattern: chat/**")
		return
	}
	seen := make(map[string]int)
	for _, entry := range entries.Values {
		var c fanfare.ChannelConfig
		setters := map[string]func(ast.Node){
			"pattern": func(n ast.Node) {
				f.value(n, "pattern", func(text string) error {
					if line, twice := seen[text]; twice {
						return fmt.Errorf("its settings are in line %d already", line)
					}
					seen[text] = n.GetToken().Position.Line
					c.Pattern = text
					return fanfare.CheckPattern(text)
				})
			},
		}
		for _, setting := range channelSettings {
			setters[setting.name] = func(n ast.Node) {
				f.value(n, setting.name, func(text string) error { return setting.read(text, &c) })
			}
		}
		before := len(f.wrong)
		f.mapping(entry, "an entry of channels", setters)
		switch {
		case len(f.wrong) > before:
		case c.Pattern == "":
			f.refuse(entry.GetToken(), "it is not said for which channels this is: add a pattern, such as pattern: chat/**")
		default:
			*into = append(*into, c)
		}
	}
}
