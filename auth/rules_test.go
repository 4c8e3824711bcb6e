package auth_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"fanfare/auth"
	"fanfare/broker"

	"pgregory.net/rapid"
)

// names are all of one to five segments: two that patterns have, and one that
// none has, which stands for all others.
var names = func() (all []string) {
	level := []string{""}
	for range 5 {
		var next []string
		for _, head := range level {
			for _, segment := range []string{"a", "b", "z"} {
				next = append(next, strings.TrimPrefix(head+"/"+segment, "/"))
			}
		}
		all, level = append(all, next...), next
	}
	return all
}()

func drawPattern(t *rapid.T, what string) string {
	segments := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*", "a", "b", "*", "**"}), 1, 4).Draw(t, what)
	if i := slices.Index(segments, "**"); i >= 0 {
		segments = segments[:i+1]
	}
	return strings.Join(segments, "/")
}

// May and Meets say of patterns what looking at all names says.
func TestGrantsAgainstNames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		granted := []string{drawPattern(t, "granted"), drawPattern(t, "also granted")}
		asked := drawPattern(t, "asked")
		g := auth.Rules{{Channels: granted, Roles: []string{auth.Anonymous}, Allow: []auth.Right{auth.Subscribe}}}.Grants(nil)
		may, meets := false, false
		for _, p := range granted {
			all := true
			for _, name := range names {
				if broker.Fits(asked, name) {
					fits := broker.Fits(p, name)
					all, meets = all && fits, meets || fits
				}
			}
			may = may || all
		}
		if got := g.May(auth.Subscribe, asked); got != may {
			t.Fatalf("%q grants all of %q: %v, want %v", granted, asked, got, may)
		}
		if got := g.Meets(auth.Subscribe, asked); got != meets {
			t.Fatalf("%q grants some of %q: %v, want %v", granted, asked, got, meets)
		}
		for _, right := range []auth.Right{auth.Publish, auth.Presence, auth.History} {
			if g.May(right, asked) || g.Meets(right, asked) {
				t.Fatalf("%v is granted by nobody", right)
			}
		}
		for _, name := range names {
			if want := broker.Fits(granted[0], name) || broker.Fits(granted[1], name); g.May(auth.Subscribe, name) != want || g.Meets(auth.Subscribe, name) != want {
				t.Fatalf("%q grants %q: %v, want %v", granted, name, !want, want)
			}
		}
	})
}

// $sub is the subject, as one segment of a name, or else nothing.
func TestSubjectsOfAllKinds(t *testing.T) {
	hostile := []string{"", ".", "..", "*", "**", "a/b", "a/", "/a", "/", "../a", "-", "$sub", "x$sub", "$sub/a", "a*", "alice", "bob", "a\x00", "a\n", "\xff",
		strings.Repeat("x", 240), strings.Repeat("x", 255), "$SUB", "%2e%2e", "é", "a b"}
	channels := append([]string{"inbox/alice", "inbox/bob", "inbox/a/b", "inbox/a", "inbox", "alice", "-/metrics", "inbox/-", "inbox/$sub", "$sub", "inbox/x$sub", "x", "alice/alice"}, names...)
	for _, sub := range hostile {
		for _, pattern := range []string{"inbox/$sub", "$sub", "$sub/**", "inbox/$sub/x/$sub", "*/$sub", "$sub/*"} {
			for _, own := range []bool{false, true} {
				id := &auth.Identity{Subject: sub}
				rules := auth.Rules{{Channels: []string{pattern}, Roles: []string{auth.Anonymous}, Allow: []auth.Right{auth.Publish}}}
				if own {
					id.Allow, rules = map[auth.Right][]string{auth.Publish: {pattern}}, nil
				}
				g := rules.Grants(id)
				segment := sub != "" && sub != "$sub" && !strings.ContainsAny(sub, "/*")
				meant := strings.ReplaceAll(pattern, "$sub", sub)
				for _, channel := range append(channels, "inbox/"+sub, sub, sub+"/a", "z/"+sub) {
					if broker.CheckName(channel) != nil {
						continue // is never asked about
					}
					want := segment && broker.CheckPattern(meant) == nil && broker.Fits(meant, channel)
					if got := g.May(auth.Publish, channel); got != want {
						t.Errorf("%q is granted to %.20q, in %.40q: %v, want %v", pattern, sub, channel, got, want)
					}
				}
				if !segment && !g.Nothing() {
					t.Errorf("%q grants something to %.20q", pattern, sub)
				}
				if g.May(auth.Publish, "**") || g.May(auth.Publish, "*") || g.May(auth.Publish, "inbox/*") || g.May(auth.Publish, "inbox/**") {
					t.Errorf("%q grants others' channels to %.20q", pattern, sub)
				}
			}
		}
	}
}

func TestGrants(t *testing.T) {
	rules := auth.Rules{
		{Channels: []string{"news/**"}, Roles: []string{auth.Anonymous}, Allow: []auth.Right{auth.Subscribe}},
		{Channels: []string{"chat/**"}, Roles: []string{auth.Authenticated}, Allow: []auth.Right{auth.Publish, auth.Subscribe}},
		{Channels: []string{"news/**", "news/**"}, Roles: []string{"editor", auth.Admin}, Allow: []auth.Right{auth.Publish}},
	}
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		who     string
		id      *auth.Identity
		granted string // of publish and subscribe, in news/a and chat/a
	}{
		{"nobody", nil, "subscribe news/a"},
		{"nobody with a token", &auth.Identity{}, "subscribe news/a"},
		{"alice", &auth.Identity{Subject: "alice"}, "publish chat/a, subscribe news/a, subscribe chat/a"},
		{"an editor", &auth.Identity{Subject: "e", Roles: []string{"editor"}}, "publish news/a, publish chat/a, subscribe news/a, subscribe chat/a"},
		{"an editor without a subject", &auth.Identity{Roles: []string{"editor"}}, "publish news/a, subscribe news/a"},
		{"who only says to have a token", &auth.Identity{Roles: []string{auth.Authenticated}}, "subscribe news/a"},
		{"whose token grants no publishing", &auth.Identity{Subject: "e", Roles: []string{"editor"}, Allow: map[auth.Right][]string{auth.Publish: {}}}, "subscribe news/a, subscribe chat/a"},
		{"whose token grants nil", &auth.Identity{Subject: "e", Allow: map[auth.Right][]string{auth.Publish: nil, auth.Subscribe: nil}}, ""},
		{"whose token speaks of other things", &auth.Identity{Subject: "e", Allow: map[auth.Right][]string{auth.History: {"**"}}}, "publish chat/a, subscribe news/a, subscribe chat/a"},
		{"whose token has nonsense", &auth.Identity{Subject: "e", Allow: map[auth.Right][]string{auth.Subscribe: {"", "**/a", "/", "news/a/", "news/a"}, 77: {"**"}}}, "publish chat/a, subscribe news/a"},
	} {
		g := rules.Grants(c.id)
		var granted []string
		for _, right := range auth.Rights {
			for _, channel := range []string{"news/a", "chat/a"} {
				if g.May(right, channel) && right != auth.History {
					granted = append(granted, fmt.Sprintf("%v %s", right, channel))
				}
			}
		}
		if got := strings.Join(granted, ", "); got != c.granted {
			t.Errorf("%s may %s; want %s", c.who, got, c.granted)
		}
		if g.Nothing() != (c.granted == "") {
			t.Errorf("%s: Nothing is %v", c.who, g.Nothing())
		}
	}
	var all *auth.Grants
	if !all.May(auth.Publish, "a") || !all.May(auth.History, "**") || !all.Meets(auth.Presence, "*") || all.Nothing() {
		t.Error("nil does not grant everything")
	}
	if !auth.Rules(nil).Grants(&auth.Identity{Subject: "a", Roles: []string{auth.Admin}}).Nothing() {
		t.Error("no rules grant something")
	}
	g := auth.Default.Grants(&auth.Identity{Subject: "a"})
	if !g.May(auth.History, "**") || !auth.Default.Grants(nil).Nothing() || !auth.Default.Grants(&auth.Identity{Roles: []string{"r"}}).Nothing() {
		t.Error("the default rules are not: everything to who has a subject, and nothing to others")
	}
	for want, id := range map[bool]*auth.Identity{true: {Roles: []string{"a", auth.Admin}}, false: {Subject: auth.Admin, Name: auth.Admin}} {
		if id.IsAdmin() != want {
			t.Errorf("%+v is admin: %v", id, !want)
		}
	}
	if (*auth.Identity)(nil).IsAdmin() {
		t.Error("nobody is admin")
	}
}

func TestRulesThatCannotBeMeant(t *testing.T) {
	good := auth.Rule{Channels: []string{"a"}, Roles: []string{"r"}, Allow: auth.Rights}
	for want, change := range map[string]func(*auth.Rule){
		"no channels":     func(r *auth.Rule) { r.Channels = nil },
		"no roles":        func(r *auth.Rule) { r.Roles = nil },
		"allows nothing":  func(r *auth.Rule) { r.Allow = nil },
		"without a name":  func(r *auth.Rule) { r.Roles = []string{""} },
		"write authentic": func(r *auth.Rule) { r.Roles = []string{"editor", "Autenticated"} },
		"write anonymous": func(r *auth.Rule) { r.Roles = []string{"anonymus"} },
		"what is no righ": func(r *auth.Rule) { r.Allow = []auth.Right{9} },
		"is no pattern":   func(r *auth.Rule) { r.Channels = []string{"a", "**/b"} },
		"part of a segm":  func(r *auth.Rule) { r.Channels = []string{"inbox-$sub"} },
	} {
		bad := good
		change(&bad)
		if err := (auth.Rules{good, bad}).Check(); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "rule 2") {
			t.Errorf("%v, want %q of rule 2", err, want)
		}
	}
	for _, role := range []string{auth.Anonymous, auth.Authenticated, auth.Admin, "a", "anon", "authority", "员工"} {
		if err := (auth.Rules{{Channels: []string{"a"}, Roles: []string{role}, Allow: auth.Rights}}).Check(); err != nil {
			t.Errorf("the role %q: %v", role, err)
		}
	}
	for _, right := range auth.Rights {
		if got, err := auth.ParseRight(right.String()); got != right || err != nil {
			t.Errorf("%v is read as %v, %v", right, got, err)
		}
	}
	for _, wrong := range []string{"", "Publish", "read", "publish "} {
		if got, err := auth.ParseRight(wrong); err == nil {
			t.Errorf("%q is read as %v", wrong, got)
		}
	}
}

func TestMayAllocatesNothing(t *testing.T) {
	g := auth.Rules{{Channels: []string{"a/*/c", "b/**", "inbox/$sub"}, Roles: []string{auth.Anonymous}, Allow: auth.Rights}}.Grants(&auth.Identity{Subject: "alice"})
	n := testing.AllocsPerRun(100, func() {
		if !g.May(auth.Publish, "inbox/alice") || g.May(auth.Publish, "inbox/bob") || !g.Meets(auth.Subscribe, "**") || g.Nothing() {
			t.Error("the answer is wrong")
		}
	})
	if n != 0 {
		t.Errorf("asking costs %v allocations", n)
	}
}

// What is granted of a pattern is what fits both, and nothing else.
func TestWithin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`([ab*]/){0,2}([ab*]|\*\*)`)
		g := auth.Rules{{Channels: rapid.SliceOfN(pattern, 1, 4).Draw(t, "grants"), Roles: []string{auth.Anonymous}, Allow: []auth.Right{auth.History}}}.Grants(nil)
		asked := pattern.Draw(t, "asked")
		parts := g.Within(auth.History, asked)
		for range 50 {
			name := rapid.StringMatching(`[abc](/[abc]){0,3}`).Draw(t, "name")
			within := slices.ContainsFunc(parts, func(p string) bool { return broker.Fits(p, name) })
			if want := broker.Fits(asked, name) && g.May(auth.History, name); within != want {
				t.Fatalf("%s of %v is in %v: %v, want %v", name, asked, parts, within, want)
			}
		}
	})
}
